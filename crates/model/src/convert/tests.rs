//! What conversions keep, leave out and say.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::json;

use crate::{
    Balance, EndpointSlice, Namespace, NodeFacts, Parsed, Pod, PodPhase, Protocol, Report, Service,
    ServiceCidr, Severity, TrafficPolicy,
};

fn service(value: serde_json::Value) -> Result<Parsed<Service>, Report> {
    let object: core::Service = serde_json::from_value(value).expect("test object");
    (&object).try_into()
}

fn slice(value: serde_json::Value) -> Result<Parsed<EndpointSlice>, Report> {
    let object: discovery::EndpointSlice = serde_json::from_value(value).expect("test object");
    (&object).try_into()
}

#[test]
fn a_service_keeps_what_the_data_plane_needs() {
    let parsed = service(json!({
        "metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-02T03:04:05Z",
                     "uid": "0b5f3e0a-7d1c-4d5e-9f00-00c0ffee1234"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:10:96::a"],
                 "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
                 "ports": [{"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
                           {"name": "dns", "port": 53, "protocol": "UDP"}]}
    }))
    .expect("a good Service");
    assert_eq!(parsed.reports, []);
    let service = parsed.value;
    assert_eq!(service.key.to_string(), "shop/web");
    assert_eq!(service.created, 1_767_323_045);
    assert_eq!(service.cluster_ips.v4, Some("10.96.0.10".parse().expect("address")));
    assert_eq!(service.cluster_ips.v6, Some("fd00:10:96::a".parse().expect("address")));
    assert_eq!(service.affinity_seconds.map(|seconds| seconds.get()), Some(10_800));
    assert_eq!(service.external_policy, TrafficPolicy::Local);
    assert_eq!(service.ports[0].node_port.map(|port| port.get()), Some(30_080));
    assert_eq!((service.ports[1].protocol, service.ports[1].port), (Protocol::Udp, 53));
    assert!(service.is_served());
}

#[test]
fn headless_services_and_those_of_another_proxy_are_not_served() {
    let headless = service(json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None"}}))
        .expect("headless");
    assert!(headless.value.headless && !headless.value.is_served());
    let foreign = service(json!({
        "metadata": {"name": "a", "labels": {"service.kubernetes.io/service-proxy-name": "other"}},
        "spec": {"clusterIP": "10.96.0.1"}
    }))
    .expect("foreign");
    assert!(!foreign.value.is_served());
}

#[test]
fn a_bad_port_costs_that_port_only() {
    let parsed = service(json!({
        "metadata": {"namespace": "d", "name": "web"},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 70000}, {"port": 80, "nodePort": -4}, {"port": 81, "protocol": "QUIC"}]}
    }))
    .expect("still a Service");
    assert_eq!(parsed.value.ports.len(), 1);
    assert_eq!(parsed.value.ports[0].node_port, None);
    let reasons: Vec<_> = parsed.reports.iter().map(|report| report.reason).collect();
    assert_eq!(reasons, ["PortOutOfRange", "PortOutOfRange", "UnknownProtocol"]);
    assert!(parsed.reports[0].to_string().contains("70000"), "{}", parsed.reports[0]);
}

#[test]
fn a_bad_address_costs_that_endpoint_only() {
    let parsed = slice(json!({
        "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.300"]}, {"addresses": ["fd00::1"]}, {"addresses": ["127.0.0.1"]},
                      {"addresses": []}, {"addresses": ["010.244.1.1"]},
                      {"addresses": ["10.244.1.5"], "conditions": {"ready": false, "serving": true, "terminating": true},
                       "nodeName": "node-1", "zone": "a", "hints": {"forZones": [{"name": "a"}]}}]
    }))
    .expect("still a slice");
    assert_eq!(parsed.value.service.to_string(), "d/web");
    assert_eq!(parsed.value.endpoints.len(), 1);
    let kept = &parsed.value.endpoints[0];
    assert_eq!(kept.address.to_string(), "10.244.1.5");
    assert!(!kept.conditions.ready && kept.conditions.serving && kept.conditions.terminating);
    assert_eq!(parsed.reports.len(), 5);
    assert!(parsed.reports.iter().all(|report| report.severity == Severity::Warning));
    assert!(parsed.reports[0].message.contains("10.244.1.300"));
}

