//! Conversion of an object between the versions its kind is served in.
//!
//! Pure renaming and moving; defaults that belong to a version are given before, by
//! [`crate::defaults`]. What the hub form has no place for is kept in the annotations upstream
//! used (`deprecated.deployment.rollback.revision`).

use serde_json::{Map, Value, json};

use crate::kinds::split_api_version;

/// A conversion that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} cannot be converted from {from} to {to}")]
pub struct ConvertError {
    /// The object's kind.
    pub kind: String,
    /// Its apiVersion.
    pub from: String,
    /// The apiVersion asked for.
    pub to: String,
}

/// Converts an object to another apiVersion of its kind, in place. The object's own `apiVersion`
/// and `kind` say what it is. Custom resources only change their `apiVersion` (no webhooks).
///
/// # Errors
/// [`ConvertError`] if the two versions are not of one kind.
pub fn convert(object: &mut Value, to: &str) -> Result<(), ConvertError> {
    let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    if from == to {
        return Ok(());
    }
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "Event" if is_event(&from) && is_event(to) => {
            if to == "v1" {
                event_to_core(object)
            } else {
                event_to_events(object)
            }
        }
        "Ingress" if is_ingress(&from) && is_ingress(to) => {
            let hub = |version: &str| version == "networking.k8s.io/v1";
            if !hub(&from) && hub(to) {
                ingress_to_v1(object);
            } else if hub(&from) && !hub(to) {
                ingress_from_v1(object);
            }
        }
        "Deployment" if is_deployment(&from) && is_deployment(to) => {
            let rollback = |version: &str| matches!(version, "apps/v1beta1" | "extensions/v1beta1");
            match (rollback(&from), rollback(to)) {
                (true, false) => rollback_to_annotation(object),
                (false, true) => rollback_from_annotation(object),
                _ => {}
            }
        }
        _ if split_api_version(&from).0 == split_api_version(to).0 => {}
        _ => return Err(ConvertError { kind, from, to: to.to_owned() }),
    }
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), json!(to));
    }
    Ok(())
}

fn is_event(version: &str) -> bool {
    matches!(version, "v1" | "events.k8s.io/v1")
}

fn is_ingress(version: &str) -> bool {
    matches!(version, "networking.k8s.io/v1" | "networking.k8s.io/v1beta1" | "extensions/v1beta1")
}

fn is_deployment(version: &str) -> bool {
    matches!(version, "apps/v1" | "apps/v1beta2" | "apps/v1beta1" | "extensions/v1beta1")
}

const ROLLBACK: &str = "deprecated.deployment.rollback.revision";

fn rollback_to_annotation(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let Some(rollback) = spec.shift_remove("rollbackTo") else { return };
    let revision = rollback["revision"].as_i64().unwrap_or(0).to_string();
    if let Some(annotations) = annotations(object) {
        annotations.insert(ROLLBACK.into(), json!(revision));
    }
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| json!({}));
    metadata.as_object_mut()?.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
}

fn rollback_from_annotation(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(revision) = annotations.shift_remove(ROLLBACK) else { return };
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    let revision: Option<i64> = revision.as_str().and_then(|text| text.parse().ok());
    if let (Some(revision), Some(spec)) =
        (revision, object.get_mut("spec").and_then(Value::as_object_mut))
    {
        spec.insert("rollbackTo".into(), json!({"revision": revision}));
    }
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.shift_remove(from) {
        map.insert(to.to_owned(), value);
    }
}

/// Walks the backends of an Ingress: the default one and each path's.
fn backends(object: &mut Value, default: &str, change: fn(&mut Map<String, Value>)) {
    let Some(spec) = object.get_mut("spec") else { return };
    if let Some(backend) = spec.get_mut(default).and_then(Value::as_object_mut) {
        change(backend);
    }
    for rule in spec.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
        let paths = rule.pointer_mut("/http/paths").and_then(Value::as_array_mut);
        for path in paths.into_iter().flatten() {
            if let Some(backend) = path.get_mut("backend").and_then(Value::as_object_mut) {
                change(backend);
            }
        }
    }
}

fn ingress_to_v1(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        rename(spec, "backend", "defaultBackend");
    }
    backends(object, "defaultBackend", |backend| {
        let name = backend.shift_remove("serviceName");
        let port = backend.shift_remove("servicePort");
        if name.is_none() && port.is_none() {
            return;
        }
        let port = match port {
            Some(Value::String(name)) => json!({"name": name}),
            Some(Value::Number(number)) => json!({"number": number}),
            _ => json!({}),
        };
        let name = name.unwrap_or_else(|| json!(""));
        backend.insert("service".into(), json!({"name": name, "port": port}));
    });
}

fn ingress_from_v1(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        rename(spec, "defaultBackend", "backend");
    }
    backends(object, "backend", |backend| {
        let Some(service) = backend.shift_remove("service") else { return };
        backend.insert("serviceName".into(), service["name"].clone());
        let port = &service["port"];
        let port = match (port.get("name"), port.get("number")) {
            (Some(name), _) if name.as_str().is_some_and(|n| !n.is_empty()) => name.clone(),
            (_, Some(number)) => number.clone(),
            _ => json!(0),
        };
        backend.insert("servicePort".into(), port);
    });
}

/// Core fields and what `events.k8s.io/v1` calls them.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn event_to_events(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for (core, events) in EVENT_FIELDS {
        rename(map, core, events);
    }
}

fn event_to_core(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    for (core, events) in EVENT_FIELDS {
        rename(map, events, core);
    }
}

#[cfg(test)]
mod tests;
