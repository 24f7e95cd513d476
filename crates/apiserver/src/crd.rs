//! CustomResourceDefinitions: from an object to a row in the table of kinds, and back out.
//!
//! Runs inside the write that creates, changes or deletes a CustomResourceDefinition, so the kind
//! is served when the response leaves. Versions are converted by their `apiVersion` alone: there
//! are no conversion webhooks, and CEL rules are not evaluated; both are said in warnings.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Column, Kind, ScalePaths, Served, Verbs};
use crate::registry::{DeleteOptions, Part, Place, Registry, WriteOptions, identity};
use crate::schema::Schema;
use crate::store::Resource;

/// The group CustomResourceDefinitions live in.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Keeps a CustomResourceDefinition until its instances are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

fn is_crd(kind: &Kind) -> bool {
    kind.group == GROUP && kind.plural == PLURAL
}

fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: &Value, pointer: &str) -> Vec<String> {
    items(value, pointer).filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// What a client should know about a CustomResourceDefinition it writes.
pub(crate) fn warnings(kind: &Kind, object: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if !is_crd(kind) {
        return out;
    }
    if str_at(object, "/spec/conversion/strategy") == "Webhook" {
        out.push(
            "spec.conversion.strategy: conversion webhooks are not called by this server; versions are converted by their apiVersion alone"
                .into(),
        );
    }
    for version in items(object, "/spec/versions") {
        let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { continue };
        for at in crate::schema::structural::unevaluated_rules(schema) {
            out.push(format!(
                "version {}: x-kubernetes-validations at {at} are not evaluated by this server",
                str_at(version, "/name")
            ));
        }
    }
    out
}

/// Serves every CustomResourceDefinition of the store: once, at start.
pub(crate) fn reconcile_all(registry: &Registry) {
    for crd in registry.store().list(&Resource::new(GROUP, PLURAL), None).items {
        reconcile(registry, &crd);
    }
}

/// After a write: a CustomResourceDefinition takes effect.
pub(crate) fn after_write(registry: &Registry, kind: &Kind, object: &Arc<Value>) {
    if is_crd(kind) {
        reconcile(registry, object);
    }
}

/// After a removal: the kind goes, or the last instance lets its definition go.
pub(crate) fn after_delete(registry: &Registry, kind: &Kind, object: &Value) {
    if is_crd(kind) {
        let (group, plural) = (str_at(object, "/spec/group"), str_at(object, "/spec/names/plural"));
        let ours = registry
            .kinds()
            .stored(group, plural)
            .is_some_and(|k| k.crd.as_deref() == Some(str_at(object, "/metadata/name")));
        if ours {
            registry.kinds().remove(group, plural);
        }
    } else if let Some(name) = &kind.crd {
        let found = registry.store().get(&Resource::new(GROUP, PLURAL), "", name);
        if let Some(crd) = found
            && !str_at(&crd, "/metadata/deletionTimestamp").is_empty()
        {
            reconcile(registry, &crd);
        }
    }
}

fn reconcile(registry: &Registry, crd: &Arc<Value>) {
    let name = str_at(crd, "/metadata/name").to_owned();
    let Ok(place) = registry.place(GROUP, PLURAL, "", &name) else { return };
    let kind = kind(crd);
    let taken = match registry.kinds().stored(&kind.group, &kind.plural) {
        Some(other) if other.crd.as_deref() != Some(&name) => {
            Some(format!("{:?} is already in use", kind.plural))
        }
        _ => registry
            .kinds()
            .all()
            .iter()
            .find(|other| {
                other.group == kind.group && other.kind == kind.kind && other.plural != kind.plural
            })
            .map(|_| format!("{:?} is already in use", kind.kind)),
    };
    if !str_at(crd, "/metadata/deletionTimestamp").is_empty() {
        if taken.is_none() && !clean_up(registry, &Arc::new(kind)) {
            return;
        }
        let done = registry.change(&place, Part::Main, &WriteOptions::default(), |old| {
            let mut new = Value::clone(old);
            if let Some(list) =
                new.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut)
            {
                list.retain(|finalizer| finalizer != CLEANUP);
            }
            new["metadata"]["resourceVersion"] = "".into();
            Ok(new)
        });
        if let Err(status) = done {
            tracing::debug!(crd = name, %status, "definition not released");
        }
        return;
    }
    let status = status(crd, taken.as_deref(), &identity::time(registry.now()));
    if taken.is_none() {
        registry.kinds().insert(kind);
    }
    if crd.get("status") == Some(&status) {
        return;
    }
    let done = registry.change(&place, Part::Status, &WriteOptions::default(), |old| {
        let mut new = Value::clone(old);
        new["status"] = status.clone();
        new["metadata"]["resourceVersion"] = "".into();
        Ok(new)
    });
    if let Err(status) = done {
        tracing::warn!(crd = name, %status, "status of the definition not written");
    }
}

/// Deletes the instances; true when none is left.
fn clean_up(registry: &Registry, kind: &Arc<Kind>) -> bool {
    let resource = Resource::new(&kind.group, &kind.plural);
    let _gone_already = registry
        .store()
        .list(&resource, None)
        .items
        .iter()
        .filter(|object| str_at(object, "/metadata/deletionTimestamp").is_empty())
        .map(|object| {
            let place = Place::new(
                kind,
                str_at(object, "/metadata/namespace"),
                str_at(object, "/metadata/name"),
            );
            registry.delete(&place, &DeleteOptions::default())
        })
        .filter(Result::is_err)
        .count();
    registry.store().list(&resource, None).items.is_empty()
}

