//! Edge: ends and removes everything a runner left, from what is on disk and in `/proc` alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use super::netns;
use super::state::RunDir;
use crate::container::process::ProcessId;
use crate::container::spec::{State, file, read_json};

const PATIENCE: Duration = Duration::from_secs(5);

/// Kills every container below a pod's directory and waits until its processes are gone.
pub(super) fn end_containers(pod: &Path) {
    let subdirs = |path: &Path| {
        std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .collect::<Vec<_>>()
    };
    let states: Vec<State> = subdirs(&pod.join("containers"))
        .iter()
        .flat_map(|container| subdirs(container))
        .filter_map(|attempt| read_json(&attempt.join(file::STATE)).ok())
        .collect();
    // init first: the kernel ends everything in its namespace; the shim then ends by itself, or is ended
    for state in &states {
        state.init.signal(Signal::KILL);
    }
    for state in &states {
        if !state.init.wait_gone(PATIENCE) || !state.shim.wait_gone(Duration::from_millis(500)) {
            state.shim.signal(Signal::KILL);
            state.shim.wait_gone(PATIENCE);
        }
        if let Some(pid) = Pid::from_raw(state.shim.pid) {
            match waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(_) | Err(_) => {}
            }
        }
    }
    // a shim that was starting has no state yet: it is known by its command line
    for process in shims_below(pod) {
        process.signal(Signal::KILL);
        process.wait_gone(PATIENCE);
    }
}

/// Shims whose container directory is below `dir`.
fn shims_below(dir: &Path) -> Vec<ProcessId> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        let is_shim = words.any(|w| w == b"container-shim");
        let ours =
            words.next().is_some_and(|w| Path::new(&*String::from_utf8_lossy(w)).starts_with(dir));
        if is_shim && ours {
            found.extend(ProcessId::of(pid));
        }
    }
    found
}

/// Ends and removes everything a runner (dead or alive) left under `run_dir`: its own process, shims, containers,
/// network namespaces, mounts and files. Safe to call twice, and when nothing is there.
///
/// # Errors
/// The first thing that could not be removed; the rest was removed all the same.
pub fn cleanup(run_dir: &Path) -> io::Result<()> {
    let run = RunDir::new(run_dir);
    if let Ok(runner) = read_json::<ProcessId>(&run.runner())
        && Some(runner) != ProcessId::me().ok()
    {
        runner.signal(Signal::KILL);
        runner.wait_gone(PATIENCE);
    }
    let mut first = Ok(());
    let (records, _) = run.load();
    for entry in std::fs::read_dir(run.pods()).into_iter().flatten().flatten() {
        end_containers(&entry.path());
    }
    for shim in shims_below(run_dir) {
        shim.signal(Signal::KILL);
        shim.wait_gone(PATIENCE);
    }
    for record in records {
        if let Some(path) = &record.netns {
            first = first.and(netns::remove(path));
        }
    }
    for gone in [std::fs::remove_dir_all(run.pods()), std::fs::remove_file(run.runner())] {
        first = first.and(gone.or_else(|e| match e.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        }));
    }
    first
}
