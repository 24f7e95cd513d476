//! EndpointSlice: the pods behind a Service with a selector, per family and set of ports.
//!
//! Behaves as upstream's `pkg/controller/endpointslice`; the packing is [`super::slice_packing`].
//! Slices of Services without a selector belong to whoever wrote them (or to
//! [`super::mirroring`]) and are left alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::endpoint_ports::{
    address_of, conditions, endpoint_hostname, endpoint_node, families, has_endpoint, is_headless,
    ports_for, publishes_not_ready, target_reference,
};
use super::engine::{Controller, Wakes};
use super::hints;
use super::object::{condition, is_deleting, label, map_at, name, namespace, str_at};
use super::selector::Selector;
use super::slice_packing::{Group, HEADLESS, MANAGED_BY, SERVICE_NAME, Shape, Wanted, pack};
use super::view::{Change, View};
use super::write::{ENDPOINT_SLICES, NODES, Note, ObjectRef, Outcome, PODS, SERVICES, Write};

/// The value of the managed-by label on this controller's slices.
const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// Queues the Services a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == SERVICES {
        if change.new.is_some() {
            out.push(Controller::EndpointSlice, change.target.clone());
        }
    } else if *resource == PODS {
        for target in services_of(change, view) {
            out.push(Controller::EndpointSlice, target);
        }
    } else if *resource == ENDPOINT_SLICES {
        // Someone else's edit is put right; our own finds nothing to do.
        for slice in change.forms().filter(|slice| label(slice, MANAGED_BY) == Some(MANAGER)) {
            if let Some(service) = label(slice, SERVICE_NAME) {
                let target = ObjectRef::new(SERVICES, namespace(slice), service);
                out.push(Controller::EndpointSlice, target);
            }
        }
    } else if *resource == NODES {
        node_wakes(change, view, out);
    }
}

fn node_wakes(change: &Change, view: &View, out: &mut Wakes) {
    if zone_changed(change) {
        for pod in view.pods_on(&change.target.name) {
            for target in view.selecting(&SERVICES, pod) {
                out.push(Controller::EndpointSlice, target);
            }
        }
    }
    let share_changed = match (&change.old, &change.new) {
        (Some(old), Some(new)) => hints::facts(old) != hints::facts(new),
        _ => true,
    };
    if share_changed {
        // The zones' shares are everybody's who divides by them.
        for service in view.all(&SERVICES).filter(|service| hints::is_auto(service)) {
            out.push(Controller::EndpointSlice, ObjectRef::of(SERVICES, service));
        }
    }
}

/// Services whose selector matches a pod before or after a change that endpoints can show.
pub(crate) fn services_of(change: &Change, view: &View) -> Vec<ObjectRef> {
    let mut services: Vec<ObjectRef> = Vec::new();
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && facts(old) == facts(new)
    {
        return services;
    }
    for pod in change.forms() {
        services.extend(view.selecting(&SERVICES, pod));
    }
    services.sort();
    services.dedup();
    services
}

/// What endpoints show of a pod.
fn facts(pod: &Value) -> impl PartialEq + use<'_> {
    (
        pod.pointer("/metadata/labels"),
        pod.pointer("/status/podIPs"),
        pod.pointer("/status/podIP"),
        pod.pointer("/status/phase"),
        pod.pointer("/spec"),
        (is_deleting(pod), super::pod::is_ready(pod), super::object::uid(pod)),
    )
}

fn zone_changed(change: &Change) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => label(old, ZONE) != label(new, ZONE),
        _ => true,
    }
}

