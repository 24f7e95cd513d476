//! Removing everything a lab owns, whatever died before: processes, namespaces, mounts, files. An edge.
//!
//! Nothing is trusted but what is there now: processes are found by the namespace they are in and by the lab's mark in
//! their environment, besides the records; namespaces by their names; mounts by where they are. So a lab that was
//! killed half-way up is removed like any other. All steps are tried and all failures reported.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::enter::mount_points;
use crate::existing::access::Access;
use crate::existing::nodes::{self, LAB_LABEL};
use crate::layout::{Layout, NETNS_ROOT, RUN_ROOT, STATE_ROOT};
use crate::process::{self, NamespaceId, ProcessId};
use crate::state::{self, LabSpec, RunRecord};
use crate::{lock, runner};

/// The variable that marks every process of a lab; its value is the lab's name.
pub const MARKER: &str = "FAIRWAY_LAB";

/// What a sweep found and removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes ended.
    pub processes: usize,
    /// Network namespaces deleted.
    pub namespaces: usize,
    /// Mounts undone.
    pub mounts: usize,
}

impl Swept {
    /// Whether there was anything of a lab.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// Ends every process of the lab and removes its namespaces, mounts and the contents of its run directory.
/// The caller holds the lab's lock; the directory itself is left to [`remove_run_dir`].
///
/// # Errors
/// What could not be removed, all of it in one error.
pub fn sweep(layout: &Layout) -> anyhow::Result<Swept> {
    let mut swept = Swept::default();
    let mut failures: Vec<String> = Vec::new();

    // The control process first: it would start again what we end.
    swept.processes += end_control(layout, &mut failures);
    swept.processes += end_processes(layout, &mut failures);
    for node in fs::read_dir(layout.run_dir().join("nodes")).into_iter().flatten().flatten() {
        if let Err(error) = runner::cleanup(&node.path().join("runner")) {
            failures.push(format!("{}: {error:#}", node.path().display()));
        }
    }
    swept.mounts += undo_mounts(&layout.run_dir(), &mut failures);
    swept.namespaces += delete_namespaces(layout, &mut failures);
    if failures.is_empty()
        && let Err(error) = empty_directory(&layout.run_dir())
    {
        failures.push(format!("cannot remove {}: {error}", layout.run_dir().display()));
    }
    if failures.is_empty() {
        Ok(swept)
    } else {
        bail!("lab {} could not be removed wholly: {}", layout.name(), failures.join("; "))
    }
}

/// Removes the (empty) run directory, and the roots above it when no other lab needs them.
///
/// # Errors
/// As the file system's.
pub fn remove_run_dir(layout: &Layout) -> io::Result<()> {
    remove_empty(&layout.run_dir())?;
    forget_roots(Path::new(RUN_ROOT));
    Ok(())
}

/// Removes the state that survives a reboot.
///
/// # Errors
/// As the file system's.
pub fn purge(layout: &Layout) -> io::Result<()> {
    match fs::remove_dir_all(layout.state_dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    forget_roots(Path::new(STATE_ROOT));
    Ok(())
}

/// What `lab down` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// There was no such lab.
    Nothing,
    /// It is gone, its state with it.
    Gone,
    /// It is gone; its state stays on disk because it was brought up with `--persist`.
    StateKept,
}

/// `fairway lab down`: removes the lab; its state too unless the lab was made to persist and `purge_state` is false.
///
/// # Errors
/// What could not be removed.
pub fn down(layout: &Layout, purge_state: bool) -> anyhow::Result<Down> {
    let existed = layout.run_dir().exists();
    let held = lock::create_and_lock(&layout.run_dir())
        .with_context(|| format!("cannot open {}", layout.run_dir().display()))?;
    let joined = joined(layout);
    let swept = sweep(layout)?;
    remove_run_dir(layout)
        .with_context(|| format!("cannot remove {}", layout.run_dir().display()))?;
    // Last, when nothing is left that would register them again.
    if let Some(access) = joined
        && let Err(error) = nodes::leave(&access, layout.name())
        && !purge_state
    {
        bail!(
            "lab {lab} is gone from this machine, but its nodes are still in the cluster at {url} ({error:#}): `fairway lab down --name {lab}` tries again, with --purge it gives up; or `kubectl delete node -l {LAB_LABEL}={lab}`",
            lab = layout.name(),
            url = access.url(),
        );
    }
    let had_state = layout.state_dir().exists();
    // A damaged specification is no reason to keep what the user wants gone, but nor to throw away objects unasked.
    let keep = !purge_state
        && had_state
        && state::read::<LabSpec>(&state::spec_file(layout))?.is_none_or(|spec| spec.persist);
    if !keep {
        purge(layout).with_context(|| format!("cannot remove {}", layout.state_dir().display()))?;
    }
    drop(held);
    Ok(match (keep, existed || swept.any() || had_state) {
        (true, true) => Down::StateKept,
        (false, true) => Down::Gone,
        (_, false) => Down::Nothing,
    })
}

/// How the cluster is reached that the lab has joined, if it has joined one. To be asked before [`sweep`], which removes
/// the better of the two answers.
pub fn joined(layout: &Layout) -> Option<Access> {
    let spec: LabSpec = state::read(&state::spec_file(layout)).ok().flatten()?;
    let given = spec.kubeconfig?;
    // Our own copy is whole even when the given file has gone.
    [layout.kubeconfig(), given].iter().find_map(|file| Access::read(file).ok())
}

fn marker(layout: &Layout) -> String {
    format!("{MARKER}={}", layout.name())
}

/// Asks the control process to end (it writes out its state), then makes it.
fn end_control(layout: &Layout, failures: &mut Vec<String>) -> usize {
    let record = match state::read::<RunRecord>(&state::record_file(layout)) {
        Ok(Some(record)) if record.boot_id == process::boot_id() => record,
        // No record, one of another boot, or a damaged one: the search by mark finds what is left.
        _ => return 0,
    };
    let control = record.control;
    if control == ProcessId::own() || !control.alive() {
        return 0;
    }
    if !control.signal_and_wait(Signal::TERM, Duration::from_secs(5))
        && !control.signal_and_wait(Signal::KILL, Duration::from_secs(5))
    {
        failures.push(format!("the control process {} does not end", control.pid));
    }
    1
}

fn end_processes(layout: &Layout, failures: &mut Vec<String>) -> usize {
    let mut ended = 0;
    // What is found may be starting something else at this moment, so look again until there is nothing.
    for _ in 0..50 {
        let namespaces: HashSet<NamespaceId> = own_namespaces(layout)
            .iter()
            .filter_map(|name| NamespaceId::of(&Path::new(NETNS_ROOT).join(name)).ok())
            .collect();
        let found = process::find(&namespaces, &marker(layout));
        if found.is_empty() {
            return ended;
        }
        let signalled: Vec<ProcessId> =
            found.into_iter().filter(|process| process.signal(Signal::KILL)).collect();
        for process in signalled {
            if process.signal_and_wait(Signal::KILL, Duration::from_secs(5)) {
                ended += 1;
            }
        }
    }
    failures.push("its processes keep coming back".to_owned());
    ended
}

fn own_namespaces(layout: &Layout) -> Vec<String> {
    fs::read_dir(NETNS_ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| layout.owns_namespace(name))
        .collect()
}

fn delete_namespaces(layout: &Layout, failures: &mut Vec<String>) -> usize {
    let mut deleted = 0;
    for name in own_namespaces(layout) {
        let path = Path::new(NETNS_ROOT).join(&name);
        match detach(&path).and_then(|_| fs::remove_file(&path)) {
            Ok(()) => deleted += 1,
            Err(error) => failures.push(format!("namespace {name}: {error}")),
        }
    }
    deleted
}

/// Undoes every mount at or below `directory`, the last one first.
fn undo_mounts(directory: &Path, failures: &mut Vec<String>) -> usize {
    let mut undone = 0;
    for target in mounts_below(directory).into_iter().rev() {
        match detach(&target) {
            Ok(count) => undone += count,
            Err(error) => failures.push(format!("mount {}: {error}", target.display())),
        }
    }
    undone
}

fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&table).into_iter().filter(|target| target.starts_with(directory)).collect()
}

/// Unmounts `path` as often as something is mounted on it.
fn detach(path: &Path) -> io::Result<usize> {
    let mut count = 0;
    loop {
        match unmount(path, UnmountFlags::DETACH) {
            Ok(()) => count += 1,
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes what is in `directory`. Refuses while anything is mounted below: a pod's root is a view of the host's.
fn empty_directory(directory: &Path) -> io::Result<()> {
    if let Some(mount) = mounts_below(directory).first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes `…/fairway/labs` and `…/fairway` when they are empty; that another lab or an agent lives there is no error.
fn forget_roots(labs: &Path) {
    for directory in [Some(labs), labs.parent()].into_iter().flatten() {
        if remove_empty(directory).is_err() {
            return;
        }
    }
}
