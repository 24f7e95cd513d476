//! The rules every kind shares: create, update, delete, as upstream's generic registry has them.
//!
//! Objects come and go in their storage form; the request layer converts at its edge. The
//! registry is synchronous and may be called from any thread: controllers use it directly, so
//! that validation, allocation and metadata rules hold for them as for any client. What differs
//! per kind is asked of the tables (`validate`, `defaults`, `allocate`) or stands in `prepare`.

mod admission;
mod delete;
pub mod identity;
mod prepare;
pub(crate) mod services;
pub mod subresource;

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Map, Value};

pub use delete::{DeleteOptions, Deleted, Propagation};

use crate::defaults;
use crate::kinds::{Kind, Kinds};
use crate::status::{Cause, Status};
use crate::store::{Key, Resource, Store, WriteError};
use crate::validate::{self, Causes};

/// Where an object is, or will be. `namespace` is empty for cluster-scoped kinds; `name` may be
/// empty on create.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it is.
    pub kind: Arc<Kind>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// From its parts.
    pub fn new(kind: &Arc<Kind>, namespace: &str, name: &str) -> Self {
        Self { kind: kind.clone(), namespace: namespace.into(), name: name.into() }
    }

    /// The store's name of the resource.
    pub fn resource(&self) -> Resource {
        Resource::new(&self.kind.group, &self.kind.plural)
    }

    /// The store's key.
    pub fn key(&self) -> Key {
        Key::new(&self.resource(), &self.namespace, &self.name)
    }

    /// 404 for this place.
    pub fn not_found(&self) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, &self.name)
    }

    fn conflict(&self) -> Status {
        Status::modified(&self.kind.group, &self.kind.plural, &self.name)
    }
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (or everything, for kinds without a status subresource).
    Main,
    /// Only the status.
    Status,
    /// Only a Namespace's `spec.finalizers`.
    Finalize,
    /// Only a Pod's `spec.nodeName` and status, by the binding subresource.
    Binding,
}

/// What a write request says beside its object.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but the write itself.
    pub dry_run: bool,
}

/// The outcome of a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as stored (or as it would be, in a dry run).
    pub object: Arc<Value>,
    /// Whether this request created it.
    pub created: bool,
    /// Warnings for the client.
    pub warnings: Vec<String>,
}

/// The registry. Clones are the same registry.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    kinds: Kinds,
    services: services::Ledger,
    service_cidrs: Vec<IpNet>,
    clock: fn() -> Timestamp,
}

/// How often an unconditional write is tried again when others are faster.
const ATTEMPTS: usize = 32;

impl Registry {
    /// Over a store, with the Service address ranges (the primary family first). CustomResourceDefinitions
    /// already in the store are served at once.
    pub fn new(store: Store, kinds: Kinds, service_cidrs: Vec<IpNet>) -> Self {
        let ledger = services::Ledger::new(&store, service_cidrs.clone());
        let registry = Self(Arc::new(Inner {
            store,
            kinds,
            services: ledger,
            service_cidrs,
            clock: Timestamp::now,
        }));
        crate::crd::reconcile_all(&registry);
        registry
    }

    /// The store underneath: for reads and watches.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What is served.
    pub fn kinds(&self) -> &Kinds {
        &self.0.kinds
    }

    /// The Service address ranges, the primary family first.
    pub fn service_cidrs(&self) -> &[IpNet] {
        &self.0.service_cidrs
    }

