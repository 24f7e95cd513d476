//! The loops of one node, its health and its metrics.
//!
//! Everything runs on one thread but what blocks in the kernel:
//!
//! | task or thread | owns | talks to |
//! |---|---|---|
//! | three watches (crate `cluster`) | the connection to the API | bounded channel of messages → services loop |
//! | services loop (`services`) | snapshot, planner | kernel thread; latest-value channel of nodes → fabric loop |
//! | kernel thread (`worker`) | nf_tables and conntrack sockets | answers one request at a time |
//! | fabric loop (`fabric_loop`) | the route plan, the CNI configuration | route thread; latest-value channel of the NAT table → services loop |
//! | route thread (`worker`) | the rtnetlink socket | answers one request at a time |
//! | HTTP server (`http`) | the listener | reads `health` |
//! | writer of Events (crate `cluster`) | a queue | the API |
//! | writer of progress (crate `cluster`) | the node's Lease | latest-value channel of what is applied ← services loop |
//!
//! Every task is owned by a handle that stops it on drop. While a commit runs, messages wait in the channel, and whatever
//! came meanwhile goes into the next transaction; an idle agent commits at once. Stopping the agent, by signal or by
//! `kill -9`, leaves the data path as it is.

mod fabric_loop;
mod health;
mod http;
mod memory;
mod metrics;
mod progress;
mod readable;
mod services;
mod start;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use start::run;

/// What `fairway agent` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The name of this node's Node object.
    pub node_name: String,
    /// How to reach the API; without it, the service account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Run-time files.
    pub run_dir: PathBuf,
    /// Files that survive a reboot.
    pub state_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Where health and metrics are served.
    pub health_addr: SocketAddr,
}
