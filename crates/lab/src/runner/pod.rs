//! Edge: the worker of one pod. It asks [`sync::plan`], performs the actions (slow ones as tasks that report back over a
//! bounded channel), keeps the record on disk and publishes the status.
//!
//! A worker is the only writer of its record. Cancelling it (the runner ends) leaves containers running; the record on
//! disk is what the next runner starts from.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::engine::{Engine, Task, Wanted};
use super::env::Facts;
use super::hooks;
use super::launch;
use super::probe::ProbeKind;
use super::sandbox;
use super::state::{ContainerRecord, Ended, Phase, PodRecord, Sandbox, new_id};
use super::status;
use super::sync::{self, Action};
use crate::container::spec::{Exit, State, file, read_json};

/// What tasks report to their worker.
#[derive(Debug)]
pub(super) enum Report {
    /// The sandbox is there (CNI result and addresses), or why not.
    Sandbox(Result<Value, sandbox::SandboxError>),
    /// The sandbox is gone.
    SandboxGone,
    /// A container runs, or why not.
    Started { container: String, attempt: u32, outcome: Result<State, StartError> },
    /// A container ended.
    Exited { container: String, attempt: u32, exit: Exit },
    /// postStart is done, or failed with these words.
    PostStart { container: String, attempt: u32, outcome: Result<(), String> },
    /// A probe's verdict.
    Probe { container: String, attempt: u32, kind: ProbeKind, verdict: bool },
}

/// Why a container could not be started.
#[derive(Debug)]
pub(super) enum StartError {
    /// No such image here.
    Image(String),
    /// Its configuration leads nowhere.
    Config(String),
    /// Its program could not be executed.
    Run(String),
}

struct Worker {
    engine: Rc<Engine>,
    pod: Arc<Pod>,
    vanished: bool,
    record: Rc<RefCell<PodRecord>>,
    saved: Option<PodRecord>,
    status: watch::Sender<Option<PodStatus>>,
    reports: mpsc::Sender<Report>,
    volumes: Rc<RefCell<Option<Shared>>>,
    /// When the pod must be gone; shortened by a second deletion.
    deadline: watch::Sender<Option<Instant>>,
    tasks: HashMap<String, Vec<Task>>,
    pod_tasks: Vec<Task>,
}

/// What all containers of the pod are made with.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared {
    pub(super) volumes: BTreeMap<String, PathBuf>,
    pub(super) services: Vec<Service>,
}

