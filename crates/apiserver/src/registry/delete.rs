//! Deletion: preconditions, grace, finalizers and propagation, as upstream's generic store.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{ATTEMPTS, Place, Registry, finalizers, identity, metadata, text};
use crate::kinds::Kind;
use crate::status::Status;
use crate::store::WriteError;

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards by the garbage collector.
    Background,
    /// They are deleted first; the object waits with the `foregroundDeletion` finalizer.
    Foreground,
    /// They stay; the object waits with the `orphan` finalizer until they are let go.
    Orphan,
}

/// What a delete request says.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod gets to stop; `None` is the pod's own.
    pub grace_period_seconds: Option<i64>,
    /// Delete only the object with this uid.
    pub uid: Option<String>,
    /// Delete only at this resourceVersion.
    pub resource_version: Option<String>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Do everything but the write.
    pub dry_run: bool,
}

/// The outcome of a delete request.
#[derive(Debug, Clone)]
pub struct Deleted {
    /// The object as it is now (marked for deletion) or as it last was.
    pub object: Arc<Value>,
    /// Whether it is gone; otherwise somebody has to finish.
    pub gone: bool,
}

impl DeleteOptions {
    /// From a `DeleteOptions` body and/or query parameters already merged into one object.
    ///
    /// # Errors
    /// 400, 422 for values that mean nothing.
    pub fn from_json(body: &Value) -> Result<Self, Status> {
        let grace = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_i64() {
                Some(seconds) => Some(seconds.max(0)),
                None => {
                    return Err(Status::bad_request("gracePeriodSeconds must be an integer"));
                }
            },
        };
        let propagation = match body.get("propagationPolicy").and_then(Value::as_str) {
            None | Some("") => match body.get("orphanDependents").and_then(Value::as_bool) {
                Some(true) => Some(Propagation::Orphan),
                Some(false) => Some(Propagation::Background),
                None => None,
            },
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                return Err(Status::invalid(
                    "meta.k8s.io",
                    "DeleteOptions",
                    "",
                    vec![crate::status::Cause::new(
                        "FieldValueNotSupported",
                        "propagationPolicy",
                        format!(
                            "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                        ),
                    )],
                ));
            }
        };
        let precondition = |field: &str| {
            body.pointer(&format!("/preconditions/{field}"))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let dry_run = body
            .get("dryRun")
            .and_then(Value::as_array)
            .is_some_and(|values| values.iter().any(|value| value == "All"));
        Ok(Self {
            grace_period_seconds: grace,
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            propagation,
            dry_run,
        })
    }
}

/// Namespaces that may not be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

impl Registry {
    /// Deletes an object, or marks it for deletion if it has finalizers or a grace period.
    ///
    /// # Errors
    /// 403, 404, 409 as upstream.
    pub fn delete(&self, place: &Place, options: &DeleteOptions) -> Result<Deleted, Status> {
        let kind = &place.kind;
        if kind.group.is_empty()
            && kind.kind == "Namespace"
            && IMMORTAL.contains(&place.name.as_str())
        {
            return Err(Status::forbidden(
                "",
                "namespaces",
                &place.name,
                "this namespace may not be deleted",
            ));
        }
        for _ in 0..ATTEMPTS {
            let mut claim = self.0.services.open(kind);
            let old = self.get(place)?;
            preconditions(place, &old, options)?;
            let current = crate::store::revision_of(&old);
            let step = mark(kind, &old, options, self.now());
            let outcome = match step {
                Step::Remove if options.dry_run => {
                    return Ok(Deleted { object: old, gone: true });
                }
                Step::Mark(new) if options.dry_run => {
                    return Ok(Deleted { object: Arc::new(new), gone: false });
                }
                Step::Nothing => return Ok(Deleted { object: old, gone: false }),
                Step::Remove => self
                    .0
                    .store
                    .delete(&place.key(), current)
                    .map(|object| Deleted { object, gone: true }),
                Step::Mark(new) => self
                    .0
                    .store
                    .update(&place.key(), new, current)
                    .map(|object| Deleted { object, gone: false }),
            };
            match outcome {
                Ok(deleted) => {
                    if deleted.gone {
                        claim.release(&deleted.object);
                    }
                    drop(claim);
                    if deleted.gone {
                        self.lose_effect(kind, &deleted.object);
                    } else {
                        self.take_effect(kind, &deleted.object);
                    }
                    return Ok(deleted);
                }
                Err(WriteError::NotFound(_)) => return Err(place.not_found()),
                Err(WriteError::Exists(_) | WriteError::Conflict { .. }) => {}
            }
        }
        Err(Status::modified(&kind.group, &kind.plural, &place.name))
    }

