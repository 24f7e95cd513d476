//! Defaulting, and what the server itself sets on create and update.
//!
//! [`apply`] gives an object of a served version the values upstream gives it; [`for_create`] and
//! [`for_update`] are upstream's strategies and always-on admission (a new Pod is Pending, a
//! Namespace carries its finalizer, `stringData` becomes `data`). Pure; allocation is in
//! [`crate::allocate`].

use serde_json::{Map, Value, json};

use crate::kinds::{Kind, Served};
use crate::schema::{Cursor, Node};

mod network;
mod pod;
mod strategy;
mod workload;

pub use strategy::{for_create, for_status, for_update};

/// Gives an object of `kind`, written as `served`, its defaults: first what the schema says, then
/// what upstream's code adds per kind.
pub fn apply(kind: &Kind, served: &Served, object: &mut Value) {
    if let Some(schema) = served.schema() {
        from_schema(schema.cursor(), object);
    }
    if kind.crd.is_some() {
        return;
    }
    match kind.kind.as_str() {
        "Pod" => pod::pod(object),
        "Deployment" => workload::deployment(&served.api_version(), object),
        "ReplicaSet" => workload::replica_set(object),
        "Service" => network::service(object),
        "Endpoints" => network::endpoints(object),
        "EndpointSlice" => network::endpoint_slice(object),
        "NetworkPolicy" => network::policy(object),
        "Ingress" => network::ingress(&served.version, object),
        "IngressClass" => network::ingress_class(object),
        "Namespace" => namespace(object),
        "Secret" => set(object, "type", json!("Opaque")),
        "CustomResourceDefinition" => definition(object),
        "Node" => node(object),
        _ => {}
    }
}

/// Fills in the defaults a schema carries, wherever the object that holds the field is there.
pub(crate) fn from_schema(at: Cursor<'_>, value: &mut Value) {
    match (at.node(), value) {
        (Node::Struct(shape), Value::Object(map)) => {
            for field in &shape.fields {
                if let Some(default) = &field.default
                    && map.get(&*field.name).is_none_or(|v| v.is_null() && !field.nullable)
                {
                    map.insert(field.name.to_string(), default.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                if let Some(field) = shape.field(name) {
                    from_schema(at.to(field.node), inner);
                }
            }
        }
        (Node::List { item, .. }, Value::Array(items)) => {
            for inner in items {
                from_schema(at.to(*item), inner);
            }
        }
        (Node::Map { value: inner, .. }, Value::Object(map)) => {
            for value in map.values_mut() {
                from_schema(at.to(*inner), value);
            }
        }
        _ => {}
    }
}

/// Sets a field of an object if it is absent, null or the empty string.
fn set(object: &mut Value, name: &str, default: Value) {
    if let Value::Object(map) = object {
        set_in(map, name, default);
    }
}

fn set_in(map: &mut Map<String, Value>, name: &str, default: Value) {
    let absent = match map.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty() && default.as_str() != Some(""),
        Some(_) => false,
    };
    if absent {
        map.insert(name.to_owned(), default);
    }
}

/// The object under a field, made if it is absent; `None` if something else is there.
fn object_at<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let map = object.as_object_mut()?;
    let inner = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if inner.is_null() {
        *inner = Value::Object(Map::new());
    }
    inner.is_object().then_some(inner)
}

/// The items of a list field; empty if it is absent.
fn items_at<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// A text field; empty if it is absent.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn namespace(object: &mut Value) {
    let name = text(&object["metadata"], "name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(metadata) = object_at(object, "metadata")
        && let Some(labels) = object_at(metadata, "labels")
    {
        labels["kubernetes.io/metadata.name"] = Value::String(name);
    }
}

fn definition(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set(spec, "conversion", json!({"strategy": "None"}));
    if let Some(names) = object_at(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set(names, "singular", Value::String(kind.to_lowercase()));
            set(names, "listKind", Value::String(format!("{kind}List")));
        }
    }
}

fn node(object: &mut Value) {
    let Some(status) = object.get_mut("status") else { return };
    if let Some(capacity) = status.get("capacity").cloned() {
        set(status, "allocatable", capacity);
    }
}

#[cfg(test)]
mod tests;
