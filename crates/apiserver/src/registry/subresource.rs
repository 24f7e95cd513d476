//! Subresources that are another object: scale, binding, eviction.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{DeleteOptions, Part, Place, Registry, WriteOptions, Written, identity, text};
use crate::kinds::{Kind, ScalePaths};
use crate::request::selector::Labels;
use crate::status::{Cause, Status};

/// The scale paths of a kind's stored form.
fn paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.storage()
        .and_then(|served| served.scale.as_ref())
        .or_else(|| kind.served.iter().find_map(|served| served.scale.as_ref()))
}

fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// The `autoscaling/v1` Scale of an object.
pub fn scale_of(kind: &Kind, object: &Value) -> Option<Value> {
    let paths = paths(kind)?;
    let number = |path: &str| object.pointer(&pointer(path)).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = if paths.selector.is_empty() && kind.crd.is_none() {
        object.pointer("/spec/selector").map(|selector| Labels::from_json(selector).to_string())
    } else {
        object.pointer(&pointer(&paths.selector)).and_then(Value::as_str).map(str::to_owned)
    };
    if let Some(selector) = selector.filter(|text| !text.is_empty()) {
        status["selector"] = selector.into();
    }
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.into(), value.clone());
        }
    }
    Some(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": number(&paths.spec)},
        "status": status,
    }))
}

impl Registry {
    /// Writes an object's scale; `make` computes the new Scale from the present one.
    ///
    /// # Errors
    /// 400, 404, 409, 422.
    pub fn change_scale(
        &self,
        place: &Place,
        options: &WriteOptions,
        mut make: impl FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<Value, Status> {
        let kind = place.kind.clone();
        let path = paths(&kind).map(|paths| paths.spec.clone()).ok_or_else(|| place.not_found())?;
        let written = self.change(place, Part::Main, options, |old| {
            let now = scale_of(&kind, old).ok_or_else(|| place.not_found())?;
            let scale = make(&now)?;
            let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
            if replicas < 0 {
                return Err(Status::invalid(
                    "autoscaling",
                    "Scale",
                    &place.name,
                    vec![Cause::new(
                        "FieldValueInvalid",
                        "spec.replicas",
                        format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                    )],
                ));
            }
            let mut new = Value::clone(old);
            // The Scale's resourceVersion, if the client kept it, makes the write conditional.
            let revision = text(&scale, "resourceVersion").to_owned();
            super::set_meta(&mut new, "resourceVersion", revision.into());
            set_path(&mut new, &path, replicas.into());
            Ok(new)
        })?;
        scale_of(&kind, &written.object).ok_or_else(|| place.not_found())
    }

    /// Assigns a pod to a node (`POST …/pods/{name}/binding`).
    ///
    /// # Errors
    /// 400 for another target than a Node, 404, 409 if it is assigned already.
    pub fn bind(
        &self,
        place: &Place,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let target = binding.get("target").cloned().unwrap_or_default();
        let node = target.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = target.get("kind").and_then(Value::as_str).unwrap_or_default();
        if !matches!(kind, "" | "Node") {
            return Err(Status::invalid(
                "",
                "Binding",
                &place.name,
                vec![Cause::new(
                    "FieldValueNotSupported",
                    "target.kind",
                    format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""),
                )],
            ));
        }
        if node.is_empty() {
            return Err(Status::invalid(
                "",
                "Binding",
                &place.name,
                vec![Cause::new("FieldValueRequired", "target.name", "Required value")],
            ));
        }
        let uid = text(binding, "uid").to_owned();
        let now = identity::time(self.now());
        let refuse = |why: String| Status::conflict("", "pods/binding", &place.name, &why);
        self.change(place, Part::Binding, options, |old| {
            if !uid.is_empty() && text(old, "uid") != uid {
                return Err(refuse(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    text(old, "uid")
                )));
            }
            if !text(old, "deletionTimestamp").is_empty() {
                return Err(refuse(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    place.name
                )));
            }
            let at = old.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
            if !at.is_empty() {
                return Err(refuse(format!(
                    "pod {} is already assigned to node \"{at}\"",
                    place.name
                )));
            }
            let mut new = Value::clone(old);
            new["spec"]["nodeName"] = node.as_str().into();
            if let Some(annotations) =
                binding.pointer("/metadata/annotations").and_then(Value::as_object)
            {
                for (key, value) in annotations {
                    new["metadata"]["annotations"][key] = value.clone();
                }
            }
            if !new["status"].is_object() {
                new["status"] = json!({});
            }
            let mut conditions =
                new["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|condition| condition["type"] != "PodScheduled");
            conditions.push(json!({
                "type": "PodScheduled", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": now,
            }));
            new["status"]["conditions"] = conditions.into();
            Ok(new)
        })
    }

    /// Evicts a pod (`POST …/pods/{name}/eviction`): a delete with the options inside. No
    /// PodDisruptionBudget is served, so nothing forbids it.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn evict(&self, place: &Place, eviction: &Value) -> Result<Arc<Value>, Status> {
        let none = json!({});
        let options = DeleteOptions::from_json(eviction.get("deleteOptions").unwrap_or(&none))?;
        Ok(self.delete(place, &options)?.object)
    }
}

fn set_path(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    let mut steps = path.split('.').filter(|step| !step.is_empty()).peekable();
    while let Some(step) = steps.next() {
        if !at.is_object() {
            *at = json!({});
        }
        let Some(map) = at.as_object_mut() else { return };
        if steps.peek().is_none() {
            map.insert(step.into(), value);
            return;
        }
        at = map.entry(step).or_insert_with(|| json!({}));
    }
}
