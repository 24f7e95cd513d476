//! What a write to an existing object may touch, the same for every kind: upstream's
//! `PrepareForUpdate`. What the server fills in per kind is `defaults`' to say.

use serde_json::{Value, json};

use super::{Part, metadata, text};
use crate::kinds::Kind;

/// Whether objects of the kind count their generations.
pub(super) fn has_generation(kind: &Kind) -> bool {
    kind.crd.is_some()
        || matches!(
            kind.kind.as_str(),
            "Pod"
                | "Deployment"
                | "ReplicaSet"
                | "NetworkPolicy"
                | "Ingress"
                | "IngressClass"
                | "EndpointSlice"
                | "CustomResourceDefinition"
        )
}

fn has_status(kind: &Kind) -> bool {
    match kind.storage() {
        Some(served) => served.status,
        None => kind.served.iter().any(|served| served.status),
    }
}

fn label(object: &mut Value, key: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    let labels = metadata(object).entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert(key.into(), value.into());
    }
}

/// Puts back what this kind of write may not change.
pub(super) fn for_update(kind: &Kind, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Main => {
            if has_status(kind) {
                keep(new, old, "status");
            }
            if kind.kind == "Namespace" {
                keep_in(new, old, "spec", "finalizers");
            }
        }
        Part::Status => {
            let mut next = old.clone();
            keep(&mut next, new, "status");
            if matches!(kind.kind.as_str(), "Node" | "Pod") {
                for field in ["labels", "annotations"] {
                    keep_in(&mut next, new, "metadata", field);
                }
            }
            if let Some(fields) = new.pointer("/metadata/managedFields") {
                metadata(&mut next).insert("managedFields".into(), fields.clone());
            }
            *new = next;
        }
        Part::Finalize => {
            let mut next = old.clone();
            keep_in(&mut next, new, "spec", "finalizers");
            *new = next;
        }
        Part::Binding => {}
    }
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        keep_in(new, old, "metadata", field);
    }
    if text(new, "generateName").is_empty() {
        keep_in(new, old, "metadata", "generateName");
    }
    if kind.kind == "Namespace" {
        let name = text(new, "name").to_owned();
        label(new, "kubernetes.io/metadata.name", &name);
    }
}

/// Makes a top-level field of `new` what it is in `old`.
fn keep(new: &mut Value, old: &Value, field: &str) {
    let Some(root) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            root.insert(field.into(), value.clone());
        }
        None => {
            root.shift_remove(field);
        }
    }
}

fn keep_in(new: &mut Value, old: &Value, parent: &str, field: &str) {
    let value = old.get(parent).and_then(|p| p.get(field));
    let Some(root) = new.as_object_mut() else { return };
    if value.is_none() && !root.contains_key(parent) {
        return;
    }
    let at = root.entry(parent).or_insert_with(|| json!({}));
    if let Some(at) = at.as_object_mut() {
        match value {
            Some(value) => {
                at.insert(field.into(), value.clone());
            }
            None => {
                at.shift_remove(field);
            }
        }
    }
}

/// A change of anything but metadata and status is a new generation (labels count for an
/// EndpointSlice, annotations for a Deployment, as upstream).
pub(super) fn generation(kind: &Kind, new: &mut Value, old: &Value) {
    if !has_generation(kind) {
        return;
    }
    let body = |value: &Value| {
        let mut map = value.as_object().cloned().unwrap_or_default();
        map.shift_remove("metadata");
        if has_status(kind) {
            map.shift_remove("status");
        }
        map
    };
    let also = match kind.kind.as_str() {
        "EndpointSlice" => Some("/metadata/labels"),
        "Deployment" => Some("/metadata/annotations"),
        _ => None,
    };
    let changed =
        body(new) != body(old) || also.is_some_and(|path| new.pointer(path) != old.pointer(path));
    if changed {
        let at = old.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
        metadata(new).insert("generation".into(), (at + 1).into());
    }
}
