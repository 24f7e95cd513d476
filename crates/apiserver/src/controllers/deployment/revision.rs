//! Templates, their names, and the annotations that number them.

use serde_json::{Value, json};

use crate::controllers::object::{
    annotation, at, controller_reference, int_at, map_at, member_at, name, namespace, stable_hash,
    without_nulls,
};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Longest revision history kept on a ReplicaSet, in bytes.
const HISTORY_LIMIT: usize = 2000;

/// Annotations of a Deployment that are not copied to its ReplicaSets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The template without the label that tells ReplicaSets apart, in comparable form.
fn bare_template(object: &Value) -> Value {
    let mut template = without_nulls(at(object, &["spec", "template"]).unwrap_or(&Value::Null));
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH_LABEL);
        if labels.is_empty() {
            member_at(&mut template, &["metadata"]).shift_remove("labels");
        }
    }
    if template.pointer("/metadata").and_then(Value::as_object).is_some_and(|m| m.is_empty()) {
        member_at(&mut template, &[]).shift_remove("metadata");
    }
    template
}

/// Whether two objects have the same pod template, `pod-template-hash` aside.
pub(super) fn same_template(a: &Value, b: &Value) -> bool {
    bare_template(a) == bare_template(b)
}

/// The hash of a Deployment's template as upstream writes hashes: digits mapped to letters that
/// cannot spell words. `collisions` varies it when a name is taken.
pub(super) fn template_hash(deployment: &Value, collisions: i64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let hash = stable_hash(&json!([bare_template(deployment), collisions]));
    // 32 bits make ten letters, as long as upstream's.
    let folded = (hash >> 32) as u32 ^ hash as u32;
    folded
        .to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// The revision an object is annotated with; 0 when there is none.
pub(super) fn revision(object: &Value) -> i64 {
    annotation(object, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A count a ReplicaSet is annotated with.
pub(super) fn count(set: &Value, key: &str) -> Option<i64> {
    annotation(set, key)?.parse().ok()
}

fn set_annotation(object: &mut Value, key: &str, value: &str) {
    if annotation(object, key) != Some(value) {
        member_at(object, &["metadata", "annotations"]).insert(key.into(), value.into());
    }
}

/// Writes the counts that tell a later reconcile what the set was scaled for.
pub(super) fn set_counts(set: &mut Value, desired: i64, max: i64) {
    set_annotation(set, DESIRED_REPLICAS, &desired.to_string());
    set_annotation(set, MAX_REPLICAS, &max.to_string());
}

/// Copies what a Deployment's newest ReplicaSet has from it, and numbers it `newest` if its own
/// number is lower (a template that is used again gets a new number; the old one is remembered).
pub(super) fn follow(set: &mut Value, deployment: &Value, newest: i64) {
    for (key, value) in map_at(deployment, &["metadata", "annotations"]) {
        if !NOT_COPIED.contains(&key) {
            set_annotation(set, key, value);
        }
    }
    let old = revision(set);
    if old < newest {
        if old > 0 {
            let history = match annotation(set, REVISION_HISTORY) {
                Some(history) if !history.is_empty() => format!("{history},{old}"),
                _ => old.to_string(),
            };
            // The oldest numbers go when the list grows long.
            let start = history.len().saturating_sub(HISTORY_LIMIT);
            let history = match (start, history[start..].find(',')) {
                (0, _) | (_, None) => history,
                (start, Some(comma)) => history[start + comma + 1..].to_owned(),
            };
            set_annotation(set, REVISION_HISTORY, &history);
        }
        set_annotation(set, REVISION, &newest.to_string());
    }
    let ready = int_at(deployment, &["spec", "minReadySeconds"]).unwrap_or(0);
    if int_at(set, &["spec", "minReadySeconds"]).unwrap_or(0) != ready {
        member_at(set, &["spec"]).insert("minReadySeconds".into(), ready.into());
    }
}

/// A Deployment with its revision annotation set.
pub(super) fn with_revision(deployment: &Value, revision: i64) -> Value {
    let mut deployment = deployment.clone();
    set_annotation(&mut deployment, REVISION, &revision.to_string());
    deployment
}

/// The ReplicaSet for a Deployment's template.
pub(super) fn new_set(deployment: &Value, hash: &str, newest: i64, replicas: i64) -> Value {
    let mut template = at(deployment, &["spec", "template"]).cloned().unwrap_or_default();
    member_at(&mut template, &["metadata", "labels"]).insert(HASH_LABEL.into(), hash.into());
    let mut selector = at(deployment, &["spec", "selector"]).cloned().unwrap_or_default();
    member_at(&mut selector, &["matchLabels"]).insert(HASH_LABEL.into(), hash.into());
    let mut set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": namespace(deployment),
            "labels": at(&template, &["metadata", "labels"]),
            "ownerReferences": [controller_reference(deployment, "apps/v1", "Deployment")],
        },
        "spec": { "replicas": replicas, "selector": selector, "template": template },
    });
    follow(&mut set, deployment, newest);
    set
}
