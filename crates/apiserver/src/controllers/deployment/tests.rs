use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{Simple, after, lines, notes, ops, owned, put, t0, view, with};
use crate::controllers::object::{condition, name, uid};
use crate::controllers::write::Op;

fn deployment(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "default", "uid": "uid-web", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "25%" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image }] } },
        },
    })
}

/// A ReplicaSet of the Deployment with a template image, all its pods available.
fn set(set_name: &str, image: &str, replicas: i64, available: i64, created: &str) -> Value {
    let base = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": set_name, "namespace": "default", "uid": format!("uid-{set_name}"),
            "generation": 1, "creationTimestamp": created, "labels": { "app": "web" },
            "annotations": { "deployment.kubernetes.io/desired-replicas": "10",
                "deployment.kubernetes.io/max-replicas": "13" } },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web", "pod-template-hash": set_name } },
                "spec": { "containers": [{ "name": "c", "image": image }] } } },
        "status": { "replicas": replicas, "readyReplicas": available,
            "availableReplicas": available, "observedGeneration": 1 },
    });
    owned(base, "Deployment", "web")
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-01-01T01:00:00Z";

fn run_at(deployment: Value, sets: Vec<Value>, seconds: i64) -> Outcome {
    let mut objects: Vec<_> = sets.into_iter().map(|set| (REPLICA_SETS, set)).collect();
    objects.push((DEPLOYMENTS, deployment));
    reconcile(&view(&objects), &ObjectRef::new(DEPLOYMENTS, "default", "web"), after(seconds))
}

/// Sizes the ReplicaSets are given, by name.
fn sizes(outcome: &Outcome) -> Vec<(String, i64)> {
    let mut sizes: Vec<(String, i64)> = ops(outcome)
        .into_iter()
        .filter_map(|op| match op {
            Op::Update { resource, object } if *resource == REPLICA_SETS => {
                Some((name(object).to_owned(), object["spec"]["replicas"].as_i64().unwrap()))
            }
            _ => None,
        })
        .collect();
    sizes.sort();
    sizes
}

