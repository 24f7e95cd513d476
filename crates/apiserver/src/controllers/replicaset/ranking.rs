//! Which pods of a ReplicaSet go first when there are too many.
//!
//! Upstream's `ActivePodsWithRanks`: unassigned, pending, not ready, cheap by
//! `pod-deletion-cost`, doubled up on a node, ready for a shorter time, restarted more often,
//! created later. Times are compared by order of magnitude, ties broken by uid, so that a rollout's
//! pods of about one age go in a random but stable order.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::controllers::object::{annotation, created, uid};
use crate::controllers::pod::{is_ready, node_name, phase, ready_since, restarts};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `surplus` pods of `active` to delete. `related` are the active pods of all ReplicaSets of
/// the same owner, which count for how crowded a node is.
pub(super) fn to_delete<'a>(
    active: &[&'a Arc<Value>],
    related: &[&Arc<Value>],
    surplus: usize,
    now: Timestamp,
) -> Vec<&'a Arc<Value>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        if !node_name(pod).is_empty() {
            *on_node.entry(node_name(pod)).or_default() += 1;
        }
    }
    let mut pods = active.to_vec();
    pods.sort_by(|a, b| compare(a, b, &on_node, now));
    pods.truncate(surplus);
    pods
}

fn compare(a: &Value, b: &Value, on_node: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let crowd = |pod: &Value| on_node.get(node_name(pod)).copied().unwrap_or(0);
    let settled = |pod: &Value| {
        (!node_name(pod).is_empty(), phase_rank(phase(pod)), is_ready(pod), cost(pod))
    };
    settled(a)
        .cmp(&settled(b))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                younger_first(ready_since(a), ready_since(b), now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| younger_first(created(a), created(b), now))
        .then_with(|| uid(a).cmp(uid(b)))
}

fn phase_rank(phase: &str) -> u8 {
    match phase {
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    }
}

fn cost(pod: &Value) -> i64 {
    annotation(pod, DELETION_COST).and_then(|cost| cost.parse::<i32>().ok()).map_or(0, i64::from)
}

/// Shorter times first, by powers of two of the seconds passed; an unset time comes first.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |at: Timestamp| {
        let seconds = now.duration_since(at).as_secs().max(0);
        64 - seconds.leading_zeros()
    };
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(a), Some(b)) => magnitude(a).cmp(&magnitude(b)),
    }
}
