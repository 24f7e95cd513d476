//! A Deployment's status: counts, `Available`, `Progressing` and its deadline.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::rollout::{Rollout, is_paused, max_unavailable};
use super::{note, replicas};
use crate::controllers::object::{
    condition, int_at, is_deleting, list_at, member_at, name, str_at, time, time_at,
};
use crate::controllers::write::{DEPLOYMENTS, Op, Outcome, Write};

/// A deadline that means "none".
const NO_DEADLINE: i64 = i32::MAX as i64;

/// Sums over the ReplicaSets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
    unavailable: i64,
    observed: i64,
}

impl Counts {
    pub(super) fn of(rollout: &Rollout<'_>) -> Self {
        let status = |object: &Value, field: &str| int_at(object, &["status", field]).unwrap_or(0);
        let sum = |field: &str| rollout.sets().map(|set| status(&set.object, field)).sum();
        let asked: i64 =
            rollout.sets().map(|set| int_at(&set.object, &["spec", "replicas"]).unwrap_or(1)).sum();
        let available = sum("availableReplicas");
        Self {
            replicas: sum("replicas"),
            updated: rollout.new.as_ref().map_or(0, |new| status(&new.object, "replicas")),
            ready: sum("readyReplicas"),
            available,
            unavailable: (asked - available).max(0),
            observed: int_at(rollout.deployment, &["metadata", "generation"]).unwrap_or(0),
        }
    }

    fn before(deployment: &Value) -> Self {
        let status = |field: &str| int_at(deployment, &["status", field]).unwrap_or(0);
        Self {
            replicas: status("replicas"),
            updated: status("updatedReplicas"),
            ready: status("readyReplicas"),
            available: status("availableReplicas"),
            unavailable: status("unavailableReplicas"),
            observed: status("observedGeneration"),
        }
    }

    fn to_map(self) -> Map<String, Value> {
        [
            ("observedGeneration", self.observed),
            ("replicas", self.replicas),
            ("updatedReplicas", self.updated),
            ("readyReplicas", self.ready),
            ("availableReplicas", self.available),
            ("unavailableReplicas", self.unavailable),
        ]
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(field, count)| (field.to_owned(), count.into()))
        .collect()
    }
}

/// Whether every pod is of the current template and available.
pub(super) fn is_complete(deployment: &Value, counts: &Counts) -> bool {
    let wanted = replicas(deployment);
    counts.updated == wanted
        && counts.replicas == wanted
        && counts.available == wanted
        && counts.observed >= int_at(deployment, &["metadata", "generation"]).unwrap_or(0)
}

fn has_progressed(before: &Counts, after: &Counts) -> bool {
    after.updated > before.updated
        || after.replicas - after.updated < before.replicas - before.updated
        || after.ready > before.ready
        || after.available > before.available
}

/// A condition to be written.
struct Condition<'a> {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'a str,
}

/// Puts a condition in. One with the same status and reason stays as it is, one with the same
/// status keeps its transition time; `renew` replaces it in any case, which restarts the deadline.
fn put(conditions: &mut Vec<Value>, new: &Condition<'_>, renew: bool, now: Timestamp) {
    let at = conditions.iter().position(|c| str_at(c, &["type"]) == new.kind);
    let mut since = time(now);
    if let Some(at) = at {
        let old = &conditions[at];
        if str_at(old, &["status"]) == new.status {
            if str_at(old, &["reason"]) == new.reason && !renew {
                return;
            }
            since = str_at(old, &["lastTransitionTime"]).to_owned();
        }
        conditions.remove(at);
    }
    conditions.push(json!({
        "type": new.kind,
        "status": new.status,
        "lastUpdateTime": time(now),
        "lastTransitionTime": since,
        "reason": new.reason,
        "message": new.message,
    }));
}

fn progressing<'a>(status: &'static str, reason: &'static str, message: &'a str) -> Condition<'a> {
    Condition { kind: "Progressing", status, reason, message }
}

