use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{after, lines, notes, ops, owned, pod, running, t0, view, with};
use crate::controllers::write::Resource;

fn set(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "web", "namespace": "default", "uid": "uid-web", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" }, "annotations": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "nginx" }] },
            },
        },
    })
}

fn mine(pod: Value) -> Value {
    owned(pod, "ReplicaSet", "web")
}

fn run(set: Value, pods: Vec<Value>) -> Outcome {
    run_at(set, pods, t0())
}

fn run_at(set: Value, pods: Vec<Value>, now: Timestamp) -> Outcome {
    let mut objects: Vec<(Resource, Value)> = pods.into_iter().map(|pod| (PODS, pod)).collect();
    objects.push((REPLICA_SETS, set));
    reconcile(&view(&objects), &ObjectRef::new(REPLICA_SETS, "default", "web"), now)
}

fn deleted(outcome: &Outcome) -> Vec<String> {
    lines(outcome)
        .into_iter()
        .filter_map(|l| Some(l.strip_prefix("delete pods ")?.into()))
        .collect()
}

#[test]
fn missing_pods_are_created_from_the_template() {
    let outcome = run(set(2), vec![mine(running("a", "n1", 1, true))]);
    assert_eq!(lines(&outcome), ["status replicasets web", "create pods web-"]);
    assert_eq!(notes(&outcome), ["SuccessfulCreate: Created pod: {name}"]);
    let Op::Create { object, .. } = ops(&outcome)[1] else { panic!() };
    assert_eq!(object["metadata"]["labels"], json!({ "app": "web" }));
    assert_eq!(object["metadata"]["annotations"], json!({ "a": "b" }));
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-web");
    assert_eq!(object["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(object["spec"]["containers"][0]["image"], "nginx");
}

#[test]
fn which_pods_count() {
    let dead = json!({ "status": { "phase": "Failed" } });
    let going = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    let stranger = json!({ "metadata": { "labels": { "app": "other" } } });
    for (what, extra, creates) in [
        ("a running pod", mine(running("b", "n1", 2, true)), 1),
        ("a pod that failed", with(mine(pod("b")), dead), 2),
        ("a pod that is going", with(mine(pod("b")), going), 2),
        ("an orphan that matches", pod("b"), 1),
        ("an orphan that does not", with(pod("b"), stranger), 2),
        ("somebody else's pod", owned(pod("b"), "ReplicaSet", "other"), 2),
    ] {
        let outcome = run(set(3), vec![mine(pod("a")), extra]);
        let made = lines(&outcome).iter().filter(|l| l.starts_with("create")).count();
        assert_eq!(made, creates, "{what}");
    }
}

#[test]
fn orphans_are_adopted_and_strays_let_go() {
    let outcome = run(set(1), vec![pod("a")]);
    let Op::Update { object, .. } = ops(&outcome)[0] else { panic!() };
    assert_eq!(object["metadata"]["ownerReferences"][0]["name"], "web");

    let stray = with(mine(pod("a")), json!({ "metadata": { "labels": { "app": "debug" } } }));
    let outcome = run(set(1), vec![stray]);
    let Op::Update { object, .. } = ops(&outcome)[0] else { panic!() };
    assert!(object["metadata"].get("ownerReferences").is_none());
    assert!(lines(&outcome).contains(&"create pods web-".to_owned()), "and replaced");
}

#[test]
fn a_set_that_is_going_makes_and_adopts_nothing() {
    let going =
        with(set(3), json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }));
    assert_eq!(lines(&run(going, vec![pod("a")])), ["status replicasets web"]);
}

#[test]
fn surplus_pods_go_in_upstreams_order() {
    let aged = |pod: Value, since: &str| {
        with(
            pod,
            json!({ "metadata": { "creationTimestamp": since }, "status": { "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": since } ] } }),
        )
    };
    let cost = |pod: Value, cost: &str| {
        with(
            pod,
            json!({ "metadata": { "annotations": {
            "controller.kubernetes.io/pod-deletion-cost": cost } } }),
        )
    };
    let restarted = |pod: Value, count: i64| {
        with(pod, json!({ "status": { "containerStatuses": [{ "restartCount": count }] } }))
    };
    let now = after(10_000);
    for (what, first, second) in [
        ("unassigned before assigned", pod("x"), running("a", "n1", 1, false)),
        (
            "pending before running",
            with(running("x", "n1", 1, false), json!({ "status": { "phase": "Pending" } })),
            running("a", "n1", 2, false),
        ),
        ("not ready before ready", running("x", "n1", 1, false), running("a", "n2", 2, true)),
        (
            "cheap before dear",
            cost(running("x", "n1", 1, true), "-5"),
            cost(running("a", "n2", 2, true), "10"),
        ),
        (
            "ready for a short time before ready for long",
            aged(running("x", "n1", 1, true), "2026-01-01T02:40:00Z"),
            aged(running("a", "n2", 2, true), "2026-01-01T00:00:00Z"),
        ),
        (
            "restarted often before seldom",
            restarted(running("x", "n1", 1, true), 3),
            restarted(running("a", "n2", 2, true), 1),
        ),
    ] {
        let outcome = run_at(set(1), vec![mine(first), mine(second)], now);
        assert_eq!(deleted(&outcome), ["x"], "{what}");
    }
}

#[test]
fn the_most_crowded_node_loses_a_pod() {
    let pods = [("a", "n1"), ("b", "n2"), ("c", "n2"), ("d", "n3")]
        .map(|(name, node)| mine(running(name, node, 1, true)))
        .to_vec();
    let outcome = run(set(3), pods);
    assert_eq!(deleted(&outcome).len(), 1);
    assert!(["b", "c"].contains(&deleted(&outcome)[0].as_str()));
}

#[test]
fn the_status_counts_and_is_written_only_when_it_changes() {
    let pods = vec![
        mine(running("a", "n1", 1, true)),
        mine(running("b", "n1", 2, false)),
        mine(running("c", "n1", 3, true)),
    ];
    let outcome = run(set(3), pods.clone());
    let Op::UpdateStatus { object, .. } = ops(&outcome)[0] else { panic!() };
    assert_eq!(
        object["status"],
        json!({ "replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 2,
            "availableReplicas": 2, "observedGeneration": 1 })
    );
    let again = run(object.clone(), pods);
    assert_eq!(lines(&again), Vec::<String>::new());
}

#[test]
fn availability_waits_for_min_ready_seconds_and_asks_to_look_again() {
    let slow = with(set(1), json!({ "spec": { "minReadySeconds": 10 } }));
    let pods = vec![mine(running("a", "n1", 1, true))];
    let early = run_at(slow.clone(), pods.clone(), after(4));
    let Op::UpdateStatus { object, .. } = ops(&early)[0] else { panic!() };
    assert!(object["status"].get("availableReplicas").is_none());
    assert_eq!(early.again_at, Some(after(10)));
    let late = run_at(slow, pods, after(10));
    let Op::UpdateStatus { object, .. } = ops(&late)[0] else { panic!() };
    assert_eq!(object["status"]["availableReplicas"], 1);
    assert_eq!(late.again_at, None);
}
