use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{
    Simple, lines, node, ops, pods, put, running, service, t0, three_nodes, view, with,
};
use crate::controllers::object::list_at;
use crate::controllers::write::{Op, Resource};

fn target() -> ObjectRef {
    ObjectRef::new(SERVICES, "default", "web")
}

fn run(service: Value, the_pods: Vec<Value>) -> Outcome {
    let mut objects = three_nodes();
    objects.extend(pods(the_pods));
    objects.push((SERVICES, service));
    reconcile(&view(&objects), &target())
}

/// What the one slice written says.
fn only(outcome: &Outcome) -> Value {
    match ops(outcome).as_slice() {
        [Op::Create { object, .. } | Op::Update { object, .. }] => object.clone(),
        other => panic!("not one slice: {other:?}"),
    }
}

fn slices(outcome: &Outcome) -> Vec<Value> {
    ops(outcome)
        .into_iter()
        .filter_map(|op| match op {
            Op::Create { object, .. } | Op::Update { object, .. } => Some(object.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_slice_as_upstream_writes_it() {
    let slice = only(&run(service("web"), vec![running("a", "n1", 5, true)]));
    assert_eq!(
        slice,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "generateName": "web-", "namespace": "default",
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": "web",
                    "uid": "uid-web", "controller": true, "blockOwnerDeletion": true }],
                "labels": {
                    "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "annotations": {
                    "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z" },
            },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.244.0.5"],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef":
                    { "kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a" },
                "nodeName": "n1",
            }],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        })
    );
}

#[test]
fn conditions_of_an_endpoint() {
    let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:01:00Z" } });
    let publish = json!({ "spec": { "publishNotReadyAddresses": true } });
    let none = json!({});
    for (ready, pod_patch, service_patch, expect) in [
        (true, &none, &none, (true, true, false)),
        (false, &none, &none, (false, false, false)),
        (true, &going, &none, (false, true, true)),
        (false, &going, &none, (false, false, true)),
        (false, &none, &publish, (true, false, false)),
        (true, &going, &publish, (true, true, true)),
    ] {
        let pod = with(running("a", "n1", 5, ready), pod_patch.clone());
        let slice = only(&run(with(service("web"), service_patch.clone()), vec![pod]));
        let (ready, serving, terminating) = expect;
        assert_eq!(
            slice["endpoints"][0]["conditions"],
            json!({ "ready": ready, "serving": serving, "terminating": terminating }),
        );
    }
}

#[test]
fn which_pods_are_endpoints() {
    for (what, patch, count) in [
        ("running", json!({}), 1),
        ("finished", json!({ "status": { "phase": "Succeeded" } }), 0),
        ("failed", json!({ "status": { "phase": "Failed" } }), 0),
        ("without address", json!({ "status": { "podIP": null, "podIPs": null } }), 0),
        ("of another label", json!({ "metadata": { "labels": { "app": "db" } } }), 0),
        ("of another namespace", json!({ "metadata": { "namespace": "other" } }), 0),
        ("on a node that is gone", json!({ "spec": { "nodeName": "n9" } }), 0),
    ] {
        let slice = only(&run(service("web"), vec![with(running("a", "n1", 5, true), patch)]));
        assert_eq!(list_at(&slice, &["endpoints"]).len(), count, "{what}");
        if count == 0 {
            assert_eq!(slice["ports"], json!([]), "the placeholder has no ports");
        }
    }
}

#[test]
fn target_ports_by_number_by_name_and_by_pod() {
    let ports = |ports: Value| with(service("web"), json!({ "spec": { "ports": ports } }));
    let pod = running("a", "n1", 5, true);
    for (spec, number) in [
        (json!([{ "port": 80 }]), Some(80)),
        (json!([{ "port": 80, "targetPort": 8080 }]), Some(8080)),
        (json!([{ "port": 8000, "targetPort": "http" }]), Some(80)),
        (json!([{ "port": 80, "targetPort": "nope" }]), None),
        (json!([{ "port": 80, "targetPort": "http", "protocol": "UDP" }]), None),
    ] {
        let slice = only(&run(ports(spec), vec![pod.clone()]));
        let found = list_at(&slice, &["ports"]).first().map(|p| p["port"].as_i64().unwrap());
        assert_eq!(found, number);
    }
    let other = with(
        running("b", "n1", 6, true),
        json!({ "spec": { "containers": [{ "name": "c", "ports":
            [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }] }] } }),
    );
    let outcome = run(service("web"), vec![pod, other]);
    let mut found: Vec<i64> =
        slices(&outcome).iter().map(|s| s["ports"][0]["port"].as_i64().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, [80, 8080], "pods that differ are in slices of their own");
}

