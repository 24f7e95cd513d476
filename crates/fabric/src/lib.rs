//! The network between nodes: which pod CIDR lies behind which node and how a packet gets there, as routes, tunnels and
//! NAT rules.
//!
//! Pure: from a [`Cluster`] (nodes, pools) and what this node knows about itself ([`HostFacts`]) to a [`FabricPlan`],
//! reports for what cannot be used, and the part of the node's table that masquerades pods leaving the cluster
//! ([`nat_table`]). A bad node is reported and left out; it never blocks another. What the kernel must change is the
//! difference between the plan and what is there ([`device_changes`], [`entry_changes`], [`diff`]), in that order: a
//! route needs its tunnel.
//!
//! This crate must not open sockets or know a clock.

mod cidrs;
mod nat;
mod plan;
mod state;
mod tunnel;

pub use nat::{NAT_CHAIN, NatError, nat_table};
pub use plan::{
    Cluster, FabricPlan, HostFacts, LocalAddress, Path, Peer, ROUTE_PROTOCOL, Settings, compile,
    is_pod_route, unknown_ways,
};
pub use state::{Observed, device_changes, diff, entry_changes, retired, tunnel_links};
pub use tunnel::{TUNNEL_ALIAS, TunnelId, TunnelPeer, TunnelPlan, vtep_mac};

#[cfg(test)]
mod tests;
