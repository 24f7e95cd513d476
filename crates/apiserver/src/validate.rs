//! Validation of objects, with upstream's field paths, reasons and wording.
//!
//! Every function is total over arbitrary JSON and returns [`Causes`]; none does I/O. Objects are
//! in their kind's storage version, decoded and defaulted. What one kind asks beyond the common
//! rules lives in a module per family below.

use std::fmt;

use serde_json::Value;

use crate::kinds::Kind;

pub mod names;

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
    let _ = (kind, new);
    Causes::default()
}

/// Validates the change from `old` to `new`, both of a kind.
pub fn update(kind: &Kind, new: &Value, old: &Value) -> Causes {
    let _ = (kind, new, old);
    Causes::default()
}

/// Validates a write to the `status` subresource.
pub fn status(kind: &Kind, new: &Value, old: &Value) -> Causes {
    let _ = (kind, new, old);
    Causes::default()
}