fn strategy(surge: Value, unavailable: Value) -> Value {
    json!({ "spec": { "strategy":
        { "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } } } })
}

#[test]
fn steps_of_a_rolling_update() {
    type Row = (&'static str, Value, Value, (i64, i64), (i64, i64), &'static [(&'static str, i64)]);
    let rows: [Row; 8] = [
        // what, surge, unavailable, old (replicas, available), new, sizes then
        ("surge first", json!(3), json!(0), (10, 10), (0, 0), &[("new", 3)]),
        ("old waits for the surge", json!(3), json!(0), (10, 10), (3, 0), &[]),
        ("old goes for available new", json!(3), json!(0), (10, 10), (3, 2), &[("old", 8)]),
        ("no surge: old makes room", json!(0), json!(2), (10, 10), (0, 0), &[("old", 8)]),
        ("no surge: new takes the room", json!(0), json!(2), (8, 8), (0, 0), &[("new", 2)]),
        ("both 0 becomes one unavailable", json!(0), json!(0), (10, 10), (0, 0), &[("old", 9)]),
        ("sick old pods go at once", json!(0), json!("25%"), (10, 8), (0, 0), &[("old", 8)]),
        ("percentages: up and down", json!("25%"), json!("25%"), (10, 10), (0, 0), &[("new", 3)]),
    ];
    for (what, surge, unavailable, old, new, expect) in rows {
        let sets = vec![set("old", "i1", old.0, old.1, OLD), set("new", "i2", new.0, new.1, NEW)];
        let outcome = run_at(with(deployment(10, "i2"), strategy(surge, unavailable)), sets, 0);
        let changed: Vec<(String, i64)> = sizes(&outcome)
            .into_iter()
            .filter(|(set, size)| *size != if set == "old" { old.0 } else { new.0 })
            .collect();
        let expect: Vec<(String, i64)> =
            expect.iter().map(|(set, size)| ((*set).to_owned(), *size)).collect();
        assert_eq!(changed, expect, "{what}");
    }
}

#[test]
fn a_changed_count_in_mid_rollout_is_spread_in_proportion() {
    // 10 of 13 (surge 3) become 20 of 25 (surge 5): every set grows alike.
    let sets = || vec![set("old", "i1", 8, 8, OLD), set("new", "i2", 5, 2, NEW)];
    let grown = run_at(with(deployment(20, "i2"), json!({})), sets(), 0);
    assert_eq!(sizes(&grown), [("new".to_owned(), 10), ("old".to_owned(), 15)]);
    let shrunk = run_at(deployment(4, "i2"), sets(), 0);
    let total: i64 = sizes(&shrunk).iter().map(|(_, size)| size).sum();
    assert_eq!(total, 5, "four and a surge of one");
    let zero = run_at(deployment(0, "i2"), sets(), 0);
    assert_eq!(sizes(&zero), [("new".to_owned(), 0), ("old".to_owned(), 0)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let paused = |replicas| with(deployment(replicas, "i2"), json!({ "spec": { "paused": true } }));
    let outcome = run_at(paused(10), vec![set("old", "i1", 10, 10, OLD)], 0);
    assert!(lines(&outcome).iter().all(|line| !line.starts_with("create")), "no new set");
    let [Op::UpdateStatus { object, .. }] = ops(&outcome).as_slice() else {
        panic!("{:?}", lines(&outcome))
    };
    let progressing = condition(object, "Progressing").unwrap();
    assert_eq!(progressing["reason"], "DeploymentPaused");
    assert_eq!(progressing["status"], "Unknown");
    let outcome = run_at(paused(12), vec![set("old", "i1", 10, 10, OLD)], 0);
    assert_eq!(sizes(&outcome), [("old".to_owned(), 12)]);
}

#[test]
fn the_deadline_is_looked_at_in_time_and_said_once() {
    let mut waiting = deployment(1, "i1");
    waiting["status"] = json!({ "conditions": [{ "type": "Progressing", "status": "True",
        "reason": "NewReplicaSetCreated", "lastUpdateTime": "2026-01-01T00:00:00Z",
        "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1, "observedGeneration": 1 });
    let mut first = set("first", "i1", 1, 0, OLD);
    first["metadata"]["annotations"] = json!({
        "deployment.kubernetes.io/desired-replicas": "1",
        "deployment.kubernetes.io/max-replicas": "2", "deployment.kubernetes.io/revision": "1" });
    waiting["metadata"]["annotations"] = json!({ "deployment.kubernetes.io/revision": "1" });
    let early = run_at(waiting.clone(), vec![first.clone()], 100);
    assert_eq!(early.again_at, Some(after(601)));
    let late = run_at(waiting, vec![first.clone()], 601);
    assert_eq!(
        notes(&late),
        [r#"ProgressDeadlineExceeded: ReplicaSet "first" has timed out progressing."#]
    );
    let written = ops(&late);
    let Some(Op::UpdateStatus { object, .. }) = written.into_iter().next() else { panic!() };
    assert_eq!(condition(object, "Progressing").unwrap()["status"], "False");
    assert_eq!(run_at(object.clone(), vec![first], 700).writes, vec![], "said once");
}

#[test]
fn a_taken_name_is_remembered_and_avoided() {
    let mut view = view(&[(DEPLOYMENTS, deployment(1, "i1"))]);
    let target = ObjectRef::new(DEPLOYMENTS, "default", "web");
    let first = reconcile(&view, &target, t0());
    let Some(Op::Create { object, .. }) = ops(&first).into_iter().next() else { panic!() };
    let taken = name(object).to_owned();
    let stranger = json!({ "metadata": { "name": taken, "namespace": "default", "uid": "x" } });
    put(&mut view, REPLICA_SETS, stranger);
    let mut api = Simple::default();
    let second = reconcile(&view, &target, t0());
    let written = ops(&second);
    let [op @ Op::UpdateStatus { object, .. }] = written.as_slice() else {
        panic!("{:?}", lines(&second))
    };
    assert_eq!(object["status"]["collisionCount"], 1);
    view.apply(&api.apply(&view, op, t0()).unwrap());
    let third = reconcile(&view, &target, t0());
    let Some(Op::Create { object, .. }) = ops(&third).into_iter().next() else { panic!() };
    assert_ne!(name(object), taken);
}

#[test]
fn the_new_set_carries_hash_selector_revision_and_annotations() {
    let noted = with(
        deployment(2, "i1"),
        json!({ "metadata": { "annotations": {
        "kubernetes.io/change-cause": "first", "kubectl.kubernetes.io/last-applied-configuration": "{}" } } }),
    );
    let outcome = run_at(noted, vec![], 0);
    let Some(Op::Create { object, .. }) = ops(&outcome).into_iter().next() else { panic!() };
    let hash = object["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(name(object), format!("web-{hash}"));
    assert_eq!(object["spec"]["selector"]["matchLabels"]["pod-template-hash"], hash);
    assert_eq!(object["spec"]["template"]["metadata"]["labels"]["pod-template-hash"], hash);
    assert_eq!(
        object["metadata"]["annotations"],
        json!({ "kubernetes.io/change-cause": "first",
            "deployment.kubernetes.io/revision": "1",
            "deployment.kubernetes.io/desired-replicas": "2",
            "deployment.kubernetes.io/max-replicas": "3" })
    );
    assert_eq!(notes(&outcome), ["ScalingReplicaSet: Scaled up replica set {name} from 0 to 2"]);
    assert_eq!(uid(object), "", "the API gives it one");
}

#[test]
fn selecting_everything_is_refused_with_an_event() {
    let greedy =
        with(deployment(1, "i1"), json!({ "spec": { "selector": { "matchLabels": null } } }));
    let outcome = run_at(greedy, vec![], 0);
    assert_eq!(lines(&outcome), ["status deployments web"]);
    assert!(notes(&outcome)[0].starts_with("SelectingAll: "));
}
