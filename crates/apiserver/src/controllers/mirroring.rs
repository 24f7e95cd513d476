//! EndpointSlices for hand-written Endpoints of Services without a selector.
//!
//! Upstream's `pkg/controller/endpointslicemirroring`: one group of slices per set of ports and
//! family, owned by the Endpoints object, labels and annotations copied.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::endpoint_ports::family;
use super::engine::{Controller, Wakes};
use super::object::{annotation, at, is_deleting, label, list_at, map_at, name, namespace, str_at};
use super::slice_packing::{Group, MANAGED_BY, SERVICE_NAME, Shape, TRIGGER_TIME, Wanted, pack};
use super::view::{Change, View};
use super::write::{ENDPOINT_SLICES, ENDPOINTS, ObjectRef, Outcome, SERVICES};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Most addresses mirrored from one subset.
const SUBSET_SIZE: usize = 1000;

/// Queues the Endpoints a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    let ObjectRef { namespace, name, .. } = &change.target;
    if *resource == ENDPOINTS {
        out.push(Controller::Mirroring, change.target.clone());
    } else if *resource == SERVICES {
        if view.find(&ENDPOINTS, namespace, name).is_some() {
            out.push(Controller::Mirroring, ObjectRef::new(ENDPOINTS, namespace, name));
        }
    } else if *resource == ENDPOINT_SLICES {
        for slice in change.forms().filter(|slice| label(slice, MANAGED_BY) == Some(MANAGER)) {
            if let Some(service) = label(slice, SERVICE_NAME) {
                let target = ObjectRef::new(ENDPOINTS, namespace, service);
                out.push(Controller::Mirroring, target);
            }
        }
    }
}

/// Brings the mirrored slices of one Endpoints object up to date.
pub(crate) fn reconcile(view: &View, target: &ObjectRef) -> Outcome {
    let mut out = Outcome::default();
    let existing: Vec<&Arc<Value>> = view
        .labelled(&ENDPOINT_SLICES, &target.namespace, SERVICE_NAME, &target.name)
        .filter(|slice| label(slice, MANAGED_BY) == Some(MANAGER))
        .collect();
    let nothing = Value::Null;
    let endpoints = view.get(target).filter(|endpoints| wants_mirror(endpoints));
    let service = view.find(&SERVICES, &target.namespace, &target.name).filter(|service| {
        map_at(service, &["spec", "selector"]).next().is_none()
            && str_at(service, &["spec", "type"]) != "ExternalName"
    });
    let owner = match (endpoints, service) {
        (Some(endpoints), Some(_)) => endpoints.as_ref(),
        _ => &nothing,
    };
    let mut labels: Map<String, Value> = map_at(owner, &["metadata", "labels"])
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    labels.insert(SERVICE_NAME.into(), target.name.clone().into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let shape = Shape {
        owner,
        owner_kind: "Endpoints",
        service: name(owner),
        labels,
        annotations: map_at(owner, &["metadata", "annotations"])
            .filter(|(key, _)| ![LAST_APPLIED, TRIGGER_TIME].contains(key))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect(),
        since: String::new(),
    };
    for op in pack(&existing, groups(owner), &[], false, &shape) {
        out.push(op);
    }
    out
}

fn wants_mirror(endpoints: &Value) -> bool {
    !is_deleting(endpoints)
        && label(endpoints, SKIP) != Some("true")
        && annotation(endpoints, LEADER).is_none()
        && !namespace(endpoints).is_empty()
}

fn groups(endpoints: &Value) -> Vec<Group> {
    let since = annotation(endpoints, TRIGGER_TIME).unwrap_or_default();
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    for subset in list_at(endpoints, &["subsets"]) {
        let ports: Vec<Value> = list_at(subset, &["ports"]).iter().map(mirror_port).collect();
        let key = Value::Array(ports.clone()).to_string();
        let ready = list_at(subset, &["addresses"]).iter().map(|address| (address, true));
        let unready = list_at(subset, &["notReadyAddresses"]).iter().map(|a| (a, false));
        for (address, ready) in ready.chain(unready).take(SUBSET_SIZE) {
            let Some(family) = family(str_at(address, &["ip"])) else { continue };
            let group = groups.entry((family, key.clone())).or_insert_with(|| Group {
                family,
                ports: ports.clone(),
                endpoints: Vec::new(),
            });
            let endpoint = mirror_address(address, ready);
            let known = group
                .endpoints
                .iter()
                .any(|other| other.endpoint.get("addresses") == endpoint.get("addresses"));
            if !known {
                group.endpoints.push(Wanted { endpoint, since: since.to_owned() });
            }
        }
    }
    groups.into_values().collect()
}

fn mirror_port(port: &Value) -> Value {
    let mut mirrored = json!({
        "name": str_at(port, &["name"]),
        "port": at(port, &["port"]),
        "protocol": super::endpoint_ports::protocol(port),
    });
    if let Some(app) = at(port, &["appProtocol"]) {
        mirrored["appProtocol"] = app.clone();
    }
    mirrored
}

fn mirror_address(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({
        "addresses": [str_at(address, &["ip"])],
        "conditions": { "ready": ready },
    });
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = at(address, &[field]) {
            endpoint[field] = value.clone();
        }
    }
    endpoint
}

#[cfg(test)]
mod tests;
