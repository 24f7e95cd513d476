//! What upstream's always-on admission plugins decide: namespace lifecycle, default tolerations,
//! the service account and priority of pods.

use serde_json::{Value, json};

use super::{Place, Registry, text};
use crate::kinds::Kind;
use crate::status::{Cause, Status};
use crate::store::Resource;

/// A namespaced object needs a Namespace that is there and stays.
pub(super) fn namespace_takes(registry: &Registry, place: &Place) -> Result<(), Status> {
    let name = &place.namespace;
    let found = registry.store().get(&Resource::new("", "namespaces"), "", name);
    let Some(namespace) = found else {
        return Err(Status::not_found("", "namespaces", name));
    };
    if text(&namespace, "deletionTimestamp").is_empty() {
        return Ok(());
    }
    let mut status = Status::forbidden(
        &place.kind.group,
        &place.kind.plural,
        &place.name,
        &format!("unable to create new content in namespace {name} because it is being terminated"),
    );
    if let Some(details) = &mut status.details {
        details.causes.push(Cause::new(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {name} is being terminated"),
        ));
    }
    Err(status)
}

/// Fills in what admission decides for new objects.
pub(super) fn mutate(kind: &Kind, object: &mut Value) {
    if kind.group.is_empty() && kind.kind == "Pod" {
        pod(object);
    }
}

fn pod(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let empty = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(str::is_empty);
    if empty(spec.get("serviceAccountName")) {
        let account = match spec.get("serviceAccount") {
            Some(old) if !empty(Some(old)) => old.clone(),
            _ => json!("default"),
        };
        spec.insert("serviceAccountName".into(), account);
    }
    let account = spec.get("serviceAccountName").cloned().unwrap_or_else(|| json!("default"));
    spec.insert("serviceAccount".into(), account);
    spec.entry("priority").or_insert_with(|| json!(0));
    spec.entry("preemptionPolicy").or_insert_with(|| json!("PreemptLowerPriority"));
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|toleration| {
            let field = |name: &str| toleration[name].as_str().unwrap_or_default();
            (field("key") == key || field("key").is_empty())
                && matches!(field("effect"), "NoExecute" | "")
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}
