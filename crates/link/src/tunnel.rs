//! Tunnel links: VXLAN (RFC 7348) and IP in IP (RFC 2003).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::{LinkIndex, MacAddr};

/// What makes a tunnel link that tunnel. None of it changes while the link exists: another wish is another link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelKind {
    /// Ethernet frames in UDP. Where a frame goes is said by [`Forwarding`] entries only: there is no multicast group
    /// and nothing is learned from what arrives.
    Vxlan {
        /// The network's number (VNI), at most 24 bits.
        vni: u32,
        /// UDP port, of the receiver and of this host's listener.
        port: u16,
        /// The outer source address; its family is the tunnel's.
        local: IpAddr,
    },
    /// IPv4 packets in IPv4 packets. The outer destination is the gateway of the route a packet takes.
    Ipip {
        /// The outer source address.
        local: Ipv4Addr,
    },
}

impl TunnelKind {
    /// Bytes a packet grows by: what the MTU of the tunnel is less than that of the path below.
    #[must_use]
    pub fn overhead(&self) -> u32 {
        match self {
            // Outer IP, UDP, VXLAN, inner Ethernet.
            Self::Vxlan { local: IpAddr::V4(_), .. } => 20 + 8 + 8 + 14,
            Self::Vxlan { local: IpAddr::V6(_), .. } => 40 + 8 + 8 + 14,
            Self::Ipip { .. } => 20,
        }
    }

    /// The driver's name.
    #[must_use]
    pub fn driver(&self) -> &'static str {
        match self {
            Self::Vxlan { .. } => "vxlan",
            Self::Ipip { .. } => "ipip",
        }
    }
}

/// A tunnel link to make, down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: TunnelKind,
    /// Ethernet address, for VXLAN.
    pub mac: Option<MacAddr>,
    /// MTU.
    pub mtu: u32,
}

/// An entry of a VXLAN link's forwarding table: frames to this Ethernet address go to that host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forwarding {
    /// The VXLAN link.
    pub device: LinkIndex,
    /// Destination of the inner frame.
    pub mac: MacAddr,
    /// Destination of the outer packet.
    pub to: IpAddr,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        write!(f, " mtu {}", self.mtu)?;
        match self.kind {
            TunnelKind::Vxlan { vni, port, local } => {
                write!(f, " type vxlan id {vni} dstport {port} local {local} nolearning")
            }
            TunnelKind::Ipip { local } => write!(f, " type ipip local {local} remote any"),
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev if{} dst {}", self.mac, self.device, self.to)
    }
}
