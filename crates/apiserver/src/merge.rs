//! Patches that know the schema: strategic merge and apply, and the field managers' book-keeping.
//!
//! Strategic merge follows upstream's directives to the letter, because `kubectl apply`, `edit`
//! and `set` compute their patches for exactly these rules. Apply follows KEP-555: values merge by
//! list type and map type, and `managedFields` remember who asked for what; every manager forces.

use serde_json::Value;

use crate::schema::Schema;

mod apply;
mod fields;
mod managers;
mod strategic;

/// A patch that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A directive that does not fit; the message names it.
    #[error("{0}")]
    Directive(String),
    /// A list map item without its key.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item as JSON.
        map: String,
        /// The merge key.
        key: String,
    },
    /// The applied configuration does not fit the schema.
    #[error("failed to create typed patch object ({object}): {problem}")]
    Apply {
        /// `default/web; apps/v1, Kind=Deployment`.
        object: String,
        /// What and where.
        problem: String,
    },
}

/// Who writes, for `managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// `kubectl-client-side-apply`.
    pub name: String,
    /// The apiVersion the client wrote in.
    pub api_version: String,
    /// `status`, or empty.
    pub subresource: String,
    /// RFC 3339 with seconds.
    pub now: String,
}

/// Applies a strategic merge patch.
///
/// # Errors
/// [`MergeError`] if a directive or a merge key is missing or wrong.
pub fn strategic(schema: &Schema, current: &Value, patch: &Value) -> Result<Value, MergeError> {
    strategic::object(Some(schema.cursor()), current.clone(), patch)
}

/// Applies a JSON merge patch (RFC 7396).
pub fn json(current: &Value, patch: &Value) -> Value {
    let mut result = current.clone();
    json_patch::merge(&mut result, patch);
    result
}

/// Applies a configuration (server-side apply). `current` is the object as it is, in the version
/// of `schema`, or `None` if it is to be created; every manager is treated as forcing. The result
/// has its `managedFields` up to date; it equals `current` if nothing changes.
///
/// # Errors
/// [`MergeError`] if the configuration does not fit the schema.
pub fn apply(
    schema: &Schema,
    current: Option<&Value>,
    applied: &Value,
    manager: &Manager,
) -> Result<Value, MergeError> {
    managers::apply(schema, current, applied, manager)
}

/// Brings `managedFields` of `new` up to date after a write that is no apply: what differs from
/// `old` now belongs to the manager. What the client wrote into `managedFields` is not looked at.
pub fn track_update(schema: &Schema, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    managers::track_update(schema, old, new, manager);
}

#[cfg(test)]
mod tests;
