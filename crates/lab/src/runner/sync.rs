//! The pure middle: (pod, what is known, now) → what to do next. It does no I/O and knows no clock; the pod's worker
//! performs the actions and records what came of them, and asks again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::state::{ContainerRecord, Ended, Phase, PodRecord, Sandbox};

/// The longest wait between restarts and between image pulls.
pub const MAX_BACKOFF_SECS: u32 = 300;
const FIRST_BACKOFF_SECS: u32 = 10;
/// A container that ran this long starts over with no back-off.
const FORGET_BACKOFF: SignedDuration = SignedDuration::from_secs(600);

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the network namespace, call CNI ADD.
    CreateSandbox,
    /// Start this container (the record says which attempt).
    Start {
        /// The container's name.
        container: String,
        /// It ran before: count a restart and lengthen the back-off.
        restart: bool,
    },
    /// Ask this container to end: preStop, SIGTERM, and SIGKILL when the grace period is over.
    Stop {
        /// The container's name.
        container: String,
    },
    /// Call CNI DEL, remove the network namespace.
    DestroySandbox,
    /// Everything is gone: remove the pod from the API.
    Delete,
}

/// What to do now, and when to ask again if nothing happens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// The next time something becomes due.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Whether an init container keeps running beside the others (`restartPolicy: Always`).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Init containers of the pod.
pub fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Whether a container that ended so is started again.
pub fn restarts(spec: &PodSpec, container: &Container, is_init: bool, ended: &Ended) -> bool {
    if is_init && is_sidecar(container) {
        return true;
    }
    match spec.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => ended.code != 0,
        _ => !is_init || ended.code != 0,
    }
}

/// When an ended container may be started again.
pub fn due(record: &ContainerRecord, ended: &Ended) -> Timestamp {
    ended.finished_at + Duration::from_secs(u64::from(record.backoff))
}

/// The back-off after the next exit, given how long this attempt ran.
pub fn next_backoff(record: &ContainerRecord, ended: &Ended) -> u32 {
    let ran =
        ended.started_at.map_or(SignedDuration::ZERO, |s| ended.finished_at.duration_since(s));
    match record.backoff {
        _ if ran >= FORGET_BACKOFF => 0,
        0 => FIRST_BACKOFF_SECS,
        n => (n * 2).min(MAX_BACKOFF_SECS),
    }
}

/// Seconds to wait after the nth failure in a row, n from 1: 10, 20, 40 … 300.
pub fn failure_backoff(failures: u32) -> Duration {
    let seconds = FIRST_BACKOFF_SECS << failures.saturating_sub(1).min(5);
    Duration::from_secs(u64::from(seconds.min(MAX_BACKOFF_SECS)))
}

/// Whether the pod is over: nothing runs and nothing will.
pub fn finished(pod: &Pod, record: &PodRecord) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let ended = |c: &Container| match record.containers.get(&c.name).map(|r| &r.phase) {
        Some(Phase::Exited(ended)) => Some(ended),
        _ => None,
    };
    let init_failed = init_containers(spec)
        .iter()
        .filter(|c| !is_sidecar(c))
        .any(|c| ended(c).is_some_and(|e| e.code != 0 && !restarts(spec, c, true, e)));
    init_failed
        || spec.containers.iter().all(|c| ended(c).is_some_and(|e| !restarts(spec, c, false, e)))
}

/// What to do next for this pod.
pub fn plan(pod: &Pod, record: &PodRecord, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = &pod.spec else { return plan };
    if pod.metadata.deletion_timestamp.is_some() {
        take_down(spec, record, true, &mut plan);
        return plan;
    }
    if finished(pod, record) {
        take_down(spec, record, false, &mut plan);
        return plan;
    }
    match &record.sandbox {
        Sandbox::Absent { retry_at: Some(at), .. } if *at > now => plan.wake_at(*at),
        Sandbox::Absent { .. } => plan.actions.push(Action::CreateSandbox),
        Sandbox::Creating { .. } | Sandbox::Destroying | Sandbox::Gone => {}
        Sandbox::Ready => bring_up(spec, record, now, &mut plan),
    }
    plan
}

fn bring_up(spec: &PodSpec, record: &PodRecord, now: Timestamp, plan: &mut Plan) {
    let fresh = ContainerRecord::new();
    let mut initialised = true;
    for container in init_containers(spec) {
        let known = record.containers.get(&container.name).unwrap_or(&fresh);
        let sidecar = is_sidecar(container);
        match &known.phase {
            Phase::Exited(ended) if ended.code == 0 && !sidecar => {}
            Phase::Running { .. } if sidecar && known.started => {}
            _ if initialised => {
                initialised = false;
                start_when_due(spec, container, true, known, now, plan);
            }
            // a sidecar that already ran is kept running even while an earlier one restarts
            Phase::Exited(_) if sidecar => start_when_due(spec, container, true, known, now, plan),
            _ => {}
        }
    }
    // once the pod's own containers have run, a sidecar's restart does not hold them up
    let began = spec.containers.iter().any(|c| {
        record
            .containers
            .get(&c.name)
            .is_some_and(|r| r.busy() || r.attempt > 0 || r.last.is_some())
    });
    if initialised || began {
        for container in &spec.containers {
            let known = record.containers.get(&container.name).unwrap_or(&fresh);
            start_when_due(spec, container, false, known, now, plan);
        }
    }
}

fn start_when_due(
    spec: &PodSpec,
    container: &Container,
    is_init: bool,
    known: &ContainerRecord,
    now: Timestamp,
    plan: &mut Plan,
) {
    let (at, restart) = match &known.phase {
        Phase::Waiting { retry_at, .. } => (retry_at.unwrap_or(now), false),
        Phase::Exited(ended) if restarts(spec, container, is_init, ended) => {
            (due(known, ended), true)
        }
        _ => return,
    };
    if at <= now {
        plan.actions.push(Action::Start { container: container.name.clone(), restart });
    } else {
        plan.wake_at(at);
    }
}

/// Containers first, then sidecars from the last to the first, then the sandbox, then (when deleted) the object.
fn take_down(spec: &PodSpec, record: &PodRecord, delete: bool, plan: &mut Plan) {
    let busy = |c: &Container| record.containers.get(&c.name).is_some_and(ContainerRecord::busy);
    let stop = |c: &Container, plan: &mut Plan| {
        if let Some(Phase::Running { stopping: false, .. }) =
            record.containers.get(&c.name).map(|r| &r.phase)
        {
            plan.actions.push(Action::Stop { container: c.name.clone() });
        }
    };
    let first: Vec<&Container> = spec
        .containers
        .iter()
        .chain(init_containers(spec).iter().filter(|c| !is_sidecar(c)))
        .filter(|c| busy(c))
        .collect();
    if !first.is_empty() {
        first.into_iter().for_each(|c| stop(c, plan));
        return;
    }
    if let Some(sidecar) = init_containers(spec).iter().rev().find(|c| is_sidecar(c) && busy(c)) {
        stop(sidecar, plan);
        return;
    }
    match record.sandbox {
        Sandbox::Creating { .. } | Sandbox::Destroying => {}
        Sandbox::Ready => plan.actions.push(Action::DestroySandbox),
        // a sandbox that failed half-way may have left a namespace
        Sandbox::Absent { .. } if record.netns.is_some() => {
            plan.actions.push(Action::DestroySandbox);
        }
        Sandbox::Absent { .. } | Sandbox::Gone if delete => plan.actions.push(Action::Delete),
        Sandbox::Absent { .. } | Sandbox::Gone => {}
    }
}

#[cfg(test)]
mod tests;
