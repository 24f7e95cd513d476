//! Field paths, and the list of causes under construction.

use std::fmt;

use serde_json::Value;

use super::{Cause, Reason};

/// A place in an object; printed only when something is wrong there.
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub(crate) fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Child(name) }
    }

    pub(crate) fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    pub(crate) fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Child(name) => {
                let first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
                if first { f.write_str(name) } else { write!(f, ".{name}") }
            }
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Causes found so far.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) causes: Vec<Cause>,
}

impl Check {
    pub(crate) fn push(
        &mut self,
        reason: Reason,
        path: &Path<'_>,
        value: Option<&Value>,
        detail: &str,
    ) {
        self.push_at(reason, path.to_string(), value, detail);
    }

    /// For fields whose path is already text.
    pub(crate) fn push_at(
        &mut self,
        reason: Reason,
        field: String,
        value: Option<&Value>,
        detail: &str,
    ) {
        let mut message = reason.words().to_owned();
        if let Some(value) = value {
            message.push_str(": ");
            // JSON's form of text and numbers is Go's %q and %v; lists and objects are printed
            // as JSON by upstream too.
            message.push_str(&value.to_string());
        }
        if !detail.is_empty() {
            message.push_str(": ");
            message.push_str(detail);
        }
        self.causes.push(Cause { reason, message, field });
    }

    pub(crate) fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        self.push(Reason::Invalid, path, Some(&value.into()), detail);
    }

    /// Invalid, once for each of several sentences about one text.
    pub(crate) fn invalid_all(&mut self, path: &Path<'_>, value: &str, details: &[String]) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        self.push(Reason::Required, path, None, detail);
    }

    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: &str) {
        self.push(Reason::Forbidden, path, None, detail);
    }

    pub(crate) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(Reason::Duplicate, path, Some(&value.into()), "");
    }

    pub(crate) fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(Reason::NotFound, path, Some(&value.into()), "");
    }

    pub(crate) fn too_long(&mut self, path: &Path<'_>, bytes: usize) {
        self.push(Reason::TooLong, path, None, &format!("may not be more than {bytes} bytes"));
    }

    pub(crate) fn too_many(&mut self, path: &Path<'_>, actual: usize, most: usize) {
        self.push(
            Reason::TooMany,
            path,
            Some(&actual.into()),
            &format!("must have at most {most} items"),
        );
    }

    pub(crate) fn not_supported(&mut self, path: &Path<'_>, value: &str, known: &[&str]) {
        let mut known = known.to_vec();
        known.sort_unstable();
        let known: Vec<String> = known.iter().map(|value| format!("{value:?}")).collect();
        self.push(
            Reason::NotSupported,
            path,
            Some(&value.into()),
            &format!("supported values: {}", known.join(", ")),
        );
    }

    /// A number that must not be negative.
    pub(crate) fn not_negative(&mut self, path: &Path<'_>, value: &Value) {
        if value.as_i64().is_some_and(|number| number < 0) {
            self.invalid(path, value.clone(), "must be greater than or equal to 0");
        }
    }
}

/// A text field; empty if absent.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A number field; 0 if absent.
pub(crate) fn number(object: &Value, name: &str) -> i64 {
    object.get(name).and_then(Value::as_i64).unwrap_or_default()
}

/// The items of a list field; none if absent.
pub(crate) fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a map field; none if absent.
pub(crate) fn entries<'a>(
    object: &'a Value,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(name).and_then(Value::as_object).into_iter().flatten()
}
