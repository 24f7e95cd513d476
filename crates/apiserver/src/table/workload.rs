//! Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{containers, number, selector, text};
use super::{Column, age};

pub(super) const DEPLOYMENT: &[Column] = &[
    ("Name", "string", false),
    ("Ready", "string", false),
    ("Up-to-date", "integer", false),
    ("Available", "integer", false),
    ("Age", "string", false),
    ("Containers", "string", true),
    ("Images", "string", true),
    ("Selector", "string", true),
];

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        text(&object["metadata"], "name").into(),
        format!("{}/{}", number(status, "readyReplicas"), number(spec, "replicas")).into(),
        number(status, "updatedReplicas").into(),
        number(status, "availableReplicas").into(),
        age::of(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}

pub(super) const REPLICA_SET: &[Column] = &[
    ("Name", "string", false),
    ("Desired", "integer", false),
    ("Current", "integer", false),
    ("Ready", "integer", false),
    ("Age", "string", false),
    ("Containers", "string", true),
    ("Images", "string", true),
    ("Selector", "string", true),
];

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        text(&object["metadata"], "name").into(),
        number(spec, "replicas").into(),
        number(status, "replicas").into(),
        number(status, "readyReplicas").into(),
        age::of(object, now),
        names.into(),
        images.into(),
        selector(&spec["selector"]).into(),
    ]
}
