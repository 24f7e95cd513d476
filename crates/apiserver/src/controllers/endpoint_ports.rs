//! From a Service's ports to the numbers a pod listens on, and what an endpoint says of a pod.

use serde_json::{Value, json};

use super::object::{at, int_at, is_deleting, is_true, list_at, name, namespace, str_at, uid};
use super::pod::{addresses, is_ready, is_terminal, node_name, serving_containers};

/// The port of `pod` a Service port leads to: `targetPort` by number or by a container port's
/// name (and protocol). `None` when the pod has no port of that name.
fn resolve(port: &Value, pod: &Value) -> Option<i64> {
    let own = int_at(port, &["port"]);
    match at(port, &["targetPort"]) {
        None => own,
        Some(Value::Number(number)) => number.as_i64().filter(|n| *n != 0).or(own),
        Some(Value::String(wanted)) if wanted.is_empty() => own,
        Some(Value::String(wanted)) => serving_containers(pod)
            .flat_map(|container| list_at(container, &["ports"]))
            .find(|candidate| {
                str_at(candidate, &["name"]) == wanted && protocol(candidate) == protocol(port)
            })
            .and_then(|found| int_at(found, &["containerPort"])),
        Some(_) => None,
    }
}

pub(crate) fn protocol(port: &Value) -> &str {
    match str_at(port, &["protocol"]) {
        "" => "TCP",
        protocol => protocol,
    }
}

/// The ports of a Service as `pod` serves them, in EndpointSlice form. A named port the pod does
/// not have is left out.
pub(crate) fn ports_for(service: &Value, pod: &Value) -> Vec<Value> {
    list_at(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| {
            let mut resolved = json!({
                "name": str_at(port, &["name"]),
                "port": resolve(port, pod)?,
                "protocol": protocol(port),
            });
            if let Some(app) = at(port, &["appProtocol"]) {
                resolved["appProtocol"] = app.clone();
            }
            Some(resolved)
        })
        .collect()
}

/// `IPv4` or `IPv6`; `None` for text that is not an address.
pub(crate) fn family(address: &str) -> Option<&'static str> {
    match address.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(_) => Some("IPv4"),
        std::net::IpAddr::V6(_) => Some("IPv6"),
    }
}

/// The pod's first address of a family.
pub(crate) fn address_of<'a>(pod: &'a Value, wanted: &str) -> Option<&'a str> {
    addresses(pod).into_iter().find(|address| family(address) == Some(wanted))
}

/// The families a Service has; one made before `ipFamilies` was filled in goes by its ClusterIP.
pub(crate) fn families(service: &Value) -> Vec<&'static str> {
    let listed: Vec<&'static str> = list_at(service, &["spec", "ipFamilies"])
        .iter()
        .filter_map(|entry| match entry.as_str() {
            Some("IPv4") => Some("IPv4"),
            Some("IPv6") => Some("IPv6"),
            _ => None,
        })
        .collect();
    if listed.is_empty() {
        return vec![family(str_at(service, &["spec", "clusterIP"])).unwrap_or("IPv4")];
    }
    listed
}

pub(crate) fn is_headless(service: &Value) -> bool {
    str_at(service, &["spec", "clusterIP"]) == "None"
}

pub(crate) fn publishes_not_ready(service: &Value) -> bool {
    is_true(service, &["spec", "publishNotReadyAddresses"])
}

/// Whether a pod has an address worth an endpoint.
pub(crate) fn has_endpoint(pod: &Value, with_terminating: bool) -> bool {
    !is_terminal(pod) && !addresses(pod).is_empty() && (with_terminating || !is_deleting(pod))
}

/// The host name an endpoint gets in DNS, if pod and Service ask for it.
pub(crate) fn endpoint_hostname<'a>(pod: &'a Value, service: &Value) -> Option<&'a str> {
    let hostname = str_at(pod, &["spec", "hostname"]);
    (!hostname.is_empty()
        && str_at(pod, &["spec", "subdomain"]) == name(service)
        && namespace(pod) == namespace(service))
    .then_some(hostname)
}

/// An endpoint's reference to its pod.
pub(crate) fn target_reference(pod: &Value) -> Value {
    json!({ "kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod) })
}

/// `(ready, serving, terminating)` of a pod behind a Service.
pub(crate) fn conditions(pod: &Value, publish_not_ready: bool) -> (bool, bool, bool) {
    let serving = is_ready(pod);
    let terminating = is_deleting(pod);
    (publish_not_ready || (serving && !terminating), serving, terminating)
}

/// The pod's node, if it has one.
pub(crate) fn endpoint_node(pod: &Value) -> Option<&str> {
    Some(node_name(pod)).filter(|node| !node.is_empty())
}