/// Runs one pod until it is gone.
pub(super) async fn run(
    engine: Rc<Engine>,
    mut wanted: watch::Receiver<Wanted>,
    record: Rc<RefCell<PodRecord>>,
    status: watch::Sender<Option<PodStatus>>,
    adopted: bool,
) {
    let (reports, mut inbox) = mpsc::channel(64);
    let first = wanted.borrow_and_update().clone();
    let mut writer = engine
        .api
        .clone()
        .map(|api| Task::spawn(api.follow(Pod::clone(&first.pod), status.subscribe())));
    let mut worker = Worker {
        engine: engine.clone(),
        pod: first.pod,
        vanished: first.vanished,
        record,
        saved: None,
        status,
        reports,
        volumes: Rc::default(),
        deadline: watch::channel(None).0,
        tasks: HashMap::new(),
        pod_tasks: Vec::new(),
    };
    if adopted {
        worker.adopt();
    }
    let mut network = engine.network.clone();
    loop {
        worker.note_deletion();
        let now = Timestamp::now();
        let plan = sync::plan(&worker.pod, &worker.record.borrow(), now);
        let mut over = false;
        for action in plan.actions {
            over |= action == Action::Delete;
            worker.perform(action);
        }
        worker.save();
        worker.publish();
        if over {
            break;
        }
        let absent = matches!(worker.record.borrow().sandbox, Sandbox::Absent { .. });
        let sleep = plan.wake.map_or(Duration::from_secs(3600), |at| {
            let left = at.duration_since(now).unsigned_abs();
            // a little late rather than a little early: planning again must find it due
            left + Duration::from_millis(2)
        });
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => {
                    let new = wanted.borrow_and_update().clone();
                    worker.pod = new.pod;
                    worker.vanished |= new.vanished;
                }
                Err(_) => return,
            },
            Some(report) = inbox.recv() => worker.take(report),
            Ok(()) = network.changed(), if absent => {
                if let Sandbox::Absent { retry_at, .. } = &mut worker.record.borrow_mut().sandbox {
                    *retry_at = None;
                }
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
    drop(writer.take());
    worker.finish().await;
}

impl Worker {
    /// A deleted pod has a deadline, and a vanished one is a deleted one.
    fn note_deletion(&mut self) {
        if self.vanished && self.pod.metadata.deletion_timestamp.is_none() {
            let mut pod = Pod::clone(&self.pod);
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
            pod.metadata.deletion_grace_period_seconds = Some(1);
            self.pod = Arc::new(pod);
        }
        if self.pod.metadata.deletion_timestamp.is_none() {
            return;
        }
        let until =
            Instant::now() + if self.vanished { Duration::from_secs(1) } else { self.grace() };
        self.deadline.send_if_modified(|deadline| {
            let sooner = deadline.is_none_or(|d| until < d);
            if sooner {
                *deadline = Some(until);
            }
            sooner
        });
    }

    /// The grace period in force.
    fn grace(&self) -> Duration {
        let meta = &self.pod.metadata;
        let spec = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        let seconds = meta.deletion_grace_period_seconds.or(spec).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
    }

    fn container(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        let all = spec.containers.iter().chain(sync::init_containers(spec));
        all.into_iter().find(|c| c.name == name).cloned()
    }

    fn tell(&self, container: Option<&str>, warning: bool, reason: &'static str, message: String) {
        self.engine.tell(&self.pod, container, warning, reason, message);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::CreateSandbox => self.create_sandbox(),
            Action::DestroySandbox => self.destroy_sandbox(),
            Action::Start { container, restart } => self.start(&container, restart),
            Action::Stop { container } => {
                self.stop(&container, format!("Stopping container {container}"), None);
            }
            Action::Delete => {}
        }
    }

    fn create_sandbox(&mut self) {
        let mut record = self.record.borrow_mut();
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        if !host {
            record.netns = Some(super::netns::path_for(&self.engine.config.lab, &record.uid));
        }
        let failures = match record.sandbox {
            Sandbox::Absent { failures, .. } => failures,
            _ => 0,
        };
        record.sandbox = Sandbox::Creating { failures };
        let view = record.clone();
        drop(record);
        // on disk before it is in the kernel: a crash in between is cleaned up
        self.save();
        let (engine, reports, pod) = (self.engine.clone(), self.reports.clone(), self.pod.clone());
        let shared = self.volumes.clone();
        self.pod_tasks.push(Task::spawn(async move {
            let made = sandbox::create(&engine, &pod, &view).await;
            let made = made.map(|(result, ready)| {
                *shared.borrow_mut() = Some(ready);
                result
            });
            report(&reports, Report::Sandbox(made)).await;
        }));
    }

    fn destroy_sandbox(&mut self) {
        self.record.borrow_mut().sandbox = Sandbox::Destroying;
        let (engine, reports) = (self.engine.clone(), self.reports.clone());
        let view = self.record.borrow().clone();
        self.pod_tasks.push(Task::spawn(async move {
            sandbox::destroy(&engine, &view).await;
            report(&reports, Report::SandboxGone).await;
        }));
    }

    fn start(&mut self, name: &str, restart: bool) {
        let Some(container) = self.container(name) else { return };
        let mut record = self.record.borrow_mut();
        let known = record.container(name);
        if restart {
            if let Phase::Exited(ended) = &known.phase {
                let ended = ended.clone();
                known.backoff = sync::next_backoff(known, &ended);
                known.last = Some(ended);
            }
            known.attempt += 1;
        }
        known.id = new_id();
        known.ready = false;
        known.started = false;
        known.phase = Phase::Starting;
        let attempt = known.attempt;
        let view = record.clone();
        drop(record);
        let (engine, reports, pod) = (self.engine.clone(), self.reports.clone(), self.pod.clone());
        let shared = self.volumes.clone();
        let name = name.to_owned();
        let key = name.clone();
        let task = Task::spawn(async move {
            let outcome = start_container(&engine, &pod, &view, &container, &shared).await;
            report(&reports, Report::Started { container: name, attempt, outcome }).await;
        });
        self.tasks.insert(key, vec![task]);
    }

    /// Ends a container: preStop, SIGTERM, SIGKILL. `grace` overrides the pod's.
    fn stop(&mut self, name: &str, message: String, grace: Option<Duration>) {
        let Some(container) = self.container(name) else { return };
        {
            let mut record = self.record.borrow_mut();
            let Phase::Running { stopping, .. } = &mut record.container(name).phase else { return };
            if std::mem::replace(stopping, true) {
                return;
            }
        }
        self.tell(Some(name), false, "Killing", message);
        let until = Instant::now() + grace.unwrap_or_else(|| self.grace());
        let until = self.deadline.borrow().map_or(until, |d| d.min(until));
        let ctx = hooks::Context {
            engine: self.engine.clone(),
            pod: self.pod.clone(),
            record: self.record.borrow().clone(),
            container,
        };
        let task = Task::spawn(hooks::stop(ctx, until, self.deadline.subscribe()));
        self.tasks.entry(name.to_owned()).or_default().push(task);
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Sandbox(Ok(result)) => {
                let mut record = self.record.borrow_mut();
                record.ips = super::cni::addresses(&result);
                record.cni_result = (!result.is_null()).then_some(result);
                record.sandbox = Sandbox::Ready;
            }
            Report::Sandbox(Err(error)) => {
                let wait = {
                    let mut record = self.record.borrow_mut();
                    let failures = match record.sandbox {
                        Sandbox::Creating { failures } => failures + 1,
                        _ => 1,
                    };
                    let wait = Duration::from_millis(500 << failures.min(5) >> 1)
                        .min(Duration::from_secs(10));
                    record.sandbox =
                        Sandbox::Absent { retry_at: Some(Timestamp::now() + wait), failures };
                    wait
                };
                tracing::info!(pod = self.record.borrow().name, %error, ?wait, "no sandbox");
                self.tell(None, true, error.reason(), error.to_string());
            }
            Report::SandboxGone => {
                let mut record = self.record.borrow_mut();
                record.sandbox = Sandbox::Gone;
                record.netns = None;
            }
            Report::Started { container, attempt, outcome } => {
                if self.current(&container) == Some(attempt) {
                    self.started(&container, attempt, outcome);
                }
            }
            Report::Exited { container, attempt, exit } => {
                if self.current(&container) == Some(attempt) {
                    self.exited(&container, exit);
                }
            }
            Report::PostStart { container, attempt, outcome } => {
                if self.current(&container) == Some(attempt) {
                    match outcome {
                        Ok(()) => self.begin_probes(&container, attempt),
                        Err(message) => {
                            self.tell(Some(&container), true, "FailedPostStartHook", message);
                            self.stop(&container, "FailedPostStartHook".into(), None);
                        }
                    }
                }
            }
            Report::Probe { container, attempt, kind, verdict } => {
                if self.current(&container) == Some(attempt) {
                    self.probed(&container, attempt, kind, verdict);
                }
            }
        }
    }

    fn current(&self, container: &str) -> Option<u32> {
        self.record.borrow().containers.get(container).map(|c| c.attempt)
    }

    fn started(&mut self, name: &str, attempt: u32, outcome: Result<State, StartError>) {
        let now = Timestamp::now();
        match outcome {
            Ok(state) => {
                self.tell(Some(name), false, "Started", format!("Started container {name}"));
                {
                    let mut record = self.record.borrow_mut();
                    let known = record.container(name);
                    known.pull_failures = 0;
                    known.phase = Phase::Running {
                        started_at: state.started_at,
                        shim: state.shim,
                        init: state.init,
                        stopping: false,
                    };
                }
                self.watch_exit(name, attempt, state);
                self.post_start(name, attempt);
            }
            Err(StartError::Image(message)) => {
                let image = self.container(name).and_then(|c| c.image).unwrap_or_default();
                let failures = {
                    let mut record = self.record.borrow_mut();
                    let known = record.container(name);
                    known.pull_failures += 1;
                    let failures = known.pull_failures;
                    // the first time the error is shown, then that it waits
                    let (reason, text) = if failures == 1 {
                        ("ErrImagePull", message.clone())
                    } else {
                        (
                            "ImagePullBackOff",
                            format!("Back-off pulling image {image:?}: ErrImagePull: {message}"),
                        )
                    };
                    known.id = String::new();
                    known.phase = Phase::Waiting {
                        reason: reason.into(),
                        message: Some(text),
                        retry_at: Some(now + sync::failure_backoff(failures)),
                    };
                    failures
                };
                if failures == 1 {
                    let text = format!("Failed to pull image {image:?}: {message}");
                    self.tell(Some(name), true, "Failed", text);
                    self.tell(Some(name), true, "Failed", "Error: ErrImagePull".into());
                } else {
                    self.tell(
                        Some(name),
                        false,
                        "BackOff",
                        format!("Back-off pulling image {image:?}"),
                    );
                    self.tell(Some(name), true, "Failed", "Error: ImagePullBackOff".into());
                }
            }
            Err(StartError::Config(message)) => {
                {
                    let mut record = self.record.borrow_mut();
                    let known = record.container(name);
                    known.id = String::new();
                    known.phase = Phase::Waiting {
                        reason: "CreateContainerConfigError".into(),
                        message: Some(message.clone()),
                        retry_at: Some(now + Duration::from_secs(2)),
                    };
                }
                self.tell(Some(name), true, "Failed", format!("Error: {message}"));
            }
            Err(StartError::Run(message)) => {
                let text = format!("Error: failed to start container {name:?}: {message}");
                self.tell(Some(name), true, "Failed", text);
                let exit = Exit {
                    code: 128,
                    signal: None,
                    start_error: Some(message),
                    finished_at: now,
                    started_at: None,
                };
                self.exited(name, exit);
            }
        }
    }

    fn watch_exit(&mut self, name: &str, attempt: u32, state: State) {
        let dir = self.engine.run.container(&self.record.borrow().uid, name, attempt);
        let (reports, container) = (self.reports.clone(), name.to_owned());
        let task = Task::spawn(async move {
            let exit = hooks::wait_for_exit(&dir, state).await;
            report(&reports, Report::Exited { container, attempt, exit }).await;
        });
        self.tasks.entry(name.to_owned()).or_default().push(task);
    }

    fn post_start(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.container(name) else { return };
        let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        let Some(hook) = hook else {
            self.begin_probes(name, attempt);
            return;
        };
        let ctx = hooks::Context {
            engine: self.engine.clone(),
            pod: self.pod.clone(),
            record: self.record.borrow().clone(),
            container,
        };
        let (reports, container) = (self.reports.clone(), name.to_owned());
        let task = Task::spawn(async move {
            let outcome = hooks::run_hook(&ctx, &hook, Duration::from_secs(3600)).await;
            let outcome = outcome.map_err(|e| format!("PostStartHook failed: {e}"));
            report(&reports, Report::PostStart { container, attempt, outcome }).await;
        });
        self.tasks.entry(name.to_owned()).or_default().push(task);
    }

    fn begin_probes(&mut self, name: &str, attempt: u32) {
        let Some(container) = self.container(name) else { return };
        if container.startup_probe.is_some() && !self.record.borrow_mut().container(name).started {
            self.probe(name, attempt, ProbeKind::Startup);
            return;
        }
        {
            let mut record = self.record.borrow_mut();
            let known = record.container(name);
            known.started = true;
            known.ready |= container.readiness_probe.is_none();
        }
        for kind in [ProbeKind::Readiness, ProbeKind::Liveness] {
            self.probe(name, attempt, kind);
        }
    }

    fn probe(&mut self, name: &str, attempt: u32, kind: ProbeKind) {
        let Some(container) = self.container(name) else { return };
        let Some(probe) = kind.of(&container).cloned() else { return };
        let ctx = hooks::Context {
            engine: self.engine.clone(),
            pod: self.pod.clone(),
            record: self.record.borrow().clone(),
            container,
        };
        let task = Task::spawn(hooks::probe_loop(ctx, kind, probe, attempt, self.reports.clone()));
        self.tasks.entry(name.to_owned()).or_default().push(task);
    }

    fn probed(&mut self, name: &str, attempt: u32, kind: ProbeKind, verdict: bool) {
        let deleting = self.pod.metadata.deletion_timestamp.is_some();
        let running = matches!(
            self.record.borrow_mut().container(name).phase,
            Phase::Running { stopping: false, .. }
        );
        match (kind, verdict) {
            // goes on while the pod ends: its endpoint says whether it still serves
            (ProbeKind::Readiness, verdict) => {
                self.record.borrow_mut().container(name).ready = verdict
            }
            (ProbeKind::Startup, true) => {
                if !self.record.borrow_mut().container(name).started {
                    self.record.borrow_mut().container(name).started = true;
                    self.begin_probes(name, attempt);
                }
            }
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Liveness | ProbeKind::Startup, false) if running && !deleting => {
                let own = self
                    .container(name)
                    .and_then(|c| kind.of(&c).and_then(|p| p.termination_grace_period_seconds));
                let grace = own.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
                let what = kind.name().to_lowercase();
                let message = format!("Container {name} failed {what} probe, will be restarted");
                self.stop(name, message, grace);
            }
            (ProbeKind::Liveness | ProbeKind::Startup, false) => {}
        }
    }

    fn exited(&mut self, name: &str, exit: Exit) {
        self.tasks.remove(name);
        let message = self.last_words(name, &exit);
        let (backoff, delayed) = {
            let mut record = self.record.borrow_mut();
            let uid = record.uid.clone();
            let known = record.container(name);
            let reason = match &exit {
                Exit { start_error: Some(_), .. } => "StartError",
                Exit { code: 0, .. } => "Completed",
                _ => "Error",
            };
            let ended = Ended {
                code: exit.code,
                signal: exit.signal,
                reason: reason.into(),
                message,
                started_at: exit.started_at,
                finished_at: exit.finished_at,
                id: known.id.clone(),
            };
            known.ready = false;
            known.started = false;
            let delayed = sync::due(known, &ended) > Timestamp::now();
            known.phase = Phase::Exited(ended);
            let keep = known.attempt;
            let old = keep.checked_sub(2).map(|a| {
                (self.engine.run.container(&uid, name, a), self.engine.run.log(&uid, name, a))
            });
            if let Some((dir, log)) = old {
                forget(&dir, &log);
            }
            (known.backoff, delayed)
        };
        let again = self.pod.spec.as_ref().zip(self.container(name)).is_some_and(|(spec, c)| {
            let init = sync::init_containers(spec).iter().any(|i| i.name == name);
            match &self.record.borrow_mut().container(name).phase {
                Phase::Exited(ended) => sync::restarts(spec, &c, init, ended),
                _ => false,
            }
        });
        if again && delayed && backoff > 0 && self.pod.metadata.deletion_timestamp.is_none() {
            let record = self.record.borrow();
            let text = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                record.name, record.namespace, record.uid
            );
            self.tell(Some(name), true, "BackOff", text);
        }
    }

    /// The termination message: the start error, the container's file, or (when asked for) the end of its log.
    fn last_words(&self, name: &str, exit: &Exit) -> Option<String> {
        if let Some(error) = &exit.start_error {
            return Some(error.clone());
        }
        let container = self.container(name)?;
        let record = self.record.borrow();
        let attempt = record.containers.get(name)?.attempt;
        let dir = self.engine.run.container(&record.uid, name, attempt);
        let words = std::fs::read(dir.join(file::TERMINATION)).unwrap_or_default();
        let fallback = container.termination_message_policy.as_deref()
            == Some("FallbackToLogsOnError")
            && exit.code != 0;
        let words = if words.is_empty() && fallback {
            let log =
                std::fs::read(self.engine.run.log(&record.uid, name, attempt)).unwrap_or_default();
            super::logs::tail_text(&log, 80, 2048)
        } else {
            words
        };
        let cut = words.len().saturating_sub(4096);
        let text = String::from_utf8_lossy(&words[cut..]).into_owned();
        (!text.is_empty()).then_some(text)
    }

    /// Picks up what an earlier runner left running.
    fn adopt(&mut self) {
        let names: Vec<String> = {
            let mut record = self.record.borrow_mut();
            record.sandbox = match &record.sandbox {
                Sandbox::Creating { .. } => Sandbox::Absent { retry_at: None, failures: 0 },
                Sandbox::Destroying => Sandbox::Ready,
                other => other.clone(),
            };
            record.containers.keys().cloned().collect()
        };
        for name in names {
            let (attempt, dir) = {
                let record = self.record.borrow();
                let attempt = record.containers[&name].attempt;
                (attempt, self.engine.run.container(&record.uid, &name, attempt))
            };
            let busy = self.record.borrow().containers[&name].busy();
            if !busy {
                continue;
            }
            match read_json::<State>(&dir.join(file::STATE)) {
                Ok(state) => {
                    let ready = {
                        let mut record = self.record.borrow_mut();
                        let known = record.container(&name);
                        known.phase = Phase::Running {
                            started_at: state.started_at,
                            shim: state.shim,
                            init: state.init,
                            stopping: false,
                        };
                        known.ready
                    };
                    self.watch_exit(&name, attempt, state);
                    // postStart has run or runs no more; what the probes said before still holds
                    self.begin_probes(&name, attempt);
                    self.record.borrow_mut().container(&name).ready |= ready;
                }
                Err(_) => {
                    *self.record.borrow_mut().container(&name) =
                        ContainerRecord { attempt, ..ContainerRecord::new() };
                }
            }
        }
        tracing::info!(pod = self.record.borrow().name, "adopted");
    }

    fn save(&mut self) {
        let record = self.record.borrow();
        if self.saved.as_ref() == Some(&*record) {
            return;
        }
        let dir = self.engine.run.pod(&record.uid);
        let kept = std::fs::create_dir_all(dir).and_then(|()| self.engine.run.save(&record));
        match kept {
            Ok(()) => {
                let copy = record.clone();
                drop(record);
                self.saved = Some(copy);
            }
            Err(error) => {
                tracing::error!(%error, "cannot keep a pod's record: after a crash it would be lost")
            }
        }
    }

    fn publish(&mut self) {
        let new = {
            let record = self.record.borrow();
            let last = self.status.borrow();
            let mut view = Pod::clone(&self.pod);
            status::carry_over(&mut view, last.as_ref());
            status::compute(&view, &record, &self.engine.config.node_ips, Timestamp::now())
        };
        self.status.send_if_modified(|old| {
            let changed = old.as_ref() != Some(&new);
            if changed {
                *old = Some(new);
            }
            changed
        });
    }

    /// Everything is gone: the last status, the object, the files.
    async fn finish(&mut self) {
        self.tasks.clear();
        self.pod_tasks.clear();
        let last = self.status.borrow().clone();
        if let (Some(api), Some(last), false) = (&self.engine.api, last, self.vanished) {
            let empty = PodStatus::default();
            let old = self.pod.status.as_ref().unwrap_or(&empty);
            if let Err(error) = api.write(&self.pod, old, &last).await {
                tracing::debug!(%error, "the last status is not written");
            }
            let mut wait = Duration::from_millis(100);
            while let Err(error) = api.delete(&self.pod).await {
                tracing::warn!(%error, "cannot delete a pod that is gone; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
        }
        remove_files(&self.engine, &self.record.borrow().uid);
    }
}

fn forget(dir: &std::path::Path, log: &std::path::Path) {
    for gone in [std::fs::remove_dir_all(dir), std::fs::remove_file(log)] {
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an old attempt's files stay");
        }
    }
}

