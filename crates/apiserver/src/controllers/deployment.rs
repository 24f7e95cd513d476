//! Deployment: a rollout of ReplicaSets, one per pod template.
//!
//! Follows upstream's `pkg/controller/deployment`, one step per reconcile: a step's writes come
//! back as changes and wake the next. Rolling back (`kubectl rollout undo`) is a new template like
//! any other and needs nothing here but the revision annotations.

mod revision;
mod rollout;
mod status;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::claim::{Claimant, claim};
use super::engine::{Controller, Wakes};
use super::object::{controller_of, int_at, is_deleting, namespace, str_at};
use super::selector::Selector;
use super::view::{Change, View};
use super::write::{DEPLOYMENTS, Note, ObjectRef, Outcome, PODS, REPLICA_SETS, Write};
use rollout::{Rollout, Set};

const COMPONENT: &str = "deployment-controller";

/// Queues the Deployments a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == DEPLOYMENTS {
        out.push(Controller::Deployment, change.target.clone());
    } else if *resource == REPLICA_SETS {
        for set in change.forms() {
            match controller_of(set) {
                Some(owner) if str_at(owner, &["kind"]) == "Deployment" => {
                    out.push(Controller::Deployment, deployment_ref(set, owner));
                }
                Some(_) => {}
                None => {
                    for target in view.selecting(&DEPLOYMENTS, set) {
                        out.push(Controller::Deployment, target);
                    }
                }
            }
        }
    } else if *resource == PODS && change.new.is_none() {
        // Recreate waits until the last old pod is gone.
        let Some(pod) = &change.old else { return };
        let owner = controller_of(pod)
            .and_then(|owner| view.by_uid(str_at(owner, &["uid"])))
            .and_then(|(_, set)| Some((set, controller_of(set)?)));
        if let Some((set, owner)) = owner {
            let target = deployment_ref(set, owner);
            if view.get(&target).is_some_and(|d| is_recreate(d)) {
                out.push(Controller::Deployment, target);
            }
        }
    }
}

fn deployment_ref(set: &Value, owner: &Value) -> ObjectRef {
    ObjectRef::new(DEPLOYMENTS, namespace(set), str_at(owner, &["name"]))
}

fn is_recreate(deployment: &Value) -> bool {
    str_at(deployment, &["spec", "strategy", "type"]) == "Recreate"
}

fn replicas(deployment: &Value) -> i64 {
    int_at(deployment, &["spec", "replicas"]).unwrap_or(1)
}

fn note(deployment: &Value, warning: bool, reason: &'static str, message: String) -> Note {
    Note {
        regarding: deployment.clone(),
        api_version: "apps/v1",
        kind: "Deployment",
        warning,
        reason,
        message,
        component: COMPONENT,
    }
}

/// One step of one Deployment.
pub(crate) fn reconcile(view: &View, target: &ObjectRef, now: Timestamp) -> Outcome {
    let mut out = Outcome::default();
    let Some(deployment) = view.get(target) else { return out };
    let Some(selector) = Selector::of_label_selector(deployment, &["spec", "selector"]) else {
        return out;
    };
    if selector.is_empty() {
        if int_at(deployment, &["status", "observedGeneration"])
            < int_at(deployment, &["metadata", "generation"])
        {
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            out.writes.push(Write::note(note(
                deployment,
                true,
                "SelectingAll",
                message.to_owned(),
            )));
            status::write_observed(deployment, &mut out);
        }
        return out;
    }
    let claimant = Claimant { owner: deployment, kind: "Deployment", selector: &selector };
    let adoptions = out.writes.len();
    let sets = claim(view, claimant, &REPLICA_SETS, |_| true, &mut out);
    if out.writes.len() > adoptions {
        // What is adopted or let go is written first; it wakes this Deployment again.
        return out;
    }
    let sets: Vec<Set> = sets.into_iter().map(|set| Set::new(Arc::clone(set))).collect();
    let mut rollout = Rollout::new(view, deployment, sets);
    if !is_deleting(deployment) {
        rollout.sync_revision();
        if rollout::is_paused(deployment) {
            rollout.scale();
            rollout.clean_up();
        } else if rollout.is_scaling() {
            rollout.scale();
        } else if is_recreate(deployment) {
            rollout.recreate();
        } else {
            rollout.roll();
        }
    }
    rollout.finish(now, &mut out);
    out
}

#[cfg(test)]
mod tests;
