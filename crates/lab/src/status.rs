//! `fairway lab status` and `fairway lab list`: what runs, from the control process when it answers, from the records
//! and `/proc` when it does not.

use std::fs;
use std::path::Path;

use anyhow::bail;
use print::Format;
use print::columns::{key_values, mebibytes, table};
use serde::Serialize;

use crate::layout::{LabName, Layout, NodePlan, RUN_ROOT, STATE_ROOT};
use crate::process::{self, ProcessId};
use crate::protocol::{self, NodeState, Request, Response};
use crate::state::{self, LabSpec, ProcessRecord, Role, RunRecord};
use crate::up::age_of;

/// A lab as it is now.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabStatus {
    /// Its name.
    pub name: String,
    /// Whether it works: up, down, or broken (half of it died).
    pub state: LabState,
    /// When `lab up` ran, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Where the API listens on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// The administrator's kubeconfig.
    pub kubeconfig: String,
    /// Whether `lab down` keeps its objects.
    pub persist: bool,
    /// The control process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<ProcessStatus>,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Services in its API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<usize>,
}

/// Whether a lab works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum LabState {
    /// The control process answers and every node is Ready.
    Up,
    /// The control process answers, some node is not Ready.
    Degraded,
    /// The control process is gone, or half of the lab is: `lab up` or `lab down` clears it.
    Broken,
    /// Only state on disk: `lab up` finds its objects again.
    Down,
}

/// One process.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStatus {
    /// Its pid; `None` while it is not running.
    pub pid: Option<u32>,
    /// Resident memory in bytes.
    pub resident_bytes: Option<u64>,
    /// How often it had to be started again.
    pub restarts: u32,
    /// Stopped by `lab node kill`.
    pub killed: bool,
}

/// One node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its addresses on the switch.
    pub addresses: Vec<String>,
    /// Whether the API has it Ready; `None` when the API cannot be asked.
    pub ready: Option<bool>,
    /// Why it is not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Pods bound to it.
    pub pods: Option<usize>,
    /// Its agent.
    pub agent: ProcessStatus,
    /// Its pod runner.
    pub runner: ProcessStatus,
}

/// The lab called `name`, as it is now.
///
/// # Errors
/// When there is no such lab, or its files cannot be read.
pub fn of(name: &LabName) -> anyhow::Result<LabStatus> {
    let layout = Layout::new(name.clone());
    let record: Option<RunRecord> = state::read(&state::record_file(&layout))?;
    let spec: Option<LabSpec> = state::read(&state::spec_file(&layout))?;
    let kubeconfig = layout.kubeconfig().display().to_string();
    let Some(record) = record else {
        let half_way = layout.run_dir().exists();
        if spec.is_none() && !half_way {
            bail!("{}", no_such_lab(name));
        }
        let state = if half_way { LabState::Broken } else { LabState::Down };
        return Ok(LabStatus {
            name: name.to_string(),
            state,
            started: None,
            api_url: None,
            kubeconfig,
            persist: spec.is_some_and(|spec| spec.persist),
            control: None,
            nodes: Vec::new(),
            services: None,
        });
    };
    let this_boot = record.boot_id == process::boot_id();
    let answer = if this_boot && record.control.alive() {
        protocol::ask(&layout.control_socket(), &Request::Status).ok()
    } else {
        None
    };
    let (states, processes, services) = match answer {
        Some(Response::Status { nodes, processes, services }) => {
            (Some(nodes), processes, Some(services))
        }
        _ => (None, record.processes, None),
    };
    let nodes: Vec<NodeStatus> = NodePlan::all(record.spec.nodes)
        .into_iter()
        .map(|plan| node(&plan, states.as_deref(), &processes, this_boot))
        .collect();
    let state = match &states {
        None => LabState::Broken,
        Some(_) if nodes.iter().all(|node| node.ready == Some(true)) => LabState::Up,
        Some(_) => LabState::Degraded,
    };
    Ok(LabStatus {
        name: name.to_string(),
        state,
        started: Some(record.started),
        api_url: Some(record.api_url),
        kubeconfig,
        persist: record.spec.persist,
        control: Some(running(Some(record.control), 0, false, this_boot)),
        nodes,
        services,
    })
}

