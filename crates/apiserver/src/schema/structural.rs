//! Structural schemas of CustomResourceDefinitions → the same arena as the built-in types.
//!
//! The arena serves pruning, defaulting, merging and publishing; value validation (ranges,
//! patterns, anyOf …) walks the raw schema again (`validate::custom`). Rules in CEL
//! (`x-kubernetes-validations`) are not evaluated; [`unevaluated_rules`] says where they are so
//! that the server can warn plainly.

use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::{Arena, Field, Id, ListMerge, Node, Scalar, Schema, Struct, table};

impl Schema {
    /// Compiles the `openAPIV3Schema` of a CustomResourceDefinition's version. Total: what is not
    /// structural is refused earlier, by validation of the CustomResourceDefinition; here it
    /// means "anything".
    pub fn structural(raw: Arc<Value>) -> Self {
        let mut arena = Arena::default();
        let root = compile_root(&mut arena, &raw);
        collect_patterns(&raw, &mut arena, 0);
        arena.raw = Some(raw);
        Self::from_arena(arena, root)
    }
}

/// Deeper schemas are refused by the body limit long before; this only bounds recursion.
const MAX_DEPTH: usize = 128;

fn compile_root(arena: &mut Arena, raw: &Value) -> Id {
    let id = compile(arena, raw, 0);
    let scalar = arena.push(Node::Scalar(Scalar::String));
    let metadata = arena.push(Node::Builtin(builtin("meta.v1.ObjectMeta")));
    if !matches!(arena.nodes[id as usize], Node::Struct(_)) {
        // `x-kubernetes-preserve-unknown-fields` at the root, or a schema that is no struct.
        arena.nodes[id as usize] =
            Node::Struct(Struct { preserve_unknown: true, ..Struct::default() });
    }
    if let Node::Struct(shape) = &mut arena.nodes[id as usize] {
        shape.atomic = false;
        put(shape, Field::new("apiVersion", scalar));
        put(shape, Field::new("kind", scalar));
        put(shape, Field::new("metadata", metadata));
    }
    id
}

fn builtin(name: &str) -> Id {
    *table().types.get(name).expect("invariant: the table has this meta type")
}

fn put(shape: &mut Struct, field: Field) {
    match shape.fields.binary_search_by(|known| known.name.cmp(&field.name)) {
        Ok(at) => shape.fields[at] = field,
        Err(at) => shape.fields.insert(at, field),
    }
}

fn flag(raw: &Map<String, Value>, name: &str) -> bool {
    raw.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text<'a>(raw: &'a Map<String, Value>, name: &str) -> &'a str {
    raw.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn compile(arena: &mut Arena, raw: &Value, depth: usize) -> Id {
    let Some(raw) = raw.as_object().filter(|_| depth < MAX_DEPTH) else {
        return arena.push(Node::Any);
    };
    if flag(raw, "x-kubernetes-int-or-string") {
        return arena.push(Node::Scalar(Scalar::IntOrString));
    }
    let node = match text(raw, "type") {
        "string" => Node::Scalar(Scalar::String),
        "boolean" => Node::Scalar(Scalar::Bool),
        "integer" => Node::Scalar(Scalar::Int64),
        "number" => Node::Scalar(Scalar::Double),
        "array" => {
            let item = compile(arena, raw.get("items").unwrap_or(&Value::Null), depth + 1);
            Node::List { item, merge: list_merge(raw) }
        }
        "object" | "" => return compile_object(arena, raw, depth),
        _ => Node::Any,
    };
    arena.push(node)
}

fn list_merge(raw: &Map<String, Value>) -> ListMerge {
    match text(raw, "x-kubernetes-list-type") {
        "set" => ListMerge::Set,
        "map" => ListMerge::Map(
            raw.get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .map(|keys| keys.iter().filter_map(Value::as_str).map(Into::into).collect())
                .unwrap_or_default(),
        ),
        _ => ListMerge::Atomic,
    }
}

fn compile_object(arena: &mut Arena, raw: &Map<String, Value>, depth: usize) -> Id {
    let preserve = flag(raw, "x-kubernetes-preserve-unknown-fields");
    let embedded = flag(raw, "x-kubernetes-embedded-resource");
    let atomic = text(raw, "x-kubernetes-map-type") == "atomic";
    let properties = raw.get("properties").and_then(Value::as_object);
    if properties.is_none() && !embedded {
        match raw.get("additionalProperties") {
            Some(Value::Object(_)) => {
                let value = compile(arena, &raw["additionalProperties"], depth + 1);
                return arena.push(Node::Map { value, atomic });
            }
            Some(Value::Bool(true)) => return arena.push(Node::AnyObject),
            _ => {}
        }
        if preserve {
            let node = if text(raw, "type") == "object" { Node::AnyObject } else { Node::Any };
            return arena.push(node);
        }
        if text(raw, "type").is_empty() {
            return arena.push(Node::Any);
        }
    }
    let required: Vec<&str> = raw
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut shape = Struct { atomic, preserve_unknown: preserve, ..Struct::default() };
    for (name, property) in properties.into_iter().flatten() {
        let node = compile(arena, property, depth + 1);
        let mut field = Field::new(name, node);
        field.required = required.contains(&name.as_str());
        field.nullable = property.get("nullable").and_then(Value::as_bool).unwrap_or(false);
        field.default = property.get("default").filter(|value| !value.is_null()).cloned();
        put(&mut shape, field);
    }
    if embedded {
        let scalar = arena.push(Node::Scalar(Scalar::String));
        let metadata = arena.push(Node::Builtin(builtin("meta.v1.ObjectMeta")));
        put(&mut shape, Field::new("apiVersion", scalar));
        put(&mut shape, Field::new("kind", scalar));
        put(&mut shape, Field::new("metadata", metadata));
    }
    arena.push(Node::Struct(shape))
}

fn collect_patterns(raw: &Value, arena: &mut Arena, depth: usize) {
    if depth >= MAX_DEPTH {
        return;
    }
    match raw {
        Value::Object(map) => {
            if let Some(Value::String(pattern)) = map.get("pattern")
                && let Ok(regex) = Regex::new(pattern)
            {
                arena.patterns.insert(pattern.clone(), regex);
            }
            for value in map.values() {
                collect_patterns(value, arena, depth + 1);
            }
        }
        Value::Array(items) => {
            for value in items {
                collect_patterns(value, arena, depth + 1);
            }
        }
        _ => {}
    }
}

/// Paths of the schema parts that carry CEL rules, which this server does not evaluate:
/// `spec.replicas`. Empty if there are none.
pub fn unevaluated_rules(raw: &Value) -> Vec<String> {
    let mut found = Vec::new();
    rules(raw, "", &mut found, 0);
    found
}

fn rules(raw: &Value, path: &str, found: &mut Vec<String>, depth: usize) {
    let Some(raw) = raw.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    if raw.get("x-kubernetes-validations").and_then(Value::as_array).is_some_and(|l| !l.is_empty())
    {
        found.push(if path.is_empty() { "<root>".to_owned() } else { path.to_owned() });
    }
    for (name, property) in raw.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let next = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        rules(property, &next, found, depth + 1);
    }
    if let Some(items) = raw.get("items") {
        rules(items, &format!("{path}[*]"), found, depth + 1);
    }
    if let Some(values) = raw.get("additionalProperties") {
        rules(values, &format!("{path}.*"), found, depth + 1);
    }
}
