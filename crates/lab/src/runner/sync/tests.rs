use super::*;
use crate::container::process::ProcessId;
use serde_json::json;

const T0: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: u64) -> Timestamp {
    T0 + Duration::from_secs(seconds)
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn record() -> PodRecord {
    let mut record = PodRecord::new("u", "d", "p", T0);
    record.sandbox = Sandbox::Ready;
    record
}

fn set(record: &mut PodRecord, name: &str, phase: Phase) {
    record.container(name).phase = phase;
}

fn running() -> Phase {
    let id = ProcessId { pid: 1, start: 1 };
    Phase::Running { started_at: T0, shim: id, init: id, stopping: false }
}

fn exited(code: i32, finished: u64) -> Phase {
    Phase::Exited(Ended {
        code,
        signal: None,
        reason: String::new(),
        message: None,
        started_at: Some(T0),
        finished_at: at(finished),
        id: String::new(),
    })
}

fn start(name: &str) -> Action {
    Action::Start { container: name.into(), restart: false }
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    let pod = pod(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let mut record = PodRecord::new("u", "d", "p", T0);
    assert_eq!(plan(&pod, &record, T0).actions, [Action::CreateSandbox]);
    record.sandbox = Sandbox::Creating { failures: 0 };
    assert_eq!(plan(&pod, &record, T0), Plan::default());
    record.sandbox = Sandbox::Ready;
    assert_eq!(plan(&pod, &record, T0).actions, [start("a"), start("b")]);
    set(&mut record, "a", Phase::Starting);
    set(&mut record, "b", running());
    assert_eq!(plan(&pod, &record, T0), Plan::default());
}

#[test]
fn a_failed_sandbox_is_tried_again_when_due() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut record = record();
    record.sandbox = Sandbox::Absent { retry_at: Some(at(5)), failures: 1 };
    assert_eq!(plan(&pod, &record, at(4)), Plan { actions: vec![], wake: Some(at(5)) });
    assert_eq!(plan(&pod, &record, at(5)).actions, [Action::CreateSandbox]);
}

#[test]
fn init_containers_run_in_order_and_sidecars_keep_running() {
    let pod = pod(json!({
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}],
        "containers": [{"name": "main"}]}));
    let mut record = record();
    assert_eq!(plan(&pod, &record, T0).actions, [start("i1")]);
    set(&mut record, "i1", exited(0, 1));
    assert_eq!(plan(&pod, &record, at(1)).actions, [start("side")]);
    set(&mut record, "side", running());
    assert_eq!(plan(&pod, &record, at(1)).actions, [], "not started yet");
    record.container("side").started = true;
    assert_eq!(plan(&pod, &record, at(1)).actions, [start("i2")]);
    set(&mut record, "i2", exited(0, 2));
    assert_eq!(plan(&pod, &record, at(2)).actions, [start("main")]);
    set(&mut record, "main", running());
    set(&mut record, "side", exited(0, 3));
    let restart = Action::Start { container: "side".into(), restart: true };
    assert_eq!(plan(&pod, &record, at(3)).actions, [restart]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let pod = pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}),
    );
    let mut record = record();
    set(&mut record, "i", exited(3, 1));
    assert!(finished(&pod, &record));
    assert_eq!(plan(&pod, &record, at(1)).actions, [Action::DestroySandbox]);
    record.sandbox = Sandbox::Gone;
    assert_eq!(plan(&pod, &record, at(1)), Plan::default(), "the object stays");
}

#[test]
fn restart_policy_decides_by_exit_code() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        let mut record = record();
        set(&mut record, "a", exited(code, 1));
        let starts = plan(&pod, &record, at(1))
            .actions
            .contains(&Action::Start { container: "a".into(), restart: true });
        assert_eq!(starts, again, "{policy} {code}");
        assert_eq!(finished(&pod, &record), !again, "{policy} {code}");
    }
}

#[test]
fn crash_loop_waits_0_10_20_40_and_at_most_300_seconds_and_forgets_after_ten_minutes() {
    let mut record = ContainerRecord::new();
    let ended = |ran: u64| match exited(1, ran) {
        Phase::Exited(ended) => ended,
        _ => unreachable!(),
    };
    let mut waits = Vec::new();
    for _ in 0..8 {
        let e = ended(1);
        waits.push(due(&record, &e).duration_since(e.finished_at).as_secs());
        record.backoff = next_backoff(&record, &e);
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(next_backoff(&record, &ended(600)), 0);

    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut whole = self::record();
    set(&mut whole, "a", exited(1, 5));
    whole.container("a").backoff = 20;
    assert_eq!(plan(&pod, &whole, at(24)), Plan { actions: vec![], wake: Some(at(25)) });
    assert_eq!(plan(&pod, &whole, at(25)).actions.len(), 1);
}

#[test]
fn deletion_stops_containers_then_sidecars_backwards_then_the_sandbox_then_the_object() {
    let mut pod = pod(json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}));
    pod.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(T0));
    let mut record = record();
    for name in ["s1", "s2", "a"] {
        set(&mut record, name, running());
    }
    let stop = |name: &str| vec![Action::Stop { container: name.into() }];
    assert_eq!(plan(&pod, &record, T0).actions, stop("a"));
    if let Phase::Running { stopping, .. } = &mut record.container("a").phase {
        *stopping = true;
    }
    assert_eq!(plan(&pod, &record, T0).actions, [], "asked once, nothing else meanwhile");
    set(&mut record, "a", exited(0, 1));
    assert_eq!(plan(&pod, &record, T0).actions, stop("s2"));
    set(&mut record, "s2", exited(0, 1));
    assert_eq!(plan(&pod, &record, T0).actions, stop("s1"));
    set(&mut record, "s1", exited(0, 1));
    assert_eq!(plan(&pod, &record, T0).actions, [Action::DestroySandbox]);
    record.sandbox = Sandbox::Destroying;
    assert_eq!(plan(&pod, &record, T0).actions, []);
    record.sandbox = Sandbox::Gone;
    assert_eq!(plan(&pod, &record, T0).actions, [Action::Delete]);
}

#[test]
fn image_pull_waits_grow_to_five_minutes() {
    let waits: Vec<u64> = (1..=7).map(|n| failure_backoff(n).as_secs()).collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
}
