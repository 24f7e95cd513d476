use serde_json::{Value, json};

use super::*;
use crate::kinds::Kinds;

const NOW: &str = "2026-01-02T00:00:00Z";

/// Headings and cells as `kubectl get -o wide` would print them, `|` between.
fn printed(mut object: Value) -> String {
    let kinds = Kinds::builtin();
    let api_version = object["apiVersion"].as_str().expect("apiVersion").to_owned();
    let kind = kinds.of(&api_version, object["kind"].as_str().expect("kind")).expect("served");
    let served = kind.storage().expect("served").clone();
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:55:00Z");
    let now = NOW.parse().expect("a time");
    let list = [object];
    let table = table(&kind, &served, &list, json!({}), IncludeObject::None, now);
    let heads: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    let cells: Vec<String> = table["rows"][0]["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect();
    assert_eq!(heads.len(), cells.len(), "a cell for each column");
    format!("{}\n{}", heads.join("|"), cells.join("|"))
}

#[test]
fn services_print_as_upstream() {
    let svc = |spec: Value| {
        printed(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": spec}))
    };
    assert_eq!(
        svc(json!({"type": "NodePort", "clusterIP": "10.96.1.0", "clusterIPs": ["10.96.1.0"],
            "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080},
                      {"port": 53, "protocol": "UDP"}]})),
        "Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector\n\
         web|NodePort|10.96.1.0|<none>|80:30080/TCP,53/UDP|5m|a=1,b=2"
    );
    assert!(
        svc(json!({"type": "ExternalName", "externalName": "a.example"}))
            .ends_with("web|ExternalName|<none>|a.example|<none>|5m|<none>")
    );
    assert!(
        svc(json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"]}))
            .contains("|LoadBalancer|10.96.0.1|<pending>|")
    );
    assert!(svc(json!({"type": "ClusterIP", "clusterIPs": ["None"]})).contains("|ClusterIP|None|"));
}

fn pod(spec: Value, status: Value) -> String {
    let text = printed(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": spec, "status": status}));
    text.lines().nth(1).expect("a row").to_owned()
}

#[test]
fn pods_print_as_upstream() {
    let spec = json!({"nodeName": "node-1", "containers": [{"name": "a"}, {"name": "b"}]});
    let running = json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
    assert_eq!(
        pod(spec.clone(), json!({"phase": "Pending"})),
        "p|0/2|Pending|0|5m|<none>|node-1|<none>|<none>"
    );
    assert_eq!(
        pod(
            spec.clone(),
            json!({"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}],
            "containerStatuses": [running, {"name": "b", "restartCount": 3,
                "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:00Z"}},
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
        ),
        "p|1/2|CrashLoopBackOff|3 (60s ago)|5m|10.244.1.2|node-1|<none>|<none>"
    );
    assert!(
        pod(
            spec.clone(),
            json!({"phase": "Succeeded", "containerStatuses": [
        {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]})
        )
        .starts_with("p|0/2|Completed|0|")
    );
    assert!(
        pod(
            spec.clone(),
            json!({"phase": "Failed", "containerStatuses": [
        {"state": {"terminated": {"exitCode": 7}}}]})
        )
        .starts_with("p|0/2|ExitCode:7|0|")
    );
    let inits =
        json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    assert!(
        pod(
            inits.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}},
        {"name": "j", "state": {"running": {}}}]})
        )
        .starts_with("p|0/1|Init:1/2|0|")
    );
    assert!(pod(inits, json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}))
        .starts_with("p|0/1|Init:Error|2|"));
    let deleting = printed(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "deletionTimestamp": NOW}, "spec": spec,
        "status": {"phase": "Running"}}));
    assert!(deleting.contains("\np|0/2|Terminating|0|"));
}

#[test]
fn the_others_print_as_upstream() {
    let cases = [
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"},
                    "matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}]},
                    "template": {"spec": {"containers": [{"name": "c", "image": "httpd"}]}}},
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
            "Name|Ready|Up-to-date|Available|Age|Containers|Images|Selector\n\
             d|2/3|3|2|5m|c|httpd|app=d,tier in (a,b)",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {
                    "node-role.kubernetes.io/control-plane": ""}},
                "spec": {"unschedulable": true}, "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "172.30.1.1"}],
                    "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"}}}),
            "Name|Status|Roles|Age|Version|Internal-IP|External-IP|OS-Image|Kernel-Version|\
             Container-Runtime\nn|Ready,SchedulingDisabled|control-plane|5m|v1.36.0|172.30.1.1|\
             <none>|Debian|<unknown>|<unknown>",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"},
                "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}],
                    "ports": [{"port": 80}, {"port": 443}]}]}),
            "Name|Endpoints|Age\ne|10.0.0.1:80,[fd00::2]:80,10.0.0.1:443 + 1 more...|5m",
        ),
        (
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]}),
            "Name|AddressType|Ports|Endpoints|Age\ns|IPv4|80|10.0.0.1,10.0.0.2|5m",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "x"},
                "type": "Normal", "reason": "Pulled", "message": "done\n", "count": 2,
                "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet"},
                "firstTimestamp": "2026-01-01T23:00:00Z", "lastTimestamp": "2026-01-01T23:59:30Z"}),
            "Last Seen|Type|Reason|Object|Subobject|Source|Message|First Seen|Count|Name\n\
             30s|Normal|Pulled|pod/p||kubelet|done|60m|2|x",
        ),
        (
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.b"}, {"host": "c.d"}]}}),
            "Name|Class|Hosts|Address|Ports|Age\ni|<none>|a.b,c.d||80|5m",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"},
                "status": {"phase": "Active"}}),
            "Name|Status|Age\nns|Active|5m",
        ),
    ];
    for (object, wanted) in cases {
        assert_eq!(printed(object), wanted);
    }
}

#[test]
fn ages_shrink_as_upstreams() {
    let minute = 60;
    let (hour, day) = (60 * minute, 24 * 60 * minute);
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (10 * minute + 5, "10m"),
        (179 * minute, "179m"),
        (3 * hour, "3h"),
        (3 * hour + 5 * minute, "3h5m"),
        (47 * hour, "47h"),
        (2 * day, "2d"),
        (2 * day + hour, "2d1h"),
        (9 * day, "9d"),
        (730 * day, "2y"),
        (735 * day, "2y5d"),
        (3000 * day, "8y"),
    ] {
        assert_eq!(age::human(seconds), text);
    }
}

#[test]
fn paths_of_printer_columns() {
    let object = json!({"metadata": {"annotations": {"a.b/c": "x"}}, "status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "Old", "status": "False"}]},
        "spec": {"ports": [1, 2]}});
    for (path, wanted) in [
        (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
        (".status.conditions[?(@.type=='Old')].status", json!(["False"])),
        (".metadata.annotations.a\\.b/c", json!(["x"])),
        (".metadata.annotations['a.b/c']", json!(["x"])),
        (".spec.ports[*]", json!([1, 2])),
        (".spec.ports[1]", json!([2])),
        ("{.spec.ports[0]}", json!([1])),
        (".nothing.here", json!([])),
        ("..", json!([])),
        (".spec.ports[", json!([])),
    ] {
        let found: Vec<&Value> = jsonpath::find(path, &object);
        assert_eq!(json!(found), wanted, "{path}");
    }
}