/// Writes the status if it differs, and sets the time at which the deadline must be looked at.
pub(super) fn write(rollout: &Rollout<'_>, now: Timestamp, out: &mut Outcome) {
    let deployment = rollout.deployment;
    let counts = Counts::of(rollout);
    let mut conditions = list_at(deployment, &["status", "conditions"]).to_vec();
    let available = counts.available >= replicas(deployment) - max_unavailable(deployment);
    let availability = if available {
        Condition {
            kind: "Available",
            status: "True",
            reason: "MinimumReplicasAvailable",
            message: "Deployment has minimum availability.",
        }
    } else {
        Condition {
            kind: "Available",
            status: "False",
            reason: "MinimumReplicasUnavailable",
            message: "Deployment does not have minimum availability.",
        }
    };
    put(&mut conditions, &availability, false, now);
    if !is_deleting(deployment) {
        progress(rollout, &counts, &mut conditions, now, out);
    }
    let mut status = counts.to_map();
    if !conditions.is_empty() {
        status.insert("conditions".into(), Value::Array(conditions));
    }
    if rollout.collisions > 0 {
        status.insert("collisionCount".into(), rollout.collisions.into());
    }
    let status = Value::Object(status);
    if deployment.get("status") != Some(&status) {
        let mut object = Value::clone(deployment);
        member_at(&mut object, &[]).insert("status".into(), status);
        out.push(Op::UpdateStatus { resource: DEPLOYMENTS, object });
    }
}

fn progress(
    rollout: &Rollout<'_>,
    counts: &Counts,
    conditions: &mut Vec<Value>,
    now: Timestamp,
    out: &mut Outcome,
) {
    let deployment = rollout.deployment;
    let Some(deadline) = int_at(deployment, &["spec", "progressDeadlineSeconds"])
        .filter(|seconds| *seconds != NO_DEADLINE)
    else {
        conditions.retain(|c| str_at(c, &["type"]) != "Progressing");
        return;
    };
    let current = condition(deployment, "Progressing");
    let reason = current.map_or("", |c| str_at(c, &["reason"]));
    if is_paused(deployment) {
        if reason != "ProgressDeadlineExceeded" {
            let paused = progressing("Unknown", "DeploymentPaused", "Deployment is paused");
            put(conditions, &paused, false, now);
        }
        return;
    }
    if let Some(created) = &rollout.created {
        let message = format!("Created new replica set \"{created}\"");
        put(conditions, &progressing("True", "NewReplicaSetCreated", &message), true, now);
        return;
    }
    let subject = rollout.new.as_ref().map_or_else(
        || format!("Deployment \"{}\"", name(deployment)),
        |new| format!("ReplicaSet \"{}\"", name(&new.object)),
    );
    let before = Counts::before(deployment);
    let settled = counts.replicas == counts.updated && reason == "NewReplicaSetAvailable";
    if settled {
        return;
    }
    if is_complete(deployment, counts) {
        let message = format!("{subject} has successfully progressed.");
        let done = progressing("True", "NewReplicaSetAvailable", &message);
        put(conditions, &done, false, now);
        return;
    }
    if reason == "DeploymentPaused" {
        let resumed = progressing("Unknown", "DeploymentResumed", "Deployment is resumed");
        put(conditions, &resumed, false, now);
    } else if has_progressed(&before, counts) {
        let message = format!("{subject} is progressing.");
        put(conditions, &progressing("True", "ReplicaSetUpdated", &message), true, now);
    } else if current.is_none() {
        let (reason, message) = match &rollout.new {
            Some(new) => {
                ("FoundNewReplicaSet", format!("Found new replica set \"{}\"", name(&new.object)))
            }
            None => ("ReplicaSetUpdated", format!("{subject} is progressing.")),
        };
        put(conditions, &progressing("True", reason, &message), false, now);
    } else if ["ProgressDeadlineExceeded", "NewReplicaSetAvailable"].contains(&reason) {
        // Already said; or the clock of the new rollout has not started yet.
        return;
    }
    let since = conditions
        .iter()
        .find(|c| str_at(c, &["type"]) == "Progressing")
        .and_then(|c| time_at(c, &["lastUpdateTime"]))
        .unwrap_or(now);
    let over = since.saturating_add(SignedDuration::from_secs(deadline)).unwrap_or(Timestamp::MAX);
    if over >= now {
        // One second past the deadline, as times in the status are whole seconds.
        out.look_again(over.saturating_add(SignedDuration::from_secs(1)).unwrap_or(over));
        return;
    }
    let message = format!("{subject} has timed out progressing.");
    put(conditions, &progressing("False", "ProgressDeadlineExceeded", &message), false, now);
    out.writes.push(Write::note(note(
        deployment,
        true,
        "ProgressDeadlineExceeded",
        message.clone(),
    )));
}

/// Writes only that the spec was seen (a Deployment that cannot be worked on).
pub(super) fn write_observed(deployment: &Value, out: &mut Outcome) {
    let mut object = deployment.clone();
    let generation = int_at(deployment, &["metadata", "generation"]).unwrap_or(0);
    member_at(&mut object, &["status"]).insert("observedGeneration".into(), generation.into());
    out.push(Op::UpdateStatus { resource: DEPLOYMENTS, object });
}
