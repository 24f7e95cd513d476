//! The pod's status out of what is known: pure, and the same bytes for the same facts (a status is written only when it
//! changed). Phases and conditions follow the kubelet's rules.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::net::IpAddr;

use super::state::{ContainerRecord, Ended, Phase, PodRecord, Sandbox};
use super::sync::{self, init_containers, is_sidecar};

const OURS: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"];

/// The API's times are whole seconds.
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The whole status of the pod at `now` (used for back-off and for conditions that change).
pub fn compute(pod: &Pod, record: &PodRecord, node_ips: &[IpAddr], now: Timestamp) -> PodStatus {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let statuses = |containers: &[Container], init: bool| -> Vec<ContainerStatus> {
        containers.iter().map(|c| container_status(pod, spec, c, init, record, now)).collect()
    };
    let init = statuses(init_containers(spec), true);
    let main = statuses(&spec.containers, false);
    let phase = phase(pod, spec, record, &main);
    let host_network = spec.host_network == Some(true);
    let ips: Vec<String> = match (host_network, &record.sandbox) {
        (true, _) => node_ips.iter().map(ToString::to_string).collect(),
        _ => record.ips.iter().map(ToString::to_string).collect(),
    };
    let conditions = conditions(pod, spec, record, &main, phase, now);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: node_ips.first().map(ToString::to_string),
        host_ips: Some(node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: Some(seconds(record.start_time)),
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        qos_class: Some(qos_class(spec).to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Puts this runner's own last conditions (with their transition times) into the pod, which may lag behind, and keeps
/// the conditions of others.
pub fn carry_over(pod: &mut Pod, last: Option<&PodStatus>) {
    let Some(last) = last else { return };
    let own = |c: &&PodCondition| OURS.contains(&c.type_.as_str());
    let mut list: Vec<PodCondition> =
        last.conditions.iter().flatten().filter(own).cloned().collect();
    let status = pod.status.get_or_insert_default();
    list.extend(status.conditions.iter().flatten().filter(|c| !own(c)).cloned());
    status.conditions = Some(list);
}

/// Init containers all done (or, sidecars, running).
fn initialised(spec: &PodSpec, record: &PodRecord) -> bool {
    init_containers(spec).iter().all(|c| {
        record.containers.get(&c.name).is_some_and(|r| match &r.phase {
            Phase::Exited(ended) => ended.code == 0 || is_sidecar(c),
            Phase::Running { .. } => is_sidecar(c) && r.started,
            _ => is_sidecar(c) && r.attempt > 0,
        })
    })
}

fn phase(pod: &Pod, spec: &PodSpec, record: &PodRecord, main: &[ContainerStatus]) -> &'static str {
    let init_failed = init_containers(spec).iter().filter(|c| !is_sidecar(c)).any(|c| {
        matches!(record.containers.get(&c.name).map(|r| &r.phase),
            Some(Phase::Exited(e)) if e.code != 0 && !sync::restarts(spec, c, true, e))
    });
    if init_failed {
        return "Failed";
    }
    if sync::finished(pod, record) {
        let good = spec.containers.iter().all(|c| {
            matches!(record.containers.get(&c.name).map(|r| &r.phase),
                Some(Phase::Exited(e)) if e.code == 0)
        });
        return if good { "Succeeded" } else { "Failed" };
    }
    // a container waiting for its restart has run: the pod stays Running
    let never_ran = |s: &ContainerStatus| {
        let state = s.state.as_ref();
        state.is_none_or(|x| x.waiting.is_some())
            && s.last_state.as_ref().is_none_or(|l| l.terminated.is_none())
    };
    if main.iter().any(never_ran) || !initialised(spec, record) && main.iter().all(never_ran) {
        "Pending"
    } else {
        "Running"
    }
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    record: &PodRecord,
    main: &[ContainerStatus],
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let before = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let done = phase == "Succeeded";
    let unready: Vec<&str> = main.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let incomplete: Vec<&str> = init_containers(spec)
        .iter()
        .filter(|c| {
            !record.containers.get(&c.name).is_some_and(|r| {
                matches!(&r.phase, Phase::Exited(e) if e.code == 0) || is_sidecar(c) && r.started
            })
        })
        .map(|c| c.name.as_str())
        .collect();
    let initialised = initialised(spec, record) || done;
    let containers_ready = unready.is_empty();
    let why = |list: &[&str], what: &str, reason: &str| match (done, phase) {
        (true, _) => (Some("PodCompleted".to_owned()), None),
        (_, "Failed") => (Some("PodFailed".to_owned()), None),
        _ => (
            Some(reason.to_owned()),
            Some(format!("containers with {what} status: [{}]", list.join(" "))),
        ),
    };
    let gates_open =
        spec.readiness_gates.as_deref().unwrap_or_default().iter().all(|gate| {
            before.iter().any(|c| c.type_ == gate.condition_type && c.status == "True")
        });
    let none = (None, None);
    let sandbox = matches!(record.sandbox, Sandbox::Ready);
    let ready = if !containers_ready {
        (false, why(&unready, "unready", "ContainersNotReady"))
    } else if !gates_open {
        let message = Some("the status of pod readiness gate is not \"True\"".to_owned());
        (false, (Some("ReadinessGatesNotReady".to_owned()), message))
    } else {
        (true, none.clone())
    };
    let ours = [
        (sandbox, none.clone()),
        (
            initialised,
            if initialised && !done {
                none.clone()
            } else {
                why(&incomplete, "incomplete", "ContainersNotInitialized")
            },
        ),
        ready,
        (
            containers_ready,
            if containers_ready { none } else { why(&unready, "unready", "ContainersNotReady") },
        ),
    ];
    let mut list: Vec<PodCondition> = OURS
        .iter()
        .zip(ours)
        .map(|(kind, (status, (reason, message)))| {
            let status = if status { "True" } else { "False" }.to_owned();
            let old = before.iter().find(|c| c.type_ == *kind && c.status == status);
            PodCondition {
                type_: (*kind).to_owned(),
                status,
                reason,
                message,
                last_transition_time: old
                    .and_then(|c| c.last_transition_time.clone())
                    .or(Some(seconds(now))),
                last_probe_time: None,
                observed_generation: pod.metadata.generation,
            }
        })
        .collect();
    list.extend(before.iter().filter(|c| !OURS.contains(&c.type_.as_str())).cloned());
    list
}

fn container_status(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    init: bool,
    record: &PodRecord,
    now: Timestamp,
) -> ContainerStatus {
    let fresh = ContainerRecord::new();
    let known = record.containers.get(&container.name).unwrap_or(&fresh);
    let running = matches!(known.phase, Phase::Running { .. });
    let ended_id = match &known.phase {
        Phase::Exited(ended) => Some(ended.id.as_str()),
        _ => known.last.as_ref().map(|l| l.id.as_str()),
    };
    let id = if known.id.is_empty() { ended_id.unwrap_or_default() } else { &known.id };
    let (state, last) = state(pod, spec, container, init, known, initialised(spec, record), now);
    let ran = !id.is_empty();
    let completed = matches!(&known.phase, Phase::Exited(e) if e.code == 0);
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: if ran { image_id(container) } else { String::new() },
        container_id: ran.then(|| format!("fairway://{id}")),
        ready: if init && !is_sidecar(container) {
            completed
        } else {
            running && known.ready && known.started
        },
        started: Some(running && known.started),
        restart_count: i32::try_from(known.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(last),
        ..ContainerStatus::default()
    }
}

fn image_id(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!("fairway://images/{}", crate::images::short_name(image))
}

fn state(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    init: bool,
    known: &ContainerRecord,
    initialised: bool,
    now: Timestamp,
) -> (ContainerState, ContainerState) {
    let last = known.last.as_ref().map(terminated).unwrap_or_default();
    let waiting = |reason: &str, message: Option<String>| ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    };
    match &known.phase {
        Phase::Waiting { reason, .. }
            if reason == "ContainerCreating" && !init && !initialised && known.attempt == 0 =>
        {
            (waiting("PodInitializing", None), last)
        }
        Phase::Waiting { reason, message, .. } => (waiting(reason, message.clone()), last),
        Phase::Starting => (waiting("ContainerCreating", None), last),
        Phase::Running { started_at, .. } => (
            ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(seconds(*started_at)) }),
                ..ContainerState::default()
            },
            last,
        ),
        Phase::Exited(ended) => {
            let looping = pod.metadata.deletion_timestamp.is_none()
                && sync::restarts(spec, container, init, ended)
                && sync::due(known, ended) > now;
            if !looping {
                return (terminated(ended), last);
            }
            let message = format!(
                "back-off {} restarting failed container={} pod={}_{}({})",
                human(known.backoff),
                container.name,
                pod.metadata.name.as_deref().unwrap_or_default(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.uid.as_deref().unwrap_or_default(),
            );
            (waiting("CrashLoopBackOff", Some(message)), terminated(ended))
        }
    }
}

