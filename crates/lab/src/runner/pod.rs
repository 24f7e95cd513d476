//! Edge: the worker of one pod. It asks [`sync::plan`], performs the actions (slow ones as tasks that report back over a
//! bounded channel), keeps the record on disk and publishes the status.
//!
//! What concerns single containers is in `containers` and `probes`.
//!
//! A worker is the only writer of its record. Cancelling it (the runner ends) leaves containers running; the record on
//! disk is what the next runner starts from.

mod containers;
mod probes;

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
use super::probe::ProbeKind;
use super::sandbox;
use super::state::{ContainerRecord, Phase, PodRecord, Sandbox};
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
        let capabilities = super::capabilities::of(&self.pod);
        record.capabilities = capabilities.clone().unwrap_or_default();
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
            let made = match capabilities {
                Ok(_) => sandbox::create(&engine, &pod, &view).await,
                Err(why) => Err(sandbox::SandboxError::Prepare(why)),
            };
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
