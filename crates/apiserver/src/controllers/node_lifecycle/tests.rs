use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{after, lines, node, notes, ops, running, view, with};
use crate::controllers::write::Resource;

fn run(objects: &[(Resource, Value)], seconds: i64) -> Outcome {
    let target = ObjectRef::new(NODES, "", "n1");
    reconcile(&view(objects), &target, &Config::default(), after(seconds))
}

fn lease(renewed: i64) -> (Resource, Value) {
    (
        LEASES,
        json!({
            "metadata": { "name": "n1", "namespace": LEASE_NAMESPACE, "uid": "lease" },
            "spec": { "renewTime": after(renewed).to_string() },
        }),
    )
}

fn tainted(key: &str, effect: &str, ready: &str) -> Value {
    let mut taints =
        vec![json!({ "key": key, "effect": effect, "timeAdded": "2026-01-01T00:00:00Z" })];
    if effect == "NoExecute" {
        taints.push(json!({ "key": key, "effect": "NoSchedule" }));
    }
    let mut node = with(node("n1"), json!({ "spec": { "taints": taints } }));
    node["status"]["conditions"][0]["status"] = ready.into();
    node
}

fn taints(outcome: &Outcome) -> Vec<String> {
    let [Op::Update { object, .. }] = ops(outcome).as_slice() else { return vec![] };
    list_at(object, &["spec", "taints"])
        .iter()
        .map(|t| format!("{}:{}", str_at(t, &["key"]), str_at(t, &["effect"])))
        .collect()
}

#[test]
fn signs_of_life() {
    let at = |objects: &[(Resource, Value)], s| run(objects, s);
    let alone = [(NODES, node("n1"))];
    assert_eq!(at(&alone, 39).again_at, Some(after(40)), "planned for the end of the grace");
    assert!(at(&alone, 39).writes.is_empty());
    assert_eq!(lines(&at(&alone, 40)), ["status nodes n1"]);
    assert_eq!(notes(&at(&alone, 40)), ["NodeNotReady: Node n1 status is now: NodeNotReady"]);
    let leased = [(NODES, node("n1")), lease(100)];
    assert!(at(&leased, 139).writes.is_empty(), "a fresh Lease is enough");
    assert_eq!(lines(&at(&leased, 140)), ["status nodes n1"]);
}

#[test]
fn a_silent_node_is_unknown_in_every_condition() {
    let outcome = run(&[(NODES, node("n1"))], 60);
    let [Op::UpdateStatus { object, .. }] = ops(&outcome).as_slice() else { panic!() };
    let ready = condition(object, "Ready").unwrap();
    assert_eq!(ready["status"], "Unknown");
    assert_eq!(ready["reason"], "NodeStatusUnknown");
    assert_eq!(ready["message"], "Kubelet stopped posting node status.");
    let disk = condition(object, "DiskPressure").unwrap();
    assert_eq!(disk["reason"], "NodeStatusNeverUpdated");
    let again = run(&[(NODES, object.clone())], 60);
    assert_eq!(
        taints(&again),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
}

#[test]
fn taints_follow_the_condition_and_the_cordon() {
    let cases: [(Value, &[&str]); 5] = [
        (tainted(UNREACHABLE, "NoExecute", "True"), &[]),
        (tainted(NOT_READY, "NoSchedule", "True"), &[]),
        (
            tainted("mine", "NoSchedule", "False"),
            &[
                "mine:NoSchedule",
                "node.kubernetes.io/not-ready:NoSchedule",
                "node.kubernetes.io/not-ready:NoExecute",
            ],
        ),
        (
            with(node("n1"), json!({ "spec": { "unschedulable": true } })),
            &["node.kubernetes.io/unschedulable:NoSchedule"],
        ),
        (
            with(node("n1"), json!({ "status": { "conditions": [] } })),
            &["node.kubernetes.io/not-ready:NoSchedule"],
        ),
    ];
    for (node, expect) in cases {
        let outcome = run(&[(NODES, node), lease(0)], 1);
        assert_eq!(lines(&outcome), ["update nodes n1"]);
        assert_eq!(taints(&outcome), *expect);
    }
    assert!(run(&[(NODES, node("n1"))], 1).writes.is_empty(), "a ready node needs nothing");
}

#[test]
fn pods_leave_when_their_toleration_ends() {
    let tolerate = |toleration: Value| {
        with(running("p", "n1", 1, false), json!({ "spec": { "tolerations": [toleration] } }))
    };
    for (what, pod, key, leaves) in [
        ("nothing said", running("p", "n1", 1, false), UNREACHABLE, Some(300)),
        ("nothing said, another taint", running("p", "n1", 1, false), "mine", Some(0)),
        ("forever", tolerate(json!({ "operator": "Exists" })), UNREACHABLE, None),
        (
            "ten seconds",
            tolerate(json!({ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 10 })),
            UNREACHABLE,
            Some(10),
        ),
    ] {
        let objects = |ready| {
            let mut node = tainted(key, "NoExecute", ready);
            if key == "mine" {
                node["status"]["conditions"][0]["status"] = "True".into();
            }
            [(NODES, node), (PODS, pod.clone()), lease(1000)]
        };
        let ready = "Unknown";
        match leaves {
            Some(0) => assert_eq!(lines(&run(&objects(ready), 0)), ["delete pods p"], "{what}"),
            Some(seconds) => {
                let early = run(&objects(ready), seconds - 1);
                assert!(early.writes.is_empty(), "{what}");
                assert_eq!(early.again_at, Some(after(seconds)), "{what}");
                let late = run(&objects(ready), seconds);
                assert_eq!(lines(&late), ["delete pods p"], "{what}");
                assert_eq!(
                    notes(&late),
                    ["TaintManagerEviction: Marking for deletion Pod default/p"]
                );
            }
            None => assert!(
                run(&objects(ready), 100_000)
                    .writes
                    .iter()
                    .all(|w| { !matches!(w.op, Some(Op::Delete { .. })) })
            ),
        }
    }
}

#[test]
fn pods_of_an_unknown_node_are_not_ready() {
    let objects = [
        (NODES, tainted(UNREACHABLE, "NoExecute", "Unknown")),
        (PODS, running("p", "n1", 1, true)),
    ];
    let outcome = run(&objects, 1);
    let [Op::UpdateStatus { object, .. }] = ops(&outcome).as_slice() else { panic!() };
    let ready = condition(object, "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("NodeNotReady")));
}
