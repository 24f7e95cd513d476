use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{lines, node, notes, owned, pod, running, t0, view, with};
use crate::controllers::write::Resource;

fn run(pod: Value, nodes: Vec<Value>, others: Vec<Value>) -> Outcome {
    let target = ObjectRef::of(PODS, &pod);
    let mut objects: Vec<(Resource, Value)> = nodes.into_iter().map(|n| (NODES, n)).collect();
    objects.extend(others.into_iter().map(|p| (PODS, p)));
    objects.push((PODS, pod));
    reconcile(&view(&objects), &target, t0())
}

fn message(outcome: &Outcome) -> String {
    notes(outcome).join("\n")
}

#[test]
fn why_a_node_does_not_take_a_pod() {
    let over = |patch: Value| with(node("n1"), patch);
    let tainted = json!({ "spec": { "taints":
        [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } });
    let host_port = |name: &str| {
        with(
            running(name, "n1", 9, true),
            json!({ "spec": { "containers": [
            { "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080 }] }] } }),
        )
    };
    let wants_port = with(
        host_port("p"),
        json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending" } }),
    );
    let selects = with(pod("p"), json!({ "spec": { "nodeSelector": { "disk": "ssd" } } }));
    let full = over(json!({ "status": { "allocatable": { "pods": "1" } } }));
    let affinity = "node(s) didn't match Pod's node affinity/selector";
    let ports = "node(s) didn't have free ports for the requested pod ports";
    let not_ready = "node(s) had untolerated taint {node.kubernetes.io/not-ready: }";
    for (pod, node, others, reason) in [
        (
            pod("p"),
            over(json!({ "spec": { "unschedulable": true } })),
            vec![],
            "node(s) were unschedulable",
        ),
        (pod("p"), over(tainted), vec![], "node(s) had untolerated taint {gpu: yes}"),
        (selects, node("n1"), vec![], affinity),
        (wants_port, node("n1"), vec![host_port("other")], ports),
        (pod("p"), full, vec![running("other", "n1", 1, true)], "Too many pods"),
        (pod("p"), over(json!({ "status": { "conditions": [] } })), vec![], not_ready),
    ] {
        let outcome = run(pod, vec![node], others);
        assert_eq!(
            message(&outcome),
            format!("FailedScheduling: 0/1 nodes are available: 1 {reason}.")
        );
        assert_eq!(lines(&outcome), ["status pods p"]);
    }
}

#[test]
fn reasons_are_counted_over_the_nodes() {
    let cordoned = |name: &str| with(node(name), json!({ "spec": { "unschedulable": true } }));
    let selects = with(pod("p"), json!({ "spec": { "nodeSelector": { "disk": "ssd" } } }));
    let outcome = run(selects, vec![cordoned("n1"), node("n2"), cordoned("n3")], vec![]);
    assert_eq!(
        message(&outcome),
        "FailedScheduling: 0/3 nodes are available: 1 node(s) didn't match Pod's node \
         affinity/selector, 2 node(s) were unschedulable."
    );
}

#[test]
fn tolerations_let_a_pod_onto_tainted_nodes() {
    let tainted = with(
        node("n1"),
        json!({ "spec": { "taints":
        [{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }] } }),
    );
    for (toleration, fits) in [
        (json!({ "key": "gpu", "value": "yes", "effect": "NoSchedule" }), true),
        (json!({ "key": "gpu", "operator": "Exists" }), true),
        (json!({ "operator": "Exists" }), true),
        (json!({ "key": "gpu", "value": "no", "effect": "NoSchedule" }), false),
        (json!({ "key": "gpu", "value": "yes", "effect": "NoExecute" }), false),
        (json!({ "key": "cpu", "operator": "Exists" }), false),
        (json!({ "value": "yes" }), false),
    ] {
        let tolerant = with(pod("p"), json!({ "spec": { "tolerations": [toleration] } }));
        let outcome = run(tolerant, vec![tainted.clone()], vec![]);
        assert_eq!(lines(&outcome) == ["bind p n1"], fits, "{toleration}");
    }
    let soft = with(
        node("n1"),
        json!({ "spec": { "taints":
        [{ "key": "gpu", "effect": "PreferNoSchedule" }] } }),
    );
    assert_eq!(lines(&run(pod("p"), vec![soft], vec![])), ["bind p n1"]);
}

#[test]
fn required_node_affinity() {
    let labelled = with(
        node("n1"),
        json!({ "metadata": { "labels": { "zone": "a", "cores": "8", "tmp": "" } } }),
    );
    let rule = |key: &str, operator: &str, values: &[&str]| json!({ "key": key, "operator": operator, "values": values });
    for (rules, fits) in [
        (vec![rule("zone", "In", &["a", "b"])], true),
        (vec![rule("zone", "In", &["b"])], false),
        (vec![rule("zone", "NotIn", &["b"])], true),
        (vec![rule("zone", "NotIn", &["a"])], false),
        (vec![rule("other", "NotIn", &["a"])], true),
        (vec![rule("tmp", "Exists", &[])], true),
        (vec![rule("other", "Exists", &[])], false),
        (vec![rule("other", "DoesNotExist", &[])], true),
        (vec![rule("zone", "DoesNotExist", &[])], false),
        (vec![rule("cores", "Gt", &["4"])], true),
        (vec![rule("cores", "Gt", &["8"])], false),
        (vec![rule("cores", "Lt", &["16"])], true),
        (vec![rule("zone", "Lt", &["16"])], false),
        (vec![rule("zone", "In", &["a"]), rule("cores", "Gt", &["16"])], false),
        (vec![], false),
    ] {
        let term = json!({ "matchExpressions": rules });
        let choosy = |terms: Value| {
            with(
                pod("p"),
                json!({ "spec": { "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    { "nodeSelectorTerms": terms } } } } }),
            )
        };
        let outcome = run(choosy(json!([term])), vec![labelled.clone()], vec![]);
        assert_eq!(lines(&outcome) == ["bind p n1"], fits, "{term}");
        let hit = json!({ "matchExpressions": [rule("zone", "In", &["a"])] });
        let outcome = run(choosy(json!([term, hit])), vec![labelled.clone()], vec![]);
        assert_eq!(lines(&outcome), ["bind p n1"], "one term is enough");
    }
    let by_name = with(
        pod("p"),
        json!({ "spec": { "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchFields": [rule("metadata.name", "In", &["n2"])] }] } } } } }),
    );
    assert_eq!(lines(&run(by_name, vec![node("n1"), node("n2")], vec![])), ["bind p n2"]);
}

#[test]
fn pods_of_one_owner_spread_then_the_emptiest_then_the_first() {
    let nodes = || vec![node("n1"), node("n2"), node("n3")];
    let mine = |name: &str, node: &str| owned(running(name, node, 1, true), "ReplicaSet", "web");
    let next = owned(pod("p"), "ReplicaSet", "web");
    let case = |others: Vec<Value>| lines(&run(next.clone(), nodes(), others));
    assert_eq!(case(vec![]), ["bind p n1"]);
    assert_eq!(case(vec![mine("a", "n1")]), ["bind p n2"]);
    assert_eq!(case(vec![mine("a", "n1"), running("x", "n2", 1, true)]), ["bind p n3"]);
    let crowd = vec![
        running("x", "n1", 1, true),
        running("y", "n1", 1, true),
        mine("a", "n2"),
        mine("b", "n3"),
    ];
    assert_eq!(case(crowd), ["bind p n1"], "own pods count before the crowd");
}

#[test]
fn a_pod_that_is_not_ours_to_schedule_is_left_alone() {
    for patch in [
        json!({ "spec": { "nodeName": "n1" } }),
        json!({ "spec": { "schedulerName": "mine" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
        json!({ "status": { "phase": "Failed" } }),
    ] {
        let outcome = run(with(pod("p"), patch.clone()), vec![node("n1")], vec![]);
        assert_eq!(outcome, Outcome::default(), "{patch}");
    }
    let gated = with(pod("p"), json!({ "spec": { "schedulingGates": [{ "name": "wait" }] } }));
    let outcome = run(gated, vec![node("n1")], vec![]);
    assert_eq!(lines(&outcome), ["status pods p"]);
    assert_eq!(notes(&outcome), Vec::<String>::new());
}

#[test]
fn the_same_refusal_is_said_once() {
    let outcome = run(pod("p"), vec![], vec![]);
    assert_eq!(message(&outcome), "FailedScheduling: no nodes available to schedule pods");
    let Some(Op::UpdateStatus { object, .. }) = &outcome.writes[0].op else { panic!() };
    assert_eq!(run(object.clone(), vec![], vec![]), Outcome::default());
}
