//! What needs other objects to decide: a namespaced object needs its Namespace.

use super::{Place, Registry, text};
use crate::status::{Cause, Status};
use crate::store::Resource;

/// A namespaced object needs a Namespace that is there and stays.
pub(super) fn namespace_takes(registry: &Registry, place: &Place) -> Result<(), Status> {
    let name = &place.namespace;
    let found = registry.store().get(&Resource::new("", "namespaces"), "", name);
    let Some(namespace) = found else {
        return Err(Status::not_found("", "namespaces", name));
    };
    if text(&namespace, "deletionTimestamp").is_empty() {
        return Ok(());
    }
    let mut status = Status::forbidden(
        &place.kind.group,
        &place.kind.plural,
        &place.name,
        &format!("unable to create new content in namespace {name} because it is being terminated"),
    );
    if let Some(details) = &mut status.details {
        details.causes.push(Cause::new(
            "NamespaceTerminating",
            "metadata.namespace",
            format!("namespace {name} is being terminated"),
        ));
    }
    Err(status)
}
