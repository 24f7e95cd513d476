//! Endpoints: the classic single object with the addresses behind a Service with a selector.
//!
//! Upstream's `pkg/controller/endpoint`. One family (the Service's first), at most 1,000
//! addresses, ready and not-ready ones apart, terminating pods left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::endpoint_ports::{
    address_of, endpoint_hostname, endpoint_node, families, has_endpoint, is_headless, ports_for,
    publishes_not_ready, target_reference,
};
use super::endpointslice::{changed_at, services_of};
use super::engine::{Controller, Wakes};
use super::object::{
    annotation, at, is_deleting, label, list_at, map_at, member_at, name, namespace, str_at, uid,
};
use super::pod::is_ready;
use super::selector::Selector;
use super::slice_packing::{HEADLESS, TRIGGER_TIME};
use super::view::{Change, View};
use super::write::{ENDPOINTS, ObjectRef, Op, Outcome, PODS, Propagation, SERVICES};

/// Most addresses in an Endpoints object.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// Queues the Services a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == SERVICES {
        out.push(Controller::Endpoints, change.target.clone());
    } else if *resource == PODS {
        for target in services_of(change, view) {
            out.push(Controller::Endpoints, target);
        }
    } else if *resource == ENDPOINTS {
        let ObjectRef { namespace, name, .. } = &change.target;
        out.push(Controller::Endpoints, ObjectRef::new(SERVICES, namespace, name));
    }
}

/// Brings the Endpoints of one Service up to date.
pub(crate) fn reconcile(view: &View, target: &ObjectRef) -> Outcome {
    let mut out = Outcome::default();
    let current = view.find(&ENDPOINTS, &target.namespace, &target.name);
    let Some(service) = view.get(target) else {
        // Only what this controller wrote: hand-written Endpoints may come before their Service.
        if let Some(old) = current.filter(|old| label(old, MANAGED_BY) == Some(MANAGER)) {
            out.push(Op::Delete {
                target: ObjectRef::of(ENDPOINTS, old),
                uid: uid(old).to_owned(),
                grace_seconds: None,
                propagation: Propagation::Background,
            });
        }
        return out;
    };
    let Some(selector) = Selector::of_map(service, &["spec", "selector"]) else { return out };
    if is_deleting(service) || str_at(service, &["spec", "type"]) == "ExternalName" {
        return out;
    }
    let (subsets, since, truncated) = subsets(view, service, &selector);
    let labels = labels(service);
    let unchanged = current.is_some_and(|old| {
        list_at(old, &["subsets"]) == subsets
            && at(old, &["metadata", "labels"]).and_then(Value::as_object) == Some(&labels)
            && annotation(old, OVER_CAPACITY).is_some() == truncated
    });
    if unchanged {
        return out;
    }
    let mut object = match current {
        Some(old) => Value::clone(old),
        None => json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": { "name": name(service), "namespace": namespace(service) },
        }),
    };
    let same_subsets = current.is_some_and(|old| list_at(old, &["subsets"]) == subsets);
    let metadata = member_at(&mut object, &["metadata"]);
    metadata.insert("labels".into(), Value::Object(labels));
    let annotations = member_at(&mut object, &["metadata", "annotations"]);
    if !same_subsets {
        if since.is_empty() {
            annotations.shift_remove(TRIGGER_TIME);
        } else {
            annotations.insert(TRIGGER_TIME.into(), since.into());
        }
    }
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.shift_remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        member_at(&mut object, &["metadata"]).shift_remove("annotations");
    }
    let fields = member_at(&mut object, &[]);
    if subsets.is_empty() {
        fields.shift_remove("subsets");
    } else {
        fields.insert("subsets".into(), Value::Array(subsets));
    }
    out.push(if current.is_some() {
        Op::Update { resource: ENDPOINTS, object }
    } else {
        Op::Create { resource: ENDPOINTS, object }
    });
    out
}

fn labels(service: &Value) -> Map<String, Value> {
    let mut labels: Map<String, Value> = map_at(service, &["metadata", "labels"])
        .filter(|(key, _)| ![MANAGED_BY, HEADLESS].contains(key))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    if is_headless(service) {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// An address in sortable form: text, pod uid, and whether it is ready.
type AddressKey = (String, String, bool);

/// The subsets, the newest change among the pods, and whether addresses were left out.
fn subsets(view: &View, service: &Value, selector: &Selector) -> (Vec<Value>, String, bool) {
    let publish = publishes_not_ready(service);
    let family = families(service)[0];
    let mut addresses: BTreeMap<AddressKey, Value> = BTreeMap::new();
    let mut by_port: BTreeMap<String, (Option<Value>, BTreeSet<AddressKey>)> = BTreeMap::new();
    let mut since = str_at(service, &["metadata", "creationTimestamp"]);
    let mut pods: Vec<&Arc<Value>> = view
        .selected(&PODS, namespace(service), selector)
        .into_iter()
        .filter(|pod| has_endpoint(pod, publish))
        .collect();
    // Ready ones first, so that these stay when there are too many.
    pods.sort_by_key(|pod| !(publish || is_ready(pod)));
    let mut truncated = false;
    for pod in pods {
        let Some(address) = address_of(pod, family) else { continue };
        let ports = ports_for(service, pod);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        if addresses.len() == CAPACITY {
            truncated = true;
            break;
        }
        since = since.max(changed_at(pod));
        let key = (address.to_owned(), uid(pod).to_owned(), publish || is_ready(pod));
        let mut entry = json!({ "ip": address });
        if let Some(hostname) = endpoint_hostname(pod, service) {
            entry["hostname"] = hostname.into();
        }
        if let Some(node) = endpoint_node(pod) {
            entry["nodeName"] = node.into();
        }
        entry["targetRef"] = target_reference(pod);
        addresses.insert(key.clone(), entry);
        if ports.is_empty() {
            by_port.entry(String::new()).or_default().1.insert(key);
            continue;
        }
        for port in ports {
            let slot = by_port.entry(port.to_string()).or_default();
            slot.0 = Some(port);
            slot.1.insert(key.clone());
        }
    }
    // Ports with the same addresses share a subset.
    let mut by_addresses: BTreeMap<BTreeSet<AddressKey>, Vec<Value>> = BTreeMap::new();
    for (_, (port, keys)) in by_port {
        by_addresses.entry(keys).or_default().extend(port);
    }
    let subsets = by_addresses
        .into_iter()
        .map(|(keys, ports)| {
            let pick = |ready: bool| -> Vec<Value> {
                keys.iter()
                    .filter(|key| key.2 == ready)
                    .filter_map(|key| addresses.get(key).cloned())
                    .collect()
            };
            let mut subset = Map::new();
            for (field, list) in
                [("addresses", pick(true)), ("notReadyAddresses", pick(false)), ("ports", ports)]
            {
                if !list.is_empty() {
                    subset.insert(field.into(), Value::Array(list));
                }
            }
            Value::Object(subset)
        })
        .collect();
    (subsets, since.to_owned(), truncated)
}

#[cfg(test)]
mod tests;
