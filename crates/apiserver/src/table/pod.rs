//! Pods: what the containers' states add up to in one word.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, items, number, or, text};
use super::{Column, age};

pub(super) const COLUMNS: &[Column] = &[
    ("Name", "string", false),
    ("Ready", "string", false),
    ("Status", "string", false),
    ("Restarts", "string", false),
    ("Age", "string", false),
    ("IP", "string", true),
    ("Node", "string", true),
    ("Nominated Node", "string", true),
    ("Readiness Gates", "string", true),
];

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl Summary {
    fn saw(&mut self, status: &Value) {
        if let Some(at) = status["lastState"]["terminated"]["finishedAt"].as_str()
            && self.last_restart.as_deref().is_none_or(|last| last < at)
        {
            self.last_restart = Some(at.to_owned());
        }
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&pod["status"], "conditions").iter().find(|one| text(one, "type") == kind)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|one| text(one, "status") == "True")
}

/// `Error`, `Signal:9` or `ExitCode:1`.
fn ending(terminated: &Value) -> String {
    let reason = text(terminated, "reason");
    if !reason.is_empty() {
        reason.to_owned()
    } else if number(terminated, "signal") != 0 {
        format!("Signal:{}", number(terminated, "signal"))
    } else {
        format!("ExitCode:{}", number(terminated, "exitCode"))
    }
}

fn summary(pod: &Value) -> Summary {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(status, "phase");
    let mut all = Summary {
        reason: or(text(status, "reason"), phase).to_owned(),
        ready: 0,
        total: items(spec, "containers").len(),
        restarts: 0,
        last_restart: None,
    };
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && text(scheduled, "reason") == "SchedulingGated"
    {
        all.reason = "SchedulingGated".to_owned();
    }
    let inits = items(spec, "initContainers");
    let sidecar = |name: &str| {
        inits.iter().any(|one| text(one, "name") == name && text(one, "restartPolicy") == "Always")
    };
    all.total += inits.iter().filter(|one| text(one, "restartPolicy") == "Always").count();
    let mut initializing = false;
    let mut sidecar_restarts = 0;
    for (index, one) in items(status, "initContainerStatuses").iter().enumerate() {
        all.restarts += number(one, "restartCount");
        all.saw(one);
        let is_sidecar = sidecar(text(one, "name"));
        if is_sidecar {
            sidecar_restarts += number(one, "restartCount");
        }
        let terminated = one["state"].get("terminated").filter(|state| !state.is_null());
        let waiting = text(&one["state"]["waiting"], "reason");
        if terminated.is_some_and(|state| number(state, "exitCode") == 0) {
            continue;
        }
        if is_sidecar && one["started"] == true {
            all.ready += usize::from(one["ready"] == true);
            continue;
        }
        all.reason = match terminated {
            Some(state) => format!("Init:{}", ending(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{index}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || is_true(pod, "Initialized") {
        all.restarts = sidecar_restarts;
        let mut running = false;
        for one in items(status, "containerStatuses").iter().rev() {
            all.restarts += number(one, "restartCount");
            all.saw(one);
            let state = &one["state"];
            let waiting = text(&state["waiting"], "reason");
            if !waiting.is_empty() {
                all.reason = waiting.to_owned();
            } else if !state["terminated"].is_null() {
                all.reason = ending(&state["terminated"]);
            } else if one["ready"] == true && !state["running"].is_null() {
                running = true;
                all.ready += 1;
            }
        }
        if all.reason == "Completed" && running {
            all.reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
    if deleting && text(status, "reason") == "NodeLost" {
        all.reason = "Unknown".to_owned();
    } else if deleting && phase != "Succeeded" && phase != "Failed" {
        all.reason = "Terminating".to_owned();
    }
    all
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let all = summary(pod);
    let restarts = match &all.last_restart {
        Some(at) if all.restarts != 0 => {
            format!("{} ({} ago)", all.restarts, age::since(&json!(at), now))
        }
        _ => all.restarts.to_string(),
    };
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let ip = text(&status["podIPs"][0], "ip");
    let gates = items(spec, "readinessGates");
    let gates = if gates.is_empty() {
        NONE.to_owned()
    } else {
        let met = gates.iter().filter(|one| is_true(pod, text(one, "conditionType"))).count();
        format!("{met}/{}", gates.len())
    };
    vec![
        text(&pod["metadata"], "name").into(),
        format!("{}/{}", all.ready, all.total).into(),
        all.reason.into(),
        restarts.into(),
        age::of(pod, now),
        or(ip, or(text(status, "podIP"), NONE)).into(),
        or(text(spec, "nodeName"), NONE).into(),
        or(text(status, "nominatedNodeName"), NONE).into(),
        gates.into(),
    ]
}
