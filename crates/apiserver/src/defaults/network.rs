//! Defaults of Services, endpoints, policies and Ingresses.

use serde_json::{Value, json};

use super::{items_at, object_at, set, text};

/// Three hours, upstream's session time.
pub(crate) const AFFINITY_SECONDS: i64 = 10_800;

/// A Service; its addresses and families are the allocator's to give.
pub(super) fn service(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set(spec, "sessionAffinity", json!("None"));
    match text(spec, "sessionAffinity") {
        "None" => {
            if let Some(map) = spec.as_object_mut() {
                map.shift_remove("sessionAffinityConfig");
            }
        }
        "ClientIP" => {
            if let Some(config) = object_at(spec, "sessionAffinityConfig")
                && let Some(client) = object_at(config, "clientIP")
            {
                set(client, "timeoutSeconds", json!(AFFINITY_SECONDS));
            }
        }
        _ => {}
    }
    set(spec, "type", json!("ClusterIP"));
    for port in items_at(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let target_is_absent = match port.get("targetPort") {
            None | Some(Value::Null) => true,
            Some(Value::String(name)) => name.is_empty(),
            Some(number) => number.as_i64() == Some(0),
        };
        if target_is_absent && port["port"].is_number() {
            port["targetPort"] = port["port"].clone();
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

/// A Service's status: an address is one that packets arrive with, unless it says otherwise (KEP-1860).
pub(super) fn load_balancer_status(object: &mut Value) {
    let Some(balancer) = object.pointer_mut("/status/loadBalancer") else { return };
    for ingress in items_at(balancer, "ingress") {
        if !text(ingress, "ip").is_empty() {
            set(ingress, "ipMode", json!("VIP"));
        }
    }
}

/// Classic Endpoints.
pub(super) fn endpoints(object: &mut Value) {
    for subset in items_at(object, "subsets") {
        for port in items_at(subset, "ports") {
            set(port, "protocol", json!("TCP"));
        }
    }
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(object: &mut Value) {
    for port in items_at(object, "ports") {
        set(port, "name", json!(""));
        set(port, "protocol", json!("TCP"));
    }
}

/// A NetworkPolicy: its types follow from its rules.
pub(super) fn policy(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    for (direction, _) in [("ingress", "from"), ("egress", "to")] {
        for rule in items_at(spec, direction) {
            for port in items_at(rule, "ports") {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
    set(spec, "podSelector", json!({}));
    let types = spec["policyTypes"].as_array().is_none_or(Vec::is_empty);
    if types {
        let mut types = vec!["Ingress"];
        if spec["egress"].as_array().is_some_and(|rules| !rules.is_empty()) {
            types.push("Egress");
        }
        spec["policyTypes"] = json!(types);
    }
}

/// An Ingress of a version that has gone: paths without a type mean what the controller likes.
pub(super) fn ingress(version: &str, object: &mut Value) {
    if version == "v1" {
        return;
    }
    let Some(spec) = object.get_mut("spec") else { return };
    for rule in items_at(spec, "rules") {
        if let Some(http) = rule.get_mut("http") {
            for path in items_at(http, "paths") {
                set(path, "pathType", json!("ImplementationSpecific"));
            }
        }
    }
}

/// An IngressClass: parameters are of the cluster unless they say otherwise.
pub(super) fn ingress_class(object: &mut Value) {
    if let Some(parameters) = object.pointer_mut("/spec/parameters").filter(|v| v.is_object()) {
        set(parameters, "scope", json!("Cluster"));
    }
}