fn node(
    plan: &NodePlan,
    states: Option<&[NodeState]>,
    processes: &[ProcessRecord],
    this_boot: bool,
) -> NodeStatus {
    let state = states.and_then(|states| states.iter().find(|state| state.name == plan.name));
    let part = |role| {
        let record = processes.iter().find(|r| r.node == plan.name && r.role == role);
        record.map_or_else(
            || running(None, 0, false, this_boot),
            |record| running(record.process, record.restarts, record.killed, this_boot),
        )
    };
    NodeStatus {
        name: plan.name.clone(),
        addresses: vec![plan.v4.to_string(), plan.v6.to_string()],
        ready: states.map(|_| state.is_some_and(|state| state.ready)),
        message: state.map(|state| state.message.clone()).unwrap_or_default(),
        pod_cidrs: state.map(|state| state.pod_cidrs.clone()).unwrap_or_default(),
        pods: state.map(|state| state.pods),
        agent: part(Role::Agent),
        runner: part(Role::Runner),
    }
}

fn running(id: Option<ProcessId>, restarts: u32, killed: bool, this_boot: bool) -> ProcessStatus {
    let alive = id.filter(|id| this_boot && id.alive());
    ProcessStatus {
        pid: alive.map(|id| id.pid),
        resident_bytes: alive.and_then(|id| id.resident_bytes()),
        restarts,
        killed,
    }
}

/// The line for a lab that does not exist.
#[must_use]
pub fn no_such_lab(name: &LabName) -> String {
    format!(
        "there is no lab {name}: `fairway lab up --name {name}` makes one, `fairway lab list` shows what there is"
    )
}

/// Every lab of this machine, and what kept others from being read. A lab that goes away meanwhile is neither.
#[must_use]
pub fn all() -> (Vec<LabStatus>, Vec<anyhow::Error>) {
    let (mut labs, mut failures) = (Vec::new(), Vec::new());
    for name in names() {
        match of(&name) {
            Ok(lab) => labs.push(lab),
            Err(error) if names().contains(&name) => failures.push(error),
            Err(_) => {}
        }
    }
    (labs, failures)
}

