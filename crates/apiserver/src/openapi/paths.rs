//! The path items of a kind: which operations there are, and the query parameters clients probe.

use serde_json::{Map, Value, json};

use super::definitions::{Dialect, Names};
use super::group_path;
use crate::kinds::{Kind, Served, Verbs};

fn parameter(name: &str, place: &str, kind: &str, dialect: Dialect) -> Value {
    let required = place == "path";
    let mut parameter = match dialect {
        Dialect::V2 => json!({ "name": name, "in": place, "type": kind, "uniqueItems": true }),
        Dialect::V3 => json!({
            "name": name, "in": place, "schema": { "type": kind, "uniqueItems": true },
        }),
    };
    if required {
        parameter["required"] = json!(true);
    }
    parameter
}

fn query(names: &[(&str, &str)], dialect: Dialect) -> Vec<Value> {
    names.iter().map(|(name, kind)| parameter(name, "query", kind, dialect)).collect()
}

const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

struct Writer<'a> {
    kind: &'a Kind,
    served: &'a Served,
    dialect: Dialect,
}

impl Writer<'_> {
    /// One operation: its action, id, parameters, the body it takes and what it answers.
    fn operation(
        &self,
        action: &str,
        id: &str,
        names: &[(&str, &str)],
        takes: Option<&str>,
        answers: &str,
    ) -> Value {
        let answer = self.dialect.reference(answers);
        let mut parameters = query(names, self.dialect);
        let types: &[&str] = if action == "patch" {
            if self.kind.crd.is_some() {
                &[PATCH_TYPES[0], PATCH_TYPES[1], PATCH_TYPES[3]]
            } else {
                PATCH_TYPES
            }
        } else {
            &["*/*"]
        };
        let response = match self.dialect {
            Dialect::V2 => json!({ "description": "OK", "schema": answer }),
            Dialect::V3 => json!({
                "description": "OK", "content": { "application/json": { "schema": answer } },
            }),
        };
        let mut operation = json!({
            "operationId": id,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {
                "group": self.served.group,
                "version": self.served.version,
                "kind": self.kind.kind,
            },
            "responses": { "200": response },
        });
        match (self.dialect, takes) {
            (Dialect::V2, takes) => {
                operation["consumes"] = json!(types);
                operation["produces"] = json!(["application/json", "application/yaml"]);
                if let Some(takes) = takes {
                    let schema = self.dialect.reference(takes);
                    parameters.push(
                        json!({ "name": "body", "in": "body", "required": true, "schema": schema }),
                    );
                }
            }
            (Dialect::V3, Some(takes)) => {
                let schema = self.dialect.reference(takes);
                let content: Map<String, Value> = types
                    .iter()
                    .map(|kind| ((*kind).to_owned(), json!({ "schema": schema })))
                    .collect();
                operation["requestBody"] = json!({ "content": content });
            }
            (Dialect::V3, None) => {}
        }
        operation["parameters"] = Value::Array(parameters);
        operation
    }
}

/// Adds the paths of a kind to a document's.
pub(super) fn add(
    paths: &mut Map<String, Value>,
    kind: &Kind,
    served: &Served,
    names: &Names,
    dialect: Dialect,
) {
    let writer = Writer { kind, served, dialect };
    let root = format!("/{}", group_path(&served.group, &served.version));
    let scope = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", kind.plural);
    let single = format!("{collection}/{{name}}");
    let id = |verb: &str, rest: &str| {
        let scope = if kind.namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{scope}{}{rest}", capital(&served.group, &served.version), kind.kind)
    };
    let in_namespace = || parameter("namespace", "path", "string", dialect);
    let named = || parameter("name", "path", "string", dialect);
    let status = crate::schema::full_name("meta.v1.Status");
    let patch = crate::schema::full_name("meta.v1.Patch");
    let options = crate::schema::full_name("meta.v1.DeleteOptions");
    let object = names.object.as_str();

    let post = writer.operation("post", &id("create", ""), WRITE, Some(object), object);
    let mut item = json!({ "post": post });
    let mut shared: Vec<Value> = if kind.namespaced { vec![in_namespace()] } else { Vec::new() };
    item["parameters"] = json!(shared);
    if kind.verbs == Verbs::CreateOnly {
        paths.insert(collection, item);
        return;
    }
    item["get"] = writer.operation("list", &id("list", ""), LIST, None, &names.list);
    item["delete"] = writer.operation(
        "deletecollection",
        &id("deleteCollection", ""),
        DELETE,
        Some(&options),
        &status,
    );
    paths.insert(collection.clone(), item);
    if kind.namespaced {
        let all = writer.operation(
            "list",
            &format!("{}ForAllNamespaces", id("list", "")),
            LIST,
            None,
            &names.list,
        );
        paths.insert(format!("{root}/{}", kind.plural), json!({ "get": all, "parameters": [] }));
    }
    shared.push(named());
    paths.insert(
        single.clone(),
        json!({
            "parameters": shared,
            "get": writer.operation("get", &id("read", ""), &[], None, object),
            "put": writer.operation("put", &id("replace", ""), WRITE, Some(object), object),
            "patch": writer.operation("patch", &id("patch", ""), PATCH, Some(&patch), object),
            "delete": writer.operation("delete", &id("delete", ""), DELETE, Some(&options), &status),
        }),
    );
    if served.status {
        paths.insert(
            format!("{single}/status"),
            json!({
                "parameters": shared,
                "get": writer.operation("get", &id("read", "Status"), &[], None, object),
                "put": writer.operation("put", &id("replace", "Status"), WRITE, Some(object), object),
                "patch": writer.operation("patch", &id("patch", "Status"), PATCH, Some(&patch), object),
            }),
        );
    }
}

/// `AppsV1`, `CoreV1`, `NetworkingV1beta1`.
fn capital(group: &str, version: &str) -> String {
    let group = match group.split('.').next() {
        None | Some("") => "core",
        Some(first) => first,
    };
    let upper = |word: &str| {
        let mut chars = word.chars();
        chars.next().map_or_else(String::new, |first| {
            first.to_uppercase().collect::<String>() + chars.as_str()
        })
    };
    upper(group) + &upper(version)
}