/// The row for the table of kinds.
pub(crate) fn kind(crd: &Value) -> Kind {
    let group = str_at(crd, "/spec/group").to_owned();
    let kind = str_at(crd, "/spec/names/kind").to_owned();
    let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_owned() };
    let mut versions: Vec<&Value> = items(crd, "/spec/versions").collect();
    versions.sort_by_cached_key(|version| Reverse(priority(str_at(version, "/name"))));
    let storage = versions
        .iter()
        .find(|version| version["storage"] == true)
        .map(|version| str_at(version, "/name").to_owned())
        .unwrap_or_default();
    Kind {
        list_kind: or(str_at(crd, "/spec/names/listKind"), format!("{kind}List")),
        plural: str_at(crd, "/spec/names/plural").to_owned(),
        singular: or(str_at(crd, "/spec/names/singular"), kind.to_lowercase()),
        short_names: texts(crd, "/spec/names/shortNames"),
        categories: texts(crd, "/spec/names/categories"),
        namespaced: str_at(crd, "/spec/scope") == "Namespaced",
        storage_version: storage,
        served: versions
            .iter()
            .filter(|version| version["served"] == true)
            .map(|version| served(&group, &kind, version))
            .collect(),
        verbs: Verbs::All,
        crd: Some(str_at(crd, "/metadata/name").to_owned()),
        group,
        kind,
    }
}

fn served(group: &str, kind: &str, version: &Value) -> Served {
    let name = str_at(version, "/name");
    let schema = version
        .pointer("/schema/openAPIV3Schema")
        .cloned()
        .unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let mut columns: Vec<Column> = items(version, "/additionalPrinterColumns")
        .map(|column| Column {
            name: str_at(column, "/name").into(),
            type_: str_at(column, "/type").into(),
            format: str_at(column, "/format").into(),
            description: str_at(column, "/description").into(),
            priority: column["priority"].as_i64().and_then(|p| p.try_into().ok()).unwrap_or(0),
            json_path: str_at(column, "/jsonPath").into(),
        })
        .collect();
    if columns.is_empty() {
        columns.push(Column {
            name: "Age".into(),
            type_: "date".into(),
            format: String::new(),
            description: "When the object was created.".into(),
            priority: 0,
            json_path: ".metadata.creationTimestamp".into(),
        });
    }
    Served {
        group: group.to_owned(),
        version: name.to_owned(),
        schema: String::new(),
        structural: Some(Schema::structural(Arc::new(schema))),
        deprecated: (version["deprecated"] == true).then(|| {
            match str_at(version, "/deprecationWarning") {
                "" => format!("{group}/{name} {kind} is deprecated"),
                text => text.to_owned(),
            }
        }),
        status: version.pointer("/subresources/status").is_some(),
        scale: version.pointer("/subresources/scale").map(|scale| ScalePaths {
            spec: str_at(scale, "/specReplicasPath").into(),
            status: str_at(scale, "/statusReplicasPath").into(),
            selector: str_at(scale, "/labelSelectorPath").into(),
        }),
        columns,
    }
}

/// Kubernetes' order of versions: v2, v1, v1beta2, v1beta1, v1alpha1, then the rest backwards.
pub(crate) fn priority(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let rest = || (0, 0, 0, Reverse(version.to_owned()));
    let Some(text) = version.strip_prefix('v') else { return rest() };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let Ok(major) = text[..end].parse() else { return rest() };
    let (level, minor) = match &text[end..] {
        "" => return (3, major, 0, Reverse(String::new())),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return rest(),
        },
    };
    match minor.parse() {
        Ok(minor) => (level, major, minor, Reverse(String::new())),
        Err(_) => rest(),
    }
}

fn status(crd: &Value, taken: Option<&str>, now: &str) -> Value {
    let condition = |kind: &str, fine: bool, reason: &str, message: &str| {
        let value = if fine { "True" } else { "False" };
        let since = items(crd, "/status/conditions")
            .find(|old| old["type"] == kind && old["status"] == value)
            .map(|old| old["lastTransitionTime"].clone())
            .unwrap_or_else(|| now.into());
        json!({"type": kind, "status": value, "lastTransitionTime": since,
               "reason": reason, "message": message})
    };
    let conditions = match taken {
        None => json!([
            condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
            condition(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted"
            ),
        ]),
        Some(why) => json!([
            condition("NamesAccepted", false, "PluralConflict", why),
            condition("Established", false, "NotAccepted", "not all names are accepted"),
        ]),
    };
    let mut stored = texts(crd, "/status/storedVersions");
    for version in items(crd, "/spec/versions").filter(|version| version["storage"] == true) {
        let name = str_at(version, "/name").to_owned();
        if !stored.contains(&name) {
            stored.push(name);
        }
    }
    let accepted = if taken.is_none() {
        crd.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}))
    } else {
        json!({"kind": "", "plural": ""})
    };
    json!({"conditions": conditions, "acceptedNames": accepted, "storedVersions": stored})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_upstream() {
        let mut versions = [
            "foo1",
            "v1alpha1",
            "v1",
            "v10",
            "v2",
            "v1beta2",
            "foo10",
            "v11beta2",
            "v3beta1",
            "v12alpha1",
        ];
        versions.sort_by_key(|v| Reverse(priority(v)));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v3beta1",
                "v1beta2",
                "v12alpha1",
                "v1alpha1",
                "foo1",
                "foo10"
            ]
        );
    }
}
