//! Edge: a pod's network namespace, kept under `/run/netns` so that `ip netns exec` works with it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::container::sys;

const DIR: &str = "/run/netns";

/// The namespace's place for a pod: `fairway-<lab>-pod-<short uid>`.
pub fn path_for(lab: &str, uid: &str) -> PathBuf {
    let short: String = uid.chars().filter(|c| *c != '-').take(12).collect();
    Path::new(DIR).join(format!("fairway-{lab}-pod-{short}"))
}

/// Makes the namespace with its loopback up; one that is there already is used again.
///
/// # Errors
/// The namespace or its mount cannot be made.
pub fn create(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    fs::create_dir_all(DIR)?;
    File::create(path)?;
    let target = path.to_owned();
    // the thread takes the new namespace with it when it ends; the mount keeps it
    let made = std::thread::spawn(move || -> io::Result<()> {
        sys::new_network()?;
        sys::loopback_up()?;
        // as container runtimes do: a container's program may listen on any port whatever its user
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
        Ok(mount_bind("/proc/thread-self/ns/net", &target)?)
    })
    .join()
    .unwrap_or_else(|_| Err(io::Error::other("the namespace thread died")));
    made.inspect_err(|_| {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove an unfinished namespace");
        }
    })
}

fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == 0x6e73_6673)
}

/// Removes it; one that is gone already is fine. Processes inside keep it alive until they end.
///
/// # Errors
/// The mount or file cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    while is_namespace(path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
