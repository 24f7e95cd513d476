//! What is read is what the conversions would have seen, and nothing a server may send is lost.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use model::{Parsed, Report};
use serde_json::{Value, json};

use super::*;

/// Metadata as servers send it, with everything in it.
fn metadata(namespace: &str) -> Value {
    json!({
        "name": "web", "namespace": namespace, "generateName": "we", "selfLink": "/x", "generation": 3,
        "uid": "0b9f8a3e-5d0a-4f65-9d1c-1f2e3d4c5b6a", "resourceVersion": "42",
        "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
        "deletionGracePeriodSeconds": 30, "finalizers": ["a/b"],
        "labels": {"app": "web", "kubernetes.io/service-name": "web", "topology.kubernetes.io/zone": "a"},
        "annotations": {"fairway.dev/balance": "maglev", "fairway.dev/weights": "node=a:2"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
        "managedFields": [{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                           "time": "2026-01-01T00:00:09Z", "fieldsV1": {"f:spec": {"f:ports": {".": {}}}}}]
    })
}

fn service() -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1", "metadata": metadata("d"),
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack", "selector": {"app": "web"},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "nodePort": 30080,
                       "appProtocol": "http"}],
            "externalIPs": ["192.0.2.7"], "loadBalancerSourceRanges": ["198.51.100.0/24"], "externalName": "x.example",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "publishNotReadyAddresses": true, "trafficDistribution": "PreferClose",
            "allocateLoadBalancerNodePorts": false, "loadBalancerClass": "a/b"
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5", "ipMode": "VIP", "ports": []}]}, "conditions": []}
    })
}

fn slice() -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": metadata("d"), "addressType": "IPv4",
        "endpoints": [{
            "addresses": ["10.244.0.2"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "hostname": "web-0", "nodeName": "node-1", "zone": "a",
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]},
            "targetRef": {"kind": "Pod", "name": "web-0", "namespace": "d", "uid": "u"}, "deprecatedTopology": {"a": "b"}
        }],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "appProtocol": "http"}]
    })
}

fn node() -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1", "metadata": metadata(""),
        "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:1::/64"], "providerID": "x",
                 "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule", "value": "1"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n"}],
                   "images": [{"names": ["a"], "sizeBytes": 5}], "conditions": [], "capacity": {"cpu": "2"}}
    })
}

fn pod() -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": metadata("d"),
        "spec": {
            "nodeName": "node-1", "hostNetwork": true, "hostname": "web-0", "subdomain": "web", "dnsPolicy": "ClusterFirst",
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "B"}],
                            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP", "hostPort": 80,
                                       "hostIP": "192.0.2.1"}]}],
            "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always",
                                "ports": [{"name": "side", "containerPort": 9090, "protocol": "UDP"}]}]
        },
        "status": {"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00:1::2"}],
                   "hostIP": "192.0.2.1", "conditions": [{"type": "Ready", "status": "True"}]}
    })
}

/// What the model makes of an object read whole, and of one read from the wire.
fn same<K, T>(object: &Value)
where
    K: Wire + DeserializeOwned,
    T: PartialEq + fmt::Debug,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let whole: K = serde_json::from_value(object.clone()).expect("the whole object");
    let line = json!({"type": "ADDED", "object": object}).to_string();
    let read = match super::line::<K>(line.as_bytes()).expect("a line") {
        Line::Applied(Received::Good(read)) => read,
        other => panic!("a good object: {}", kind_of(&other)),
    };
    let text = |outcome: Result<Parsed<T>, Report>| match outcome {
        Ok(parsed) => format!("{:?} {:?}", parsed.value, parsed.reports),
        Err(report) => format!("{report:?}"),
    };
    assert_eq!(text(Parsed::try_from(&read.object)), text(Parsed::try_from(&whole)));
    assert_eq!(read.written.map(|at| at.to_string()).as_deref(), Some("2026-01-01T00:00:09Z"));
}

