//! `fairway lab up`: checks the machine, clears what an earlier run left, starts the control process and follows it.
//!
//! The control process holds a pipe from this one. Until it is told to detach, the end of that pipe means that `lab up`
//! died, and it takes the lab down: a lab that is half up, or that runs in a foreground that is gone, stays nowhere.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::layout::{API_PORT, LabName, Layout, MAX_NODES, STATE_ROOT};
use crate::protocol::{DETACH, Progress};
use crate::say::{Mark, Voice, duration};
use crate::state::{self, LabSpec, RunRecord};
use crate::teardown::MARKER;
use crate::{existing, lock, preflight, process, teardown};

/// Nodes of a lab when nobody says otherwise.
pub const DEFAULT_NODES: u16 = 3;
/// How long a step may take before coming up is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was asked for.
#[derive(Debug, Clone)]
pub struct UpOptions {
    /// The lab's name.
    pub name: LabName,
    /// Number of nodes; `None`: as before, or [`DEFAULT_NODES`].
    pub nodes: Option<u16>,
    /// Return when the lab is ready instead of staying in the foreground.
    pub detach: bool,
    /// The API server's port on the host's loopback; `None`: the first free one from [`API_PORT`].
    pub api_port: Option<u16>,
    /// Keep the objects when the lab is taken down.
    pub persist: bool,
    /// Zones, given to the nodes in turn; empty: as before, or none.
    pub zones: Vec<String>,
    /// The existing cluster to join; `None`: as before, or an API server of the lab's own.
    pub kubeconfig: Option<PathBuf>,
    /// Bind the existing cluster's pods to nodes: it has no scheduler.
    pub bind_pods: bool,
    /// How much to say.
    pub talk: Talk,
}

/// How much a command says beside errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    /// Nothing.
    Quiet,
    /// Each step, on standard output: the demo's way, where the steps are the result.
    Steps,
    /// Progress on standard error, a summary with the next commands on standard output.
    Full,
}

/// Brings a lab up. In the foreground, returns when it was taken down again.
///
/// # Errors
/// One line that says what is wrong and what to do; what had been made is removed.
pub async fn up(options: UpOptions) -> anyhow::Result<()> {
    let began = Instant::now();
    let layout = Layout::new(options.name.clone());
    let voice = Voice::new();
    preflight::root()?;
    preflight::space(&layout.run_dir())?;
    preflight::space(Path::new(STATE_ROOT))?;
    let held = lock::create_and_lock(&layout.run_dir())
        .with_context(|| cannot("make", &layout.run_dir()))?;
    refuse_running(&layout)?;
    let swept = teardown::sweep(&layout)?;
    if swept.any() && options.talk != Talk::Quiet {
        let text = format!(
            "cleared what an earlier run left: {} processes, {} namespaces, {} mounts",
            swept.processes, swept.namespaces, swept.mounts
        );
        voice.step(Mark::Note, &text, None);
    }
    // From here on, whatever fails takes down what was made, state included if it was not there before.
    let fresh = !layout.state_dir().exists();
    let up = bring_up(&layout, &options, voice, began).await;
    let mut running = match up {
        Ok(running) => running,
        Err(error) => {
            // The first error is the one to show; the sweep's own would hide it.
            let joined = teardown::joined(&layout);
            drop(teardown::sweep(&layout).and_then(|_| Ok(teardown::remove_run_dir(&layout)?)));
            drop(joined.map(|access| existing::nodes::leave(&access, layout.name())));
            if fresh {
                drop(teardown::purge(&layout));
            }
            return Err(error);
        }
    };
    drop(held);
    if options.detach {
        return running.detach().await;
    }
    running.stay(&layout, &options, voice).await
}

/// A control process that reported Ready, with the pipes to it.
struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    interrupts: Interrupts,
}

struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

impl Running {
    async fn detach(mut self) -> anyhow::Result<()> {
        self.stdin
            .write_all(format!("{DETACH}\n").as_bytes())
            .await
            .context("the control process ended; see `fairway lab status`")?;
        self.stdin.flush().await.context("the control process ended; see `fairway lab status`")
    }

