//! Who is Ready: what `lab up` waits for and `lab status` shows, from what the control process sees of the cluster.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::cluster::Seen;
use super::{READY_WITHIN, report};
use crate::layout::{Layout, NodePlan};
use crate::protocol::{NodeState, Progress};
use crate::state::Role;

/// Returns when every node is Ready; reports each as it gets there.
pub(super) async fn all_ready(seen: &Seen, nodes: &[NodePlan]) {
    let mut missing: BTreeSet<&str> = nodes.iter().map(|plan| plan.name.as_str()).collect();
    seen.until(|seen| {
        missing.retain(|name| {
            let ready = seen.node(name).is_some_and(|node| readiness(&node).0);
            if ready {
                report(&Progress::NodeReady { node: (*name).to_owned() });
            }
            !ready
        });
        missing.is_empty()
    })
    .await;
}

/// The Ready condition of a Node and what it says.
fn readiness(node: &Value) -> (bool, String) {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(condition) if condition["status"] == "True" => (true, String::new()),
        Some(condition) => (false, condition["message"].as_str().unwrap_or("not Ready").to_owned()),
        None => (false, "its pod runner has not reported yet".to_owned()),
    }
}

/// How each node is.
pub(super) fn node_states(seen: &Seen, nodes: &[NodePlan]) -> Vec<NodeState> {
    let pods = seen.pods(nodes);
    nodes
        .iter()
        .map(|plan| {
            let node = seen.node(&plan.name);
            let (ready, message) =
                node.as_deref().map_or((false, "it has not registered yet".to_owned()), readiness);
            let cidrs = node.as_deref().and_then(|node| node["spec"]["podCIDRs"].as_array());
            let pod_cidrs =
                cidrs.into_iter().flatten().filter_map(|c| c.as_str().map(str::to_owned)).collect();
            let pods = pods.get(plan.name.as_str()).copied().unwrap_or(0);
            NodeState { name: plan.name.clone(), ready, message, pod_cidrs, pods }
        })
        .collect()
}

/// Which nodes are late, and the last word of their processes.
pub(super) fn who_is_not_ready(layout: &Layout, seen: &Seen, nodes: &[NodePlan]) -> String {
    let late: Vec<String> = node_states(seen, nodes)
        .into_iter()
        .filter(|node| !node.ready)
        .map(|node| {
            let dir = layout.node_dir(&node.name);
            let said = [Role::Agent, Role::Runner]
                .map(|role| last_line(&dir.join(format!("{}.log", role.as_str()))));
            format!("{} ({}; agent: {}; runner: {})", node.name, node.message, said[0], said[1])
        })
        .collect();
    format!("not every node is Ready after {} s: {}", READY_WITHIN.as_secs(), late.join(", "))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.trim_end().lines().last().unwrap_or("silent").trim().to_owned()
}
