use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{Simple, lines, ops, put, service, t0, view, with};
use crate::controllers::write::Op;

fn by_hand() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "db", "namespace": "default", "uid": "uid-e",
            "labels": { "team": "a" } },
        "subsets": [{
            "addresses": [{ "ip": "192.0.2.1" }, { "ip": "2001:db8::1" }],
            "notReadyAddresses": [{ "ip": "192.0.2.2" }],
            "ports": [{ "name": "sql", "port": 5432 }],
        }],
    })
}

fn bare() -> Value {
    with(service("db"), json!({ "spec": { "selector": null } }))
}

fn target() -> ObjectRef {
    ObjectRef::new(ENDPOINTS, "default", "db")
}

#[test]
fn one_slice_per_family_with_labels_and_owner() {
    let view = view(&[(ENDPOINTS, by_hand()), (SERVICES, bare())]);
    let outcome = reconcile(&view, &target());
    assert_eq!(lines(&outcome), ["create endpointslices db-", "create endpointslices db-"]);
    let Op::Create { object, .. } = ops(&outcome)[0] else { panic!() };
    assert_eq!(object["addressType"], "IPv4");
    assert_eq!(
        object["endpoints"],
        json!([
            { "addresses": ["192.0.2.1"], "conditions": { "ready": true } },
            { "addresses": ["192.0.2.2"], "conditions": { "ready": false } },
        ])
    );
    assert_eq!(object["ports"], json!([{ "name": "sql", "port": 5432, "protocol": "TCP" }]));
    assert_eq!(label(object, MANAGED_BY), Some(MANAGER));
    assert_eq!(label(object, "team"), Some("a"));
    assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
}

#[test]
fn what_is_not_mirrored() {
    let marked = |patch: Value| with(by_hand(), json!({ "metadata": patch }));
    for (endpoints, service) in [
        (by_hand(), service("db")),
        (by_hand(), service("other")),
        (marked(json!({ "labels": { SKIP: "true" } })), bare()),
        (marked(json!({ "annotations": { LEADER: "x" } })), bare()),
        (with(by_hand(), json!({ "subsets": null })), bare()),
    ] {
        let view = view(&[(ENDPOINTS, endpoints), (SERVICES, service)]);
        assert_eq!(lines(&reconcile(&view, &target())), Vec::<String>::new());
    }
}

#[test]
fn slices_follow_and_go() {
    let mut view = view(&[(ENDPOINTS, by_hand()), (SERVICES, bare())]);
    let mut api = Simple::default();
    for op in ops(&reconcile(&view, &target())) {
        let change = api.apply(&view, op, t0()).unwrap();
        view.apply(&change);
    }
    assert_eq!(lines(&reconcile(&view, &target())), Vec::<String>::new());
    let mut fewer = by_hand();
    fewer["subsets"][0]["addresses"] = json!([{ "ip": "192.0.2.1" }]);
    put(&mut view, ENDPOINTS, fewer);
    assert_eq!(lines(&reconcile(&view, &target())).len(), 1, "only the IPv6 slice changes");
    put(&mut view, SERVICES, service("db"));
    let left = reconcile(&view, &target());
    assert!(lines(&left).iter().all(|line| line.starts_with("delete")), "now it has a selector");
}
