//! What a node's network is made of besides netfilter: links, addresses, routes, neighbours,
//! sysctls and network namespaces, as typed values.
//!
//! The shape is that of the sibling crate `nft`: a desired state is a value ([`RoutePlan`]), what
//! the kernel has is a value ([`Route`], [`Link`], …), and the difference is a list of
//! [`Change`]s which prints as the `ip` command a person would type. Only [`kernel`] opens
//! netlink sockets, only [`echo`] sends a packet, only [`namespace`] enters a namespace, only [`sysctl`] touches `/proc`.
//!
//! This crate must not know Kubernetes, pods or nodes; it decides nothing.
//!
//! ```
//! use link::{Route, RoutePlan, diff_routes};
//!
//! let desired = RoutePlan::new(250).with(
//!     Route::to("10.244.2.0/24".parse().unwrap()).via("172.30.1.2".parse().unwrap()).on(3),
//! );
//! let changes = diff_routes(&desired, &[]);
//! assert_eq!(
//!     changes[0].to_string(),
//!     "ip route replace 10.244.2.0/24 via 172.30.1.2 dev if3 proto 250"
//! );
//! ```

mod address;
mod change;
pub mod echo;
pub mod kernel;
mod links;
mod mac;
pub mod namespace;
mod neighbour;
mod plan;
mod route;
mod shape;
pub mod sysctl;
mod tunnel;

pub use address::{Address, AddressScope, Dad};
pub use change::Change;
pub use links::{Bridge, BridgePort, Link, LinkEnd, LinkRef, LinkSettings, LinkStats, Veth};
pub use mac::{MacAddr, MacError};
pub use namespace::Namespace;
pub use neighbour::{Neighbour, NeighbourState};
pub use plan::{RoutePlan, diff_routes};
pub use route::{ROUTE_TABLE_MAIN, Reach, Route, RouteKey, RouteKind};
pub use shape::{Redirect, TokenBucket};
pub use tunnel::{Forwarding, Tunnel, TunnelKind};

/// The index the kernel knows a link by, unique within one namespace.
pub type LinkIndex = u32;