/// Names of every lab with run-time files or state.
#[must_use]
pub fn names() -> Vec<LabName> {
    let mut names: Vec<LabName> = [RUN_ROOT, STATE_ROOT]
        .into_iter()
        .flat_map(|root| fs::read_dir(Path::new(root)).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Prints one lab.
///
/// # Errors
/// When the status cannot be written as JSON or YAML.
pub fn print(status: &LabStatus, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(status, format)? {
        return Ok(text);
    }
    let mut text = headline(status);
    if !status.nodes.is_empty() {
        text.push('\n');
        text.push_str(&node_table(status, format == Format::Wide));
    }
    Ok(text)
}

/// Prints all labs.
///
/// # Errors
/// When they cannot be written as JSON or YAML.
pub fn print_list(labs: &[LabStatus], format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(&labs, format)? {
        return Ok(text);
    }
    Ok(match labs {
        [] => "No labs. `fairway lab up` makes one.\n".to_owned(),
        labs => {
            let rows: Vec<Vec<String>> = labs
                .iter()
                .map(|lab| {
                    let ready = lab.nodes.iter().filter(|node| node.ready == Some(true)).count();
                    vec![
                        lab.name.clone(),
                        format!("{:?}", lab.state),
                        format!("{ready}/{}", lab.nodes.len()),
                        lab.api_url.clone().unwrap_or_else(none),
                        lab.started.as_deref().map_or_else(none, age_of),
                    ]
                })
                .collect();
            table(&["NAME", "STATE", "NODES", "API", "AGE"], &rows)
        }
    })
}

fn none() -> String {
    "<none>".to_owned()
}

fn headline(status: &LabStatus) -> String {
    let mut rows = vec![("Lab", status.name.clone())];
    let mut row = |key: &'static str, value: String| rows.push((key, value));
    let state = match status.state {
        LabState::Up => "Up".to_owned(),
        LabState::Degraded => "Degraded: not every node is Ready".to_owned(),
        LabState::Broken => format!(
            "Broken: its control process is gone; `fairway lab up --name {0}` brings it back, `fairway lab down --name {0}` removes it",
            status.name
        ),
        LabState::Down => format!(
            "Down: its objects are kept on disk; `fairway lab up --name {0}` finds them again",
            status.name
        ),
    };
    row("State", state);
    if let Some(url) = &status.api_url {
        row("API", url.clone());
        row("Kubeconfig", status.kubeconfig.clone());
    }
    if let Some(started) = &status.started {
        row("Age", age_of(started));
    }
    if let Some(control) = &status.control {
        row("Control", shown(control));
    }
    if let Some(services) = status.services {
        row("Services", services.to_string());
    }
    key_values(&rows)
}

fn shown(process: &ProcessStatus) -> String {
    match (process.pid, process.killed) {
        (Some(pid), _) => {
            let memory = process.resident_bytes.map(mebibytes).unwrap_or_default();
            let again = match process.restarts {
                0 => String::new(),
                count => format!(", restarted {count}x"),
            };
            format!("pid {pid} ({memory}{again})")
        }
        (None, true) => "killed".to_owned(),
        (None, false) => "not running".to_owned(),
    }
}

fn node_table(status: &LabStatus, wide: bool) -> String {
    let mut header = vec!["NODE", "STATUS", "ADDRESS", "PODS", "AGENT", "RUNNER"];
    if wide {
        header.extend(["IPV6", "POD-CIDRS", "MESSAGE"]);
    }
    let rows: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            let ready = match node.ready {
                Some(true) => "Ready",
                Some(false) => "NotReady",
                None => "Unknown",
            };
            let address = |at: usize| node.addresses.get(at).cloned().unwrap_or_else(none);
            let mut row = vec![
                node.name.clone(),
                ready.to_owned(),
                address(0),
                node.pods.map_or_else(none, |pods| pods.to_string()),
                shown(&node.agent),
                shown(&node.runner),
            ];
            if wide {
                row.push(address(1));
                row.push(if node.pod_cidrs.is_empty() { none() } else { node.pod_cidrs.join(",") });
                row.push(if node.message.is_empty() { none() } else { node.message.clone() });
            }
            row
        })
        .collect();
    table(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: Option<u32>, killed: bool) -> ProcessStatus {
        ProcessStatus { pid, resident_bytes: pid.map(|_| 9 << 20), restarts: 0, killed }
    }

    fn sample() -> LabStatus {
        let node = |number, ready| {
            let plan = NodePlan::new(number);
            NodeStatus {
                name: plan.name,
                addresses: vec![plan.v4.to_string(), plan.v6.to_string()],
                ready: Some(ready),
                message: if ready { String::new() } else { "no CNI configuration".to_owned() },
                pod_cidrs: vec![format!("10.244.{number}.0/24")],
                pods: Some(2),
                agent: process(ready.then_some(41), !ready),
                runner: process(Some(42), false),
            }
        };
        LabStatus {
            name: "lab".into(),
            state: LabState::Degraded,
            started: None,
            api_url: Some("https://127.0.0.1:6443".into()),
            kubeconfig: "/run/fairway/labs/lab/kubeconfig".into(),
            persist: false,
            control: Some(process(Some(40), false)),
            nodes: vec![node(1, true), node(2, false)],
            services: Some(1),
        }
    }

    #[test]
    fn a_person_sees_a_table() {
        let text = print(&sample(), Format::Table).unwrap();
        let expected = "\
Lab:          lab
State:        Degraded: not every node is Ready
API:          https://127.0.0.1:6443
Kubeconfig:   /run/fairway/labs/lab/kubeconfig
Control:      pid 40 (9.0 MiB)
Services:     1

NODE     STATUS     ADDRESS      PODS   AGENT              RUNNER
node-1   Ready      172.30.1.1   2      pid 41 (9.0 MiB)   pid 42 (9.0 MiB)
node-2   NotReady   172.30.1.2   2      killed             pid 42 (9.0 MiB)
";
        assert_eq!(text, expected);
        let wide = print(&sample(), Format::Wide).unwrap();
        assert!(wide.contains("fd00:172:30::1:2   10.244.2.0/24   no CNI configuration"), "{wide}");
    }

    #[test]
    fn a_program_sees_json_and_yaml() {
        let json = print(&sample(), Format::Json).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["state"], "Degraded");
        assert_eq!(value["nodes"][0]["agent"]["residentBytes"], 9 << 20);
        assert!(print(&sample(), Format::Yaml).unwrap().contains("apiUrl: https://127.0.0.1:6443"));
    }

    #[test]
    fn no_lab_says_how_to_make_one() {
        assert_eq!(
            print_list(&[], Format::Table).unwrap(),
            "No labs. `fairway lab up` makes one.\n"
        );
        let error = of(&"no-such-lab".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("fairway lab up --name no-such-lab"), "{error}");
    }
}
