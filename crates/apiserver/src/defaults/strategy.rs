//! What the server sets on create and update: upstream's strategies and its always-on admission.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{object_at, set, text};
use crate::kinds::Kind;

/// Prepares a new object (in the storage version, defaulted) before validation.
pub fn for_create(kind: &Kind, object: &mut Value) {
    if kind.crd.is_some() {
        if kind.storage().is_some_and(|served| served.status)
            && let Some(map) = object.as_object_mut()
        {
            map.shift_remove("status");
        }
        return;
    }
    match kind.kind.as_str() {
        "Namespace" => {
            if let Some(spec) = object_at(object, "spec") {
                let finalizers = spec["finalizers"].as_array().cloned().unwrap_or_default();
                if !finalizers.iter().any(|f| f == "kubernetes") {
                    let mut finalizers = finalizers;
                    finalizers.push(json!("kubernetes"));
                    spec["finalizers"] = Value::Array(finalizers);
                }
            }
            put(object, "status", json!({"phase": "Active"}));
        }
        "Pod" => {
            admit_pod(object);
            let class = quality_of_service(object);
            put(object, "status", json!({"phase": "Pending", "qosClass": class}));
        }
        "Service" => put(object, "status", json!({"loadBalancer": {}})),
        "Ingress" => put(object, "status", json!({"loadBalancer": {}})),
        "Deployment" | "CustomResourceDefinition" | "ServiceCIDR" => {
            put(object, "status", json!({}))
        }
        "ReplicaSet" => put(object, "status", json!({"replicas": 0})),
        "Secret" => secret(object),
        _ => {}
    }
}

/// Prepares a changed status before validation.
pub fn for_status(kind: &Kind, new: &mut Value) {
    if kind.crd.is_none() && kind.kind == "Service" {
        super::network::load_balancer_status(new);
    }
}

/// Prepares a changed object (in the storage version, defaulted) before validation: keeps what a
/// client may leave out and the server has given (`clusterIP`, node ports …).
pub fn for_update(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.crd.is_some() {
        return;
    }
    match kind.kind.as_str() {
        "Secret" => {
            secret(new);
            // A client that leaves the type out keeps it.
            let kind = text(old, "type");
            if !kind.is_empty() && text(new, "type").is_empty() {
                put(new, "type", json!(kind));
            }
        }
        "Service" => service_update(new, old),
        "Namespace" => {
            // Finalizers of a namespace change only through `finalize`.
            if let Some(finalizers) = old["spec"].get("finalizers").cloned()
                && let Some(spec) = object_at(new, "spec")
            {
                spec["finalizers"] = finalizers;
            }
        }
        _ => {}
    }
}

fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
}

fn secret(object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = map.shift_remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if !data.is_object() {
        *data = json!({});
    }
    for (key, value) in texts {
        if let Some(text) = value.as_str() {
            data[key] = json!(base64::engine::general_purpose::STANDARD.encode(text));
        }
    }
}

