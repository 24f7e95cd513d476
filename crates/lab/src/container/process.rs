//! A process that is still the same one: pid and start time together.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A pid with the start time (clock ticks since boot) that tells it from a later process of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in the namespace of the reader's `/proc`.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl ProcessId {
    /// The process that has this pid now; `None` when there is none (a zombie counts as none).
    pub fn of(pid: i32) -> Option<ProcessId> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the command name may contain spaces and parentheses; fields are counted after the last one
        let rest = stat.get(stat.rfind(')')? + 2..)?;
        let mut fields = rest.split(' ');
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let start = fields.nth(18)?.parse().ok()?;
        Some(ProcessId { pid, start })
    }

    /// This very process.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn me() -> io::Result<ProcessId> {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        ProcessId::of(pid).ok_or_else(|| io::Error::other("/proc is not mounted"))
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        ProcessId::of(self.pid) == Some(self)
    }

    /// A pidfd of it; `None` when it is gone.
    pub fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // checked after opening: the descriptor is of the process we mean, or of none we know
        self.alive().then_some(fd)
    }

    /// Sends a signal; `false` when the process is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.open().is_some_and(|fd| pidfd_send_signal(fd, signal).is_ok())
    }

    /// Waits until it is gone, for at most `limit`; `false` when it still runs then.
    pub fn wait_gone(self, limit: Duration) -> bool {
        let Some(fd) = self.open() else { return true };
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) => return !self.alive(),
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return !self.alive(),
            }
        }
    }
}
