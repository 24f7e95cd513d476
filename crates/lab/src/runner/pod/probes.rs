//! The probes of one pod's containers, and what a verdict leads to. Part of its [worker](super).

use std::time::Duration;

use super::Worker;
use crate::runner::engine::Task;
use crate::runner::hooks;
use crate::runner::probe::ProbeKind;
use crate::runner::state::Phase;

impl Worker {
    pub(super) fn begin_probes(&mut self, name: &str, attempt: u32) {
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

    pub(super) fn probe(&mut self, name: &str, attempt: u32, kind: ProbeKind) {
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

    pub(super) fn probed(&mut self, name: &str, attempt: u32, kind: ProbeKind, verdict: bool) {
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
}
