//! What each node gets: its files, its kubeconfigs, and the command lines of its agent and its runner.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::cluster::{Cluster, User};
use crate::enter::Place;
use crate::existing::nodes::LAB_LABEL;
use crate::layout::{CLUSTER_DNS, Layout, NETNS_ROOT, NodePlan, RESOLV_CONF, hosts_file};
use crate::state::{self, LabSpec, Role};
use crate::supervise::Part;

/// The label that says which zone a node is in.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Name resolution of all nodes, and their directories.
pub(super) fn write_files(layout: &Layout, nodes: &[NodePlan]) -> anyhow::Result<()> {
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let hosts = layout.hosts_file();
    state::write_bytes(&hosts, hosts_file(nodes).as_bytes(), 0o644)
        .with_context(|| cannot(&hosts))?;
    let resolv = layout.resolv_file();
    state::write_bytes(&resolv, RESOLV_CONF.as_bytes(), 0o644).with_context(|| cannot(&resolv))?;
    for node in nodes {
        for dir in [layout.cni_conf_dir(&node.name), layout.node_state_dir(&node.name)] {
            fs::create_dir_all(&dir).with_context(|| cannot(&dir))?;
        }
    }
    Ok(())
}

/// The administrator's kubeconfig, and those of the agents and runners.
pub(super) fn write_kubeconfigs(
    layout: &Layout,
    cluster: &Cluster,
    nodes: &[NodePlan],
) -> anyhow::Result<()> {
    let lab = layout.name().as_str();
    let mut files = vec![(layout.kubeconfig(), cluster.kubeconfig(lab, User::Admin)?)];
    for node in nodes {
        let dir = layout.node_dir(&node.name);
        let (agent, runner) = (User::Agent(&node.name), User::Runner(&node.name));
        files.push((dir.join("agent.kubeconfig"), cluster.kubeconfig(lab, agent)?));
        files.push((dir.join("runner.kubeconfig"), cluster.kubeconfig(lab, runner)?));
    }
    for (path, text) in files {
        state::write_bytes(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The processes of all nodes.
pub(super) fn parts(
    layout: &Layout,
    cluster: &Cluster,
    spec: &LabSpec,
    nodes: &[NodePlan],
) -> anyhow::Result<Vec<Part>> {
    let own: OsString = std::env::current_exe().context("cannot find this program's file")?.into();
    let mut parts = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let dir = layout.node_dir(&node.name);
        let place = Place {
            net: Path::new(NETNS_ROOT).join(layout.node_namespace(&node.name)),
            hostname: Some(node.name.clone()),
            hosts: Some(layout.hosts_file()),
            resolv: Some(layout.resolv_file()),
        };
        let agent: Vec<OsString> = vec![
            "agent".into(),
            "--node-name".into(),
            node.name.clone().into(),
            "--kubeconfig".into(),
            dir.join("agent.kubeconfig").into(),
            "--run-dir".into(),
            dir.join("agent").into(),
            "--state-dir".into(),
            layout.node_state_dir(&node.name).into(),
            "--cni-conf-dir".into(),
            layout.cni_conf_dir(&node.name).into(),
            "--dns".into(),
            "--dns-listen".into(),
            format!("{}:53,[{}]:53", node.v4, node.v6).into(),
        ];
        let mut runner: Vec<OsString> = vec![
            "lab".into(),
            "pod-runner".into(),
            "--lab".into(),
            layout.name().to_string().into(),
            "--node-name".into(),
            node.name.clone().into(),
            "--kubeconfig".into(),
            dir.join("runner.kubeconfig").into(),
            "--run-dir".into(),
            dir.join("runner").into(),
            "--node-ip".into(),
            node.v4.to_string().into(),
            "--node-ip".into(),
            node.v6.to_string().into(),
            "--cni-conf-dir".into(),
            layout.cni_conf_dir(&node.name).into(),
            "--socket".into(),
            layout.runner_socket(&node.name).into(),
            "--cluster-dns".into(),
            CLUSTER_DNS.to_string().into(),
        ];
        if let Some(kubelet) = cluster.kubelet(&node.name) {
            runner.extend(["--kubelet".into(), kubelet.to_string().into()]);
        }
        for (key, value) in labels(layout, spec, index) {
            runner.extend(["--label".into(), format!("{key}={value}").into()]);
        }
        for (role, words) in [(Role::Agent, agent), (Role::Runner, runner)] {
            let mut command = vec![own.clone()];
            command.extend(place.arguments());
            command.push(own.clone());
            command.extend(words);
            let log = dir.join(format!("{}.log", role.as_str()));
            parts.push(Part { node: node.name.clone(), role, command, log });
        }
    }
    Ok(parts)
}

/// The labels of the node at `index`, beside those every kubelet sets.
fn labels(layout: &Layout, spec: &LabSpec, index: usize) -> Vec<(&'static str, String)> {
    let mut labels = Vec::new();
    if let Some(zone) = spec.zones.get(index % spec.zones.len().max(1)) {
        labels.push((ZONE_LABEL, zone.clone()));
    }
    if spec.kubeconfig.is_some() {
        labels.push((LAB_LABEL, layout.name().to_string()));
    }
    labels
}
