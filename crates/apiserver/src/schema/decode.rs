//! Reads a value as a schema says: types, unknown fields, pruning.
//!
//! Plays the part of upstream's strict decoder. Type errors carry Go's wording, because that is
//! what users of `kubectl` search for; unknown and duplicate fields follow `fieldValidation`.

use base64::Engine as _;
use serde_json::Value;

use super::body::Body;
use super::{Cursor, Node, Scalar, Schema};

/// The `fieldValidation` parameter of create, update and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Unknown and duplicate fields are an error.
    Strict,
    /// They are dropped with a warning; the server's default.
    #[default]
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    /// Reads the query parameter; absent or empty means [`FieldValidation::Warn`].
    pub fn from_parameter(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            "Ignore" => Some(Self::Ignore),
            _ => None,
        }
    }
}

/// A body that is not an object of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A value of the wrong type; Go's message.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields under [`FieldValidation::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

impl Schema {
    /// Reads a body: checks types, drops what the schema does not know and nulls, and returns
    /// the value with the warnings due under `mode`.
    ///
    /// The message for the client is upstream's
    /// `Service in version "v1" cannot be handled as a Service: {error}`, status 400.
    ///
    /// # Errors
    /// [`DecodeError::Type`] or, in strict mode, [`DecodeError::Strict`].
    pub fn decode(
        &self,
        body: Body,
        mode: FieldValidation,
    ) -> Result<(Value, Vec<String>), DecodeError> {
        let Body { mut value, duplicates } = body;
        let unknown = self.prune(&mut value)?;
        let mut findings: Vec<String> =
            duplicates.into_iter().map(|path| format!("duplicate field {path:?}")).collect();
        findings.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
        match mode {
            FieldValidation::Strict if !findings.is_empty() => Err(DecodeError::Strict(findings)),
            FieldValidation::Strict | FieldValidation::Ignore => Ok((value, Vec::new())),
            FieldValidation::Warn => Ok((value, findings)),
        }
    }

    /// Checks types, removes nulls and unknown fields; returns the paths of the latter.
    ///
    /// # Errors
    /// [`DecodeError::Type`] for the first value of a wrong type.
    pub fn prune(&self, value: &mut Value) -> Result<Vec<String>, DecodeError> {
        let mut walk = Walk { path: Vec::new(), unknown: Vec::new() };
        if self.raw().is_some() {
            // Types of custom resources are told by validation (422), not by the decoder; only
            // their metadata is a Go struct.
            walk.custom(self.cursor(), value)?;
        } else {
            walk.value(self.cursor(), "", value)?;
        }
        Ok(walk.unknown)
    }
}

enum Step {
    Field(String),
    Item(usize),
}

struct Walk {
    path: Vec<Step>,
    unknown: Vec<String>,
}

