use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{lines, ops, pods, put, running, service, view, with};

fn target() -> ObjectRef {
    ObjectRef::new(SERVICES, "default", "web")
}

fn run(service: Value, the_pods: Vec<Value>) -> Outcome {
    let mut objects = pods(the_pods);
    objects.push((SERVICES, service));
    reconcile(&view(&objects), &target())
}

fn subsets_of(outcome: &Outcome) -> Value {
    match ops(outcome).as_slice() {
        [Op::Create { object, .. } | Op::Update { object, .. }] => {
            object.get("subsets").cloned().unwrap_or(Value::Null)
        }
        other => panic!("not one object: {other:?}"),
    }
}

#[test]
fn ready_and_not_ready_addresses_share_a_subset() {
    let outcome =
        run(service("web"), vec![running("a", "n1", 1, true), running("b", "n2", 2, false)]);
    let address = |pod: &str, ip: &str, node: &str| {
        json!({ "ip": ip, "nodeName": node, "targetRef":
            { "kind": "Pod", "namespace": "default", "name": pod, "uid": format!("uid-{pod}") } })
    };
    assert_eq!(
        subsets_of(&outcome),
        json!([{
            "addresses": [address("a", "10.244.0.1", "n1")],
            "notReadyAddresses": [address("b", "10.244.0.2", "n2")],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }],
        }])
    );
}

#[test]
fn who_is_left_out_and_who_is_published() {
    let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    let publish = json!({ "spec": { "publishNotReadyAddresses": true } });
    let dead = json!({ "status": { "phase": "Failed" } });
    let none = json!({});
    for (pod, service_patch, ready, unready) in [
        (running("a", "n1", 1, true), &none, 1, 0),
        (running("a", "n1", 1, false), &none, 0, 1),
        (with(running("a", "n1", 1, true), going.clone()), &none, 0, 0),
        (with(running("a", "n1", 1, true), going), &publish, 1, 0),
        (running("a", "n1", 1, false), &publish, 1, 0),
        (with(running("a", "n1", 1, true), dead), &publish, 0, 0),
    ] {
        let subsets = subsets_of(&run(with(service("web"), service_patch.clone()), vec![pod]));
        let count = |field: &str| subsets[0][field].as_array().map_or(0, Vec::len);
        assert_eq!((count("addresses"), count("notReadyAddresses")), (ready, unready));
    }
}

#[test]
fn pods_with_other_port_numbers_are_in_other_subsets() {
    let other = with(
        running("b", "n1", 2, true),
        json!({ "spec": { "containers": [{ "name": "c", "ports":
            [{ "name": "http", "containerPort": 8080 }] }] } }),
    );
    let two = json!({ "spec": { "ports": [
        { "name": "http", "port": 80, "targetPort": "http" }, { "name": "alt", "port": 90 }] } });
    let subsets =
        subsets_of(&run(with(service("web"), two), vec![running("a", "n1", 1, true), other]));
    let mut shapes: Vec<(usize, usize)> = subsets
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["addresses"].as_array().unwrap().len(), s["ports"].as_array().unwrap().len()))
        .collect();
    shapes.sort_unstable();
    assert_eq!(shapes, [(1, 1), (1, 1), (2, 1)], "the shared port has both addresses");
}

#[test]
fn more_than_a_thousand_are_cut_and_said_so() {
    let many = (0..1100_u32)
        .map(|n| {
            let mut pod = running(&format!("p{n}"), "n1", 1, true);
            pod["status"]["podIPs"] = json!([{ "ip": format!("10.1.{}.{}", n / 256, n % 256) }]);
            pod
        })
        .collect();
    let outcome = run(service("web"), many);
    let [Op::Create { object, .. }] = ops(&outcome).as_slice() else { panic!() };
    assert_eq!(object["subsets"][0]["addresses"].as_array().unwrap().len(), 1000);
    assert_eq!(annotation(object, OVER_CAPACITY), Some("truncated"));
}

#[test]
fn a_second_look_writes_nothing_and_the_end_removes_it() {
    let mut objects = pods(vec![running("a", "n1", 1, true)]);
    objects.push((SERVICES, service("web")));
    let mut view = view(&objects);
    let outcome = reconcile(&view, &target());
    let [Op::Create { object, .. }] = ops(&outcome).as_slice() else { panic!() };
    put(&mut view, ENDPOINTS, object.clone());
    assert_eq!(reconcile(&view, &target()), Outcome::default());
    let gone = Change { target: target(), old: view.get(&target()).cloned(), new: None };
    view.apply(&gone);
    assert_eq!(lines(&reconcile(&view, &target())), ["delete endpoints web"]);
}

#[test]
fn hand_written_endpoints_are_left_alone() {
    let by_hand = json!({ "metadata": { "name": "web", "namespace": "default", "uid": "e" } });
    let alone = view(&[(ENDPOINTS, by_hand.clone())]);
    assert_eq!(reconcile(&alone, &target()), Outcome::default(), "before their Service");
    let bare = with(service("web"), json!({ "spec": { "selector": null } }));
    let without_selector = view(&[(ENDPOINTS, by_hand), (SERVICES, bare)]);
    assert_eq!(reconcile(&without_selector, &target()), Outcome::default());
}
