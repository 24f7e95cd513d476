//! A data plane as a process: started in a namespace, watched through `/proc`, stopped. An edge.
#![allow(
    unsafe_code,
    reason = "a child that must not outlive this process needs Command::pre_exec"
)]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use link::Namespace;
use link::namespace::CommandInNamespace as _;
use rustix::process::{Pid, Signal, kill_process};

/// Ticks a second in `/proc`, the same on every machine (`USER_HZ`).
const USER_HZ: f64 = 100.0;
/// How long it may take to end when told to.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// A running data plane; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    /// When it was started.
    pub(crate) started: Instant,
}

/// What a process uses, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) proportional: u64,
    pub(crate) anonymous: u64,
    pub(crate) peak: u64,
}

impl Process {
    /// Starts `command` inside `namespace`, its output in `log`.
    pub(crate) fn start(
        mut command: Command,
        namespace: &Namespace,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        command.in_namespace(namespace)?;
        // SAFETY: the closure makes one system call and neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
            });
        }
        let started = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, log: log.to_owned(), started })
    }

    /// An error with its last words when it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended ({status}): {}", self.last_words()),
        }
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("it does not end when told to: {}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Processor time of it and of the children it has waited for, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        cpu_ticks(&text.unwrap_or_default()) as f64 / USER_HZ
    }

    /// What it uses now.
    pub(crate) fn memory(&self) -> Memory {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
        };
        let (rollup, status) = (read("smaps_rollup"), read("status"));
        Memory {
            resident: kib(&rollup, "Rss:"),
            proportional: kib(&rollup, "Pss:"),
            anonymous: kib(&rollup, "Anonymous:"),
            peak: kib(&status, "VmHWM:"),
        }
    }

    /// Waits until it has used no processor time for a while.
    pub(crate) fn settle(&mut self, patience: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let (mut last, mut since) = (self.cpu(), Instant::now());
        while Instant::now() < deadline && since.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(100));
            self.check()?;
            let now = self.cpu();
            // A tick now and then is housekeeping.
            if now - last > 0.02 {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// utime, stime, cutime and cstime of `/proc/PID/stat` together; the command name may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> u64 {
    let Some((_, rest)) = stat.rsplit_once(") ") else { return 0 };
    rest.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// `Name:   123 kB` as bytes; 0 when it is not there.
fn kib(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

/// `GET path` from inside `namespace`: the body of an answer of 200.
pub(crate) fn get(
    namespace: &Namespace,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<String> {
    let text = namespace.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        std::io::Result::Ok(text)
    })??;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => bail!("{address}{path} answers {:?}", text.lines().next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), 110);
        assert_eq!(cpu_ticks(""), 0);
        assert_eq!(kib("Rss:   12 kB\nPss:  3 kB\n", "Pss:"), 3072);
        assert_eq!(kib("", "Rss:"), 0);
    }
}
