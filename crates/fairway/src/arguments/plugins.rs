//! What may be typed to lay the CNI plugins: `fairway cni install`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;

/// `fairway cni …`.
#[derive(Debug, Subcommand)]
pub(crate) enum CniCommand {
    /// Lay the plugins under their own names where the container runtime looks for them.
    #[command(after_help = "\
One link per plugin, all to this program: bandwidth, bridge, fairway, firewall, host-local, loopback, portmap, ptp,
static, tuning. It tells by the name it is called by which one it is. Files of other programs are left alone unless
--replace.

With --conflist also a configuration for pods on a bridge of this node (bridge, host-local, portmap, bandwidth).
A node with `fairway agent` needs none: the agent writes its own, with routed pods.

Exit codes: 0 done (or nothing to do), 1 something is in the way; the message says what.

Examples:
  fairway cni install /opt/cni/bin
  fairway cni install /opt/cni/bin --replace --conflist /etc/cni/net.d/10-bridge.conflist --subnet 10.88.0.0/24")]
    Install(InstallOptions),
}

/// `fairway cni install`.
#[derive(Debug, Args)]
pub(crate) struct InstallOptions {
    /// Where the runtime looks for plugins.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// What the links lead to; this program unless given.
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Put links in place of other programs' files.
    #[arg(long)]
    pub(crate) replace: bool,
    /// Also write a configuration with a bridge to this file.
    #[arg(long, value_name = "FILE", requires = "subnets")]
    pub(crate) conflist: Option<PathBuf>,
    /// The pods' subnets, one per address family.
    #[arg(long = "subnet", value_name = "CIDR", requires = "conflist")]
    pub(crate) subnets: Vec<IpNet>,
    /// The bridge.
    #[arg(long, value_name = "NAME", default_value = "cni0", requires = "conflist")]
    pub(crate) bridge: String,
}