fn remove_files(engine: &Engine, uid: &str) {
    if let Err(error) = std::fs::remove_dir_all(engine.run.pod(uid)) {
        tracing::warn!(%error, uid, "a pod's files stay");
    }
}

/// Ends and removes a pod of an earlier runner that the API does not know any more.
pub(super) async fn discard(engine: &Rc<Engine>, record: &PodRecord) {
    tracing::info!(pod = record.name, "a pod the API does not know any more is removed");
    let dir = engine.run.pod(&record.uid);
    super::cleanup::end_containers(&dir);
    sandbox::destroy(engine, record).await;
    remove_files(engine, &record.uid);
}

async fn report(reports: &mpsc::Sender<Report>, what: Report) {
    // a worker that is gone needs no report
    if reports.send(what).await.is_err() {
        tracing::trace!("a report came too late");
    }
}

async fn start_container(
    engine: &Engine,
    pod: &Pod,
    record: &PodRecord,
    container: &Container,
    shared: &RefCell<Option<Shared>>,
) -> Result<State, StartError> {
    let name = &container.name;
    let reference = container.image.as_deref().unwrap_or_default();
    let image = crate::images::resolve(reference).map_err(|e| StartError::Image(e.to_string()))?;
    let text = format!("Container image {reference:?} already present on machine");
    engine.tell(pod, Some(name), false, "Pulled", text);
    let facts = Facts { pod, record, node_ips: &engine.config.node_ips };
    let known = shared.borrow().clone();
    let ready = match known {
        Some(ready) => ready,
        // an adopted pod: its volumes are on disk, and are made again to be sure
        None => {
            let ready = sandbox::prepare(engine, &facts).await;
            let ready = ready.map_err(|e| StartError::Config(e.to_string()))?;
            *shared.borrow_mut() = Some(ready.clone());
            ready
        }
    };
    let sources = engine.lookup.sources(&record.namespace, container).await;
    let sources = sources.map_err(StartError::Config)?;
    let known = &record.containers[name];
    let spec = launch::specify(&launch::Ingredients {
        run: &engine.run,
        facts,
        container,
        attempt: known.attempt,
        id: &known.id,
        image: &image,
        services: &ready.services,
        sources: &sources,
        volumes: &ready.volumes,
    })
    .map_err(StartError::Config)?;
    let dir = engine.run.container(&record.uid, name, known.attempt);
    // what an interrupted start of the same attempt left
    if dir.exists()
        && let Err(error) = std::fs::remove_dir_all(&dir)
    {
        return Err(StartError::Run(format!("remove an earlier attempt's files: {error}")));
    }
    engine.tell(pod, Some(name), false, "Created", format!("Created container: {name}"));
    launch::launch(&engine.exe, &dir, &spec).await.map_err(StartError::Run)
}
