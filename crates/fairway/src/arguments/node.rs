//! What may be typed to come to a node and to leave it: `fairway preflight`, `cleanup`, `adopt`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;

/// `fairway preflight`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tries what Fairway needs instead of guessing from versions: kernel features in a network namespace made for it
and removed. Looks at who else programs this network: kube-proxy, IPVS, other pod networks, firewalls.

Exit codes: 0 no check failed (warnings are none), 1 a check failed, 2 could not tell (not root).

Examples:
  fairway preflight
  fairway preflight --kubeconfig /etc/kubernetes/kubelet.conf --node-name \"$(hostname)\"
  fairway preflight -o json | jq '.[] | select(.result != \"PASS\")'")]
pub(crate) struct PreflightOptions {
    /// How the agent will reach the API; else $KUBECONFIG. Without both the API is not asked.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The name of this machine's Node object; the host name unless given.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Where the container runtime looks for CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Where the agent will serve its health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10256")]
    pub(crate) health_addr: SocketAddr,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `fairway cleanup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Removes the table `inet fairway`, routes of protocol 250, links with alias `fairway:…`, the CNI configuration and
Fairway's files on this node. Labs are left alone. Settings (sysctls) stay and are named. Asks before it does
anything, unless --yes.

Exit codes: 0 nothing is left, 1 refused, declined or failed.

Examples:
  fairway cleanup --dry-run
  kubectl drain node-1 --ignore-daemonsets && fairway cleanup --yes")]
pub(crate) struct CleanupOptions {
    /// Say what would be removed, remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Pods that run may lose their network.
    #[arg(long)]
    pub(crate) pods: bool,
    /// Even while an agent runs, which will bring it back.
    #[arg(long)]
    pub(crate) force: bool,
    /// Run-time files.
    #[arg(long, value_name = "DIR", default_value = "/run/fairway")]
    pub(crate) run_dir: PathBuf,
    /// Files that survive a reboot.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fairway")]
    pub(crate) state_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

/// `fairway adopt …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AdoptCommand {
    /// Take over from kube-proxy on this node without breaking a connection, or give back.
    #[command(after_help = "\
Works with kube-proxy in nftables and iptables mode (both implementations of iptables). The agent must run here
already, beside kube-proxy: give it another port, `fairway agent --health-addr 127.0.0.1:10257`. Then:

  1. waits until Fairway serves everything kube-proxy's rules serve;
  2. stops kube-proxy: where it is a DaemonSet, by a label on this Node (fairway.dev/service-proxy=fairway),
     elsewhere you are told to stop it;
  3. removes kube-proxy's rules.

Open connections go on: they follow connection tracking, not the rules. Clients with session affinity keep their
open connections; their next one may choose another endpoint. kube-proxy in iptables mode answers node ports on
127.0.0.1; Fairway does where its configuration says so (iptables.localhostNodePorts in `fairway agent --config`).

--undo goes back: kube-proxy comes back (or you start it), its rules serve everything, the agent stops, Fairway's
Service rules go. Both may be run again after a failure; every step looks first.

Exit codes: 0 done (or nothing to do), 1 a step did not happen; the message says which and what to do.

Examples:
  fairway adopt kube-proxy --kubeconfig /etc/kubernetes/admin.conf --node-name node-1
  fairway adopt kube-proxy --check
  fairway adopt kube-proxy --undo")]
    KubeProxy(AdoptOptions),
}

/// `fairway adopt kube-proxy`.
#[derive(Debug, Args)]
pub(crate) struct AdoptOptions {
    /// Go back to kube-proxy.
    #[arg(long, conflicts_with = "check")]
    pub(crate) undo: bool,
    /// Say what is there and what is in the way, change nothing.
    #[arg(long)]
    pub(crate) check: bool,
    /// Go on although something is missing or in the way.
    #[arg(long)]
    pub(crate) force: bool,
    /// Longest wait for each step, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
    /// kube-proxy's DaemonSet.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-proxy")]
    pub(crate) daemonset: String,
    /// How to reach the API; else $KUBECONFIG. Without both kube-proxy is stopped by hand.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The name of this machine's Node object; the host name unless given.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,
}
