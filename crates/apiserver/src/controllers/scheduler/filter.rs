//! Why a node does not take a pod: the first reason in upstream's order and words, or none.

use std::sync::Arc;

use serde_json::{Value, json};

use super::is_unschedulable;
use crate::controllers::object::{
    at, condition_status, int_at, is_deleting, label, list_at, map_at, name, str_at,
};
use crate::controllers::pod::serving_containers;

/// Pods a node takes when its status does not say.
const DEFAULT_CAPACITY: usize = 110;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Whether two states of a node may be judged differently. A heartbeat alone may not.
pub(super) fn facts_differ(old: &Value, new: &Value) -> bool {
    old.get("spec") != new.get("spec")
        || at(old, &["metadata", "labels"]) != at(new, &["metadata", "labels"])
        || at(old, &["status", "allocatable"]) != at(new, &["status", "allocatable"])
        || condition_status(old, "Ready") != condition_status(new, "Ready")
        || is_deleting(old) != is_deleting(new)
}

/// The first reason against a node.
pub(super) fn refusal<'a, I>(pod: &Value, node: &Value, node_pods: impl Fn() -> I) -> Option<String>
where
    I: Iterator<Item = &'a Arc<Value>>,
{
    let unschedulable = json!({ "key": UNSCHEDULABLE, "effect": "NoSchedule" });
    if is_unschedulable(node) && !tolerates(pod, &unschedulable) {
        return Some("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = untolerated(pod, node) {
        return Some(format!(
            "node(s) had untolerated taint {{{}: {}}}",
            str_at(&taint, &["key"]),
            str_at(&taint, &["value"])
        ));
    }
    if !affinity_matches(pod, node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    let wanted = host_ports(pod);
    if !wanted.is_empty()
        && node_pods().any(|other| {
            host_ports(other).iter().any(|taken| wanted.iter().any(|port| clash(port, taken)))
        })
    {
        return Some("node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    if node_pods().count() >= capacity(node) {
        return Some("Too many pods".to_owned());
    }
    None
}

/// A taint that keeps the pod away. A node that is not Ready counts as tainted before the node
/// controller has come to write the taint.
fn untolerated(pod: &Value, node: &Value) -> Option<Value> {
    let not_ready = json!({ "key": NOT_READY, "effect": "NoSchedule" });
    let unready = (condition_status(node, "Ready") != "True").then_some(not_ready);
    list_at(node, &["spec", "taints"])
        .iter()
        .cloned()
        .chain(unready)
        .filter(|taint| matches!(str_at(taint, &["effect"]), "NoSchedule" | "NoExecute"))
        .filter(|taint| str_at(taint, &["key"]) != UNSCHEDULABLE)
        .find(|taint| !tolerates(pod, taint))
}

/// Whether one of the pod's tolerations covers a taint.
fn tolerates(pod: &Value, taint: &Value) -> bool {
    list_at(pod, &["spec", "tolerations"]).iter().any(|toleration| covers(toleration, taint))
}

/// Whether a toleration covers a taint.
pub(crate) fn covers(toleration: &Value, taint: &Value) -> bool {
    let (effect, key) = (str_at(toleration, &["effect"]), str_at(toleration, &["key"]));
    if !effect.is_empty() && effect != str_at(taint, &["effect"]) {
        return false;
    }
    if !key.is_empty() && key != str_at(taint, &["key"]) {
        return false;
    }
    match str_at(toleration, &["operator"]) {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty() && str_at(toleration, &["value"]) == str_at(taint, &["value"])
        }
        _ => false,
    }
}

fn affinity_matches(pod: &Value, node: &Value) -> bool {
    if !map_at(pod, &["spec", "nodeSelector"]).all(|(key, value)| label(node, key) == Some(value)) {
        return false;
    }
    let required = at(
        pod,
        &["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"],
    );
    required.is_none_or(|required| {
        list_at(required, &["nodeSelectorTerms"]).iter().any(|term| term_matches(term, node))
    })
}

/// A term without requirements matches no node; otherwise all of them must hold.
fn term_matches(term: &Value, node: &Value) -> bool {
    let expressions = list_at(term, &["matchExpressions"]);
    let fields = list_at(term, &["matchFields"]);
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|e| holds(e, label(node, str_at(e, &["key"]))))
        && fields
            .iter()
            .all(|e| str_at(e, &["key"]) == "metadata.name" && holds(e, Some(name(node))))
}

fn holds(expression: &Value, found: Option<&str>) -> bool {
    let values = list_at(expression, &["values"]);
    let listed = |found: &str| values.iter().any(|value| value == found);
    let compare = |test: fn(i64, i64) -> bool| {
        let bound = values.first().and_then(Value::as_str).and_then(|text| text.parse().ok());
        let found = found.and_then(|text| text.parse().ok());
        found.zip(bound).is_some_and(|(found, bound)| test(found, bound))
    };
    match str_at(expression, &["operator"]) {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compare(|found, bound| found > bound),
        "Lt" => compare(|found, bound| found < bound),
        _ => false,
    }
}

/// A host port: address, protocol, number.
type HostPort<'a> = (&'a str, &'a str, i64);

fn host_ports(pod: &Value) -> Vec<HostPort<'_>> {
    serving_containers(pod)
        .flat_map(|container| list_at(container, &["ports"]))
        .filter_map(|port| {
            let number = int_at(port, &["hostPort"]).filter(|number| *number > 0)?;
            let or = |text, default| if str::is_empty(text) { default } else { text };
            let address = or(str_at(port, &["hostIP"]), "0.0.0.0");
            Some((address, or(str_at(port, &["protocol"]), "TCP"), number))
        })
        .collect()
}

fn clash(a: &HostPort<'_>, b: &HostPort<'_>) -> bool {
    let any = |address: &str| matches!(address, "0.0.0.0" | "::");
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || any(a.0) || any(b.0))
}

fn capacity(node: &Value) -> usize {
    let pods = at(node, &["status", "allocatable", "pods"])
        .or_else(|| at(node, &["status", "capacity", "pods"]));
    match pods {
        Some(Value::String(text)) => text.parse().unwrap_or(DEFAULT_CAPACITY),
        Some(Value::Number(number)) => {
            number.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(DEFAULT_CAPACITY)
        }
        _ => DEFAULT_CAPACITY,
    }
}
