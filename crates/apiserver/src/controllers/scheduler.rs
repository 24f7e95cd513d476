//! Scheduler: a node for every pod that has none.
//!
//! Filters as upstream's default plugins word them (see [`filter`]), then the even spread a small
//! cluster wants: the node with the fewest pods of the same owner, then with the fewest pods, then
//! the first by name. It does not weigh CPU and memory, preferred affinities or topology spread,
//! and it never preempts.

pub(crate) mod filter;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::engine::{Controller, Wakes};
use super::object::{
    at, condition, controller_uid, is_deleting, is_true, list_at, member_at, name, namespace,
    str_at, time, uid,
};
use super::pod::{is_terminal, node_name};
use super::view::{Change, View};
use super::write::{NODES, Note, ObjectRef, Op, Outcome, PODS, Write};

const COMPONENT: &str = "default-scheduler";

/// Queues the pods a change concerns: the pod itself, or every waiting pod when room may have
/// come up.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    let mut room = false;
    if *resource == PODS {
        if change.new.as_ref().is_some_and(|pod| is_waiting(pod)) {
            out.push(Controller::Scheduler, change.target.clone());
        }
        room =
            change.old.as_ref().is_some_and(|pod| !node_name(pod).is_empty() && !is_terminal(pod))
                && change.new.as_ref().is_none_or(|pod| is_terminal(pod));
    } else if *resource == NODES {
        room = match (&change.old, &change.new) {
            // No room then, but the reason a waiting pod shows counts the nodes.
            (_, None) | (None, _) => true,
            (Some(old), Some(new)) => filter::facts_differ(old, new),
        };
    }
    if room {
        for target in view.unscheduled() {
            out.push(Controller::Scheduler, target);
        }
    }
}

fn is_waiting(pod: &Value) -> bool {
    node_name(pod).is_empty()
        && !is_deleting(pod)
        && !is_terminal(pod)
        && matches!(str_at(pod, &["spec", "schedulerName"]), "" | "default-scheduler")
}

/// Binds one pod, or says why it cannot be.
pub(crate) fn reconcile(view: &View, target: &ObjectRef, now: Timestamp) -> Outcome {
    let mut out = Outcome::default();
    let Some(pod) = view.get(target).filter(|pod| is_waiting(pod)) else { return out };
    if !list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        say_unscheduled(pod, "SchedulingGated", message, now, &mut out);
        return out;
    }
    match choose(view, pod) {
        Ok(node) => {
            let message =
                format!("Successfully assigned {}/{} to {node}", namespace(pod), name(pod));
            out.writes.push(
                Write::quiet(Op::Bind {
                    namespace: namespace(pod).to_owned(),
                    pod: name(pod).to_owned(),
                    uid: uid(pod).to_owned(),
                    node,
                })
                .then(note(pod, false, "Scheduled", message)),
            );
        }
        Err(message) => say_unscheduled(pod, "Unschedulable", &message, now, &mut out),
    }
    out
}

fn note(pod: &Value, warning: bool, reason: &'static str, message: String) -> Note {
    Note {
        regarding: pod.clone(),
        api_version: "v1",
        kind: "Pod",
        warning,
        reason,
        message,
        component: COMPONENT,
    }
}

fn choose(view: &View, pod: &Value) -> Result<String, String> {
    if view.count(&NODES) == 0 {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let siblings = siblings_by_node(view, pod);
    let mut best: Option<(usize, usize, &str)> = None;
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for node in view.all(&NODES) {
        let node_pods = || view.pods_on(name(node)).filter(|pod| !is_terminal(pod));
        match filter::refusal(pod, node, node_pods) {
            Some(reason) => *refused.entry(reason).or_default() += 1,
            None => {
                let rank = (
                    siblings.get(name(node)).copied().unwrap_or(0),
                    node_pods().count(),
                    name(node),
                );
                if best.is_none_or(|best| rank < best) {
                    best = Some(rank);
                }
            }
        }
    }
    best.map(|(_, _, node)| node.to_owned()).ok_or_else(|| {
        let mut reasons: Vec<String> =
            refused.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        format!("0/{} nodes are available: {}.", view.count(&NODES), reasons.join(", "))
    })
}

/// How many running pods of the same owner each node has.
fn siblings_by_node<'a>(view: &'a View, pod: &'a Value) -> BTreeMap<&'a str, usize> {
    let owner = controller_uid(pod);
    let mut counts = BTreeMap::new();
    if !owner.is_empty() {
        for sibling in view.controlled(owner, &PODS) {
            if !is_terminal(sibling) && !is_deleting(sibling) && !node_name(sibling).is_empty() {
                *counts.entry(node_name(sibling)).or_default() += 1;
            }
        }
    }
    counts
}

/// `PodScheduled=False` with a reason, and the Event; nothing when it already says so.
fn say_unscheduled(
    pod: &Arc<Value>,
    reason: &'static str,
    message: &str,
    now: Timestamp,
    out: &mut Outcome,
) {
    let old = condition(pod, "PodScheduled");
    let same = old.is_some_and(|old| {
        str_at(old, &["status"]) == "False"
            && str_at(old, &["reason"]) == reason
            && str_at(old, &["message"]) == message
    });
    if same {
        return;
    }
    let since = old
        .filter(|old| str_at(old, &["status"]) == "False")
        .map_or_else(|| time(now), |old| str_at(old, &["lastTransitionTime"]).to_owned());
    let mut conditions: Vec<Value> = list_at(pod, &["status", "conditions"])
        .iter()
        .filter(|c| str_at(c, &["type"]) != "PodScheduled")
        .cloned()
        .collect();
    conditions.push(json!({
        "type": "PodScheduled",
        "status": "False",
        "lastProbeTime": null,
        "lastTransitionTime": since,
        "reason": reason,
        "message": message,
    }));
    let mut object = Value::clone(pod);
    let status = member_at(&mut object, &["status"]);
    status.insert("conditions".into(), Value::Array(conditions));
    if at(pod, &["status", "phase"]).is_none() {
        member_at(&mut object, &["status"]).insert("phase".into(), "Pending".into());
    }
    let write = Write::quiet(Op::UpdateStatus { resource: PODS, object });
    out.writes.push(if reason == "SchedulingGated" {
        write
    } else {
        write.then(note(pod, true, "FailedScheduling", message.to_owned()))
    });
}

/// Whether a node takes new pods by its own will.
pub(crate) fn is_unschedulable(node: &Value) -> bool {
    is_true(node, &["spec", "unschedulable"])
}

#[cfg(test)]
mod tests;
