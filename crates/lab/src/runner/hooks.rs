//! Edge: everything that is done to a running container from outside: probes, lifecycle hooks, stopping, waiting for its
//! end.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::child;
use super::engine::Engine;
use super::pod::Report;
use super::probe::{self, Counter, ProbeKind, Timing};
use super::state::{Phase, PodRecord};
use crate::container::exec::ExecSpec;
use crate::container::process::ProcessId;
use crate::container::spec::{ContainerSpec, Exit, State, file, read_json};

/// In the first moments of a container a refused probe is asked again at once instead of a period later: programs need
/// some milliseconds to listen, and nobody wants to wait ten seconds for that.
const WARM_UP: Duration = Duration::from_secs(1);
const WARM_UP_PERIOD: Duration = Duration::from_millis(30);
/// SIGTERM gets at least this long after a preStop hook used the whole grace period.
const MIN_GRACE: Duration = Duration::from_secs(2);

/// One running container, for a task of its own.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) engine: Rc<Engine>,
    pub(super) pod: Arc<Pod>,
    pub(super) record: PodRecord,
    pub(super) container: Container,
}

impl Context {
    fn running(&self) -> Option<(Timestamp, ProcessId)> {
        match self.record.containers.get(&self.container.name)?.phase {
            Phase::Running { started_at, init, .. } => Some((started_at, init)),
            _ => None,
        }
    }

    fn ip(&self) -> String {
        let host = self.record.netns.is_none().then(|| self.engine.config.node_ips.first());
        let ip = host.unwrap_or_else(|| self.record.ips.first());
        ip.map_or_else(|| "127.0.0.1".into(), ToString::to_string)
    }

    fn tell(&self, reason: &'static str, message: String) {
        self.engine.tell(&self.pod, Some(&self.container.name), true, reason, message);
    }
}

/// What it takes to run a program in a container: the helper's command line.
///
/// # Errors
/// The container does not run, or its specification cannot be read.
pub(super) fn exec_command(
    engine: &Engine,
    record: &PodRecord,
    container: &str,
    argv: Vec<String>,
    terminal: Option<u32>,
) -> Result<Command, String> {
    let known = record.containers.get(container).ok_or("no such container")?;
    let Phase::Running { init, .. } = known.phase else {
        return Err(format!("container not running ({container})"));
    };
    let dir = engine.run.container(&record.uid, container, known.attempt);
    let spec: ContainerSpec = read_json(&dir.join(file::SPEC)).map_err(|e| e.to_string())?;
    let mut env = spec.env;
    if terminal.is_some() && !env.iter().any(|(k, _)| k == "TERM") {
        env.push(("TERM".into(), "xterm".into()));
    }
    let spec = ExecSpec { init, argv, env, cwd: spec.cwd, user: spec.user, terminal };
    let spec = serde_json::to_string(&spec).map_err(|e| e.to_string())?;
    let mut command = Command::new(&engine.exe);
    command.args(["lab", "container-exec", &spec]);
    Ok(command)
}

async fn exec(ctx: &Context, argv: &[String], limit: Duration) -> Result<(), String> {
    let command = exec_command(&ctx.engine, &ctx.record, &ctx.container.name, argv.to_vec(), None)?;
    match child::output(command, b"", limit).await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text[..text.len().min(1024)]).trim().to_owned();
            let code = output.status.code().unwrap_or(-1);
            Err(if text.is_empty() { format!("command exited with code {code}") } else { text })
        }
        Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            Err(format!("command timed out: {argv:?} timed out after {limit:?}"))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Runs a hook to its end.
