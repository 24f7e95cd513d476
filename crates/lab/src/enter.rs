//! Becoming a program inside the lab: network namespace, and own mount and UTS namespaces with the node's host name,
//! `/etc/hosts` and `/etc/resolv.conf`. An edge, and the only one that changes the calling process for good.
//!
//! It works on the whole process, so it runs in `main` before any thread exists. A child is put into a namespace by
//! running this binary again (`fairway lab enter … -- CMD`), which ends in `exec`: the pid stays the same.
#![allow(
    unsafe_code,
    reason = "unshare(2) is unsafe to rustix; nothing here relies on shared file descriptors"
)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A place inside a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The network namespace's file.
    pub net: PathBuf,
    /// Host name to show there; `None` leaves the host's.
    pub hostname: Option<String>,
    /// File to show as `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// File to show as `/etc/resolv.conf`.
    pub resolv: Option<PathBuf>,
}

impl Place {
    /// The arguments of `fairway lab enter` that lead here, up to and with `--`.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["lab".into(), "enter".into(), "--net".into()];
        args.push(self.net.clone().into());
        if let Some(hostname) = &self.hostname {
            args.extend(["--hostname".into(), hostname.into()]);
        }
        if let Some(hosts) = &self.hosts {
            args.extend(["--hosts".into(), hosts.clone().into()]);
        }
        if let Some(resolv) = &self.resolv {
            args.extend(["--resolv".into(), resolv.clone().into()]);
        }
        args.push("--".into());
        args
    }

    /// Moves the calling process there.
    ///
    /// # Errors
    /// When a namespace cannot be entered or a file cannot be mounted.
    pub fn enter(&self) -> anyhow::Result<()> {
        let net = File::open(&self.net)
            .with_context(|| format!("cannot open network namespace {}", self.net.display()))?;
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {}", self.net.display()))?;
        // SAFETY: file descriptor tables are not unshared, only mounts and the host name.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWUTS) }
            .context("cannot make a mount namespace")?;
        keep_mounts_to_ourselves()?;
        show_own_sysfs()?;
        if let Some(hostname) = &self.hostname {
            rustix::system::sethostname(hostname.as_bytes()).context("cannot set the host name")?;
        }
        for (file, target) in [(&self.hosts, "/etc/hosts"), (&self.resolv, "/etc/resolv.conf")] {
            // A machine without the file keeps being without it: the host's /etc is not written to.
            if let Some(file) = file
                && Path::new(target).exists()
            {
                mount_bind(file.as_path(), target)
                    .with_context(|| format!("cannot show {} as {target}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Moves the calling process there and becomes `command`. Returns only on failure, with the exit code a shell
    /// would give (127 not found, 126 cannot run, 1 the place).
    #[must_use]
    pub fn exec(&self, command: &[OsString]) -> (u8, anyhow::Error) {
        if let Err(error) = self.enter() {
            return (1, error);
        }
        exec(command)
    }
}

/// Becomes `command`; returns only on failure, with the exit code a shell would give.
#[must_use]
pub fn exec(command: &[OsString]) -> (u8, anyhow::Error) {
    let Some((program, arguments)) = command.split_first() else {
        return (64, anyhow::anyhow!("no command given after --"));
    };
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    (code, anyhow::anyhow!("cannot run {}: {error}", program.display()))
}

/// Makes every mount private except `/run/netns`: what is mounted here stays here, but a namespace that the pod
/// runner names is seen by the whole machine, and one that is deleted outside does not linger in here.
fn keep_mounts_to_ourselves() -> anyhow::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for target in mount_points(&table) {
        if target == Path::new("/run/netns") || target == Path::new("/var/run/netns") {
            continue;
        }
        match mount_change(&target, MountPropagationFlags::PRIVATE) {
            // Hidden below another mount, or not reachable: nothing can be mounted on it either.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::ACCESS) => {}
            Err(error) => bail!("cannot make {} private: {error}", target.display()),
        }
    }
    Ok(())
}

/// `/sys/class/net` follows the namespace that mounted sysfs, so a node needs its own.
fn show_own_sysfs() -> anyhow::Result<()> {
    match unmount("/sys", UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => bail!("cannot replace /sys: {error}"),
    }
    mount("sysfs", "/sys", "sysfs", MountFlags::RDONLY, None).context("cannot mount /sys")
}

/// Mount points of a `mountinfo` table, in its order; octal escapes undone.
#[must_use]
pub fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        let table = "22 1 254:0 / / rw - ext4 /dev/vda rw\n\
                     30 22 0:5 / /a\\040b\\134c rw shared:1 - tmpfs x rw\n\
                     31 22 0:5 / /odd\\9 rw - tmpfs x rw\nshort line\n";
        let points = mount_points(table);
        assert_eq!(points, [Path::new("/"), Path::new("/a b\\c"), Path::new("/odd\\9")]);
    }

    #[test]
    fn arguments_lead_to_the_place() {
        let place = Place {
            net: "/run/netns/x".into(),
            hostname: Some("node-1".into()),
            hosts: None,
            resolv: None,
        };
        assert_eq!(
            place.arguments(),
            ["lab", "enter", "--net", "/run/netns/x", "--hostname", "node-1", "--"]
        );
    }
}
