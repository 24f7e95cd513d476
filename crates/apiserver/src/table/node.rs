//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{NONE, items, or, text};
use super::{Column, age};

pub(super) const COLUMNS: &[Column] = &[
    ("Name", "string", false),
    ("Status", "string", false),
    ("Roles", "string", false),
    ("Age", "string", false),
    ("Version", "string", false),
    ("Internal-IP", "string", true),
    ("External-IP", "string", true),
    ("OS-Image", "string", true),
    ("Kernel-Version", "string", true),
    ("Container-Runtime", "string", true),
];

fn status(node: &Value) -> String {
    let ready =
        items(&node["status"], "conditions").iter().find(|one| text(one, "type") == "Ready");
    let mut shown = match ready.map(|one| text(one, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        shown.push_str(",SchedulingDisabled");
    }
    shown
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            let role = match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => role,
                None if key == "kubernetes.io/role" => value.as_str()?,
                None => return None,
            };
            (!role.is_empty()).then_some(role)
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), NONE).to_owned()
}

pub(super) fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let status_of = &node["status"];
    let info = &status_of["nodeInfo"];
    let address = |kind: &str| {
        items(status_of, "addresses")
            .iter()
            .find(|one| text(one, "type") == kind)
            .map_or(NONE, |one| or(text(one, "address"), NONE))
            .to_owned()
    };
    let known = |name: &str| Value::from(or(text(info, name), "<unknown>"));
    vec![
        text(&node["metadata"], "name").into(),
        status(node).into(),
        roles(node).into(),
        age::of(node, now),
        text(info, "kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        known("osImage"),
        known("kernelVersion"),
        known("containerRuntimeVersion"),
    ]
}