///
/// # Errors
/// Its failure in words.
pub(super) async fn run_hook(
    ctx: &Context,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        return exec(ctx, action.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(action) = &hook.http_get {
        return probe::http(action, &ctx.container, &ctx.ip(), limit).await;
    }
    if let Some(action) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("a lifecycle handler must be exec, httpGet or sleep".into())
}

/// Ends a container: preStop, SIGTERM, and SIGKILL at `until` (or at a sooner deadline of the pod).
pub(super) async fn stop(
    ctx: Context,
    until: Instant,
    mut deadline: watch::Receiver<Option<Instant>>,
) {
    let Some((_, init)) = ctx.running() else { return };
    let mut until = until;
    let sooner = |until: Instant, deadline: &watch::Receiver<Option<Instant>>| {
        deadline.borrow().map_or(until, |d| d.min(until))
    };
    let lifecycle = ctx.container.lifecycle.as_ref();
    if let Some(hook) = lifecycle.and_then(|l| l.pre_stop.as_ref()) {
        let left = until.saturating_duration_since(Instant::now());
        let done = tokio::time::timeout_at(until, run_hook(&ctx, hook, left)).await;
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("PreStopHook failed: {error}")),
            Err(_) => Some(format!("PreStopHook did not complete in {}s", left.as_secs())),
        };
        if let Some(message) = failed {
            ctx.tell("FailedPreStopHook", message);
        }
        until = until.max(Instant::now() + MIN_GRACE);
    }
    let signal = match lifecycle.and_then(|l| l.stop_signal.as_deref()) {
        Some("SIGINT") => Signal::INT,
        Some("SIGQUIT") => Signal::QUIT,
        Some("SIGHUP") => Signal::HUP,
        Some("SIGUSR1") => Signal::USR1,
        Some("SIGUSR2") => Signal::USR2,
        Some("SIGKILL") => Signal::KILL,
        _ => Signal::TERM,
    };
    let Some(fd) = init.open() else { return };
    init.signal(signal);
    let gone = child::gone(fd);
    tokio::pin!(gone);
    loop {
        tokio::select! {
            _ = &mut gone => return,
            () = sleep_until(until) => break,
            changed = deadline.changed() => match changed {
                Ok(()) => until = sooner(until, &deadline),
                // the worker is gone; so is this task, soon
                Err(_) => sleep_until(until).await,
            },
        }
    }
    init.signal(Signal::KILL);
}

/// Waits until a container's shim is gone and reads how the container ended.
pub(super) async fn wait_for_exit(dir: &Path, state: State) -> Exit {
    if let Some(fd) = state.shim.open()
        && let Err(error) = child::gone(fd).await
    {
        tracing::warn!(%error, "cannot wait for a shim");
        while state.shim.alive() {
            sleep(Duration::from_millis(100)).await;
        }
    }
    if let Some(pid) = Pid::from_raw(state.shim.pid) {
        // ours when this runner started it; an adopted one has another parent
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(_) | Err(_) => {}
        }
    }
    read_json(&dir.join(file::EXIT)).unwrap_or_else(|_| {
        // the shim was killed, and its container with it
        Exit {
            code: 137,
            signal: Some(9),
            start_error: None,
            finished_at: Timestamp::now(),
            started_at: Some(state.started_at),
        }
    })
}

/// Probes a container for as long as it runs; reports a verdict whenever it changes.
pub(super) async fn probe_loop(
    ctx: Context,
    kind: ProbeKind,
    probe: Probe,
    attempt: u32,
    reports: mpsc::Sender<Report>,
) {
    let timing = Timing::of(&probe);
    let Some((started_at, _)) = ctx.running() else { return };
    let age = Timestamp::now().duration_since(started_at).unsigned_abs();
    sleep(timing.initial_delay.saturating_sub(age)).await;
    let began = Instant::now();
    let warm_up = timing.initial_delay.is_zero() && age < WARM_UP;
    let mut counter = Counter::default();
    let mut told = None;
    loop {
        let result = ask(&ctx, &probe, &timing).await;
        let warming = warm_up && told.is_none() && began.elapsed() < WARM_UP.min(timing.period);
        if result.is_err() && warming {
            sleep(WARM_UP_PERIOD).await;
            continue;
        }
        if let Err(message) = &result {
            ctx.tell("Unhealthy", format!("{} probe failed: {message}", kind.name()));
        }
        let verdict = counter.record(result.is_ok(), &timing);
        if let Some(verdict) = verdict
            && told != Some(verdict)
        {
            told = Some(verdict);
            let container = ctx.container.name.clone();
            if reports.send(Report::Probe { container, attempt, kind, verdict }).await.is_err() {
                return;
            }
            if kind == ProbeKind::Startup {
                return;
            }
        }
        sleep(timing.period).await;
    }
}

async fn ask(ctx: &Context, probe: &Probe, timing: &Timing) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        return exec(ctx, action.command.as_deref().unwrap_or_default(), timing.timeout).await;
    }
    if let Some(action) = &probe.http_get {
        return probe::http(action, &ctx.container, &ctx.ip(), timing.timeout).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let Some(port) = probe::port(&ctx.container, &action.port) else {
            return Err(format!("couldn't find port: {:?}", action.port));
        };
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ctx.ip());
        return probe::tcp(&host, port, timing.timeout).await;
    }
    if probe.grpc.is_some() {
        return Err(
            "gRPC probes are not supported by the lab: use httpGet, tcpSocket or exec".into()
        );
    }
    Err("the probe names no action".into())
}