/// Brings the slices of one Service up to date.
pub(crate) fn reconcile(view: &View, target: &ObjectRef) -> Outcome {
    let mut out = Outcome::default();
    let Some(service) = view.get(target) else {
        // The slices have it as owner: the garbage collector takes them.
        return out;
    };
    let Some(selector) = Selector::of_map(service, &["spec", "selector"]) else { return out };
    if is_deleting(service) {
        return out;
    }
    let (families, groups) = if str_at(service, &["spec", "type"]) == "ExternalName" {
        (Vec::new(), Vec::new())
    } else {
        let families = families(service);
        let mut groups = groups(view, service, &selector, &families);
        hints::give(view, service, &families, &mut groups);
        (families, groups)
    };
    let existing: Vec<&Arc<Value>> = view
        .labelled(&ENDPOINT_SLICES, namespace(service), SERVICE_NAME, name(service))
        .filter(|slice| label(slice, MANAGED_BY) == Some(MANAGER))
        .collect();
    let shape = Shape {
        owner: service,
        owner_kind: "Service",
        service: name(service),
        labels: labels(service, MANAGER),
        annotations: Map::new(),
        since: str_at(service, &["metadata", "creationTimestamp"]).to_owned(),
    };
    for op in pack(&existing, groups, &families, true, &shape) {
        out.writes.push(Write::quiet(op).or_else(Note {
            regarding: Value::clone(service),
            api_version: "v1",
            kind: "Service",
            warning: true,
            reason: "FailedToUpdateEndpointSlices",
            message: format!(
                "Error updating Endpoint Slices for Service {}/{}: {{error}}",
                namespace(service),
                name(service)
            ),
            component: "endpoint-slice-controller",
        }));
    }
    out
}

/// The labels of a Service's slices: its own, and those that say what they are.
pub(crate) fn labels(service: &Value, manager: &str) -> Map<String, Value> {
    let mut labels: Map<String, Value> = map_at(service, &["metadata", "labels"])
        .filter(|(key, _)| ![SERVICE_NAME, MANAGED_BY, HEADLESS].contains(key))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    if is_headless(service) {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.insert(SERVICE_NAME.into(), name(service).into());
    labels.insert(MANAGED_BY.into(), manager.into());
    labels
}

/// The endpoints there shall be, grouped by family and by the ports the pods serve.
fn groups(
    view: &View,
    service: &Value,
    selector: &Selector,
    families: &[&'static str],
) -> Vec<Group> {
    let publish = publishes_not_ready(service);
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for pod in view.selected(&PODS, namespace(service), selector) {
        if !has_endpoint(pod, true) {
            continue;
        }
        let node = endpoint_node(pod).and_then(|node| view.find(&NODES, "", node));
        if endpoint_node(pod).is_some() && node.is_none() && !publish {
            // Its node is gone; the pod soon is too.
            continue;
        }
        let ports = ports_for(service, pod);
        let key = Value::Array(ports.clone()).to_string();
        for family in families {
            let Some(address) = address_of(pod, family) else { continue };
            let group = groups.entry((family, key.clone())).or_insert_with(|| Group {
                family,
                ports: ports.clone(),
                endpoints: Vec::new(),
            });
            group.endpoints.push(Wanted {
                endpoint: endpoint(service, pod, node.map(Arc::as_ref), address, publish),
                since: changed_at(pod).to_owned(),
            });
        }
    }
    groups.into_values().collect()
}

fn endpoint(
    service: &Value,
    pod: &Value,
    node: Option<&Value>,
    address: &str,
    publish: bool,
) -> Value {
    let (ready, serving, terminating) = conditions(pod, publish);
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
        "targetRef": target_reference(pod),
    });
    if let Some(hostname) = endpoint_hostname(pod, service) {
        endpoint["hostname"] = hostname.into();
    }
    if let Some(node) = endpoint_node(pod) {
        endpoint["nodeName"] = node.into();
    }
    if let Some(zone) = node.and_then(|node| label(node, ZONE)) {
        endpoint["zone"] = zone.into();
    }
    endpoint
}

/// When the pod became what its endpoint says: its Ready condition changed, or it was deleted.
pub(crate) fn changed_at(pod: &Value) -> &str {
    let deleted = str_at(pod, &["metadata", "deletionTimestamp"]);
    if !deleted.is_empty() {
        return deleted;
    }
    let ready = condition(pod, "Ready").map_or("", |c| str_at(c, &["lastTransitionTime"]));
    if ready.is_empty() { str_at(pod, &["metadata", "creationTimestamp"]) } else { ready }
}

#[cfg(test)]
mod tests;
