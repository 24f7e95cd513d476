//! What several controllers ask about a pod. Pure reading.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::object::{condition, condition_status, is_deleting, list_at, str_at, time_at};

pub(crate) fn phase(pod: &Value) -> &str {
    str_at(pod, &["status", "phase"])
}

/// Whether the pod has run to its end.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a ReplicaSet counts the pod.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    condition_status(pod, "Ready") == "True"
}

/// When the Ready condition last changed.
pub(crate) fn ready_since(pod: &Value) -> Option<Timestamp> {
    time_at(condition(pod, "Ready")?, &["lastTransitionTime"])
}

/// When the pod, ready now, will have been ready for `min_ready`; `None` when it is not ready.
pub(crate) fn available_at(pod: &Value, min_ready: SignedDuration) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready.is_zero() {
        return Some(Timestamp::MIN);
    }
    ready_since(pod)?.checked_add(min_ready).ok()
}

pub(crate) fn node_name(pod: &Value) -> &str {
    str_at(pod, &["spec", "nodeName"])
}

/// The pod's addresses, the primary first.
pub(crate) fn addresses(pod: &Value) -> Vec<&str> {
    let many: Vec<&str> = list_at(pod, &["status", "podIPs"])
        .iter()
        .map(|entry| str_at(entry, &["ip"]))
        .filter(|ip| !ip.is_empty())
        .collect();
    if many.is_empty() {
        let one = str_at(pod, &["status", "podIP"]);
        return if one.is_empty() { Vec::new() } else { vec![one] };
    }
    many
}

/// The sum of the containers' restarts.
pub(crate) fn restarts(pod: &Value) -> i64 {
    list_at(pod, &["status", "containerStatuses"])
        .iter()
        .filter_map(|status| status.get("restartCount").and_then(Value::as_i64))
        .max()
        .unwrap_or(0)
}

/// Containers that can hold a port: the ordinary ones and init containers that keep running.
pub(crate) fn serving_containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list_at(pod, &["spec", "containers"]).iter().chain(
        list_at(pod, &["spec", "initContainers"])
            .iter()
            .filter(|container| str_at(container, &["restartPolicy"]) == "Always"),
    )
}
