//! The loops of one node, its health and its metrics.
//!
//! Everything runs on one thread but what blocks in the kernel:
//!
//! | task or thread | owns | talks to |
//! |---|---|---|
//! | the watches (crate `cluster`) | the connection to the API | bounded channel of messages → services loop |
//! | services loop (`services`) | snapshot, planner | kernel thread; latest-value channel of nodes, pools and blocks → fabric loop |
//! | kernel thread (`worker`) | nf_tables and conntrack sockets | answers one request at a time |
//! | fabric loop (`fabric_loop`) | tunnels and routes, the CNI configuration | route thread; latest-value channel of the NAT table → services loop |
//! | route thread (`worker`) | the rtnetlink socket | answers one request at a time |
//! | gate (`policies::gate`) | the socket CNI plugins ask on | bounded channel of questions → services loop |
//! | addresses loop (`ipam`) | which blocks this node holds | addresses thread; the API; tells the fabric loop when there is a list for the plugin |
//! | addresses thread (`worker`) | the plugin's directory, an rtnetlink socket | answers one request at a time |
//! | pods' rules (`pod_rules`) | events of the plugins' table | thread of its own (`worker`), which restores it from the plugins' records |
//! | HTTP server (`http`) | the listener | reads `health` |
//! | health check ports (`health_checks`) | one listener per Service that wants one | read `health`; told by the services loop |
//! | DNS threads (crate `dns`) | the DNS sockets, caches, upstreams | told by the services loop what the kernel does |
//! | facts thread (`state`) | the file of the last facts | one piece at a time ← services loop |
//! | writer of Events (crate `cluster`) | a queue | the API |
//! | writer of progress (crate `cluster`) | the node's Lease | latest-value channel of what is applied ← services loop |
//!
//! Every task is owned by a handle that stops it on drop. While a commit runs, messages wait in the channel, and whatever
//! came meanwhile goes into the next transaction; an idle agent commits at once. Stopping the agent, by signal or by
//! `kill -9`, leaves the data path as it is.

mod addresses;
mod api_servers;
mod between;
mod desired;
mod fabric_loop;
mod followers;
mod health;
mod health_checks;
mod http;
mod ipam;
mod kernel_settings;
pub mod kube_proxy;
mod memory;
mod metrics;
mod names;
mod peers;
mod pod_rules;
mod policies;
mod progress;
mod readable;
mod services;
mod start;
mod state;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use addresses::{Addresses, RangeUse, Reserved, addresses, release, repair};
pub use cluster::Access;
pub use desired::{Desired, desired};
pub use fabric::Settings as FabricSettings;
use kube_proxy::{Conntrack, Settings};
pub use model::Encapsulation;
pub use names::DnsSettings;
pub use peers::{Peer, peers};
use service::NodePortAddresses;
pub use start::run;

/// What `fairway agent` is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// The name of this node's Node object.
    pub node_name: String,
    /// How to reach the API.
    pub access: Access,
    /// Run-time files.
    pub run_dir: PathBuf,
    /// Files that survive a reboot.
    pub state_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    pub cni_conf_dir: PathBuf,
    /// Where health is served, and metrics unless they have an address of their own.
    pub health_addr: SocketAddr,
    /// Where metrics are served, if not with health.
    pub metrics_addr: Option<SocketAddr>,
    /// What of the node's network is left to others.
    pub without: Without,
    /// How Services are served.
    pub services: ServiceSettings,
    /// How packets cross to the other nodes.
    pub fabric: fabric::Settings,
    /// Where the addresses of this node's pods come from.
    pub ipam: Ipam,
    /// How DNS is answered; `None` leaves it to others.
    pub dns: Option<DnsSettings>,
}

/// Where the addresses of pods come from. All nodes of a cluster do it one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipam {
    /// From `spec.podCIDRs` of the node.
    #[default]
    NodeCidr,
    /// From blocks of address pools, taken when they are needed.
    Pools,
}

/// What of the node's network is left to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Without {
    /// No CNI configuration is written: another network plugin connects the pods.
    pub cni: bool,
    /// No routes to the other nodes, no NAT of pods that leave the cluster; without these no CNI configuration either.
    pub fabric: bool,
    /// No NetworkPolicy is enforced, and new pods wait for none.
    pub policy: bool,
}

/// How Services are served, as far as a whole node is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSettings {
    /// What the planner is told. With node ports on loopback addresses, the kernel is told to allow them.
    pub plan: service::Config,
    /// What is set of connection tracking; `None` leaves all of it alone.
    pub conntrack: Option<Conntrack>,
    /// How often everything is compared even when nothing seems to have happened.
    pub full_every: Duration,
    /// The least time between two commits, if there is one.
    pub least_pause: Option<Duration>,
}

impl Default for ServiceSettings {
    fn default() -> Self {
        Self {
            plan: service::Config::default(),
            conntrack: None,
            full_every: Duration::from_secs(300),
            least_pause: None,
        }
    }
}

impl From<&Settings> for ServiceSettings {
    fn from(settings: &Settings) -> Self {
        let node_port_addresses = match (&settings.node_ports, settings.primary) {
            (NodePortAddresses::Primary, Some(address)) => {
                NodePortAddresses::Ranges(vec![address.into()])
            }
            (addresses, _) => addresses.clone(),
        };
        let default = Self::default();
        let plan = service::Config {
            mark: 1 << settings.masquerade_bit,
            pod_cidrs: settings.pod_cidrs.clone(),
            local_traffic: settings.local.clone(),
            masquerade_all: settings.masquerade_all,
            node_port_addresses,
            localhost_node_ports: settings.localhost_node_ports,
            ..default.plan
        };
        Self {
            plan,
            conntrack: Some(settings.conntrack.clone()),
            full_every: settings.sync_period.unwrap_or(default.full_every),
            least_pause: settings.min_sync_period,
        }
    }
}
