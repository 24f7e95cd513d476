//! Node lifecycle: from missed heartbeats to Ready Unknown, taints, and pods that must leave.
//!
//! Upstream's `pkg/controller/nodelifecycle` and `tainteviction`. A node's sign of life is its
//! Lease in `kube-node-lease` or the heartbeat of its Ready condition, whichever is newer.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::config::Config;
use super::engine::{Controller, Wakes};
use super::object::{
    condition, condition_status, created, int_at, is_deleting, list_at, member_at, name, namespace,
    str_at, time, time_at, uid,
};
use super::pod::{is_ready, is_terminal, node_name};
use super::scheduler::filter::covers;
use super::scheduler::is_unschedulable;
use super::view::{Change, View};
use super::write::{LEASES, NODES, Note, ObjectRef, Op, Outcome, PODS, Propagation, Write};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions a node daemon keeps, which nobody knows any more when it is silent.
const KEPT_BY_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Queues the nodes a change concerns. A renewed Lease wakes nothing unless the node was held
/// unreachable: the look that is already planned will find it.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == NODES {
        if change.new.is_some() {
            out.push(Controller::NodeLifecycle, change.target.clone());
        }
    } else if *resource == LEASES {
        if change.target.namespace == LEASE_NAMESPACE && change.old.is_none() {
            out.push(Controller::NodeLifecycle, ObjectRef::new(NODES, "", &change.target.name));
        }
    } else if *resource == PODS {
        let Some(pod) = &change.new else { return };
        let node = node_name(pod);
        let troubled = view
            .find(&NODES, "", node)
            .is_some_and(|node| condition_status(node, "Ready") != "True" || has_no_execute(node));
        if troubled {
            out.push(Controller::NodeLifecycle, ObjectRef::new(NODES, "", node));
        }
    }
}

fn has_no_execute(node: &Value) -> bool {
    list_at(node, &["spec", "taints"]).iter().any(|t| str_at(t, &["effect"]) == "NoExecute")
}

/// One step for one node: its status, then its taints, then its pods. Each step's write wakes the
/// node again.
pub(crate) fn reconcile(
    view: &View,
    target: &ObjectRef,
    config: &Config,
    now: Timestamp,
) -> Outcome {
    let mut out = Outcome::default();
    let Some(node) = view.get(target).filter(|node| !is_deleting(node)) else { return out };
    let expires = last_sign(view, node)
        .and_then(|last| last.checked_add(config.node_grace).ok())
        .unwrap_or(now);
    if expires <= now {
        if let Some(write) = mark_unknown(node, now) {
            out.writes.push(write);
            return out;
        }
    } else {
        out.look_again(expires);
    }
    if let Some(taints) = wanted_taints(node, now) {
        let mut object = Value::clone(node);
        let spec = member_at(&mut object, &["spec"]);
        if taints.is_empty() {
            spec.shift_remove("taints");
        } else {
            spec.insert("taints".into(), Value::Array(taints));
        }
        out.push(Op::Update { resource: NODES, object });
        return out;
    }
    if condition_status(node, "Ready") == "Unknown" {
        for pod in view.pods_on(name(node)).filter(|pod| is_ready(pod)) {
            out.push(Op::UpdateStatus { resource: PODS, object: not_ready(pod, now) });
        }
    }
    evict(view, node, config, now, &mut out);
    out
}

/// The newest sign of life.
fn last_sign(view: &View, node: &Value) -> Option<Timestamp> {
    let lease = view
        .find(&LEASES, LEASE_NAMESPACE, name(node))
        .and_then(|lease| time_at(lease, &["spec", "renewTime"]));
    let heartbeat = condition(node, "Ready")
        .filter(|ready| str_at(ready, &["status"]) != "Unknown")
        .and_then(|ready| time_at(ready, &["lastHeartbeatTime"]));
    lease.max(heartbeat).or_else(|| created(node))
}

/// The status with the node's conditions Unknown; `None` when it says so already.
fn mark_unknown(node: &Arc<Value>, now: Timestamp) -> Option<Write> {
    let mut conditions = list_at(node, &["status", "conditions"]).to_vec();
    let mut changed = false;
    for kind in KEPT_BY_NODE {
        let old = conditions.iter_mut().find(|c| str_at(c, &["type"]) == kind);
        match old {
            Some(old) if str_at(old, &["status"]) == "Unknown" => {}
            Some(old) => {
                let fields = member_at(old, &[]);
                fields.insert("status".into(), "Unknown".into());
                fields.insert("reason".into(), "NodeStatusUnknown".into());
                fields.insert("message".into(), "Kubelet stopped posting node status.".into());
                fields.insert("lastTransitionTime".into(), time(now).into());
                changed = true;
            }
            None => {
                conditions.push(json!({
                    "type": kind,
                    "status": "Unknown",
                    "lastHeartbeatTime": node.pointer("/metadata/creationTimestamp"),
                    "lastTransitionTime": time(now),
                    "reason": "NodeStatusNeverUpdated",
                    "message": "Kubelet never posted node status.",
                }));
                changed = true;
            }
        }
    }
    if !changed {
        return None;
    }
    let was_ready = condition_status(node, "Ready") == "True";
    let mut object = Value::clone(node);
    member_at(&mut object, &["status"]).insert("conditions".into(), Value::Array(conditions));
    let write = Write::quiet(Op::UpdateStatus { resource: NODES, object });
    Some(if was_ready {
        write.then(Note {
            regarding: Value::clone(node),
            api_version: "v1",
            kind: "Node",
            warning: false,
            reason: "NodeNotReady",
            message: format!("Node {} status is now: NodeNotReady", name(node)),
            component: "node-controller",
        })
    } else {
        write
    })
}