    /// Stays in the foreground until Ctrl-C, or until somebody else takes the lab down.
    async fn stay(
        &mut self,
        layout: &Layout,
        options: &UpOptions,
        voice: Voice,
    ) -> anyhow::Result<()> {
        if options.talk == Talk::Full {
            voice.line("\nCtrl-C takes it down.");
        }
        tokio::select! {
            () = self.interrupts.next() => {
                let began = Instant::now();
                let down = teardown::down(layout, false)?;
                if options.talk != Talk::Quiet {
                    let kept = if down == teardown::Down::StateKept { ", its objects are kept" } else { "" };
                    voice.step(Mark::Good, &format!("lab {} is down{kept}", layout.name()), Some(began.elapsed()));
                }
                Ok(())
            }
            status = self.child.wait() => {
                if !layout.run_dir().exists() {
                    return Ok(()); // `fairway lab down` elsewhere
                }
                let told = told(status);
                let log = last_line(&layout.control_log());
                let down = teardown::down(layout, false)?;
                let kept = if down == teardown::Down::StateKept { " and its objects are kept" } else { "" };
                bail!("the control process {told}{log}; the lab was taken down{kept}")
            }
        }
    }
}

async fn bring_up(
    layout: &Layout,
    options: &UpOptions,
    voice: Voice,
    began: Instant,
) -> anyhow::Result<Running> {
    preflight::check(&layout.run_dir(), Path::new(STATE_ROOT))?;
    let spec = specification(layout, options)?;
    fs::create_dir_all(layout.state_dir()).with_context(|| cannot("make", &layout.state_dir()))?;
    state::write(&state::spec_file(layout), &spec)
        .with_context(|| cannot("write", &state::spec_file(layout)))?;
    let mut running = start_control(layout, options)?;
    let mut nodes = 0;
    let mut step = Instant::now();
    let say = |text: &str, step: &mut Instant| {
        match options.talk {
            Talk::Quiet => {}
            Talk::Steps => voice.result(Mark::Good, text, Some(step.elapsed())),
            Talk::Full => voice.step(Mark::Good, text, Some(step.elapsed())),
        }
        *step = Instant::now();
    };
    let url = loop {
        let line = tokio::select! {
            line = tokio::time::timeout(PATIENCE, running.lines.next_line()) => line,
            () = running.interrupts.next() => bail!("interrupted; nothing stays behind"),
        };
        let Ok(line) = line else {
            bail!(
                "the lab did not come up within {} s; {}",
                PATIENCE.as_secs(),
                last_line(&layout.control_log())
            );
        };
        let Some(line) = line.context("cannot read from the control process")? else {
            let told = told(running.child.wait().await);
            bail!("the control process {told}{}", last_line(&layout.control_log()));
        };
        match serde_json::from_str(&line) {
            Ok(Progress::Network { nodes: count }) => {
                nodes = count;
                say(&format!("a switch, a client and {}", plural(count, "node")), &mut step);
            }
            Ok(Progress::Api { url, restored }) => {
                let found = match restored {
                    0 => String::new(),
                    count => format!(", {count} objects of the last run"),
                };
                say(&format!("API server at {url}{found}"), &mut step);
            }
            Ok(Progress::NodeReady { node }) => say(&format!("{node} is Ready"), &mut step),
            Ok(Progress::Ready) => {
                let record: Option<RunRecord> = state::read(&state::record_file(layout))?;
                break record.map_or_else(String::new, |record| record.api_url);
            }
            Ok(Progress::Failed { message }) => bail!("{message}"),
            Err(error) => bail!("the control process wrote {line:?}: {error}"),
        }
    };
    if options.talk == Talk::Full {
        summary(layout, nodes, &url, voice, began.elapsed());
    }
    Ok(running)
}

fn start_control(layout: &Layout, options: &UpOptions) -> anyhow::Result<Running> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(layout.control_log())
        .with_context(|| cannot("write", &layout.control_log()))?;
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(own);
    command.args(["lab", "control", "--name", layout.name().as_str()]);
    if let Some(port) = options.api_port {
        command.args(["--api-port", &port.to_string()]);
    }
    let mut child = command
        .env(MARKER, layout.name().as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the control process")?;
    let stdin = child.stdin.take().context("invariant: stdin is piped")?;
    let stdout = child.stdout.take().context("invariant: stdout is piped")?;
    let interrupts = Interrupts::new().context("cannot listen for Ctrl-C")?;
    Ok(Running { child, stdin, lines: BufReader::new(stdout).lines(), interrupts })
}

