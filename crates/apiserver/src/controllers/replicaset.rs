//! ReplicaSet: as many pods of a template as asked for.
//!
//! Follows upstream's `pkg/controller/replicaset`: pods are claimed by selector and owner
//! reference, missing ones created in one burst, surplus ones deleted in the order of
//! [`ranking`]. No expectations: see [`super::view`].

mod ranking;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::claim::{Claimant, claim};
use super::engine::{Controller, Wakes};
use super::object::{
    at, controller_of, controller_reference, controller_uid, int_at, is_deleting, label, map_at,
    member_at, name, namespace, str_at, uid,
};
use super::pod::{available_at, is_active, is_ready};
use super::selector::Selector;
use super::view::{Change, View};
use super::write::{Note, ObjectRef, Op, Outcome, PODS, Propagation, REPLICA_SETS, Write};

/// Most pods created or deleted in one reconcile, upstream's `BurstReplicas`.
const BURST: usize = 500;
const COMPONENT: &str = "replicaset-controller";

/// Queues the ReplicaSets a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == REPLICA_SETS {
        out.push(Controller::ReplicaSet, change.target.clone());
        // Pods without an owner may be its to adopt; that is read at reconcile time.
        return;
    }
    if *resource != PODS {
        return;
    }
    for pod in change.forms() {
        match controller_of(pod) {
            Some(owner) if str_at(owner, &["kind"]) == "ReplicaSet" => out.push(
                Controller::ReplicaSet,
                ObjectRef::new(REPLICA_SETS, namespace(pod), str_at(owner, &["name"])),
            ),
            Some(_) => {}
            None => {
                for target in view.selecting(&REPLICA_SETS, pod) {
                    out.push(Controller::ReplicaSet, target);
                }
            }
        }
    }
}

fn note(set: &Value, warning: bool, reason: &'static str, message: String) -> Note {
    Note {
        regarding: set.clone(),
        api_version: "apps/v1",
        kind: "ReplicaSet",
        warning,
        reason,
        message,
        component: COMPONENT,
    }
}

/// One step of one ReplicaSet.
pub(crate) fn reconcile(view: &View, target: &ObjectRef, now: Timestamp) -> Outcome {
    let mut out = Outcome::default();
    let Some(set) = view.get(target) else { return out };
    let Some(selector) =
        Selector::of_label_selector(set, &["spec", "selector"]).filter(|s| !s.is_empty())
    else {
        return out;
    };
    let claimant = Claimant { owner: set, kind: "ReplicaSet", selector: &selector };
    let pods = claim(view, claimant, &PODS, is_active, &mut out);
    let active: Vec<&Arc<Value>> = pods.into_iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(int_at(set, &["spec", "replicas"]).unwrap_or(1)).unwrap_or(0);

    write_status(set, &active, now, &mut out);
    if is_deleting(set) {
        return out;
    }
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST);
        for _ in 0..missing {
            out.writes.push(create_pod(set));
        }
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        let related = related_pods(view, set);
        for pod in ranking::to_delete(&active, &related, surplus, now) {
            let message = format!("Deleted pod: {}", name(pod));
            out.writes.push(
                Write::quiet(Op::Delete {
                    target: ObjectRef::of(PODS, pod),
                    uid: uid(pod).to_owned(),
                    grace_seconds: None,
                    propagation: Propagation::Background,
                })
                .then(note(set, false, "SuccessfulDelete", message))
                .or_else(note(
                    set,
                    true,
                    "FailedDelete",
                    "Error deleting: {error}".to_owned(),
                )),
            );
        }
    }
    out
}

fn create_pod(set: &Value) -> Write {
    let template = at(set, &["spec", "template"]).cloned().unwrap_or_else(|| json!({}));
    let mut metadata = Map::new();
    metadata.insert("generateName".into(), format!("{}-", name(set)).into());
    metadata.insert("namespace".into(), namespace(set).into());
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = at(&template, &["metadata", field]) {
            metadata.insert(field.into(), value.clone());
        }
    }
    metadata.insert(
        "ownerReferences".into(),
        json!([controller_reference(set, "apps/v1", "ReplicaSet")]),
    );
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": at(&template, &["spec"]).cloned().unwrap_or_else(|| json!({})),
    });
    Write::quiet(Op::Create { resource: PODS, object })
        .then(note(set, false, "SuccessfulCreate", "Created pod: {name}".to_owned()))
        .or_else(note(set, true, "FailedCreate", "Error creating: {error}".to_owned()))
}

/// Active pods of all ReplicaSets of the same owner, this one's included.
fn related_pods<'a>(view: &'a View, set: &Value) -> Vec<&'a Arc<Value>> {
    let owner = controller_uid(set);
    let sets: Vec<String> = if owner.is_empty() {
        vec![uid(set).to_owned()]
    } else {
        view.controlled(owner, &REPLICA_SETS).map(|sibling| uid(sibling).to_owned()).collect()
    };
    let mut pods = Vec::new();
    for set in &sets {
        for (target, pod) in view.dependents(set) {
            if target.resource == PODS && controller_uid(pod) == set && is_active(pod) {
                pods.push(pod);
            }
        }
    }
    pods
}

fn write_status(set: &Value, active: &[&Arc<Value>], now: Timestamp, out: &mut Outcome) {
    let min_ready =
        SignedDuration::from_secs(int_at(set, &["spec", "minReadySeconds"]).unwrap_or(0));
    let template_labels: Vec<(&str, &str)> =
        map_at(set, &["spec", "template", "metadata", "labels"]).collect();
    let (mut labelled, mut ready, mut available) = (0_i64, 0_i64, 0_i64);
    for pod in active {
        if template_labels.iter().all(|(key, value)| label(pod, key) == Some(value)) {
            labelled += 1;
        }
        if is_ready(pod) {
            ready += 1;
            match available_at(pod, min_ready) {
                Some(at) if at <= now => available += 1,
                Some(at) => out.look_again(at),
                None => {}
            }
        }
    }
    let mut status = Map::new();
    status.insert("replicas".into(), i64::try_from(active.len()).unwrap_or(i64::MAX).into());
    for (field, count) in [
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", ready),
        ("availableReplicas", available),
    ] {
        if count > 0 {
            status.insert(field.into(), count.into());
        }
    }
    if let Some(generation) = int_at(set, &["metadata", "generation"]) {
        status.insert("observedGeneration".into(), generation.into());
    }
    if let Some(conditions) = at(set, &["status", "conditions"]) {
        status.insert("conditions".into(), conditions.clone());
    }
    let status = Value::Object(status);
    if set.get("status") != Some(&status) {
        let mut object = set.clone();
        member_at(&mut object, &[]).insert("status".into(), status);
        out.push(Op::UpdateStatus { resource: REPLICA_SETS, object });
    }
}

/// Whether a ReplicaSet's status speaks of its newest spec.
pub(crate) fn is_observed(set: &Value) -> bool {
    int_at(set, &["metadata", "generation"]).unwrap_or(0)
        <= int_at(set, &["status", "observedGeneration"]).unwrap_or(0)
}

#[cfg(test)]
mod tests;
