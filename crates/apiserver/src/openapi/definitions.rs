//! Schemas of the types a document's kinds reach, in either dialect.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Served};
use crate::schema::{Cursor, Field, ListMerge, Node, Scalar, Schema, full_name};

/// Swagger 2.0 or OpenAPI 3.0; they differ in where definitions are and how a reference may be
/// decorated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({ "$ref": format!("#/definitions/{name}") }),
            Dialect::V3 => json!({ "$ref": format!("#/components/schemas/{name}") }),
        }
    }
}

/// Names of a kind's definitions.
pub(super) struct Names {
    pub(super) object: String,
    pub(super) list: String,
}

pub(super) struct Definitions {
    dialect: Dialect,
    done: BTreeMap<String, Value>,
    /// Built-in types still to write.
    open: Vec<String>,
}

const DELETE_OPTIONS: &str = "meta.v1.DeleteOptions";
const STATUS: &str = "meta.v1.Status";
const LIST_META: &str = "meta.v1.ListMeta";
const OBJECT_META: &str = "meta.v1.ObjectMeta";
const PATCH: &str = "meta.v1.Patch";

impl Definitions {
    pub(super) fn new(dialect: Dialect) -> Self {
        let open = [DELETE_OPTIONS, STATUS, LIST_META, OBJECT_META].map(str::to_owned).to_vec();
        let mut done = BTreeMap::new();
        done.insert(full_name(PATCH), json!({ "type": "object" }));
        Self { dialect, done, open }
    }

    /// Adds a kind and its list; returns what they are called.
    pub(super) fn kind(&mut self, kind: &Kind, served: &Served) -> Names {
        let object = match &served.structural {
            None => served.schema.clone(),
            Some(_) => {
                let mut parts: Vec<&str> = served.group.split('.').collect();
                parts.reverse();
                format!("{}.{}.{}", parts.join("."), served.version, kind.kind)
            }
        };
        let list = format!("{object}List");
        let gvk = |name: &str| json!([{ "group": served.group, "version": served.version, "kind": name }]);
        let mut definition = match &served.structural {
            None => match Schema::builtin(&served.schema) {
                Some(schema) => self.body(schema.cursor()),
                None => json!({ "type": "object" }),
            },
            Some(schema) => self.custom(schema),
        };
        let words = explain(&kind.kind);
        if !words.is_empty() && kind.crd.is_none() {
            definition["description"] = json!(words);
        }
        definition["x-kubernetes-group-version-kind"] = gvk(&kind.kind);
        self.done.insert(object.clone(), definition);
        let reference = self.dialect.reference(&object);
        let meta = self.reference(LIST_META);
        self.done.insert(
            list.clone(),
            json!({
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": { "type": "string" },
                    "kind": { "type": "string" },
                    "metadata": meta,
                    "items": { "type": "array", "items": reference },
                },
                "x-kubernetes-group-version-kind": gvk(&kind.list_kind),
            }),
        );
        Names { object, list }
    }

    /// All definitions, with every type they reach.
    pub(super) fn finish(mut self) -> Value {
        while let Some(name) = self.open.pop() {
            let full = full_name(&name);
            if self.done.contains_key(&full) {
                continue;
            }
            let body = match Schema::builtin(&name) {
                Some(schema) => self.body(schema.cursor()),
                None => json!({ "type": "object" }),
            };
            self.done.insert(full, body);
        }
        self.done.into_iter().collect::<Map<_, _>>().into()
    }

    fn reference(&mut self, short: &str) -> Value {
        self.open.push(short.to_owned());
        self.dialect.reference(&full_name(short))
    }

    /// A definition's own text: a struct spelled out, anything else as a use of it.
    fn body(&mut self, at: Cursor<'_>) -> Value {
        let Some(shape) = at.as_struct() else { return self.inline(at) };
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in &shape.fields {
            properties.insert(field.name.to_string(), self.field(at, field));
            if field.required {
                required.push(json!(field.name));
            }
        }
        let mut body = json!({ "type": "object" });
        if !required.is_empty() {
            body["required"] = Value::Array(required);
        }
        if !properties.is_empty() {
            body["properties"] = Value::Object(properties);
        }
        if shape.atomic {
            body["x-kubernetes-map-type"] = json!("atomic");
        }
        body
    }

    fn field(&mut self, owner: Cursor<'_>, field: &Field) -> Value {
        let at = owner.to(field.node);
        let mut schema = self.inline(at);
        let mut strategy = Vec::new();
        if field.patch_merge {
            strategy.push("merge");
        }
        if field.patch_retain_keys {
            strategy.push("retainKeys");
        }
        let decorated = !strategy.is_empty() || field.default.is_some();
        if decorated && schema.get("$ref").is_some() && self.dialect == Dialect::V3 {
            // A reference may have no siblings in 3.0.
            schema = json!({ "allOf": [schema] });
        }
        if !strategy.is_empty() {
            schema["x-kubernetes-patch-strategy"] = json!(strategy.join(","));
        }
        if let Some(key) = &field.merge_key {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
        if let Some(default) = &field.default {
            schema["default"] = default.clone();
        }
        if !field.one_of.is_empty() && schema["type"] == "string" {
            schema["enum"] = json!(field.one_of);
        }
        schema
    }

    /// A use of a shape.
    fn inline(&mut self, at: Cursor<'_>) -> Value {
        match at.node() {
            Node::Scalar(scalar) => self.scalar(*scalar),
            Node::Any | Node::Builtin(_) => json!({}),
            Node::AnyObject => json!({ "type": "object" }),
            Node::List { item, merge } => {
                let items = self.inline(at.to(*item));
                let mut list = json!({ "type": "array", "items": items });
                match merge {
                    ListMerge::Atomic => list["x-kubernetes-list-type"] = json!("atomic"),
                    ListMerge::Set => list["x-kubernetes-list-type"] = json!("set"),
                    ListMerge::Map(keys) => {
                        list["x-kubernetes-list-type"] = json!("map");
                        list["x-kubernetes-list-map-keys"] = json!(keys);
                    }
                }
                list
            }
            Node::Map { value, atomic } => {
                let values = self.inline(at.to(*value));
                let mut map = json!({ "type": "object", "additionalProperties": values });
                if *atomic {
                    map["x-kubernetes-map-type"] = json!("atomic");
                }
                map
            }
            Node::Struct(shape) if shape.name.is_empty() => self.body(at),
            Node::Struct(shape) => {
                let name = shape.name.to_string();
                self.reference(&name)
            }
        }
    }

    fn scalar(&self, scalar: Scalar) -> Value {
        match scalar {
            Scalar::String => json!({ "type": "string" }),
            Scalar::Bool => json!({ "type": "boolean" }),
            Scalar::Int32 => json!({ "type": "integer", "format": "int32" }),
            Scalar::Int64 => json!({ "type": "integer", "format": "int64" }),
            Scalar::Double => json!({ "type": "number", "format": "double" }),
            Scalar::Bytes => json!({ "type": "string", "format": "byte" }),
            Scalar::Time | Scalar::MicroTime => json!({ "type": "string", "format": "date-time" }),
            Scalar::Quantity => match self.dialect {
                Dialect::V2 => json!({ "type": "string" }),
                Dialect::V3 => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
            },
            Scalar::IntOrString => match self.dialect {
                Dialect::V2 => json!({ "type": "string", "format": "int-or-string" }),
                Dialect::V3 => json!({
                    "format": "int-or-string",
                    "oneOf": [{ "type": "integer" }, { "type": "string" }],
                }),
            },
        }
    }

    /// A custom resource as its definition wrote it, with the metadata every object has.
    fn custom(&mut self, schema: &Schema) -> Value {
        let mut body = schema.raw().map_or_else(|| json!({}), |raw| Value::clone(raw));
        if !body.is_object() {
            body = json!({});
        }
        if self.dialect == Dialect::V2 {
            for_v2(&mut body, 0);
        }
        body["type"] = json!("object");
        if !body["properties"].is_object() {
            body["properties"] = json!({});
        }
        let meta = self.reference(OBJECT_META);
        let properties = &mut body["properties"];
        for name in ["apiVersion", "kind"] {
            if properties.get(name).is_none() {
                properties[name] = json!({ "type": "string" });
            }
        }
        properties["metadata"] = meta;
        body
    }
}

