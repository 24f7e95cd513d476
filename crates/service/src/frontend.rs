//! What a client dials: an address and port, or a port of any of this node's addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use model::{Family, Protocol};
use nft::Packed;

/// From where a frontend is seen; each view has its own dispatch, slot and affinity maps.
///
/// This is the place of the `local` view (`externalTrafficPolicy: Local`): one more variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// By address: cluster addresses, later external addresses and VIPs.
    Cluster,
    /// By port, on this node's own addresses.
    Node,
}

impl View {
    /// Both views.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Node];
}

/// What a client dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Frontend {
    /// One address.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// Any address of this node but loopback.
    NodePort {
        /// The family of the address.
        family: Family,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl Frontend {
    /// Its IP family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(*address),
            Self::NodePort { family, .. } => *family,
        }
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => *protocol,
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address { port, .. } | Self::NodePort { port, .. } => *port,
        }
    }

    /// Its view.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            Self::Address { .. } => View::Cluster,
            Self::NodePort { .. } => View::Node,
        }
    }

    /// Whether connection tracking can hold a client to a dead endpoint: TCP ends by itself, these do not.
    #[must_use]
    pub fn is_sticky_in_conntrack(&self) -> bool {
        matches!(self.protocol(), Protocol::Udp | Protocol::Sctp)
    }

    /// The key in dispatch maps and no-endpoint sets.
    #[must_use]
    pub(crate) fn key(&self) -> Packed {
        let transport =
            |key: Packed, protocol: Protocol, port| key.proto(protocol.number()).port(port);
        match *self {
            Self::Address { address, protocol, port } => {
                transport(packed_address(address), protocol, port)
            }
            Self::NodePort { protocol, port, .. } => transport(Packed::new(), protocol, port),
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol, port } => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, *port))
            }
            Self::NodePort { family, protocol, port } => {
                let family = if *family == Family::V4 { "IPv4" } else { "IPv6" };
                write!(f, "node port {port}/{protocol} ({family})")
            }
        }
    }
}

/// An address as a key component.
pub(crate) fn packed_address(address: IpAddr) -> Packed {
    match address {
        IpAddr::V4(v4) => Packed::new().ipv4(v4),
        IpAddr::V6(v6) => Packed::new().ipv6(v6),
    }
}
