//! CustomResourceDefinitions: names, versions and structural schemas.

use regex::Regex;
use serde_json::Value;

use super::path::{items, text};
use super::{Check, Path, names};

pub(super) fn definition(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    let names_path = path.child("names");
    let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
    let metadata = Path::ROOT.child("metadata");
    let name = text(&new["metadata"], "name");
    if name != format!("{plural}.{group}") {
        check.invalid(&metadata.child("name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        check.required(&path.child("group"), "");
    } else {
        check.invalid_all(&path.child("group"), group, &names::dns_subdomain(group));
        if !group.contains('.') {
            check.invalid(&path.child("group"), group, "should be a domain with at least one dot");
        }
    }
    match text(spec, "scope") {
        "" => check.required(&path.child("scope"), ""),
        scope if scope != "Cluster" && scope != "Namespaced" => {
            check.not_supported(&path.child("scope"), scope, &["Cluster", "Namespaced"]);
        }
        _ => {}
    }
    for field in ["plural", "singular"] {
        let value = text(&spec["names"], field);
        if value.is_empty() {
            check.required(&names_path.child(field), "");
        } else {
            check.invalid_all(&names_path.child(field), value, &names::dns_1035_label(value));
        }
    }
    for field in ["kind", "listKind"] {
        let value = text(&spec["names"], field);
        if value.is_empty() {
            check.required(&names_path.child(field), "");
        } else {
            let found = names::dns_1035_label(&value.to_lowercase());
            check.invalid_all(&names_path.child(field), value, &found);
        }
    }
    if text(&spec["names"], "kind") == text(&spec["names"], "listKind")
        && !text(&spec["names"], "kind").is_empty()
    {
        let kind = text(&spec["names"], "listKind");
        check.invalid(&names_path.child("listKind"), kind, "kind and listKind may not be the same");
    }
    if text(&spec["conversion"], "strategy") == "Webhook" {
        let at = path.child("conversion");
        check.not_supported(&at.child("strategy"), "Webhook", &["None"]);
    }
    versions(spec, &path, check);
    if let Some(old) = old {
        immutable(spec, &old["spec"], &path, check);
    }
}

fn immutable(spec: &Value, old: &Value, path: &Path<'_>, check: &mut Check) {
    for field in ["group", "scope"] {
        let (is, was) = (text(spec, field), text(old, field));
        if is != was {
            check.invalid(&path.child(field), is, "field is immutable");
        }
    }
    for field in ["plural", "kind"] {
        let (is, was) = (text(&spec["names"], field), text(&old["names"], field));
        if is != was {
            let at = path.child("names");
            check.invalid(&at.child(field), is, "field is immutable");
        }
    }
}

fn versions(spec: &Value, path: &Path<'_>, check: &mut Check) {
    let list = path.child("versions");
    let versions = items(spec, "versions");
    let mut storage = 0;
    let mut seen: Vec<&str> = Vec::new();
    if versions.is_empty() {
        check.invalid(&list, Value::Array(Vec::new()), "must have at least one version");
    }
    for (index, version) in versions.iter().enumerate() {
        let path = list.index(index);
        let name = text(version, "name");
        check.invalid_all(&path.child("name"), name, &names::dns_1035_label(name));
        if seen.contains(&name) {
            check.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        storage += usize::from(version["storage"] == true);
        let at = path.child("schema");
        let at = at.child("openAPIV3Schema");
        match &version["schema"]["openAPIV3Schema"] {
            Value::Null => check.required(&at, "schemas are required"),
            schema => {
                if text(schema, "type") != "object" {
                    check.invalid(
                        &at.child("type"),
                        text(schema, "type"),
                        "must be object at the root",
                    );
                }
                structural(schema, &at, true, 0, check);
            }
        }
        let columns = path.child("additionalPrinterColumns");
        for (at, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
            let path = columns.index(at);
            for field in ["name", "type", "jsonPath"] {
                if text(column, field).is_empty() {
                    check.required(&path.child(field), "");
                }
            }
        }
    }
    if !versions.is_empty() && storage != 1 {
        check.invalid(
            &list,
            spec["versions"].clone(),
            "must have exactly one version marked as storage version",
        );
    }
}

const MAX_DEPTH: usize = 128;

/// The rules of structural schemas (KEP-1111), as far as they keep a schema readable.
fn structural(schema: &Value, path: &Path<'_>, root: bool, depth: usize, check: &mut Check) {
    if depth >= MAX_DEPTH {
        check.invalid(path, "", "schema is nested too deeply");
        return;
    }
    let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let kind = text(schema, "type");
    let free = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
    if kind.is_empty() && !free && !root {
        check.required(&path.child("type"), "must not be empty for specified object fields");
    }
    const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
    if !kind.is_empty() && !TYPES.contains(&kind) {
        check.not_supported(&path.child("type"), kind, TYPES);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(error) = Regex::new(pattern)
    {
        check.invalid(
            &path.child("pattern"),
            pattern,
            &format!("must be a valid regular expression, but isn't: {error}"),
        );
    }
    if !schema["properties"].is_null() && schema["additionalProperties"].is_object() {
        check.forbidden(
            &path.child("additionalProperties"),
            "must not be used together with properties",
        );
    }
    let properties = path.child("properties");
    for (name, inner) in super::path::entries(schema, "properties") {
        if root && name == "metadata" {
            continue;
        }
        structural(inner, &properties.key(name), false, depth + 1, check);
    }
    match &schema["items"] {
        Value::Null if kind == "array" => check.required(&path.child("items"), "must be specified"),
        Value::Array(_) => {
            check.forbidden(&path.child("items"), "items must be a schema object and not an array");
        }
        Value::Null => {}
        inner => structural(inner, &path.child("items"), false, depth + 1, check),
    }
    if schema["additionalProperties"].is_object() {
        let at = path.child("additionalProperties");
        structural(&schema["additionalProperties"], &at, false, depth + 1, check);
    }
    let list_kind = text(schema, "x-kubernetes-list-type");
    if list_kind == "map" && items(schema, "x-kubernetes-list-map-keys").is_empty() {
        check.required(
            &path.child("x-kubernetes-list-map-keys"),
            "must not be empty if x-kubernetes-list-type is map",
        );
    }
}
