//! Processes as a pid and a start time, so that a recycled pid is never taken for ours. An edge: reads `/proc`, sends signals.
//!
//! Signals go through a pidfd that was opened before the start time was checked: what is signalled is what was checked.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid, as seen from the host.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process that has `pid` now; `None` when there is none, or only a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let (state, start_ticks) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, start_ticks })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self::of(std::process::id()).expect("invariant: /proc shows the running process")
    }

    /// Whether the very process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Resident memory in bytes; `None` when it is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        if !self.alive() {
            return None;
        }
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    }

    /// Sends `signal`; `false` when the process was gone already.
    #[must_use]
    pub fn signal(&self, signal: Signal) -> bool {
        self.open().is_some_and(|fd| pidfd_send_signal(&fd, signal).is_ok())
    }

    /// Sends `signal` and waits until the process is gone; `false` when it still runs after `patience`.
    #[must_use]
    pub fn signal_and_wait(&self, signal: Signal, patience: Duration) -> bool {
        let Some(fd) = self.open() else { return true };
        if pidfd_send_signal(&fd, signal).is_err() {
            return true;
        }
        wait(&fd, patience)
    }

    fn open(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        self.alive().then_some(fd)
    }
}

/// Waits until the process behind a pidfd has ended.
fn wait(fd: &OwnedFd, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// State and start time from `/proc/PID/stat`; the command name in it may hold spaces and brackets.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// What identifies a namespace: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceId(u64, u64);

impl NamespaceId {
    /// The namespace behind a file (`/run/netns/NAME`, `/proc/PID/ns/net`).
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self(meta.dev(), meta.ino()))
    }
}

/// Every process but this one whose network namespace is among `namespaces`, or whose environment carries
/// `marker` (`NAME=value`). Zombies are left out: only their parent can remove them.
#[must_use]
pub fn find(namespaces: &HashSet<NamespaceId>, marker: &str) -> Vec<ProcessId> {
    let own = std::process::id();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let inside = NamespaceId::of(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_ok_and(|id| namespaces.contains(&id));
            inside || carries(*pid, marker)
        })
        .filter_map(ProcessId::of)
        .collect()
}

fn carries(pid: u32, marker: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|byte| *byte == 0).any(|pair| pair == marker.as_bytes()))
}

/// This boot's identity; a process record of another boot means nothing.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.alive());
        assert!(id.resident_bytes().unwrap() > 0);
        let recycled = ProcessId { start_ticks: id.start_ticks + 1, ..id };
        assert!(!recycled.alive());
        assert!(!recycled.signal(Signal::KILL), "another start time is another process");
        assert!(id.alive());
        assert!(!id.signal_and_wait(Signal::CONT, Duration::from_millis(20)), "still running");
        assert!(id.signal_and_wait(Signal::KILL, Duration::from_secs(5)));
        assert!(!id.alive(), "a zombie is not alive");
        child.wait().unwrap();
    }

    #[test]
    fn processes_are_found_by_their_marker() {
        let marker = format!("FAIRWAY_TEST_MARKER={}", std::process::id());
        let (name, value) = marker.split_once('=').unwrap();
        let mut child = Command::new("sleep").arg("30").env(name, value).spawn().unwrap();
        // Between fork and exec the child still shows our environment.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut found = Vec::new();
        while found.is_empty() && Instant::now() < deadline {
            found = find(&HashSet::new(), &marker);
        }
        assert_eq!(found.iter().map(|id| id.pid).collect::<Vec<_>>(), [child.id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(find(&HashSet::new(), &marker).is_empty());
    }
}