/// Swagger 2.0 knows no junctors and no `nullable`; upstream leaves such parts open.
fn for_v2(schema: &mut Value, depth: usize) {
    const MAX_DEPTH: usize = 128;
    let Some(map) = schema.as_object_mut().filter(|_| depth < MAX_DEPTH) else { return };
    for word in ["anyOf", "oneOf", "allOf", "not", "nullable"] {
        map.shift_remove(word);
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.shift_remove("properties");
    }
    for inner in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        for_v2(inner.1, depth + 1);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            for_v2(inner, depth + 1);
        }
    }
}

/// A few words of our own for `kubectl explain`.
fn explain(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "A room for names: objects in different namespaces may be called the same.",
        "Node" => "A machine that runs pods.",
        "Pod" => "Containers that live on one node and share one network.",
        "Service" => "One stable address for a changing set of pods.",
        "Endpoints" => "The addresses behind a Service, in the form EndpointSlice replaced.",
        "EndpointSlice" => "Some of the addresses behind a Service, of one address family.",
        "ConfigMap" => "Settings for pods, by key.",
        "Secret" => "Settings that not everybody may read, by key.",
        "ServiceAccount" => "Who a pod is when it talks to the API.",
        "Event" => "Something that happened to an object.",
        "Lease" => "Who holds something, and until when.",
        "Deployment" => "Pods of one template, replaced step by step when the template changes.",
        "ReplicaSet" => "A number of pods of one template.",
        "NetworkPolicy" => "Which traffic selected pods accept and send.",
        "Ingress" => "Which Service answers which HTTP host and path.",
        "IngressClass" => "Which controller serves an Ingress.",
        "CustomResourceDefinition" => "A kind that is added to the API.",
        "ServiceCIDR" => "A range the addresses of Services are taken from.",
        "IPAddress" => "An address that is taken, and by whom.",
        _ => "",
    }
}
