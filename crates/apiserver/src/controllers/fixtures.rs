//! Objects and views for the tests of this module.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::engine::{Engine, Settled};
use super::object::{member_at, name, namespace};
use super::view::{Change, View};
use super::write::{NODES, ObjectRef, Op, Outcome, PODS, Resource};

/// The time all tests start at.
pub(crate) fn t0() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    t0().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

/// A view of these objects.
pub(crate) fn view(objects: &[(Resource, Value)]) -> View {
    let mut view = View::new();
    for (group, kind) in [
        ("", "Pod"),
        ("", "Node"),
        ("", "Service"),
        ("", "ConfigMap"),
        ("", "Namespace"),
        ("apps", "ReplicaSet"),
        ("apps", "Deployment"),
    ] {
        view.serve(group, kind);
    }
    for (resource, object) in objects {
        put(&mut view, resource.clone(), object.clone());
    }
    view
}

/// Adds or replaces one object of a view.
pub(crate) fn put(view: &mut View, resource: Resource, object: Value) {
    let target = ObjectRef::of(resource, &object);
    let old = view.get(&target).cloned();
    view.apply(&Change { target, old, new: Some(Arc::new(object)) });
}

/// `base` with `over` laid over it, member by member.
pub(crate) fn with(mut base: Value, over: Value) -> Value {
    json_patch::merge(&mut base, &over);
    base
}

pub(crate) fn pod(pod_name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name, "namespace": "default", "uid": format!("uid-{pod_name}"),
            "labels": { "app": "web" }, "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": { "containers": [
            { "name": "c", "image": "nginx", "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }] }
        ] },
        "status": { "phase": "Pending" },
    })
}

/// A pod that runs on a node, with addresses `10.244.0.<last>` and `fd00::<last>`.
pub(crate) fn running(pod_name: &str, node: &str, last: u8, ready: bool) -> Value {
    with(
        pod(pod_name),
        json!({
            "spec": { "nodeName": node },
            "status": {
                "phase": "Running",
                "podIP": format!("10.244.0.{last}"),
                "podIPs": [{ "ip": format!("10.244.0.{last}") }, { "ip": format!("fd00::{last:x}") }],
                "conditions": [{
                    "type": "Ready", "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            },
        }),
    )
}

pub(crate) fn owned(object: Value, owner_kind: &str, owner: &str) -> Value {
    with(
        object,
        json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": owner_kind, "name": owner,
            "uid": format!("uid-{owner}"), "controller": true, "blockOwnerDeletion": true,
        }] } }),
    )
}

