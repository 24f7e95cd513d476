use super::*;
use crate::container::process::ProcessId;
use serde_json::json;

const T0: Timestamp = Timestamp::UNIX_EPOCH;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn running(record: &mut PodRecord, name: &str, ready: bool) {
    let id = ProcessId { pid: 1, start: 1 };
    let c = record.container(name);
    c.id = "abc".into();
    c.phase = Phase::Running { started_at: T0, shim: id, init: id, stopping: false };
    c.started = true;
    c.ready = ready;
}

fn exited(record: &mut PodRecord, name: &str, code: i32) {
    record.container(name).phase = Phase::Exited(Ended {
        code,
        signal: None,
        reason: if code == 0 { "Completed" } else { "Error" }.into(),
        message: None,
        started_at: Some(T0),
        finished_at: T0,
        id: "abc".into(),
    });
}

fn condition(status: &PodStatus, kind: &str) -> (String, Option<String>) {
    let list = status.conditions.as_deref().unwrap();
    let c = list.iter().find(|c| c.type_ == kind).unwrap();
    (c.status.clone(), c.reason.clone())
}

#[test]
fn pending_running_ready() {
    let pod = pod(json!({"containers": [{"name": "a", "image": "httpd"}]}));
    let mut record = PodRecord::new("u", "d", "p", T0);
    let node = ["172.30.1.1".parse().unwrap()];
    let status = compute(&pod, &record, &node, T0);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
    assert_eq!(condition(&status, "Initialized").0, "True");
    record.sandbox = Sandbox::Ready;
    record.ips = vec!["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    running(&mut record, "a", false);
    let status = compute(&pod, &record, &node, T0);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready"), ("False".into(), Some("ContainersNotReady".into())));
    running(&mut record, "a", true);
    let status = compute(&pod, &record, &node, T0);
    assert_eq!(condition(&status, "Ready"), ("True".into(), None));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
    assert_eq!(status.pod_ips.as_ref().unwrap().len(), 2);
    assert_eq!(status.host_ip.as_deref(), Some("172.30.1.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
}

#[test]
fn crash_loop_keeps_the_pod_running_and_shows_the_last_exit() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut record = PodRecord::new("u", "d", "p", T0);
    exited(&mut record, "a", 1);
    record.container("a").backoff = 160;
    record.container("a").attempt = 4;
    let status = compute(&pod, &record, &[], T0);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let c = &status.container_statuses.unwrap()[0];
    let waiting = c.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 2m40s restarting failed container=a pod=p_d(u)")
    );
    assert_eq!(c.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(c.restart_count, 4);
}

#[test]
fn finished_pods_succeed_or_fail() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    let mut record = PodRecord::new("u", "d", "p", T0);
    exited(&mut record, "a", 0);
    running(&mut record, "b", true);
    assert_eq!(compute(&pod, &record, &[], T0).phase.as_deref(), Some("Running"));
    exited(&mut record, "b", 0);
    let status = compute(&pod, &record, &[], T0);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(condition(&status, "Ready"), ("False".into(), Some("PodCompleted".into())));
    exited(&mut record, "b", 2);
    assert_eq!(compute(&pod, &record, &[], T0).phase.as_deref(), Some("Failed"));
}

#[test]
fn conditions_of_others_and_transition_times_are_kept() {
    let mut pod = pod(json!({"containers": [{"name": "a"}]}));
    let record = PodRecord::new("u", "d", "p", T0);
    let later = T0 + std::time::Duration::from_secs(60);
    let mut first = compute(&pod, &record, &[], T0);
    first.conditions.as_mut().unwrap().push(PodCondition {
        type_: "PodScheduled".into(),
        status: "True".into(),
        ..PodCondition::default()
    });
    pod.status = Some(first.clone());
    let second = compute(&pod, &record, &[], later);
    assert_eq!(first, second, "nothing changed, so nothing is written");
}

#[test]
fn quality_of_service_classes() {
    let of = |resources: serde_json::Value| {
        let spec = json!({"containers": [{"name": "a", "resources": resources}]});
        qos_class(pod(spec).spec.as_ref().unwrap())
    };
    assert_eq!(of(json!({})), "BestEffort");
    assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
}

#[test]
fn merge_patch_says_only_what_changed_and_removes_what_is_gone() {
    let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
    let new = json!({"a": 1, "b": {"c": 3}, "e": [1, 2], "f": true});
    let patch = merge_patch(&old, &new).unwrap();
    assert_eq!(patch, json!({"b": {"c": 3, "d": null}, "e": [1, 2], "f": true}));
    assert_eq!(merge_patch(&new, &new), None);
}