/// Seconds as Go prints a duration: `10s`, `2m40s`, `5m0s`.
fn human(seconds: u32) -> String {
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!ended.id.is_empty()).then(|| format!("fairway://{}", ended.id)),
            exit_code: ended.code,
            finished_at: Some(seconds(ended.finished_at)),
            message: ended.message.clone(),
            reason: Some(ended.reason.clone()),
            // the kubelet leaves the signal out: the exit code carries it
            signal: None,
            started_at: ended.started_at.map(seconds),
        }),
        ..ContainerState::default()
    }
}

/// Guaranteed, Burstable or BestEffort, from requests and limits of cpu and memory.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(init_containers(spec)) {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        for name in ["cpu", "memory"] {
            let nonzero = |q: &&k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0 != "0";
            let limit = limits.and_then(|l| l.get(name)).filter(nonzero);
            let request = requests.and_then(|r| r.get(name)).filter(nonzero);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The JSON merge patch that turns `old` into `new` (RFC 7386); `None` when they are equal.
pub fn merge_patch(old: &serde_json::Value, new: &serde_json::Value) -> Option<serde_json::Value> {
    use serde_json::Value;
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch = serde_json::Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) => patch.extend(merge_patch(before, value).map(|p| (key.clone(), p))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    patch.extend(old.keys().filter(|k| !new.contains_key(*k)).map(|k| (k.clone(), Value::Null)));
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests;
