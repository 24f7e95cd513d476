//! What may be typed to look at names: `fairway dns …`.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use lab::exec::Target;

use super::{Name, Output};

/// `fairway dns …`.
#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// What a name is, as a pod, a node or this machine is told.
    #[command(after_help = "\
With --from the question goes out of the network of a pod or node of a lab, through the search list a pod has there.
A name that ends with a dot is asked as it is.

Exit codes: 0 there are records, 1 there are none, 2 nobody answered.

Examples:
  fairway dns query httpd-svc --from pod/default/web-0
  fairway dns query _https._tcp.kubernetes.default.svc.cluster.local. SRV --from node-1
  fairway dns query 10.96.0.10 --from client --server 172.30.1.1
  fairway dns query example.com --server 9.9.9.9 -o json")]
    Query(QueryOptions),
    /// Who asks most, for what, and which of it is not there.
    #[command(after_help = "\
Counted by the agent since it started; on a busy server one question of sixteen is looked at.

Exit codes: 0 done, 1 the agent does not answer, or does not serve DNS (--dns).

Examples:
  fairway dns top
  fairway dns top --node node-1
  fairway dns top -o json | jq '.missing[0]'")]
    Top(TopOptions),
}

/// `fairway dns query`.
#[derive(Debug, Args)]
pub(crate) struct QueryOptions {
    /// A name, or an address whose name is wanted.
    pub(crate) question: String,
    /// The type of record; A and AAAA unless given, PTR for an address.
    pub(crate) kind: Option<String>,
    /// Ask out of this network of a lab: node-1, client, pod/NAMESPACE/NAME.
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: Option<Target>,
    #[command(flatten)]
    pub(crate) lab: Name,
    /// Whom to ask: the cluster's DNS in a lab, else the first of /etc/resolv.conf, unless given.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) server: Option<IpAddr>,
    /// Its port.
    #[arg(long, default_value_t = 53)]
    pub(crate) port: u16,
    /// Over TCP from the start.
    #[arg(long)]
    pub(crate) tcp: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `fairway dns top`.
#[derive(Debug, Args)]
pub(crate) struct TopOptions {
    /// Look at this node of a lab; without it, at this machine.
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) lab: Name,
    /// Where the agent serves its health.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10256")]
    pub(crate) health_addr: SocketAddr,
    /// How many lines of each list.
    #[arg(long, default_value_t = 10)]
    pub(crate) lines: usize,
    #[command(flatten)]
    pub(crate) output: Output,
}
