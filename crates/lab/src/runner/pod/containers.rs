//! The containers of one pod: started, stopped, and what follows from how they end. Part of its [worker](super).

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;

use super::{Report, Shared, StartError, Worker, report};
use crate::container::spec::{Exit, State, file};
use crate::runner::engine::{Engine, Task};
use crate::runner::env::Facts;
use crate::runner::state::{Ended, Phase, PodRecord, new_id};
use crate::runner::{hooks, launch, logs, sandbox, sync};

impl Worker {
    pub(super) fn start(&mut self, name: &str, restart: bool) {
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
    pub(super) fn stop(&mut self, name: &str, message: String, grace: Option<Duration>) {
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

    pub(super) fn started(&mut self, name: &str, attempt: u32, outcome: Result<State, StartError>) {
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

    pub(super) fn watch_exit(&mut self, name: &str, attempt: u32, state: State) {
        let dir = self.engine.run.container(&self.record.borrow().uid, name, attempt);
        let (reports, container) = (self.reports.clone(), name.to_owned());
        let task = Task::spawn(async move {
            let exit = hooks::wait_for_exit(&dir, state).await;
            report(&reports, Report::Exited { container, attempt, exit }).await;
        });
        self.tasks.entry(name.to_owned()).or_default().push(task);
    }

    pub(super) fn post_start(&mut self, name: &str, attempt: u32) {
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

    pub(super) fn exited(&mut self, name: &str, exit: Exit) {
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
    pub(super) fn last_words(&self, name: &str, exit: &Exit) -> Option<String> {
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
            logs::tail_text(&log, 80, 2048)
        } else {
            words
        };
        let cut = words.len().saturating_sub(4096);
        let text = String::from_utf8_lossy(&words[cut..]).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

fn forget(dir: &Path, log: &Path) {
    for gone in [std::fs::remove_dir_all(dir), std::fs::remove_file(log)] {
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "an old attempt's files stay");
        }
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