impl Walk {
    fn unknown(&mut self, name: &str) {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Item(index) => text.push_str(&format!("[{index}]")),
            }
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(name);
        self.unknown.push(text);
    }

    /// Go's words for a mismatch; its path has no indices.
    fn mismatch(&self, owner: &str, value: &Value, go_type: &str) -> DecodeError {
        let what = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if go_type.starts_with("int") && !number_is_plain(number) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let path: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                Step::Item(_) => None,
            })
            .collect();
        let name = owner.rsplit('.').next().unwrap_or_default();
        DecodeError::Type(if path.is_empty() {
            format!("json: cannot unmarshal {what} into Go value of type {go_type}")
        } else {
            format!(
                "json: cannot unmarshal {what} into Go struct field {name}.{} of type {go_type}",
                path.join(".")
            )
        })
    }

    fn value(&mut self, at: Cursor<'_>, owner: &str, value: &mut Value) -> Result<(), DecodeError> {
        match at.node() {
            Node::Any | Node::Builtin(_) => Ok(()),
            Node::AnyObject => {
                if value.is_object() {
                    Ok(())
                } else {
                    Err(self.mismatch(owner, value, &at.go_type()))
                }
            }
            Node::Scalar(scalar) => self.scalar(*scalar, owner, value),
            Node::List { item, .. } => {
                let item = at.to(*item);
                let Value::Array(items) = value else {
                    return Err(self.mismatch(owner, value, &at.go_type()));
                };
                for (index, element) in items.iter_mut().enumerate() {
                    if element.is_null() {
                        // Go leaves the zero value; a zero struct is an empty object.
                        *element = zero(item);
                    }
                    self.path.push(Step::Item(index));
                    self.value(item, owner, element)?;
                    self.path.pop();
                }
                Ok(())
            }
            Node::Map { value: inner, .. } => {
                let inner = at.to(*inner);
                let Value::Object(map) = value else {
                    return Err(self.mismatch(owner, value, &at.go_type()));
                };
                for (key, element) in map.iter_mut() {
                    if element.is_null() {
                        *element = zero(inner);
                    }
                    // Go names the field that holds the map, not the key.
                    if inner.as_struct().is_some() {
                        self.path.push(Step::Field(key.clone()));
                        self.value(inner, owner, element)?;
                        self.path.pop();
                    } else {
                        self.value(inner, owner, element)?;
                    }
                }
                Ok(())
            }
            Node::Struct(shape) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(owner, value, &at.go_type()));
                };
                map.retain(|name, element| {
                    if shape.field(name).is_none() {
                        self.unknown(name);
                        return false;
                    }
                    !element.is_null()
                });
                for (name, element) in map.iter_mut() {
                    let Some(field) = shape.field(name) else { continue };
                    self.path.push(Step::Field(name.clone()));
                    self.value(at.to(field.node), &shape.name, element)?;
                    self.path.pop();
                }
                Ok(())
            }
        }
    }

    fn scalar(
        &mut self,
        scalar: Scalar,
        owner: &str,
        value: &mut Value,
    ) -> Result<(), DecodeError> {
        let go_type = scalar.go_type();
        let fits = match (scalar, &*value) {
            (Scalar::String, Value::String(_)) | (Scalar::Bool, Value::Bool(_)) => true,
            (Scalar::Int32, Value::Number(number)) => {
                number.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            (Scalar::Int64, Value::Number(number)) => number.as_i64().is_some(),
            (Scalar::Double, Value::Number(_)) => true,
            (Scalar::Bytes, Value::String(text)) => {
                return match base64::engine::general_purpose::STANDARD.decode(text) {
                    Ok(_) => Ok(()),
                    Err(error) => Err(DecodeError::Type(base64_message(&error, text))),
                };
            }
            (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
                return if text.parse::<jiff::Timestamp>().is_ok() {
                    Ok(())
                } else {
                    Err(DecodeError::Type(format!(
                        "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": \
                         cannot parse {text:?} as \"2006\""
                    )))
                };
            }
            (Scalar::Quantity, Value::String(text)) => {
                return if crate::validate::names::is_quantity(text) {
                    Ok(())
                } else {
                    Err(DecodeError::Type(
                        "quantities must match the regular expression \
                         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                            .to_owned(),
                    ))
                };
            }
            (Scalar::Quantity, Value::Number(number)) => {
                let text = number.to_string();
                *value = Value::String(text);
                return Ok(());
            }
            (Scalar::IntOrString, Value::String(_)) => true,
            (Scalar::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
                    true
                } else {
                    return Err(self.mismatch(owner, value, "int32"));
                }
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(self.mismatch(owner, value, go_type)) }
    }

    /// Custom resources: unknown fields go, types stay for validation to judge.
    fn custom(&mut self, at: Cursor<'_>, value: &mut Value) -> Result<(), DecodeError> {
        match (at.node(), value) {
            (Node::Struct(shape), Value::Object(map)) => {
                if !shape.name.is_empty() {
                    // A built-in type inside a custom resource: metadata.
                    let mut inner = Value::Object(std::mem::take(map));
                    self.value(at, "", &mut inner)?;
                    if let Value::Object(inner) = inner {
                        *map = inner;
                    }
                    return Ok(());
                }
                if !shape.preserve_unknown {
                    map.retain(|name, _| {
                        let known = shape.field(name).is_some();
                        if !known {
                            self.unknown(name);
                        }
                        known
                    });
                }
                map.retain(|name, element| {
                    // A null where null is no value is the absence of one (so that defaults work).
                    !element.is_null() || shape.field(name).is_none_or(|field| field.nullable)
                });
                for (name, element) in map.iter_mut() {
                    let Some(field) = shape.field(name) else { continue };
                    self.path.push(Step::Field(name.clone()));
                    self.custom(at.to(field.node), element)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Node::List { item, .. }, Value::Array(items)) => {
                for (index, element) in items.iter_mut().enumerate() {
                    self.path.push(Step::Item(index));
                    self.custom(at.to(*item), element)?;
                    self.path.pop();
                }
                Ok(())
            }
            (Node::Map { value: inner, .. }, Value::Object(map)) => {
                for (key, element) in map.iter_mut() {
                    self.path.push(Step::Field(key.clone()));
                    self.custom(at.to(*inner), element)?;
                    self.path.pop();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn number_is_plain(number: &serde_json::Number) -> bool {
    // Go prints the number when it is a number but does not fit the integer.
    !(number.is_f64() || number.is_i64() || number.is_u64())
}

fn zero(at: Cursor<'_>) -> Value {
    match at.node() {
        Node::Scalar(Scalar::Bool) => Value::Bool(false),
        Node::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => {
            Value::from(0)
        }
        Node::Scalar(Scalar::Quantity) => Value::String("0".into()),
        Node::Scalar(_) => Value::String(String::new()),
        Node::List { .. } => Value::Array(Vec::new()),
        Node::Map { .. } | Node::Struct(_) | Node::AnyObject => Value::Object(Default::default()),
        Node::Any | Node::Builtin(_) => Value::Null,
    }
}

fn base64_message(error: &base64::DecodeError, text: &str) -> String {
    let offset = match error {
        base64::DecodeError::InvalidByte(offset, _)
        | base64::DecodeError::InvalidLastSymbol(offset, _) => *offset,
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
    };
    format!("illegal base64 data at input byte {offset}")
}