#[test]
fn an_unknown_address_type_is_an_error_that_names_it() {
    let error =
        slice(json!({"metadata": {"name": "x"}, "addressType": "IPX"})).expect_err("unknown type");
    assert_eq!((error.severity, error.reason), (Severity::Error, "UnknownAddressType"));
    assert!(error.message.contains("IPX"));
}

#[test]
fn a_node_keeps_addresses_cidrs_and_zone() {
    let object: core::Node = serde_json::from_value(json!({
        "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "spec": {"podCIDRs": ["10.244.1.7/24", "fd00:10:244:1::/64", "nonsense"]},
        "status": {"addresses": [{"type": "Hostname", "address": "node-1"}, {"type": "InternalIP", "address": "172.30.1.1"},
                                 {"type": "InternalIP", "address": "fd00:172:30::101"}]}
    }))
    .expect("test object");
    let parsed = Parsed::<NodeFacts>::try_from(&object).expect("a node");
    assert_eq!(
        parsed.value.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.244.1.0/24", "fd00:10:244:1::/64"]
    );
    assert_eq!(parsed.value.internal_ips.len(), 2);
    assert_eq!(parsed.value.zone.as_deref(), Some("z1"));
    assert_eq!(parsed.reports.len(), 1);
}

#[test]
fn a_node_that_is_being_drained_is_leaving() {
    let leaving = |extra: serde_json::Value| {
        let mut object = json!({"metadata": {"name": "node-1"}, "spec": {}});
        for (field, value) in extra.as_object().expect("an object") {
            object[field.as_str()] = value.clone();
        }
        let object: core::Node = serde_json::from_value(object).expect("test object");
        Parsed::<NodeFacts>::try_from(&object).expect("a node").value.leaving
    };
    let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
    assert!(!leaving(json!({})));
    assert!(!leaving(taint("node.kubernetes.io/unschedulable")));
    assert!(leaving(taint("ToBeDeletedByClusterAutoscaler")));
    assert!(leaving(
        json!({"metadata": {"name": "node-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    ));
}

#[test]
fn balancing_is_read_from_annotations_and_mistakes_cost_only_themselves() {
    let with = |balance: &str, weights: &str, affinity: &str| {
        service(json!({
            "metadata": {"name": "web", "annotations": {"fairway.dev/balance": balance, "fairway.dev/weights": weights}},
            "spec": {"clusterIP": "10.96.0.10", "sessionAffinity": affinity}
        }))
        .expect("still a Service")
    };
    let reasons = |parsed: &Parsed<Service>| {
        parsed.reports.iter().map(|report| report.reason).collect::<Vec<_>>()
    };
    let good = with("maglev", "zone:a=2, *=1", "None");
    assert_eq!((good.value.balance, good.value.weights.len()), (Balance::Maglev, 2));
    assert_eq!(good.reports, []);
    assert_eq!(with("", "", "None").reports, []);

    let unknown = with("fastest", "*=1,web=2,,node:x=3", "None");
    assert_eq!(unknown.value.balance, Balance::Random);
    assert_eq!(unknown.value.weights.len(), 2, "the good entries are kept");
    assert_eq!(reasons(&unknown), ["UnknownBalance", "BadWeight", "BadWeight"]);
    assert!(unknown.reports[0].to_string().contains("least-connections"), "{}", unknown.reports[0]);

    let affine = with("round-robin", "", "ClientIP");
    assert_eq!(affine.value.balance, Balance::Random);
    assert_eq!(reasons(&affine), ["BalanceHasNoEffect"]);
    assert_eq!(with("random", "*=2", "ClientIP").reports, []);
}

#[test]
fn a_service_cidr_counts_while_addresses_are_given_out_of_it() {
    let read = |extra: serde_json::Value, status: &str| {
        let mut object = json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.1/16", "fd00:10:96::/112", "nonsense"]},
            "status": {"conditions": [{"type": "Ready", "status": status, "reason": "", "message": "",
                                       "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        for (field, value) in extra.as_object().expect("an object") {
            object["metadata"][field.as_str()] = value.clone();
        }
        let object: k8s_openapi::api::networking::v1::ServiceCIDR =
            serde_json::from_value(object).expect("test object");
        Parsed::<ServiceCidr>::try_from(&object).expect("a ServiceCIDR")
    };
    let good = read(json!({}), "True");
    let cidrs: Vec<String> = good.value.cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.96.0.0/16", "fd00:10:96::/112"]);
    assert!(good.value.ready);
    assert_eq!(good.reports[0].reason, "BadServiceCIDR");
    assert!(!read(json!({}), "False").value.ready);
    assert!(!read(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), "True").value.ready);
}

fn pod(value: serde_json::Value) -> Parsed<Pod> {
    let object: core::Pod = serde_json::from_value(value).expect("test object");
    (&object).try_into().expect("a pod")
}

#[test]
fn a_pod_keeps_what_the_network_has_to_know() {
    let parsed = pod(json!({
        "metadata": {"namespace": "shop", "name": "db-0", "labels": {"tier": "db", "app": "shop"},
                     "annotations": {"fairway.dev/policy-drain": "true", "other/one": "x"}},
        "spec": {"nodeName": "node-1", "hostname": "db-0", "subdomain": "db",
            "initContainers": [{"name": "i", "ports": [{"name": "init", "containerPort": 1}]},
                               {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]}],
            "containers": [{"name": "c", "ports": [{"containerPort": 9}, {"name": "sql", "containerPort": 5432},
                {"name": "sql", "containerPort": 5433}, {"name": "sql", "containerPort": 53, "protocol": "UDP"}]}]},
        "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00::5"}]}
    }));
    assert_eq!(parsed.reports, []);
    let pod = parsed.value;
    let addresses: Vec<String> = pod.own_addresses().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["10.244.1.5", "fd00::5"]);
    assert_eq!(pod.port("sql", Protocol::Tcp), Some(5432));
    assert_eq!(pod.port("sql", Protocol::Udp), Some(53));
    assert_eq!((pod.port("side", Protocol::Tcp), pod.port("init", Protocol::Tcp)), (Some(2), None));
    assert_eq!((pod.hostname(), pod.subdomain()), (Some("db-0"), Some("db")));
    assert_eq!(pod.annotation("fairway.dev/policy-drain"), Some("true"));
    assert_eq!(pod.annotation("other/one"), None);
    assert_eq!(pod.labels.get("tier"), Some("db"));
    assert!(!pod.terminating);
}

#[test]
fn a_pod_that_has_finished_or_shares_the_hosts_network_has_no_address_of_its_own() {
    let with = |spec: serde_json::Value, phase: &str| {
        pod(json!({"metadata": {"namespace": "d", "name": "a"}, "spec": spec,
                   "status": {"phase": phase, "podIP": "10.244.1.5"}}))
        .value
    };
    assert_eq!(with(json!({"containers": []}), "Running").own_addresses().count(), 1);
    assert_eq!(with(json!({"containers": []}), "Pending").own_addresses().count(), 1);
    let finished = with(json!({"containers": []}), "Succeeded");
    assert_eq!((finished.phase, finished.own_addresses().count()), (PodPhase::Finished, 0));
    let host = with(json!({"containers": [], "hostNetwork": true}), "Running");
    assert_eq!((host.own_addresses().count(), host.addresses.iter().count()), (0, 1));
}

#[test]
fn a_pods_bad_address_or_port_costs_itself_only() {
    let parsed = pod(json!({
        "metadata": {"namespace": "d", "name": "a"},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "x", "containerPort": 70000}, {"name": "y", "containerPort": 1}]}]},
        "status": {"podIPs": [{"ip": "10.244.1.500"}, {"ip": "fd00::1"}]}
    }));
    let reasons: Vec<_> = parsed.reports.iter().map(|report| report.reason).collect();
    assert_eq!(reasons, ["BadAddress", "PortOutOfRange"]);
    assert_eq!((parsed.value.own_addresses().count(), parsed.value.ports.len()), (1, 1));
    assert!(parsed.value.details.is_none());
}

#[test]
fn a_namespace_keeps_its_labels() {
    let object: core::Namespace = serde_json::from_value(json!({
        "metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop"}}
    }))
    .expect("test object");
    let parsed = Parsed::<Namespace>::try_from(&object).expect("a namespace");
    assert_eq!(parsed.value.name(), "shop");
    assert_eq!(parsed.value.labels.get("kubernetes.io/metadata.name"), Some("shop"));
}
