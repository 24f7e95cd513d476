//! A route, and the key under which the kernel keeps it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::LinkIndex;

/// The main routing table (RT_TABLE_MAIN).
pub const ROUTE_TABLE_MAIN: u32 = 254;

/// Metric the kernel gives an IPv6 route that names none (IP6_RT_PRIO_USER).
pub(crate) const IPV6_DEFAULT_METRIC: u32 = 1024;

/// What happens to a packet the route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RouteKind {
    /// Sent on.
    #[default]
    Unicast,
    /// Dropped silently; a local sender gets EINVAL.
    Blackhole,
    /// Refused with ICMP host unreachable.
    Unreachable,
    /// Refused with ICMP administratively prohibited.
    Prohibit,
    /// Lookup goes on in the next rule.
    Throw,
    /// Delivered here.
    Local,
    /// A kind this crate does not make (broadcast, multicast, …), by the kernel's number.
    Other(u8),
}

/// A route with at most one next hop.
///
/// The scope is not a field: it follows from kind and gateway as `ip route` derives it (no gateway:
/// `link`; `Local`: `host`; otherwise global).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Which packets. Always a network address: host bits are cleared.
    pub destination: IpNet,
    /// What happens to them.
    pub kind: RouteKind,
    /// Gateway.
    pub via: Option<IpAddr>,
    /// Link. `None` lets the kernel find the one that reaches the gateway.
    pub device: Option<LinkIndex>,
    /// The gateway is on that link even if no address of ours says so.
    pub onlink: bool,
    /// Source address for packets this host makes itself.
    pub source: Option<IpAddr>,
    /// Preference among routes to the same destination, lowest first. `None` is the kernel's own:
    /// 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
    /// Who made it (RTPROT_*); 0 is filled in by [`crate::RoutePlan`].
    pub protocol: u8,
    /// Routing table.
    pub table: u32,
}

/// What makes two routes the same entry for the kernel: adding a second is refused or, with
/// `replace`, changes the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub destination: IpNet,
    /// Metric, the kernel's default filled in.
    pub metric: u32,
}

/// How a packet to one address would leave this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// By this link.
    pub device: LinkIndex,
    /// To this gateway; none when the address is on the link.
    pub via: Option<IpAddr>,
    /// From this address, when the sender names none.
    pub source: Option<IpAddr>,
    /// Bytes a packet may have, where the route says so: set by hand, or learned from a router on the way.
    pub mtu: Option<u32>,
    /// The address is this host's own.
    pub local: bool,
}

impl Route {
    /// A unicast route in the main table, still without device and gateway.
    pub fn to(destination: IpNet) -> Self {
        Self {
            destination: destination.trunc(),
            kind: RouteKind::Unicast,
            via: None,
            device: None,
            onlink: false,
            source: None,
            metric: None,
            protocol: 0,
            table: ROUTE_TABLE_MAIN,
        }
    }

    /// A route that drops.
    pub fn blackhole(destination: IpNet) -> Self {
        Self { kind: RouteKind::Blackhole, ..Self::to(destination) }
    }

    /// The same through this gateway.
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.via = Some(gateway);
        self
    }

    /// The same on this link.
    pub fn on(mut self, device: LinkIndex) -> Self {
        self.device = Some(device);
        self
    }

    /// The same, its gateway taken to be on the link.
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// The same with this metric.
    pub fn metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// The same with this source address for locally made packets.
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// The same under this protocol number.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = protocol;
        self
    }

    /// The kernel's key of this route.
    pub fn key(&self) -> RouteKey {
        RouteKey { table: self.table, destination: self.destination, metric: self.kernel_metric() }
    }

    /// The metric with the kernel's default filled in.
    pub fn kernel_metric(&self) -> u32 {
        match (self.metric, self.destination) {
            (Some(0) | None, IpNet::V6(_)) => IPV6_DEFAULT_METRIC,
            (metric, _) => metric.unwrap_or(0),
        }
    }

    /// Whether `listed`, as the kernel tells it, does what `self` asks: everything asked for is
    /// there; a device left to the kernel may be any.
    pub fn is_served_by(&self, listed: &Self) -> bool {
        self.key() == listed.key()
            && self.kind == listed.kind
            && self.via == listed.via
            && self.protocol == listed.protocol
            && self.onlink == listed.onlink
            && (self.device.is_none() || self.device == listed.device)
            && (self.source.is_none() || self.source == listed.source)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Prohibit => f.write_str("prohibit ")?,
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Local => f.write_str("local ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        if self.destination.prefix_len() == self.destination.max_prefix_len() {
            write!(f, "{}", self.destination.addr())?;
        } else {
            write!(f, "{}", self.destination)?;
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(device) = self.device {
            write!(f, " dev if{device}")?;
        }
        if self.table != ROUTE_TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.protocol != 0 {
            write!(f, " proto {}", self.protocol)?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        Ok(())
    }
}
