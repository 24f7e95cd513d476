//! Claiming dependents by selector and controlling owner reference, as upstream's
//! `ControllerRefManager` does for Deployments and ReplicaSets.

use std::sync::Arc;

use serde_json::Value;

use super::object::{
    controller_of, controller_reference, controller_uid, is_deleting, namespace, owner_references,
    str_at, uid, with_owner_references,
};
use super::selector::Selector;
use super::view::View;
use super::write::{Op, Outcome, Resource};

/// Who claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimant<'a> {
    pub(crate) owner: &'a Value,
    pub(crate) kind: &'static str,
    pub(crate) selector: &'a Selector,
}

/// The objects of `resource` that are the claimant's: its own that match, and orphans that match
/// and may be adopted, which it adopts. Own objects that no longer match are let go.
pub(crate) fn claim<'a>(
    view: &'a View,
    claimant: Claimant<'_>,
    resource: &Resource,
    adoptable: impl Fn(&Value) -> bool,
    out: &mut Outcome,
) -> Vec<&'a Arc<Value>> {
    let Claimant { owner, kind, selector } = claimant;
    let owner_uid = uid(owner);
    let others = |object: &Value| -> Vec<Value> {
        owner_references(object)
            .iter()
            .filter(|reference| str_at(reference, &["uid"]) != owner_uid)
            .cloned()
            .collect()
    };
    let update = |object: &Value, owners| Op::Update {
        resource: resource.clone(),
        object: with_owner_references(object, owners),
    };
    let mut mine = Vec::new();
    for (target, object) in view.dependents(owner_uid) {
        if target.resource != *resource || controller_uid(object) != owner_uid {
            continue;
        }
        if selector.matches(object) {
            mine.push(object);
        } else if !is_deleting(owner) && !is_deleting(object) {
            out.push(update(object, others(object)));
        }
    }
    if is_deleting(owner) {
        return mine;
    }
    for object in view.selected(resource, namespace(owner), selector) {
        if controller_of(object).is_some() || is_deleting(object) || !adoptable(object) {
            continue;
        }
        let mut owners = others(object);
        owners.push(controller_reference(owner, "apps/v1", kind));
        out.push(update(object, owners));
        mine.push(object);
    }
    mine
}