pub(crate) fn node(node_name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node_name, "uid": format!("uid-{node_name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {},
        "status": {
            "allocatable": { "pods": "110" },
            "conditions": [{
                "type": "Ready", "status": "True",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

pub(crate) fn service(service_name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": service_name, "namespace": "default", "uid": format!("uid-{service_name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"],
            "selector": { "app": "web" },
            "ports": [{ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" }],
        },
    })
}

/// Three ready nodes, `n1` to `n3`.
pub(crate) fn three_nodes() -> Vec<(Resource, Value)> {
    ["n1", "n2", "n3"].map(|n| (NODES, node(n))).to_vec()
}

pub(crate) fn pods(list: Vec<Value>) -> Vec<(Resource, Value)> {
    list.into_iter().map(|pod| (PODS, pod)).collect()
}

/// The requests of an outcome, Events left out.
pub(crate) fn ops(outcome: &Outcome) -> Vec<&Op> {
    outcome.writes.iter().filter_map(|write| write.op.as_ref()).collect()
}

/// The Events of an outcome as `reason: message`.
pub(crate) fn notes(outcome: &Outcome) -> Vec<String> {
    outcome
        .writes
        .iter()
        .filter_map(|write| write.on_success.as_ref())
        .map(|note| format!("{}: {}", note.reason, note.message))
        .collect()
}

/// One line per request: verb, resource, name (or the prefix of a generated one).
pub(crate) fn lines(outcome: &Outcome) -> Vec<String> {
    ops(outcome)
        .into_iter()
        .map(|op| match op {
            Op::Create { resource, object } => {
                let label = match name(object) {
                    "" => super::object::str_at(object, &["metadata", "generateName"]),
                    name => name,
                };
                format!("create {} {label}", resource.plural())
            }
            Op::Update { resource, object } => {
                format!("update {} {}", resource.plural(), name(object))
            }
            Op::UpdateStatus { resource, object } => {
                format!("status {} {}", resource.plural(), name(object))
            }
            Op::Delete { target, .. } => {
                format!("delete {} {}", target.resource.plural(), target.name)
            }
            Op::Bind { pod, node, .. } => format!("bind {pod} {node}"),
            Op::Finalize { object } => format!("finalize {}", name(object)),
        })
        .collect()
}

/// An API for tests of pure functions: applies requests to the view itself, with uids, names and
/// resourceVersions of its own, and none of the registry's rules.
#[derive(Debug, Default)]
pub(crate) struct Simple {
    next: u64,
}

impl Simple {
    /// Applies one request and returns the change it makes.
    pub(crate) fn apply(&mut self, view: &View, op: &Op, now: Timestamp) -> Option<Change> {
        self.next += 1;
        let version = self.next.to_string();
        let finish = |mut object: Value| {
            member_at(&mut object, &["metadata"])
                .insert("resourceVersion".into(), version.clone().into());
            Some(Arc::new(object))
        };
        match op {
            Op::Create { resource, object } => {
                let mut object = object.clone();
                let metadata = member_at(&mut object, &["metadata"]);
                let prefix =
                    metadata.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
                if !metadata.contains_key("name") {
                    metadata.insert("name".into(), format!("{prefix}{:05}", self.next).into());
                }
                metadata.insert("uid".into(), format!("uid-{}", self.next).into());
                metadata.insert("generation".into(), 1.into());
                metadata.insert("creationTimestamp".into(), super::object::time(now).into());
                let target = ObjectRef::of(resource.clone(), &object);
                assert!(view.get(&target).is_none(), "{target:?} exists");
                Some(Change { target, old: None, new: finish(object) })
            }
            Op::Update { resource, object } | Op::UpdateStatus { resource, object } => {
                let target = ObjectRef::of(resource.clone(), object);
                let old = view.get(&target).cloned()?;
                let mut object = object.clone();
                if old.get("spec") != object.get("spec") {
                    let generation = super::object::int_at(&old, &["metadata", "generation"]);
                    member_at(&mut object, &["metadata"])
                        .insert("generation".into(), (generation.unwrap_or(1) + 1).into());
                }
                Some(Change { target, old: Some(old), new: finish(object) })
            }
            Op::Delete { target, .. } => {
                let old = view.get(target).cloned()?;
                Some(Change { target: target.clone(), old: Some(old), new: None })
            }
            Op::Bind { namespace, pod, node, .. } => {
                let target = ObjectRef::new(PODS, namespace, pod);
                let old = view.get(&target).cloned()?;
                let object = with(Value::clone(&old), json!({ "spec": { "nodeName": node } }));
                Some(Change { target, old: Some(old), new: finish(object) })
            }
            Op::Finalize { object } => {
                let target = ObjectRef::of(super::write::NAMESPACES, object);
                let old = view.get(&target).cloned()?;
                assert_eq!(namespace(object), "");
                Some(Change { target, old: Some(old), new: None })
            }
        }
    }

    /// Runs an engine until nothing is due; returns how many requests it made.
    pub(crate) fn settle(&mut self, engine: &mut Engine, now: Timestamp) -> usize {
        let mut writes = 0;
        let mut steps = 0;
        while let Some(key) = engine.take(now) {
            steps += 1;
            assert!(steps < 20_000, "does not settle: at {key:?}");
            let outcome = engine.reconcile(&key, now);
            for op in ops(&outcome) {
                writes += 1;
                if let Some(change) = self.apply(engine.view(), op, now) {
                    engine.observe(&change, now);
                }
            }
            engine.settle(key, Settled::Done { again_at: outcome.again_at }, now);
        }
        writes
    }
}
