//! Metadata every object has.

use serde_json::Value;

use super::path::{entries, items, text};
use super::{Check, Path, names};
use crate::kinds::Kind;

const ANNOTATIONS_MAX: usize = 256 * 1024;

/// What is wrong with an object's name, by its kind's grammar.
pub(crate) fn name_rules(kind: &Kind, name: &str) -> Vec<String> {
    if kind.crd.is_some() {
        return names::dns_subdomain(name);
    }
    match kind.kind.as_str() {
        "Service" => names::dns_1035_label(name),
        "Namespace" => names::dns_label(name),
        "IPAddress" => match name.parse::<std::net::IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            _ => vec!["must be a canonical form IP address".into()],
        },
        _ => names::dns_subdomain(name),
    }
}

pub(super) fn create(kind: &Kind, object: &Value, check: &mut Check) {
    let path = Path::ROOT.child("metadata");
    let metadata = &object["metadata"];
    let generate = text(metadata, "generateName");
    if !generate.is_empty() {
        // The last character is followed by a generated one, so a dash may stand there.
        let stem = generate.strip_suffix('-').map(|stem| format!("{stem}a"));
        let found = name_rules(kind, stem.as_deref().unwrap_or(generate));
        check.invalid_all(&path.child("generateName"), generate, &found);
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        check.required(&path.child("name"), "name or generateName is required");
    } else {
        check.invalid_all(&path.child("name"), name, &name_rules(kind, name));
    }
    common(metadata, &path, check);
}

pub(super) fn update(new: &Value, old: &Value, check: &mut Check) {
    let path = Path::ROOT.child("metadata");
    let (metadata, was) = (&new["metadata"], &old["metadata"]);
    for field in ["name", "namespace", "uid"] {
        let (is, was) = (text(metadata, field), text(was, field));
        if !is.is_empty() && is != was {
            check.invalid(&path.child(field), is, "field is immutable");
        }
    }
    if was.get("deletionTimestamp").is_some_and(|at| !at.is_null()) {
        let known = items(was, "finalizers");
        let added: Vec<String> = items(metadata, "finalizers")
            .iter()
            .filter(|one| !known.contains(one))
            .map(ToString::to_string)
            .collect();
        if !added.is_empty() {
            check.forbidden(
                &path.child("finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    common(metadata, &path, check);
}

fn common(metadata: &Value, path: &Path<'_>, check: &mut Check) {
    labels(metadata, "labels", path, check);
    annotations(metadata, path, check);
    owner_references(metadata, path, check);
    finalizers(metadata, path, check);
}

/// A map of labels: keys and values.
pub(super) fn labels(object: &Value, field: &str, path: &Path<'_>, check: &mut Check) {
    let path = path.child(field);
    for (key, value) in entries(object, field) {
        check.invalid_all(&path, key, &names::qualified_name(key));
        if let Some(value) = value.as_str() {
            check.invalid_all(&path, value, &names::label_value(value));
        }
    }
}

fn annotations(metadata: &Value, path: &Path<'_>, check: &mut Check) {
    let path = path.child("annotations");
    let mut size = 0;
    for (key, value) in entries(metadata, "annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        check.invalid_all(&path, key, &names::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_MAX {
        check.too_long(&path, ANNOTATIONS_MAX);
    }
}

fn owner_references(metadata: &Value, path: &Path<'_>, check: &mut Check) {
    let path = path.child("ownerReferences");
    let mut controller: Option<&str> = None;
    for (index, owner) in items(metadata, "ownerReferences").iter().enumerate() {
        let path = path.index(index);
        let version = text(owner, "apiVersion");
        if version.is_empty() || version.ends_with('/') {
            check.invalid(&path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                check.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = text(owner, "name");
            if let Some(first) = controller {
                check.invalid(
                    &Path::ROOT.child("metadata").child("ownerReferences"),
                    metadata["ownerReferences"].clone(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {name}"
                    ),
                );
            }
            controller = Some(name);
        }
    }
}

const STANDARD_FINALIZERS: &[&str] = &["orphan", "foregroundDeletion", "kubernetes"];

fn finalizers(metadata: &Value, path: &Path<'_>, check: &mut Check) {
    let path = path.child("finalizers");
    let list = items(metadata, "finalizers");
    for finalizer in list.iter().filter_map(Value::as_str) {
        let wrong = names::qualified_name(finalizer);
        if wrong.is_empty() && !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer)
        {
            check.invalid(
                &path,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
        check.invalid_all(&path, finalizer, &wrong);
    }
    let has = |name: &str| list.iter().any(|one| one == name);
    if has("orphan") && has("foregroundDeletion") {
        check.invalid(
            &path,
            metadata["finalizers"].clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

/// A label selector; returns whether it selects anything in particular.
pub(super) fn selector(selector: &Value, path: &Path<'_>, check: &mut Check) {
    labels(selector, "matchLabels", path, check);
    let list = path.child("matchExpressions");
    for (index, expression) in items(selector, "matchExpressions").iter().enumerate() {
        let path = list.index(index);
        let values = items(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    check.required(
                        &path.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    check.forbidden(
                        &path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            other => check.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        check.invalid_all(&path.child("key"), key, &names::qualified_name(key));
        for (at, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            check.invalid_all(&path.child("values").index(at), value, &names::label_value(value));
        }
    }
}

/// Whether labels satisfy a label selector.
pub(super) fn matches(selector: &Value, labels: &Value) -> bool {
    entries(selector, "matchLabels").all(|(key, value)| labels.get(key) == Some(value))
        && items(selector, "matchExpressions").iter().all(|expression| {
            let value = labels.get(text(expression, "key"));
            let among = value.is_some_and(|value| items(expression, "values").contains(value));
            match text(expression, "operator") {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