#[test]
fn families_headless_hostname_zone_and_labels() {
    let dual = with(service("web"), json!({ "spec": { "ipFamilies": ["IPv4", "IPv6"] } }));
    let mut families: Vec<(String, String)> = slices(&run(dual, vec![running("a", "n1", 5, true)]))
        .iter()
        .map(|s| (s["addressType"].to_string(), s["endpoints"][0]["addresses"].to_string()))
        .collect();
    families.sort();
    assert_eq!(
        families,
        [
            (r#""IPv4""#.to_owned(), r#"["10.244.0.5"]"#.to_owned()),
            (r#""IPv6""#.to_owned(), r#"["fd00::5"]"#.to_owned())
        ]
    );
    let headless = with(
        service("web"),
        json!({ "metadata": { "labels": { "team": "a" } }, "spec": { "clusterIP": "None", "ports": null } }),
    );
    let named = with(
        running("a", "n1", 5, true),
        json!({ "spec": { "hostname": "db-0", "subdomain": "web" } }),
    );
    let zoned = with(
        node("n1"),
        json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": "z1" } } }),
    );
    let mut objects: Vec<(Resource, Value)> = vec![(NODES, zoned), (SERVICES, headless)];
    objects.extend(pods(vec![named]));
    let slice = only(&reconcile(&view(&objects), &target()));
    assert_eq!(slice["endpoints"][0]["hostname"], "db-0");
    assert_eq!(slice["endpoints"][0]["zone"], "z1");
    assert_eq!(slice["ports"], json!([]));
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["metadata"]["labels"]["team"], "a");
}

#[test]
fn services_that_get_no_slices() {
    for patch in [
        json!({ "spec": { "selector": null } }),
        json!({ "spec": { "type": "ExternalName" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
    ] {
        let outcome = run(with(service("web"), patch), vec![running("a", "n1", 5, true)]);
        assert_eq!(lines(&outcome), Vec::<String>::new());
    }
}

#[test]
fn a_change_touches_one_slice_and_a_second_look_none() {
    let mut objects = three_nodes();
    for n in 1..=250_u16 {
        let mut pod = running(&format!("p{n:03}"), "n1", 1, true);
        pod["status"]["podIPs"] = json!([{ "ip": format!("10.244.{}.{}", n / 250, n % 250 + 1) }]);
        objects.push((PODS, pod));
    }
    objects.push((SERVICES, service("web")));
    let mut view = view(&objects);
    let mut api = Simple::default();
    let mut step = |view: &mut View| {
        let outcome = reconcile(view, &target());
        for op in ops(&outcome) {
            let change = api.apply(view, op, t0()).unwrap();
            view.apply(&change);
        }
        lines(&outcome).len()
    };
    assert_eq!(step(&mut view), 3, "250 endpoints are three slices");
    assert_eq!(step(&mut view), 0);
    let mut sick = Value::clone(view.find(&PODS, "default", "p120").unwrap());
    sick["status"]["conditions"][0]["status"] = "False".into();
    put(&mut view, PODS, sick);
    assert_eq!(step(&mut view), 1);
    put(&mut view, PODS, running("new", "n2", 77, true));
    assert_eq!(step(&mut view), 1, "it fits into the last slice");
    assert_eq!(step(&mut view), 0);
    assert_eq!(view.count(&ENDPOINT_SLICES), 3);
}

#[test]
fn the_placeholder_becomes_the_first_slice() {
    let mut view = view(&three_nodes());
    put(&mut view, SERVICES, service("web"));
    let mut api = Simple::default();
    let first = reconcile(&view, &target());
    assert_eq!(lines(&first), ["create endpointslices web-"]);
    let change = api.apply(&view, ops(&first)[0], t0()).unwrap();
    view.apply(&change);
    assert_eq!(lines(&reconcile(&view, &target())).len(), 0);
    put(&mut view, PODS, running("a", "n1", 5, true));
    let second = reconcile(&view, &target());
    assert_eq!(lines(&second), [format!("update endpointslices {}", change.target.name)]);
}
