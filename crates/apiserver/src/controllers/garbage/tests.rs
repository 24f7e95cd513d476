use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{lines, ops, owned, pod, view, with};
use crate::controllers::write::{CONFIG_MAPS, NODES, PODS, REPLICA_SETS, Resource};

fn set(name: &str, patch: Value) -> (Resource, Value) {
    let base = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}") } });
    (REPLICA_SETS, with(base, patch))
}

fn going(finalizer: &str) -> Value {
    json!({ "metadata": {
        "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [finalizer] } })
}

fn run(objects: &[(Resource, Value)], resource: Resource, name: &str) -> Outcome {
    reconcile(&view(objects), &ObjectRef::new(resource, "default", name))
}

#[test]
fn a_dependent_lives_as_long_as_one_owner() {
    let child = |owner: &str| (PODS, owned(pod("p"), "ReplicaSet", owner));
    let other_kind = (PODS, owned(pod("p"), "Widget", "gone"));
    let other_namespace = set("web", json!({ "metadata": { "namespace": "other" } }));
    let reborn = set("web", json!({ "metadata": { "uid": "uid-second" } }));
    for (what, objects, expect) in [
        ("owner there", vec![set("web", json!({})), child("web")], vec![]),
        ("owner gone", vec![child("web")], vec!["delete pods p"]),
        ("owner reborn", vec![reborn, child("web")], vec!["delete pods p"]),
        ("owner elsewhere", vec![other_namespace, child("web")], vec!["delete pods p"]),
        ("owner of a kind not served", vec![other_kind], vec![]),
        (
            "owner waits in the foreground",
            vec![set("web", going(FOREGROUND)), child("web")],
            vec!["delete pods p"],
        ),
        ("owner is just going", vec![set("web", going("x/y")), child("web")], vec![]),
        ("no owner", vec![(PODS, pod("p"))], vec![]),
    ] {
        assert_eq!(lines(&run(&objects, PODS, "p")), expect, "{what}");
    }
}

#[test]
fn references_to_absent_owners_are_taken_off_when_one_is_there() {
    let mut child = owned(pod("p"), "ReplicaSet", "web");
    let gone = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "old", "uid": "u" });
    child["metadata"]["ownerReferences"].as_array_mut().unwrap().push(gone);
    let outcome = run(&[set("web", json!({})), (PODS, child)], PODS, "p");
    let Op::Update { object, .. } = ops(&outcome)[0] else { panic!() };
    let names: Vec<&str> =
        owner_references(object).iter().map(|owner| str_at(owner, &["name"])).collect();
    assert_eq!(names, ["web"]);
}

#[test]
fn cluster_scoped_owners_may_own_namespaced_dependents() {
    let node = json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "n1", "uid": "uid-n1" } });
    let child = with(
        pod("p"),
        json!({ "metadata": { "ownerReferences": [
        { "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-n1" }] } }),
    );
    let objects = [(NODES, node), (PODS, child.clone())];
    assert_eq!(run(&objects, PODS, "p"), Outcome::default());
    assert_eq!(lines(&run(&[(PODS, child)], PODS, "p")), ["delete pods p"]);
}

#[test]
fn a_foreground_owner_goes_when_nothing_blocks_it() {
    let blocking = (PODS, owned(pod("p"), "ReplicaSet", "web"));
    let mut free = blocking.clone();
    free.1["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = false.into();
    let owner = set("web", going(FOREGROUND));
    for (what, objects, goes) in [
        ("a blocking dependent", vec![owner.clone(), blocking], false),
        ("one that does not block", vec![owner.clone(), free], true),
        ("none", vec![owner], true),
    ] {
        let outcome = run(&objects, REPLICA_SETS, "web");
        assert_eq!(!outcome.writes.is_empty(), goes, "{what}");
        if let [Op::Update { object, .. }] = ops(&outcome).as_slice() {
            assert!(!has_finalizer(object, FOREGROUND));
        }
    }
}

#[test]
fn an_orphaning_owner_frees_its_dependents_first() {
    let owner = set("web", going(ORPHAN));
    let child = owned(pod("p"), "ReplicaSet", "web");
    let outcome = run(&[owner.clone(), (PODS, child)], REPLICA_SETS, "web");
    assert_eq!(lines(&outcome), ["update pods p"]);
    let Op::Update { object, .. } = ops(&outcome)[0] else { panic!() };
    assert!(owner_references(object).is_empty());
    let outcome = run(&[owner, (PODS, object.clone())], REPLICA_SETS, "web");
    assert_eq!(lines(&outcome), ["update replicasets web"]);
    let Op::Update { object, .. } = ops(&outcome)[0] else { panic!() };
    assert!(!has_finalizer(object, ORPHAN));
}

#[test]
fn foreground_reaches_down_the_chain() {
    let middle = owned(set("web", json!({})).1, "Deployment", "top");
    let top = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "top", "namespace": "default", "uid": "uid-top" } });
    let objects = [
        (crate::controllers::write::DEPLOYMENTS, with(top, going(FOREGROUND))),
        (REPLICA_SETS, middle),
        (PODS, owned(pod("p"), "ReplicaSet", "web")),
        (CONFIG_MAPS, json!({ "metadata": { "name": "x", "namespace": "default", "uid": "x" } })),
    ];
    let outcome = run(&objects, REPLICA_SETS, "web");
    let [Op::Delete { propagation, uid, .. }] = ops(&outcome).as_slice() else { panic!() };
    assert_eq!(*propagation, Propagation::Foreground, "its own dependents go first too");
    assert_eq!(uid, "uid-web");
}
