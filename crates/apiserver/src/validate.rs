//! Validation of objects, with upstream's field paths, reasons and wording.
//!
//! Every function is total over arbitrary JSON and returns [`Causes`]; none does I/O. Objects are
//! in their kind's storage version, decoded and defaulted. What one kind asks beyond the common
//! rules lives in a module per family below.

use std::fmt;

use serde_json::Value;

use crate::kinds::Kind;
use crate::schema::{Cursor, Node};

mod config;
mod custom;
mod definition;
mod endpoints;
mod metadata;
pub mod names;
mod network;
mod node;
mod path;
mod pod;
mod service;
mod workload;

pub(crate) use path::{Check, Path};

/// Why a field is refused; the `reason` of a status cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The value breaks a rule.
    Invalid,
    /// Something must be there.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// Not one of the values that are known.
    NotSupported,
    /// The rules forbid this value or its change.
    Forbidden,
    /// A name that leads nowhere.
    NotFound,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// Another JSON type is wanted.
    TypeInvalid,
}

impl Reason {
    /// The `reason` in a `Status` cause.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Invalid => "FieldValueInvalid",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::Invalid | Reason::TypeInvalid => "Invalid value",
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "Not found",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
        }
    }
}

/// One refused field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// What is wrong with it.
    pub reason: Reason,
    /// For people: `Invalid value: 0: must be between 1 and 65535, inclusive`.
    pub message: String,
    /// `spec.ports[0].port`.
    pub field: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with an object; empty if it is right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Causes(pub Vec<Cause>);

impl Causes {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The causes as `details.causes` of a `Status`.
    pub fn to_status(&self) -> Value {
        self.0
            .iter()
            .map(|cause| {
                serde_json::json!({
                    "reason": cause.reason.as_str(),
                    "message": cause.message,
                    "field": cause.field,
                })
            })
            .collect()
    }

    /// Nothing if there are no causes.
    ///
    /// # Errors
    /// Itself, if there are causes.
    pub fn into_result(self) -> Result<(), Causes> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

/// All causes as one line, as upstream joins them after `Service "web" is invalid: `.
impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = Vec::with_capacity(self.0.len());
        for cause in &self.0 {
            let line = cause.to_string();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        match lines.as_slice() {
            [line] => f.write_str(line),
            lines => write!(f, "[{}]", lines.join(", ")),
        }
    }
}

impl std::error::Error for Causes {}

/// Validates a new object of a kind: its metadata and what the kind asks.
pub fn create(kind: &Kind, new: &Value) -> Causes {
    let mut check = Check::default();
    metadata::create(kind, new, &mut check);
    kind_rules(kind, new, None, &mut check);
    Causes(check.causes)
}

/// Validates the change from `old` to `new`, both of a kind.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Causes {
    let mut check = Check::default();
    metadata::update(new, old, &mut check);
    kind_rules(kind, new, Some(old), &mut check);
    Causes(check.causes)
}

/// Validates a write to the `status` subresource.
pub fn status(kind: &Kind, new: &Value, old: &Value) -> Causes {
    let mut check = Check::default();
    metadata::update(new, old, &mut check);
    let root = Path::ROOT;
    if let Some(schema) = kind.storage().and_then(|served| served.schema()) {
        if kind.crd.is_some() {
            custom::object(&schema, new, &mut check);
        } else if let Some(at) = schema.cursor().child("status") {
            enums(at, &new["status"], &root.child("status"), &mut check);
        }
    }
    match kind.kind.as_str() {
        _ if kind.crd.is_some() => {}
        "Pod" => pod::status(new, &mut check),
        "Service" => {
            service::ingress_belongs(new, &mut check);
            service::load_balancer_status(new, true, &mut check);
        }
        "Ingress" => service::load_balancer_status(new, false, &mut check),
        _ => {}
    }
    Causes(check.causes)
}

fn kind_rules(kind: &Kind, new: &Value, old: Option<&Value>, check: &mut Check) {
    let schema = kind.storage().and_then(|served| served.schema());
    if kind.crd.is_some() {
        if let Some(schema) = schema {
            custom::object(&schema, new, check);
        }
        return;
    }
    if let Some(at) = schema.as_ref().and_then(|schema| schema.cursor().child("spec")) {
        enums(at, &new["spec"], &Path::ROOT.child("spec"), check);
    }
    match kind.kind.as_str() {
        "Service" => service::service(new, old, check),
        "Endpoints" => endpoints::endpoints(new, check),
        "EndpointSlice" => endpoints::slice(new, old, check),
        "Pod" => pod::pod(new, old, check),
        "Deployment" => workload::deployment(new, old, check),
        "ReplicaSet" => workload::replica_set(new, old, check),
        "NetworkPolicy" => network::policy(new, check),
        "Ingress" => network::ingress(new, check),
        "IngressClass" => network::ingress_class(new, old, check),
        "ServiceCIDR" => network::service_cidr(new, old, check),
        "IPAddress" => network::ip_address(new, old, check),
        "ConfigMap" => config::config_map(new, old, check),
        "Secret" => config::secret(new, old, check),
        "Lease" => config::lease(new, check),
        "Node" => node::node(new, old, check),
        "CustomResourceDefinition" => definition::definition(new, old, check),
        "Event" => config::event(new, check),
        _ => {}
    }
}

/// Values of fields that know only a few, wherever the schema says so.
fn enums(at: Cursor<'_>, value: &Value, path: &Path<'_>, check: &mut Check) {
    match (at.node(), value) {
        (Node::Struct(shape), Value::Object(map)) => {
            for (name, inner) in map {
                let Some(field) = shape.field(name) else { continue };
                let here = path.child(name);
                if !field.one_of.is_empty() {
                    let single = std::slice::from_ref(inner);
                    let items = inner.as_array().map_or(single, Vec::as_slice);
                    for (index, item) in items.iter().enumerate() {
                        let Some(text) = item.as_str().filter(|text| !text.is_empty()) else {
                            continue;
                        };
                        if field.one_of.iter().any(|known| **known == *text) {
                            continue;
                        }
                        let known: Vec<&str> = field.one_of.iter().map(|known| &**known).collect();
                        let at =
                            if inner.is_array() { here.index(index) } else { path.child(name) };
                        check.not_supported(&at, text, &known);
                    }
                }
                enums(at.to(field.node), inner, &here, check);
            }
        }
        (Node::List { item, .. }, Value::Array(items)) => {
            for (index, inner) in items.iter().enumerate() {
                enums(at.to(*item), inner, &path.index(index), check);
            }
        }
        (Node::Map { value: shape, .. }, Value::Object(map)) => {
            for (name, inner) in map {
                enums(at.to(*shape), inner, &path.key(name), check);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
