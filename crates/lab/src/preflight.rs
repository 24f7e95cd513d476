//! What the machine must offer before a lab is made: each missing thing is one line that says what to do. An edge.
//!
//! Probes try the thing itself (a netlink request, a mount in a namespace of its own) instead of guessing from versions.
#![allow(
    unsafe_code,
    reason = "unshare(2) of a probing thread's mounts; the thread ends with the probe"
)]

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Space a lab needs for its state and its run-time files, in bytes.
pub const SPACE_NEEDED: u64 = 16 << 20;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Not root.
    #[error("not root: a lab makes network namespaces and nf_tables rules; run it with sudo")]
    Root,
    /// The kernel lacks a kind of namespace.
    #[error(
        "this kernel has no {kind} namespaces: a lab needs CONFIG_NAMESPACES with net, mnt, pid and uts"
    )]
    Namespaces {
        /// `net`, `mnt`, `pid` or `uts`.
        kind: &'static str,
    },
    /// The kernel has no nf_tables.
    #[error(
        "this kernel has no nf_tables ({reason}): load it with `modprobe nf_tables` or use a kernel with CONFIG_NF_TABLES"
    )]
    NfTables {
        /// What the kernel answered.
        reason: rustix::io::Errno,
    },
    /// The kernel has no overlayfs.
    #[error(
        "this kernel cannot mount overlayfs ({reason}): load it with `modprobe overlay` or use a kernel with CONFIG_OVERLAY_FS"
    )]
    Overlay {
        /// What the kernel answered.
        reason: rustix::io::Errno,
    },
    /// A file system is full.
    #[error("{} has {} MiB free and a lab needs {}: free some space there", path.display(), available >> 20, SPACE_NEEDED >> 20)]
    Space {
        /// Where.
        path: PathBuf,
        /// Bytes an ordinary write may use.
        available: u64,
    },
}

/// Fails unless the process runs as root.
///
/// # Errors
/// [`Missing::Root`].
pub fn root() -> Result<(), Missing> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(Missing::Root) }
}

/// Checks everything a lab needs; `scratch` is an existing directory the overlay probe may mount on (in a mount
/// namespace of its own).
///
/// # Errors
/// The first thing that is missing.
pub fn check(scratch: &Path, state_root: &Path) -> Result<(), Missing> {
    root()?;
    for kind in ["net", "mnt", "pid", "uts"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            return Err(Missing::Namespaces { kind });
        }
    }
    space(scratch)?;
    space(state_root)?;
    nf_tables().map_err(|reason| Missing::NfTables { reason })?;
    overlay(scratch.to_owned()).map_err(|reason| Missing::Overlay { reason })
}

/// Fails when the file system that holds `path` (or would hold it) is nearly full.
///
/// # Errors
/// [`Missing::Space`].
pub fn space(path: &Path) -> Result<(), Missing> {
    let Some(there) = path.ancestors().find(|ancestor| ancestor.exists()) else { return Ok(()) };
    let Ok(stat) = rustix::fs::statvfs(there) else { return Ok(()) };
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available < SPACE_NEEDED {
        return Err(Missing::Space { path: there.to_owned(), available });
    }
    Ok(())
}

/// `nfgenmsg` + `NFT_MSG_GETGEN`: the smallest question nf_tables answers.
fn nf_tables() -> Result<(), rustix::io::Errno> {
    const NFT_MSG_GETGEN: u16 = 16;
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend((NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN).to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([0; 4]); // nfgenmsg: family unspecified, version 0, resource 0
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0_u8; 512];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    let word =
        |at: usize| answer[..length].get(at..at + 2).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    if word(4) != Some(NLMSG_ERROR) {
        return Ok(());
    }
    let code =
        answer[..length].get(16..20).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if code == 0 { Ok(()) } else { Err(rustix::io::Errno::from_raw_os_error(-code)) }
}

/// Mounts an overlay of `/` in a mount namespace that ends with its thread.
fn overlay(scratch: PathBuf) -> Result<(), rustix::io::Errno> {
    let probe = move || -> Result<(), rustix::io::Errno> {
        // SAFETY: mounts only; the thread ends right after and shares nothing it changed.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tmpfs", &scratch, "tmpfs", MountFlags::empty(), Some(c"size=1m"))?;
        for name in ["upper", "work", "merged"] {
            if fs::create_dir(scratch.join(name)).is_err() {
                return Err(rustix::io::Errno::IO);
            }
        }
        let options = format!(
            "lowerdir=/,upperdir={0}/upper,workdir={0}/work",
            scratch.to_str().ok_or(rustix::io::Errno::INVAL)?
        );
        let options = std::ffi::CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
        mount("overlay", scratch.join("merged"), "overlay", MountFlags::empty(), Some(&*options))
    };
    std::thread::spawn(probe).join().unwrap_or(Err(rustix::io::Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_passes_and_nothing_stays_mounted() {
        if root().is_err() {
            assert!(
                std::env::var_os("CI").is_none()
                    && std::env::var_os("FAIRWAY_REQUIRE_ALL").is_none(),
                "the preflight probes need root"
            );
            println!("SKIP: the preflight probes need root");
            return;
        }
        let scratch =
            std::env::temp_dir().join(format!("fairway-preflight-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        check(&scratch, Path::new("/var/lib/fairway/labs")).unwrap();
        let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(before.lines().count(), after.lines().count());
        fs::remove_dir(&scratch).unwrap();
    }

    #[test]
    fn every_line_says_what_to_do() {
        let full = Missing::Space { path: "/var/lib".into(), available: 3 << 20 };
        assert_eq!(
            full.to_string(),
            "/var/lib has 3 MiB free and a lab needs 16: free some space there"
        );
        for missing in [
            Missing::Root,
            Missing::NfTables { reason: rustix::io::Errno::OPNOTSUPP },
            Missing::Overlay { reason: rustix::io::Errno::NODEV },
        ] {
            assert!(!missing.to_string().contains('\n'));
        }
    }
}
