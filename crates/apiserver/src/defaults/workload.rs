//! Defaults of Deployments, in each version's own numbers, and ReplicaSets.

use serde_json::{Map, Value, json};

use super::{object_at, pod, set};

/// A Deployment written as `api_version`. The versions that have gone differ in their numbers
/// and take the selector from the template's labels.
pub(super) fn deployment(api_version: &str, object: &mut Value) {
    let (surge, history, deadline) = match api_version {
        "extensions/v1beta1" => (json!(1), i32::MAX, i32::MAX),
        "apps/v1beta1" => (json!("25%"), 2, 600),
        _ => (json!("25%"), 10, 600),
    };
    if matches!(api_version, "extensions/v1beta1" | "apps/v1beta1") {
        labels_from_template(object);
    }
    let Some(spec) = object_at(object, "spec") else { return };
    set(spec, "replicas", json!(1));
    if let Some(strategy) = object_at(spec, "strategy") {
        set(strategy, "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object_at(strategy, "rollingUpdate")
        {
            set(rolling, "maxUnavailable", surge.clone());
            set(rolling, "maxSurge", surge);
        }
    }
    set(spec, "revisionHistoryLimit", json!(history));
    set(spec, "progressDeadlineSeconds", json!(deadline));
    template(spec);
}

/// A ReplicaSet.
pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set(spec, "replicas", json!(1));
    template(spec);
}

fn template(spec: &mut Value) {
    if let Some(inner) = spec.pointer_mut("/template/spec").filter(|v| v.is_object()) {
        pod::pod_spec(inner);
    }
}

fn labels_from_template(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_none_or(Map::is_empty) {
        return;
    }
    if let Some(spec) = object.get_mut("spec").filter(|v| v.is_object()) {
        set(spec, "selector", json!({"matchLabels": labels}));
    }
    if let Some(metadata) = object_at(object, "metadata") {
        set(metadata, "labels", labels);
    }
}
