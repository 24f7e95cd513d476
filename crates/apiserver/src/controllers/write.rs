//! What a controller wants done, as values: the only output of a reconcile.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

/// A kind's storage name, `plural` or `plural.group` (`pods`, `deployments.apps`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(Cow<'static, str>);

impl Resource {
    /// A resource known at compile time, in `plural.group` form.
    pub const fn named(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A resource from its parts.
    pub fn new(group: &str, plural: &str) -> Self {
        Self(Cow::Owned(if group.is_empty() {
            plural.to_owned()
        } else {
            format!("{plural}.{group}")
        }))
    }

    /// The API group, empty for the core group.
    pub fn group(&self) -> &str {
        self.0.split_once('.').map_or("", |(_, group)| group)
    }

    /// The plural name as it stands in request paths.
    pub fn plural(&self) -> &str {
        self.0.split_once('.').map_or(&self.0, |(plural, _)| plural)
    }
}

macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(#[doc = concat!("`", $text, "`")] pub const $name: Resource = Resource::named($text);)*
    };
}

resources! {
    PODS = "pods";
    NODES = "nodes";
    SERVICES = "services";
    ENDPOINTS = "endpoints";
    ENDPOINT_SLICES = "endpointslices.discovery.k8s.io";
    NAMESPACES = "namespaces";
    CONFIG_MAPS = "configmaps";
    SERVICE_ACCOUNTS = "serviceaccounts";
    EVENTS = "events";
    SERVICE_CIDRS = "servicecidrs.networking.k8s.io";
    LEASES = "leases.coordination.k8s.io";
    DEPLOYMENTS = "deployments.apps";
    REPLICA_SETS = "replicasets.apps";
}

/// Which object: resource, namespace (empty for cluster-scoped) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The kind's storage name.
    pub resource: Resource,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectRef {
    /// A reference from its parts.
    pub fn new(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The reference of an object of a known resource.
    pub fn of(resource: Resource, object: &Value) -> Self {
        Self::new(resource, super::object::namespace(object), super::object::name(object))
    }
}

/// `propagationPolicy` of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents go after the owner.
    Background,
    /// Dependents that block go before the owner.
    Foreground,
    /// Dependents stay.
    Orphan,
}

/// One request to the API. Updates carry the resourceVersion they were computed from, so a write
/// computed from an old view is refused (409) and the key is tried again.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Create an object (its `metadata.name` or `generateName` is set).
    Create {
        /// Where.
        resource: Resource,
        /// What.
        object: Value,
    },
    /// Replace an object, status excepted.
    Update {
        /// Where.
        resource: Resource,
        /// What.
        object: Value,
    },
    /// Replace an object's status.
    UpdateStatus {
        /// Where.
        resource: Resource,
        /// What; everything but its status is ignored by the registry.
        object: Value,
    },
    /// Delete an object, if it still has this uid.
    Delete {
        /// Which.
        target: ObjectRef,
        /// Precondition; empty for none.
        uid: String,
        /// Grace period in seconds; `None` for the kind's default.
        grace_seconds: Option<i64>,
        /// What becomes of the dependents.
        propagation: Propagation,
    },
    /// Assign a pod to a node (the `binding` subresource), if it still has this uid.
    Bind {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        pod: String,
        /// The pod's uid.
        uid: String,
        /// The node.
        node: String,
    },
    /// Replace a Namespace's `spec.finalizers` (the `finalize` subresource).
    Finalize {
        /// The Namespace.
        object: Value,
    },
}

/// An Event to record beside a write. `{name}` in the message stands for the name the API gave the
/// created object, `{error}` for why a write failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The object the Event is about.
    pub regarding: Value,
    /// `apiVersion` of that object.
    pub api_version: &'static str,
    /// `kind` of that object.
    pub kind: &'static str,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// `reason`, upstream's word.
    pub reason: &'static str,
    /// `message`, upstream's wording.
    pub message: String,
    /// `source.component`.
    pub component: &'static str,
}

/// A request with the Events that go with its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The request; `None` for an Event alone.
    pub op: Option<Op>,
    /// Recorded when the request succeeded (or when there is none).
    pub on_success: Option<Note>,
    /// Recorded when the request failed for another reason than a conflict.
    pub on_failure: Option<Note>,
}

impl Write {
    /// A request without Events.
    pub fn quiet(op: Op) -> Self {
        Self { op: Some(op), on_success: None, on_failure: None }
    }

    /// An Event alone.
    pub fn note(note: Note) -> Self {
        Self { op: None, on_success: Some(note), on_failure: None }
    }

    /// The same request with an Event for its success.
    #[must_use]
    pub fn then(mut self, note: Note) -> Self {
        self.on_success = Some(note);
        self
    }

    /// The same request with an Event for its failure.
    #[must_use]
    pub fn or_else(mut self, note: Note) -> Self {
        self.on_failure = Some(note);
        self
    }
}

/// What a reconcile found to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// In order; after the first failure the rest is dropped and the key tried again.
    pub writes: Vec<Write>,
    /// When to look again even if nothing changes.
    pub again_at: Option<Timestamp>,
}

impl Outcome {
    /// Adds a request without Events.
    pub fn push(&mut self, op: Op) {
        self.writes.push(Write::quiet(op));
    }

    /// Moves the next look forward, never back.
    pub fn look_again(&mut self, at: Timestamp) {
        self.again_at = Some(self.again_at.map_or(at, |old| old.min(at)));
    }
}