/// Joins what was asked with what an earlier run left on disk.
fn specification(layout: &Layout, options: &UpOptions) -> anyhow::Result<LabSpec> {
    let earlier: Option<LabSpec> = state::read(&state::spec_file(layout))?;
    let before = earlier.as_ref().map(|spec| spec.nodes);
    let nodes = options.nodes.or(before).unwrap_or(DEFAULT_NODES);
    if nodes > MAX_NODES {
        bail!("--nodes {nodes}: a lab has 0 to {MAX_NODES} nodes");
    }
    if let Some(before) = before
        && nodes < before
    {
        bail!(
            "lab {name} is kept on disk with {before} nodes: use --nodes {before} or more, or remove it with `fairway lab down --name {name} --purge`",
            name = layout.name()
        );
    }
    let api_port = options.api_port.or(earlier.as_ref().and_then(|spec| spec.api_port));
    let persist = options.persist || earlier.as_ref().is_some_and(|spec| spec.persist);
    let zones = match options.zones.as_slice() {
        [] => earlier.as_ref().map(|spec| spec.zones.clone()).unwrap_or_default(),
        zones => zones.to_vec(),
    };
    if let Some(zone) = zones.iter().find(|zone| !is_label_value(zone)) {
        bail!(
            "--zones: {zone:?} is no label value: 1 to 63 of A-Z, a-z, 0-9, '-', '_' and '.', with a letter or digit at both ends"
        );
    }
    let kubeconfig = match &options.kubeconfig {
        None => earlier.as_ref().and_then(|spec| spec.kubeconfig.clone()),
        // The control process and later commands read it from elsewhere.
        Some(file) => Some(fs::canonicalize(file).with_context(|| cannot("read", file))?),
    };
    let bind_pods = options.bind_pods || earlier.is_some_and(|spec| spec.bind_pods);
    Ok(LabSpec { nodes, api_port, persist, zones, kubeconfig, bind_pods })
}

/// What Kubernetes takes as the value of a label, the empty one excepted.
fn is_label_value(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

fn refuse_running(layout: &Layout) -> anyhow::Result<()> {
    let Ok(Some(record)) = state::read::<RunRecord>(&state::record_file(layout)) else {
        return Ok(());
    };
    if record.boot_id == process::boot_id() && record.control.alive() {
        bail!(
            "lab {name} is up already ({}, since {}): see `fairway lab status --name {name}`, or take it down with `fairway lab down --name {name}`",
            plural(record.spec.nodes, "node"),
            age_of(&record.started),
            name = layout.name()
        );
    }
    Ok(())
}

fn summary(layout: &Layout, nodes: u16, url: &str, voice: Voice, took: Duration) {
    let name = layout.name();
    let flag = if name.as_str() == "lab" { String::new() } else { format!(" --name {name}") };
    voice.line(&format!(
        "\nLab {name} is up: {} Ready in {}.",
        plural(nodes, "node"),
        duration(took)
    ));
    voice.line(&format!("The API is at {url}. Next:\n"));
    for (command, meaning) in [
        (format!("export KUBECONFIG={}", layout.kubeconfig().display()), ""),
        ("kubectl get nodes -o wide".to_owned(), ""),
        (format!("fairway lab status{flag}"), "nodes, agents, memory"),
        (
            format!("fairway lab exec{flag} client -- curl -s node-1:30000"),
            "a request from outside",
        ),
        (
            format!("fairway lab exec{flag} node-1 -- nft list table inet fairway"),
            "the rules of a node",
        ),
        (format!("fairway lab down{flag}"), "leaves nothing behind"),
    ] {
        let note = if meaning.is_empty() { String::new() } else { format!("   # {meaning}") };
        voice.line(&format!("  {command}{note}"));
    }
}

/// `1 node`, `3 nodes`.
#[must_use]
pub fn plural(count: u16, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The age of an RFC 3339 time, as `kubectl` writes it.
#[must_use]
pub fn age_of(started: &str) -> String {
    let Ok(then) = started.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(then.as_second());
    print::columns::age(u64::try_from(seconds).unwrap_or(0))
}

fn cannot(verb: &str, path: &Path) -> String {
    format!("cannot {verb} {}", path.display())
}

fn told(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("cannot be waited for: {error}"),
    }
}

/// `: <last line>` of a log; empty when there is none.
fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.trim_end().lines().last().map(|line| format!(": {}", line.trim())).unwrap_or_default()
}

/// The API port first tried, for the help text.
pub const FIRST_API_PORT: u16 = API_PORT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_label_values() {
        for good in ["a", "eu-central-1a", "A_b.9"] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "ä", &"a".repeat(64)] {
            assert!(!is_label_value(bad), "{bad}");
        }
    }
}