/// The node's taints as they should be; `None` when they are.
fn wanted_taints(node: &Value, now: Timestamp) -> Option<Vec<Value>> {
    let (not_ready, unreachable) = match condition_status(node, "Ready") {
        "True" => (false, false),
        "Unknown" => (false, true),
        // A node that has just registered has not said anything yet: not ready.
        _ => (true, false),
    };
    let ours = [
        (NOT_READY, "NoSchedule", not_ready),
        // Not before the node has said that it is not ready: it may be about to start.
        (NOT_READY, "NoExecute", not_ready && condition(node, "Ready").is_some()),
        (UNREACHABLE, "NoSchedule", unreachable),
        (UNREACHABLE, "NoExecute", unreachable),
        (UNSCHEDULABLE, "NoSchedule", is_unschedulable(node)),
    ];
    let mut taints = list_at(node, &["spec", "taints"]).to_vec();
    let mut changed = false;
    for (key, effect, wanted) in ours {
        let is_it = |t: &Value| str_at(t, &["key"]) == key && str_at(t, &["effect"]) == effect;
        let found = taints.iter().any(is_it);
        if found && !wanted {
            taints.retain(|taint| !is_it(taint));
            changed = true;
        } else if wanted && !found {
            taints.push(json!({ "key": key, "effect": effect, "timeAdded": time(now) }));
            changed = true;
        }
    }
    changed.then_some(taints)
}

/// The pod with Ready False, so that no endpoint sends traffic to a node nobody hears of.
fn not_ready(pod: &Value, now: Timestamp) -> Value {
    let mut object = pod.clone();
    if let Some(conditions) = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
    {
        for ready in conditions.iter_mut().filter(|c| str_at(c, &["type"]) == "Ready") {
            let fields = member_at(ready, &[]);
            fields.insert("status".into(), "False".into());
            fields.insert("reason".into(), "NodeNotReady".into());
            fields.insert("message".into(), "Node is not ready".into());
            fields.insert("lastTransitionTime".into(), time(now).into());
        }
    }
    object
}

/// Deletes pods that do not tolerate the node's NoExecute taints, or no longer.
fn evict(view: &View, node: &Value, config: &Config, now: Timestamp, out: &mut Outcome) {
    let taints: Vec<&Value> = list_at(node, &["spec", "taints"])
        .iter()
        .filter(|taint| str_at(taint, &["effect"]) == "NoExecute")
        .collect();
    if taints.is_empty() {
        return;
    }
    for pod in view.pods_on(name(node)) {
        if is_deleting(pod) || is_terminal(pod) {
            continue;
        }
        match leaves_at(pod, &taints, config, now) {
            Some(at) if at <= now => {
                let message = format!("Marking for deletion Pod {}/{}", namespace(pod), name(pod));
                out.writes.push(
                    Write::quiet(Op::Delete {
                        target: ObjectRef::of(PODS, pod),
                        uid: uid(pod).to_owned(),
                        grace_seconds: None,
                        propagation: Propagation::Background,
                    })
                    .then(Note {
                        regarding: Value::clone(pod),
                        api_version: "v1",
                        kind: "Pod",
                        warning: false,
                        reason: "TaintManagerEviction",
                        message,
                        component: "taint-eviction-controller",
                    }),
                );
            }
            Some(at) => out.look_again(at),
            None => {}
        }
    }
}

/// When the pod must leave; `None` for never.
fn leaves_at(pod: &Value, taints: &[&Value], config: &Config, now: Timestamp) -> Option<Timestamp> {
    let tolerations = list_at(pod, &["spec", "tolerations"]);
    taints
        .iter()
        .filter_map(|taint| {
            let since = time_at(taint, &["timeAdded"]).unwrap_or(now);
            let covering: Vec<&Value> =
                tolerations.iter().filter(|toleration| covers(toleration, taint)).collect();
            if covering.is_empty() {
                // What upstream's admission adds to pods that say nothing about these two.
                let usual = [NOT_READY, UNREACHABLE].contains(&str_at(taint, &["key"]));
                return Some(if usual {
                    since.saturating_add(config.default_toleration).unwrap_or(now)
                } else {
                    now
                });
            }
            // The shortest of the limits holds; no limit at all means forever.
            let seconds = covering
                .iter()
                .filter_map(|toleration| int_at(toleration, &["tolerationSeconds"]))
                .min()?;
            Some(since.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(now))
        })
        .min()
}

#[cfg(test)]
mod tests;