    /// The time writes are stamped with.
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// A place by storage group and plural.
    ///
    /// # Errors
    /// 404 if no such kind is served.
    pub fn place(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Place, Status> {
        let kind = self.0.kinds.stored(group, plural).ok_or_else(Status::no_such_resource)?;
        Ok(Place { kind, namespace: namespace.into(), name: name.into() })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// 404.
    pub fn get(&self, place: &Place) -> Result<Arc<Value>, Status> {
        self.0
            .store
            .get(&place.resource(), &place.namespace, &place.name)
            .ok_or_else(|| place.not_found())
    }

    /// Creates an object given in its storage form.
    ///
    /// # Errors
    /// 400, 403, 404 (namespace), 409, 422 as upstream.
    pub fn create(
        &self,
        place: &Place,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        let kind = &place.kind;
        identify(kind, &mut object);
        self.check_place(place, &mut object)?;
        let generated = text(&object, "name").is_empty();
        let prefix = text(&object, "generateName").to_owned();
        if kind.namespaced {
            admission::namespace_takes(self, place)?;
        }
        for _ in 0..if generated && !prefix.is_empty() { 8 } else { 1 } {
            let mut object = object.clone();
            if generated && !prefix.is_empty() {
                set_meta(&mut object, "name", identity::generate_name(&prefix).into());
            }
            self.begin(kind, &mut object);
            default(kind, &mut object);
            defaults::for_create(kind, &mut object);
            let name = text(&object, "name").to_owned();
            let mut claim = self.0.services.open(kind);
            claim.take(kind, &mut object, None, options.dry_run)?;
            validate::create(kind, &object)
                .into_result()
                .map_err(|causes| invalid(kind, &object, causes))?;
            let warnings = crate::crd::warnings(kind, &object);
            let key = Key::new(&place.resource(), &place.namespace, &name);
            if options.dry_run {
                if self.0.store.get(&key.resource, &key.namespace, &key.name).is_some() {
                    return Err(Status::already_exists(&kind.group, &kind.plural, &name));
                }
                return Ok(Written { object: Arc::new(object), created: true, warnings });
            }
            match self.0.store.create(&key, object) {
                Ok(object) => {
                    claim.keep();
                    drop(claim);
                    self.take_effect(kind, &object);
                    return Ok(Written { object, created: true, warnings });
                }
                Err(_) if generated => {}
                Err(_) => return Err(Status::already_exists(&kind.group, &kind.plural, &name)),
            }
        }
        Err(Status::already_exists(&kind.group, &kind.plural, &prefix))
    }

    /// Replaces an object (or a part of it) given in its storage form. A resourceVersion in the
    /// object makes the write conditional.
    ///
    /// # Errors
    /// 400, 404, 409, 422 as upstream.
    pub fn update(
        &self,
        place: &Place,
        part: Part,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, Status> {
        self.change(place, part, options, |_| Ok(object.clone()))
    }

    /// Reads an object, lets `make` compute its next value from it, and writes that; again from
    /// the start if somebody else was faster and the value carries no resourceVersion of its own.
    ///
    /// # Errors
    /// As [`update`](Self::update), and what `make` returns.
    pub fn change(
        &self,
        place: &Place,
        part: Part,
        options: &WriteOptions,
        mut make: impl FnMut(&Arc<Value>) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        let kind = &place.kind;
        let key = place.key();
        for _ in 0..ATTEMPTS {
            let mut claim = self.0.services.open(kind);
            let old = self.get(place)?;
            let current = crate::store::revision_of(&old).unwrap_or_default();
            let mut new = make(&old)?;
            identify(kind, &mut new);
            self.check_place(place, &mut new)?;
            let given = text(&new, "resourceVersion").to_owned();
            let asked = match given.as_str() {
                "" | "0" => None,
                given => Some(given.parse::<u64>().map_err(|_| {
                    Status::bad_request(format!("invalid resource version {given:?}"))
                })?),
            };
            if asked.is_some_and(|asked| asked != current) {
                return Err(place.conflict());
            }
            let (was, is) = (text(&old, "uid"), text(&new, "uid"));
            if !is.is_empty() && was != is {
                return Err(Status::conflict(
                    &kind.group,
                    &kind.plural,
                    &place.name,
                    &format!(
                        "Precondition failed: UID in precondition: {is}, UID in object meta: {was}"
                    ),
                ));
            }
            prepare::for_update(kind, part, &mut new, &old);
            if part == Part::Main {
                default(kind, &mut new);
                defaults::for_update(kind, &mut new, &old);
            }
            if part == Part::Status {
                defaults::for_status(kind, &mut new);
            }
            prepare::generation(kind, &mut new, &old);
            if part == Part::Main {
                claim.take(kind, &mut new, Some(&old), options.dry_run)?;
            }
            match part {
                Part::Main => validate::update(kind, &new, &old),
                Part::Status => validate::status(kind, &new, &old),
                Part::Finalize | Part::Binding => Causes::default(),
            }
            .into_result()
            .map_err(|causes| invalid(kind, &new, causes))?;
            let warnings = match part {
                Part::Main => crate::crd::warnings(kind, &new),
                _ => Vec::new(),
            };
            if options.dry_run {
                return Ok(Written { object: Arc::new(new), created: false, warnings });
            }
            match self.0.store.update(&key, new, Some(current)) {
                Ok(object) => {
                    claim.keep();
                    drop(claim);
                    let object = self.finish(place, object);
                    self.take_effect(kind, &object);
                    return Ok(Written { object, created: false, warnings });
                }
                Err(WriteError::NotFound(_)) => return Err(place.not_found()),
                Err(WriteError::Exists(_) | WriteError::Conflict { .. }) if asked.is_some() => {
                    return Err(place.conflict());
                }
                Err(WriteError::Exists(_) | WriteError::Conflict { .. }) => {}
            }
        }
        Err(place.conflict())
    }

    /// What a stored object changes in the server itself.
    fn take_effect(&self, kind: &Kind, object: &Arc<Value>) {
        crate::crd::after_write(self, kind, object);
        self.0.services.follow(&self.0.store, kind);
    }

    /// What the removal of an object changes in the server itself.
    fn lose_effect(&self, kind: &Kind, object: &Value) {
        crate::crd::after_delete(self, kind, object);
        self.0.services.follow(&self.0.store, kind);
    }

    /// Stamps what the server alone decides about a new object.
    fn begin(&self, kind: &Kind, object: &mut Value) {
        let meta = metadata(object);
        for field in
            ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"]
        {
            meta.remove(field);
        }
        meta.insert("uid".into(), identity::uid().into());
        meta.insert("creationTimestamp".into(), identity::time(self.now()).into());
        if prepare::has_generation(kind) {
            meta.insert("generation".into(), 1.into());
        } else {
            meta.remove("generation");
        }
    }

    /// Name and namespace in the object agree with the request.
    fn check_place(&self, place: &Place, object: &mut Value) -> Result<(), Status> {
        let creating = place.name.is_empty();
        if !object.get("metadata").is_none_or(Value::is_object) {
            return Err(Status::bad_request("metadata must be an object"));
        }
        let namespace = text(object, "namespace").to_owned();
        if place.kind.namespaced {
            if namespace.is_empty() {
                set_meta(object, "namespace", place.namespace.as_str().into());
            } else if namespace != place.namespace {
                return Err(Status::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        } else if !namespace.is_empty() {
            metadata(object).remove("namespace");
        }
        let name = text(object, "name").to_owned();
        if creating {
            if !text(object, "resourceVersion").is_empty() {
                return Err(Status::new(
                    500,
                    "",
                    "resourceVersion should not be set on objects to be created",
                ));
            }
        } else if name.is_empty() {
            set_meta(object, "name", place.name.as_str().into());
        } else if name != place.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                place.name
            )));
        }
        Ok(())
    }
}

/// Defaults of the storage version.
fn default(kind: &Kind, object: &mut Value) {
    if let Some(served) = kind.storage() {
        defaults::apply(kind, served, object);
    }
}

/// 422 for an object of a kind.
fn invalid(kind: &Kind, object: &Value, causes: Causes) -> Status {
    let causes = causes
        .0
        .into_iter()
        .map(|cause| Cause::new(cause.reason.as_str(), cause.field, cause.message))
        .collect();
    let name = match text(object, "name") {
        "" => text(object, "generateName"),
        name => name,
    };
    Status::invalid(&kind.group, &kind.kind, name, causes)
}

/// Puts apiVersion and kind of the storage form.
fn identify(kind: &Kind, object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), kind.storage_api_version().into());
        object.insert("kind".into(), kind.kind.as_str().into());
    }
}

/// The metadata map, made if absent.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let root = object.as_object_mut().expect("invariant: made an object above");
    let meta = root.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    meta.as_object_mut().expect("invariant: made an object above")
}

pub(crate) fn set_meta(object: &mut Value, field: &str, value: Value) {
    metadata(object).insert(field.into(), value);
}

/// A text field of the metadata, empty if absent.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The finalizers in the metadata.
pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

#[cfg(test)]
mod tests;
