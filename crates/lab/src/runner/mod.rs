//! The pod runner: the kubelet's part on one node of a lab.
//!
//! One process per node, started inside the node's network namespace. It registers the Node and keeps its Lease, watches
//! the pods bound to the node and makes them run: sandbox (network namespace, CNI), containers (each under a
//! [shim](crate::container) of its own), probes, status, events, and the streams behind `kubectl logs|exec|attach`.
//!
//! What it must not do: know nf_tables, routes or Services beyond environment variables. The network is the CNI
//! plugin's and the agent's.
//!
//! The middle is pure: [`sync`] turns (pod, observations, now) into actions and a status; the rest is edges. All run
//! state is under the run dir, so a runner that was killed is started again and adopts what still runs, and [`cleanup`]
//! removes everything of a dead one from what is on disk and in `/proc`.

use std::net::IpAddr;
use std::path::PathBuf;

/// What a runner needs to know; everything else comes from the API.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// The lab's name, part of every namespace name.
    pub lab: String,
    /// The node this process plays the kubelet for.
    pub node: String,
    /// Kubeconfig of a user that may do what a kubelet does.
    pub kubeconfig: PathBuf,
    /// Directory of this runner's own run state; created when missing.
    pub run_dir: PathBuf,
    /// The node's addresses, IPv4 first when both are there.
    pub node_ips: Vec<IpAddr>,
    /// Where the agent writes its CNI configuration list.
    pub cni_conf_dir: PathBuf,
    /// The CNI plugin: a program that is every plugin type, or a directory of plugins.
    pub cni_bin: PathBuf,
    /// Unix socket for logs, exec and attach.
    pub socket: PathBuf,
    /// Name servers written into a pod's resolv.conf (`ClusterFirst`).
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
}

/// Runs until SIGTERM or SIGINT. Containers keep running when it ends; see [`cleanup`] for taking everything down.
///
/// # Errors
/// The kubeconfig, run dir or socket cannot be used.
pub async fn main(config: RunnerConfig) -> anyhow::Result<()> {
    let _ = config;
    anyhow::bail!("the pod runner is being written")
}

/// Ends and removes everything a runner (dead or alive) left: its own process, shims, containers, network namespaces,
/// mounts and files under `run_dir`. A pure function of what is on disk and in `/proc`; safe to call twice.
///
/// # Errors
/// Something could not be removed; the rest was removed all the same.
pub fn cleanup(run_dir: &std::path::Path) -> std::io::Result<()> {
    let _ = run_dir;
    Ok(())
}
