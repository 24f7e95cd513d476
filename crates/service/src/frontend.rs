//! What a client dials: an address and port, or a port of any of this node's addresses; and from which side it looks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use model::{Family, Protocol};
use nft::Packed;

/// How a rule recognises a frontend in a packet; each way has its own maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum At {
    /// By address, protocol and port.
    Address,
    /// By protocol and port, on this node's own addresses.
    Port,
}

impl At {
    /// Both ways.
    pub(crate) const ALL: [Self; 2] = [Self::Address, Self::Port];
}

/// Who sees which endpoints of a frontend. With `externalTrafficPolicy: Local` a frontend has two sides; any other has one,
/// the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Pods of the cluster and this node itself; everybody, where a frontend has one side.
    Inside,
    /// Everybody else.
    Outside,
}

impl Side {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Inside, Self::Outside];
}

/// Which packets a chain marks for masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Masquerade {
    /// Those that come from no pod of this cluster.
    Foreign,
    /// All.
    Always,
    /// None: whoever went to the chain has decided already.
    Decided,
}

/// What a chain serves: how its frontends are recognised, which side of them, and what is masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum View {
    /// Cluster addresses.
    Cluster,
    /// External addresses with one side.
    External,
    /// The inside of external addresses with two.
    Inside,
    /// The outside of external addresses with two.
    Outside,
    /// Node ports with one side.
    Node,
    /// The inside of node ports with two.
    NodeInside,
    /// The outside of node ports with two.
    NodeOutside,
}

impl View {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Cluster,
        Self::External,
        Self::Inside,
        Self::Outside,
        Self::Node,
        Self::NodeInside,
        Self::NodeOutside,
    ];

    /// How its frontends are recognised.
    pub(crate) fn at(self) -> At {
        match self {
            Self::Cluster | Self::External | Self::Inside | Self::Outside => At::Address,
            Self::Node | Self::NodeInside | Self::NodeOutside => At::Port,
        }
    }

    /// Which side of them.
    pub(crate) fn side(self) -> Side {
        match self {
            Self::Outside | Self::NodeOutside => Side::Outside,
            _ => Side::Inside,
        }
    }

    /// One side of a frontend that has two.
    pub(crate) fn of_side(at: At, side: Side) -> Self {
        match (at, side) {
            (At::Address, Side::Inside) => Self::Inside,
            (At::Address, Side::Outside) => Self::Outside,
            (At::Port, Side::Inside) => Self::NodeInside,
            (At::Port, Side::Outside) => Self::NodeOutside,
        }
    }

    /// What is masqueraded.
    pub(crate) fn masquerade(self) -> Masquerade {
        match self {
            Self::Cluster => Masquerade::Foreign,
            Self::External | Self::Node => Masquerade::Always,
            Self::Inside | Self::Outside | Self::NodeInside | Self::NodeOutside => {
                Masquerade::Decided
            }
        }
    }

    /// Its word in names of chains.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::External => "external",
            Self::Inside => "inside",
            Self::Outside => "outside",
            Self::Node => "node",
            Self::NodeInside => "node-inside",
            Self::NodeOutside => "node-outside",
        }
    }
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
    /// This node's addresses, as [`Config::node_port_addresses`](crate::Config::node_port_addresses) says.
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

    /// How rules recognise it.
    pub(crate) fn at(&self) -> At {
        match self {
            Self::Address { .. } => At::Address,
            Self::NodePort { .. } => At::Port,
        }
    }

    /// Whether connection tracking can hold a client to a dead endpoint: TCP ends by itself, these do not.
    #[must_use]
    pub fn is_sticky_in_conntrack(&self) -> bool {
        matches!(self.protocol(), Protocol::Udp | Protocol::Sctp)
    }

    /// Its words in the name of a chain of its own.
    pub(crate) fn words(&self) -> String {
        let (protocol, port) = (self.protocol().to_string().to_ascii_lowercase(), self.port());
        match self {
            // `:` cannot stand in a name.
            Self::Address { address, .. } => {
                format!("{}-{protocol}-{port}", address.to_string().replace(':', "_"))
            }
            Self::NodePort { family, .. } => {
                format!("{}-{protocol}-{port}", if *family == Family::V4 { "ip4" } else { "ip6" })
            }
        }
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