fn kind_of<K>(line: &Line<K>) -> &'static str {
    match line {
        Line::Applied(Received::Good(_)) => "applied",
        Line::Applied(Received::Misshapen { .. }) => "misshapen",
        Line::Deleted(_) => "deleted",
        Line::Bookmark { .. } => "bookmark",
        Line::Error(_) => "error",
    }
}

#[test]
fn conversions_see_the_same_objects() {
    same::<Service, model::Service>(&service());
    same::<EndpointSlice, model::EndpointSlice>(&slice());
    same::<Node, model::NodeFacts>(&node());
    same::<Pod, model::Pod>(&pod());
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": metadata("")});
    same::<Namespace, model::Namespace>(&namespace);
    let cidr = json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": metadata(""),
                      "spec": {"cidrs": ["10.96.0.0/16"]}, "status": {"conditions": []}});
    same::<ServiceCIDR, model::ServiceCidr>(&cidr);
}

#[test]
fn fields_in_any_order_nulls_and_strangers_are_read() {
    let text = r#"{"object":{"spec":null,"metadata":{"managedFields":null,"labels":null,"name":"a","namespace":"d"},"new":[1]},"type":"MODIFIED"}"#;
    let Line::Applied(received) = line::<Service>(text.as_bytes()).expect("a line") else {
        panic!()
    };
    assert_eq!(received.meta().name.as_deref(), Some("a"));
    let text = r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":null}],"ports":null}}"#;
    assert_eq!(kind_of(&line::<EndpointSlice>(text.as_bytes()).expect("a line")), "applied");
}

#[test]
fn a_status_is_an_error_whatever_shape_the_kind_has() {
    let text = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
    for read in [
        line::<EndpointSlice>(text.as_bytes())
            .map(|line| matches!(line, Line::Error(status) if status.code == Some(410))),
        line::<Service>(text.as_bytes())
            .map(|line| matches!(line, Line::Error(status) if status.code == Some(410))),
        line::<Namespace>(text.as_bytes())
            .map(|line| matches!(line, Line::Error(status) if status.code == Some(410))),
    ] {
        assert!(read.expect("a line"));
    }
}

#[test]
fn the_bookmark_that_ends_a_list_is_told_from_others() {
    let bookmark = |meta: Value| {
        let object = json!({"kind": "Node", "apiVersion": "v1", "metadata": meta});
        let text = json!({"type": "BOOKMARK", "object": object}).to_string();
        match line::<Node>(text.as_bytes()).expect("a line") {
            Line::Bookmark { revision, list_ends } => (revision, list_ends),
            other => panic!("a bookmark: {}", kind_of(&other)),
        }
    };
    let end = json!({"resourceVersion": "9", "annotations": {LIST_ENDS: "true"}});
    assert_eq!(bookmark(end), (Some("9".into()), true));
    assert_eq!(
        bookmark(json!({"resourceVersion": "10", "creationTimestamp": null})),
        (Some("10".into()), false)
    );
}

#[test]
fn one_wrong_object_of_a_page_leaves_the_others() {
    let page = json!({
        "kind": "ServiceList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": "abc"},
        "items": [{"metadata": {"name": "good", "namespace": "d"}, "spec": {}},
                  {"metadata": {"name": "bad", "namespace": "d"}, "spec": {"ports": 5}}]
    });
    let page = super::page::<Service>(page.to_string().as_bytes()).expect("a page");
    assert_eq!((page.revision.as_deref(), page.next.as_deref()), (Some("7"), Some("abc")));
    assert!(matches!(&page.items[0], Received::Good(_)));
    assert!(
        matches!(&page.items[1], Received::Misshapen { meta, .. } if meta.name.as_deref() == Some("bad"))
    );
    let empty = super::page::<Service>(
        br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#,
    );
    assert!(empty.is_ok_and(|page| page.items.is_empty() && page.next.is_none()));
}

#[test]
fn what_is_no_line_is_an_error() {
    for text in [
        "",
        "{}",
        "[]",
        r#"{"type":"ADDED"}"#,
        r#"{"type":"NEW","object":{}}"#,
        r#"{"type":"ADDED","object":5}"#,
    ] {
        assert!(line::<Service>(text.as_bytes()).is_err(), "{text}");
    }
}
