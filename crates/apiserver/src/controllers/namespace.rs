//! Namespaces: what each has from the start (`default` ServiceAccount, `kube-root-ca.crt`), and
//! their end, in which everything in them goes first.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::config::Config;
use super::engine::{Controller, Wakes};
use super::object::{at, is_deleting, list_at, member_at, name, str_at, time, uid};
use super::view::{Change, View};
use super::write::{
    CONFIG_MAPS, NAMESPACES, ObjectRef, Op, Outcome, Propagation, Resource, SERVICE_ACCOUNTS,
};

const ROOT_CA: &str = "kube-root-ca.crt";
const FINALIZER: &str = "kubernetes";

/// Queues the Namespaces a change concerns: the Namespace itself, one whose standard content was
/// touched, and one that waits to become empty.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let ObjectRef { resource, namespace, name } = &change.target;
    if *resource == NAMESPACES {
        if change.new.is_some() {
            out.push(Controller::Namespace, change.target.clone());
        }
        return;
    }
    let standard = (*resource == SERVICE_ACCOUNTS && name == "default")
        || (*resource == CONFIG_MAPS && name == ROOT_CA);
    let concerned = !namespace.is_empty()
        && (standard
            || view.find(&NAMESPACES, "", namespace).is_some_and(|found| is_deleting(found)));
    if concerned {
        out.push(Controller::Namespace, ObjectRef::new(NAMESPACES, "", namespace));
    }
}

/// One step of one Namespace.
pub(crate) fn reconcile(
    view: &View,
    target: &ObjectRef,
    config: &Config,
    now: Timestamp,
) -> Outcome {
    let mut out = Outcome::default();
    let Some(namespace) = view.get(target) else { return out };
    if is_deleting(namespace) {
        terminate(view, namespace, now, &mut out);
    } else {
        furnish(view, namespace, config, &mut out);
    }
    out
}

fn furnish(view: &View, namespace: &Value, config: &Config, out: &mut Outcome) {
    let namespace = name(namespace);
    if view.find(&SERVICE_ACCOUNTS, namespace, "default").is_none() {
        out.push(Op::Create {
            resource: SERVICE_ACCOUNTS,
            object: json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": { "name": "default", "namespace": namespace },
            }),
        });
    }
    if config.root_ca.is_empty() {
        return;
    }
    let data = json!({ "ca.crt": config.root_ca });
    match view.find(&CONFIG_MAPS, namespace, ROOT_CA) {
        None => out.push(Op::Create {
            resource: CONFIG_MAPS,
            object: json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": ROOT_CA,
                    "namespace": namespace,
                    "annotations": {
                        "kubernetes.io/description":
                            "The CA certificate of this cluster's API server.",
                    },
                },
                "data": data,
            }),
        }),
        Some(old) if old.get("data") != Some(&data) && !is_deleting(old) => {
            let mut object = Value::clone(old);
            member_at(&mut object, &[]).insert("data".into(), data);
            out.push(Op::Update { resource: CONFIG_MAPS, object });
        }
        Some(_) => {}
    }
}

fn terminate(view: &View, namespace: &Value, now: Timestamp, out: &mut Outcome) {
    let mut remaining: BTreeMap<&Resource, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut deletes = Vec::new();
    for (target, object) in view.in_namespace(name(namespace)) {
        *remaining.entry(&target.resource).or_default() += 1;
        for finalizer in list_at(object, &["metadata", "finalizers"]) {
            *finalizers.entry(finalizer.as_str().unwrap_or_default()).or_default() += 1;
        }
        if !is_deleting(object) {
            deletes.push(Op::Delete {
                target: target.clone(),
                uid: uid(object).to_owned(),
                grace_seconds: None,
                propagation: Propagation::Background,
            });
        }
    }
    if deletes.is_empty() && remaining.is_empty() {
        if list_at(namespace, &["spec", "finalizers"]).iter().any(|f| f == FINALIZER) {
            out.push(finalize(namespace));
        }
        return;
    }
    // The status first: when the last object goes, so does the Namespace.
    let conditions = [
        condition(
            "NamespaceContentRemaining",
            "SomeResourcesRemain",
            "Some resources are remaining: ",
            "All content successfully removed",
            "ContentRemoved",
            remaining.iter().map(|(resource, count)| {
                format!("{} has {count} resource instances", dotted(resource))
            }),
            now,
        ),
        condition(
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining: ",
            "All content-preserving finalizers finished",
            "ContentHasNoFinalizers",
            finalizers
                .iter()
                .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")),
            now,
        ),
    ];
    if deletes.is_empty() {
        // Everything is on its way; say what is waited for, but not with every object that goes.
        if let Some(object) = with_status(namespace, conditions) {
            out.push(Op::UpdateStatus { resource: NAMESPACES, object });
        }
    }
    for delete in deletes {
        out.push(delete);
    }
}

fn dotted(resource: &Resource) -> String {
    format!("{}.{}", resource.plural(), resource.group())
}

fn finalize(namespace: &Value) -> Op {
    let kept: Vec<Value> = list_at(namespace, &["spec", "finalizers"])
        .iter()
        .filter(|finalizer| *finalizer != FINALIZER)
        .cloned()
        .collect();
    let mut object = namespace.clone();
    let spec = member_at(&mut object, &["spec"]);
    if kept.is_empty() {
        spec.shift_remove("finalizers");
    } else {
        spec.insert("finalizers".into(), Value::Array(kept));
    }
    Op::Finalize { object }
}

fn condition(
    kind: &str,
    reason: &str,
    lead: &str,
    none: &str,
    none_reason: &str,
    items: impl Iterator<Item = String>,
    now: Timestamp,
) -> Value {
    let items: Vec<String> = items.collect();
    let (status, reason, message) = if items.is_empty() {
        ("False", none_reason, none.to_owned())
    } else {
        ("True", reason, format!("{lead}{}", items.join(", ")))
    };
    json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": time(now),
        "reason": reason,
        "message": message,
    })
}

/// The Namespace with these conditions; `None` when it says the same already, times aside.
fn with_status(namespace: &Value, mut conditions: [Value; 2]) -> Option<Value> {
    let mut same = str_at(namespace, &["status", "phase"]) == "Terminating";
    for new in &mut conditions {
        let old = super::object::condition(namespace, str_at(new, &["type"]));
        let equal =
            |field: &str| old.is_some_and(|old| str_at(old, &[field]) == str_at(new, &[field]));
        same &= equal("status") && equal("message");
        if equal("status")
            && let Some(since) = old.and_then(|old| at(old, &["lastTransitionTime"])).cloned()
        {
            member_at(new, &[]).insert("lastTransitionTime".into(), since);
        }
    }
    if same {
        return None;
    }
    let mut object = namespace.clone();
    let status = member_at(&mut object, &["status"]);
    status.insert("phase".into(), "Terminating".into());
    status.insert("conditions".into(), Value::Array(conditions.to_vec()));
    Some(object)
}