/// Upstream's always-on admission for pods: service account, priority, default tolerations.
fn admit_pod(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    set(spec, "serviceAccountName", json!("default"));
    set(spec, "serviceAccount", spec["serviceAccountName"].clone());
    set(spec, "priority", json!(0));
    set(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|t| {
            (text(t, "key") == key || text(t, "key").is_empty())
                && (text(t, "effect") == "NoExecute" || text(t, "effect").is_empty())
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from the containers' cpu and memory.
fn quality_of_service(object: &Value) -> &'static str {
    let mut any = false;
    let mut all_equal = true;
    for list in ["containers", "initContainers"] {
        for container in object["spec"][list].as_array().into_iter().flatten() {
            let resources = &container["resources"];
            for name in ["cpu", "memory"] {
                let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
                any |= !request.is_null() || !limit.is_null();
                all_equal &= !limit.is_null() && (request.is_null() || request == limit);
            }
        }
    }
    match (any, all_equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What a client leaves out in a PUT of a Service keeps the value the server gave, if the type
/// still wants it (upstream's `patchAllocatedValues`), and what the new type has no use for goes.
fn service_update(new: &mut Value, old: &Value) {
    let old_spec = &old["spec"];
    let (was, is) = (text(old_spec, "type").to_owned(), text(&new["spec"], "type").to_owned());
    let Some(spec) = object_at(new, "spec") else { return };
    let cluster = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    let node = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if cluster(&was) && cluster(&is) {
        if text(spec, "clusterIP").is_empty()
            && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty)
        {
            for name in ["clusterIP", "clusterIPs"] {
                if let Some(value) = old_spec.get(name) {
                    spec[name] = value.clone();
                }
            }
        } else if text(spec, "clusterIP") == text(old_spec, "clusterIP")
            && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty)
            && old_spec.get("clusterIPs").is_some()
        {
            spec["clusterIPs"] = old_spec["clusterIPs"].clone();
        } else if text(spec, "clusterIP").is_empty() {
            // The plain field follows the list's first.
            if let Some(first) = spec["clusterIPs"].get(0).cloned() {
                spec["clusterIP"] = first;
            }
        }
    }
    if node(&was) && node(&is) {
        keep_node_ports(spec, old_spec);
        let local = text(spec, "externalTrafficPolicy") == "Local" && is == "LoadBalancer";
        if local
            && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
            && old_spec["healthCheckNodePort"].as_i64().unwrap_or(0) != 0
        {
            spec["healthCheckNodePort"] = old_spec["healthCheckNodePort"].clone();
        }
    }
    drop_disabled(spec, old_spec);
}

fn keep_node_ports(spec: &mut Value, old_spec: &Value) {
    let key = |port: &Value| (port["port"].clone(), port["protocol"].clone());
    let old_ports = old_spec["ports"].as_array().cloned().unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"].as_i64().unwrap_or(0) == 0
            && port.is_object()
            && let Some(old) = old_ports.iter().find(|old| key(old) == key(port))
            && old["nodePort"].as_i64().unwrap_or(0) != 0
        {
            port["nodePort"] = old["nodePort"].clone();
        }
    }
}

/// What a Service's fields depend on.
struct Needs {
    cluster_ip: bool,
    node_ports: bool,
    external_policy: bool,
    health_port: bool,
    balancer: bool,
}

impl Needs {
    fn of(spec: &Value) -> Self {
        let kind = text(spec, "type");
        let node_ports = matches!(kind, "NodePort" | "LoadBalancer");
        let cluster_ip = node_ports || kind == "ClusterIP";
        let external_ips = spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
        let balancer = kind == "LoadBalancer";
        Self {
            cluster_ip,
            node_ports,
            external_policy: node_ports || (cluster_ip && external_ips),
            health_port: balancer && text(spec, "externalTrafficPolicy") == "Local",
            balancer,
        }
    }
}

/// Fields that have no use any more go, if the client left them as they were (upstream's
/// `dropTypeDependentFields`).
fn drop_disabled(spec: &mut Value, old: &Value) {
    let (was, is) = (Needs::of(old), Needs::of(spec));
    let by_name = |spec: &Value| text(spec, "type") == "ExternalName";
    let named = by_name(old) && !by_name(spec);
    let Some(map) = spec.as_object_mut() else { return };
    if was.node_ports && !is.node_ports {
        let old_ports = old["ports"].as_array().cloned().unwrap_or_default();
        for port in map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let same = old_ports.iter().any(|o| o["nodePort"] == port["nodePort"]);
            if let Some(port) = port.as_object_mut().filter(|_| same) {
                port.shift_remove("nodePort");
            }
        }
    }
    let groups: [(bool, &[&str]); 5] = [
        (
            was.cluster_ip && !is.cluster_ip,
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"],
        ),
        (was.external_policy && !is.external_policy, &["externalTrafficPolicy"]),
        (was.health_port && !is.health_port, &["healthCheckNodePort"]),
        (
            was.balancer && !is.balancer,
            &["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"],
        ),
        (named, &["externalName"]),
    ];
    for name in groups.iter().filter(|(gone, _)| *gone).flat_map(|(_, names)| *names) {
        if map.get(*name).is_some_and(|value| Some(value) == old.get(*name)) {
            map.shift_remove(*name);
        }
    }
}
