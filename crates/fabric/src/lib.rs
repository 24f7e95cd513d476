//! The network between nodes: which pod CIDR lies behind which node, as routes and NAT rules.
//!
//! Pure: from [`model::NodeFacts`] and what this node knows about itself ([`HostFacts`]) to a
//! [`FabricPlan`], reports for what cannot be used, and the part of the node's table that masquerades
//! pods leaving the cluster ([`nat_table`]). Direct routes only: nodes that share a subnet. A bad node
//! is reported and left out; it never blocks another.
//!
//! This crate must not open sockets or know a clock; [`diff`] gives the changes for `link` to make.

mod cidrs;
mod nat;
mod plan;

pub use nat::{NAT_CHAIN, NatError, nat_table};
pub use plan::{FabricPlan, HostFacts, LocalAddress, ROUTE_PROTOCOL, compile, diff, is_pod_route};

#[cfg(test)]
mod tests;