    /// Removes an object that was marked and that nobody holds any more.
    pub(super) fn finish(&self, place: &Place, object: Arc<Value>) -> Arc<Value> {
        if text(&object, "deletionTimestamp").is_empty() || held(&place.kind, &object) {
            return object;
        }
        let grace = object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        if grace > 0 {
            return object;
        }
        let mut claim = self.0.services.open(&place.kind);
        match self.0.store.delete(&place.key(), crate::store::revision_of(&object)) {
            Ok(last) => {
                claim.release(&last);
                drop(claim);
                self.lose_effect(&place.kind, &last);
                last
            }
            // Somebody changed or removed it meanwhile: theirs to finish.
            Err(_) => object,
        }
    }
}

fn preconditions(place: &Place, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    for (what, field, wanted) in [
        ("UID", "uid", &options.uid),
        ("ResourceVersion", "resourceVersion", &options.resource_version),
    ] {
        let is = text(old, field);
        if let Some(wanted) = wanted
            && wanted != is
        {
            return Err(Status::conflict(
                &place.kind.group,
                &place.kind.plural,
                &place.name,
                &format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether finalizers keep an object.
fn held(kind: &Kind, object: &Value) -> bool {
    let namespace = kind.group.is_empty() && kind.kind == "Namespace";
    !finalizers(object).is_empty()
        || (namespace
            && object
                .pointer("/spec/finalizers")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty()))
}

enum Step {
    Remove,
    Mark(Value),
    Nothing,
}

/// Decides what a delete request does to an object.
fn mark(kind: &Kind, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut new = old.clone();
    if let Some(propagation) = options.propagation {
        let mut list: Vec<String> = finalizers(old)
            .into_iter()
            .filter(|name| !matches!(*name, "orphan" | "foregroundDeletion"))
            .map(str::to_owned)
            .collect();
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => list.push("foregroundDeletion".into()),
            Propagation::Orphan => list.push("orphan".into()),
        }
        let meta = metadata(&mut new);
        if list.is_empty() {
            meta.shift_remove("finalizers");
        } else {
            meta.insert("finalizers".into(), json!(list));
        }
    }
    let grace = grace(kind, old, options);
    let marked = !text(old, "deletionTimestamp").is_empty();
    if !marked && kind.kind == "CustomResourceDefinition" && kind.group == crate::crd::GROUP {
        // It goes when its instances are gone.
        let mut list = finalizers(&new).into_iter().map(str::to_owned).collect::<Vec<_>>();
        list.push(crate::crd::CLEANUP.into());
        metadata(&mut new).insert("finalizers".into(), json!(list));
    }
    let held = held(kind, &new);
    if !marked {
        if !held && grace == 0 {
            return Step::Remove;
        }
        let at = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        stamp(&mut new, at, grace);
        if let Some(generation) = old.pointer("/metadata/generation").and_then(Value::as_u64) {
            metadata(&mut new).insert("generation".into(), (generation + 1).into());
        }
        if kind.group.is_empty() && kind.kind == "Namespace" {
            new["status"]["phase"] = "Terminating".into();
        }
        return Step::Mark(new);
    }
    let was = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let shorter = grace < was && (options.grace_period_seconds.is_some() || grace == 0);
    if shorter {
        if !held && grace == 0 {
            return Step::Remove;
        }
        let started = text(old, "deletionTimestamp")
            .parse::<Timestamp>()
            .ok()
            .and_then(|at| at.checked_sub(SignedDuration::from_secs(was)).ok())
            .unwrap_or(now);
        let at = started.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        stamp(&mut new, at, grace);
        return Step::Mark(new);
    }
    if !held && was == 0 {
        return Step::Remove;
    }
    if new == *old { Step::Nothing } else { Step::Mark(new) }
}

fn stamp(object: &mut Value, at: Timestamp, grace: i64) {
    let meta = metadata(object);
    meta.insert("deletionTimestamp".into(), identity::time(at).into());
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
}

/// Only pods stop gracefully; those nobody runs need no time.
fn grace(kind: &Kind, pod: &Value, options: &DeleteOptions) -> i64 {
    if !(kind.group.is_empty() && kind.kind == "Pod") {
        return 0;
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let own = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace_period_seconds.or(own).unwrap_or(30).clamp(0, i64::from(u32::MAX))
}
