//! Addresses of links.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::LinkIndex;

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AddressScope {
    /// Everywhere.
    #[default]
    Global,
    /// On this link.
    Link,
    /// On this host.
    Host,
}

/// Duplicate address detection of an IPv6 address (RFC 4862, 5.4). Ignored for IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Dad {
    /// As the interface says: the address is tentative for about a second.
    #[default]
    Interface,
    /// None: usable at once. Right where the assigner knows that the address is unique.
    Off,
    /// Usable at once while detection runs (RFC 4429).
    Optimistic,
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The link.
    pub device: LinkIndex,
    /// The address with the length of its on-link prefix.
    pub network: IpNet,
    /// Reach.
    pub scope: AddressScope,
    /// Duplicate address detection; listed addresses say what their flags say.
    pub dad: Dad,
    /// Whether the kernel adds the route of the on-link prefix by itself.
    pub prefix_route: bool,
    /// Listed only: detection still runs or has failed, so the address cannot be used.
    pub tentative: bool,
}

impl Address {
    /// A global address, prefix route included, IPv6 without a pause for detection.
    pub fn new(device: LinkIndex, network: IpNet) -> Self {
        Self {
            device,
            network,
            scope: AddressScope::Global,
            dad: Dad::Off,
            prefix_route: true,
            tentative: false,
        }
    }

    /// The address alone.
    pub fn ip(&self) -> IpAddr {
        self.network.addr()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev if{}", self.network, self.device)?;
        match self.scope {
            AddressScope::Global => {}
            AddressScope::Link => f.write_str(" scope link")?,
            AddressScope::Host => f.write_str(" scope host")?,
        }
        if self.network.addr().is_ipv6() {
            match self.dad {
                Dad::Interface => {}
                Dad::Off => f.write_str(" nodad")?,
                Dad::Optimistic => f.write_str(" optimistic")?,
            }
        }
        if !self.prefix_route {
            f.write_str(" noprefixroute")?;
        }
        Ok(())
    }
}
