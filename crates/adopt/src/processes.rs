//! Which processes run in this network namespace. An edge: `/proc`.

use std::fs;
use std::path::Path;

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its arguments, the program first.
    pub arguments: Vec<String>,
}

impl Process {
    /// The program's file name.
    #[must_use]
    pub fn program(&self) -> &str {
        let first = self.arguments.first().map(String::as_str).unwrap_or_default();
        Path::new(first).file_name().and_then(|name| name.to_str()).unwrap_or(first)
    }

    /// `pid 7 (kube-proxy)`.
    #[must_use]
    pub fn words(&self) -> String {
        format!("pid {} ({})", self.pid, self.program())
    }
}

/// The processes of the calling thread's network namespace; those that cannot be looked at are not there.
#[must_use]
pub fn here() -> Vec<Process> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let namespace = fs::read_link(entry.path().join("ns/net")).ok();
            if namespace != own {
                return None;
            }
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let arguments = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            let arguments = arguments.map(|word| String::from_utf8_lossy(word).into_owned());
            Some(Process { pid, arguments: arguments.collect() })
        })
        .collect()
}

/// The agents of Fairway here.
#[must_use]
pub fn agents() -> Vec<Process> {
    let own = fs::read_link("/proc/self/exe").ok();
    let is_agent = |process: &Process| {
        // By name, or by being this program under another one.
        let exe = fs::read_link(format!("/proc/{}/exe", process.pid)).ok();
        (process.program() == "fairway" || (own.is_some() && exe == own))
            && process.arguments.get(1).is_some_and(|it| it == "agent")
    };
    here().into_iter().filter(is_agent).collect()
}

/// The kube-proxies here.
#[must_use]
pub fn kube_proxies() -> Vec<Process> {
    here().into_iter().filter(|process| process.program() == "kube-proxy").collect()
}
