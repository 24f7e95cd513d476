//! Garbage collection by owner reference.
//!
//! Upstream's `pkg/controller/garbagecollector` without its graph, which the view's uid and
//! dependents indices are: dependents of absent owners go (background), an owner that waits in
//! the foreground goes when nothing blocks it, an owner that orphans lets its dependents go free
//! first.

use serde_json::Value;

use super::engine::{Controller, Wakes};
use super::object::{
    has_finalizer, is_deleting, is_true, name, owner_references, str_at, uid,
    with_owner_references, without_finalizer,
};
use super::view::{Change, View};
use super::write::{ObjectRef, Op, Outcome, Propagation};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Queues the objects a change concerns: itself when it has owners or is going in a way that
/// concerns dependents, its dependents when it is gone or going, its owners when they wait for it.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let mut wake = |target: &ObjectRef| out.push(Controller::Garbage, target.clone());
    if let Some(new) = &change.new
        && (!owner_references(new).is_empty() || waits(new))
    {
        wake(&change.target);
    }
    // An object deleted and made again under its name between two looks has another uid.
    let gone = change
        .old
        .as_ref()
        .filter(|old| change.new.as_ref().is_none_or(|new| uid(new) != uid(old)));
    let going = change.new.as_ref().filter(|new| waits(new));
    for owner in gone.into_iter().chain(going) {
        for (target, _) in view.dependents(uid(owner)) {
            wake(target);
        }
    }
    for owner in change.forms().flat_map(|form| owner_references(form)) {
        if let Some((target, owner)) = view.by_uid(str_at(owner, &["uid"]))
            && waits(owner)
        {
            wake(target);
        }
    }
}

fn waits(object: &Value) -> bool {
    is_deleting(object) && (has_finalizer(object, FOREGROUND) || has_finalizer(object, ORPHAN))
}

/// What an owner reference leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// There, or not for us to say.
    Solid,
    /// Gone.
    Absent,
    /// Waiting in the foreground for its dependents.
    Waiting,
}

fn classify(view: &View, dependent: &Value, reference: &Value) -> Owner {
    let (group, _) = str_at(reference, &["apiVersion"]).split_once('/').unwrap_or(("", ""));
    let found = view.by_uid(str_at(reference, &["uid"])).filter(|(target, owner)| {
        let namespace = super::object::namespace(dependent);
        // A namespaced owner must live beside its dependents; another one of that uid does not
        // count, unless the dependent has no namespace at all, where nothing can be told.
        name(owner) == str_at(reference, &["name"])
            && (target.namespace.is_empty()
                || namespace.is_empty()
                || target.namespace == namespace)
    });
    match found {
        Some((_, owner)) if is_deleting(owner) && has_finalizer(owner, FOREGROUND) => {
            Owner::Waiting
        }
        Some(_) => Owner::Solid,
        None if view.serves(group, str_at(reference, &["kind"])) => Owner::Absent,
        None => Owner::Solid,
    }
}

/// One step for one object.
pub(crate) fn reconcile(view: &View, target: &ObjectRef) -> Outcome {
    let mut out = Outcome::default();
    let Some(object) = view.get(target) else { return out };
    if is_deleting(object) {
        if has_finalizer(object, ORPHAN) {
            orphan(view, target, object, &mut out);
        } else if has_finalizer(object, FOREGROUND) {
            foreground(view, target, object, &mut out);
        }
        return out;
    }
    let owners = owner_references(object);
    if owners.is_empty() {
        return out;
    }
    let (solid, rest): (Vec<&Value>, Vec<&Value>) =
        owners.iter().partition(|owner| classify(view, object, owner) == Owner::Solid);
    if !solid.is_empty() {
        if !rest.is_empty() {
            let solid = solid.into_iter().cloned().collect();
            out.push(Op::Update {
                resource: target.resource.clone(),
                object: with_owner_references(object, solid),
            });
        }
        return out;
    }
    let waiting = rest.iter().any(|owner| classify(view, object, owner) == Owner::Waiting);
    let propagation = if waiting && view.dependents(uid(object)).next().is_some() {
        Propagation::Foreground
    } else if has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    out.push(Op::Delete {
        target: target.clone(),
        uid: uid(object).to_owned(),
        grace_seconds: None,
        propagation,
    });
    out
}

/// Frees the dependents; when there are none (any more) the owner may go.
fn orphan(view: &View, target: &ObjectRef, object: &Value, out: &mut Outcome) {
    for (dependent, value) in view.dependents(uid(object)) {
        let owners = owner_references(value)
            .iter()
            .filter(|owner| str_at(owner, &["uid"]) != uid(object))
            .cloned()
            .collect();
        out.push(Op::Update {
            resource: dependent.resource.clone(),
            object: with_owner_references(value, owners),
        });
    }
    if out.writes.is_empty() {
        out.push(Op::Update {
            resource: target.resource.clone(),
            object: without_finalizer(object, ORPHAN),
        });
    }
}

/// Lets the owner go when no dependent blocks it. The dependents have their own keys.
fn foreground(view: &View, target: &ObjectRef, object: &Value, out: &mut Outcome) {
    let blocked = view.dependents(uid(object)).any(|(_, dependent)| {
        // A dependent that waits for this one in turn (a ring) does not block.
        !(is_deleting(dependent)
            && has_finalizer(dependent, FOREGROUND)
            && rings(view, object, dependent))
            && owner_references(dependent).iter().any(|owner| {
                str_at(owner, &["uid"]) == uid(object) && is_true(owner, &["blockOwnerDeletion"])
            })
    });
    if !blocked {
        out.push(Op::Update {
            resource: target.resource.clone(),
            object: without_finalizer(object, FOREGROUND),
        });
    }
}

/// Whether `object` has `dependent` among its own owners.
fn rings(view: &View, object: &Value, dependent: &Value) -> bool {
    view.dependents(uid(dependent)).any(|(_, other)| uid(other) == uid(object))
}

#[cfg(test)]
mod tests;
