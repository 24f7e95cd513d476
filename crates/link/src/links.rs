//! Links: what is asked for ([`Veth`], [`Bridge`], [`LinkSettings`]) and what is there ([`Link`]).

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::{LinkIndex, MacAddr, TunnelKind};

/// How a change names a link that exists: by index, or by name when the index is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkRef {
    /// By index.
    Index(LinkIndex),
    /// By name (at most 15 bytes, the kernel's IFNAMSIZ - 1).
    Name(String),
}

impl From<LinkIndex> for LinkRef {
    fn from(index: LinkIndex) -> Self {
        Self::Index(index)
    }
}

impl From<&str> for LinkRef {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<&Link> for LinkRef {
    fn from(link: &Link) -> Self {
        Self::Index(link.index)
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "if{index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index within its namespace.
    pub index: LinkIndex,
    /// Name within its namespace.
    pub name: String,
    /// The free text `ip link set alias` writes; `fairway:…` marks what is ours.
    pub alias: Option<String>,
    /// Driver kind (`veth`, `bridge`, …); physical links and loopback have none.
    pub kind: Option<String>,
    /// Ethernet address; none for links without one.
    pub mac: Option<MacAddr>,
    /// Bytes a packet may have on this link, Ethernet header excluded.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Up and with carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// Takes frames for anybody (IFF_PROMISC, as set by hand).
    pub promiscuous: bool,
    /// Takes all multicast frames (IFF_ALLMULTI, as set by hand).
    pub all_multicast: bool,
    /// Packets that may wait to be sent.
    pub tx_queue_len: u32,
    /// Bridge or other controller it is a port of.
    pub master: Option<LinkIndex>,
    /// The other end of a veth: its index in *its* namespace.
    pub peer: Option<LinkIndex>,
    /// That namespace's id as seen from this one; none when it is the same namespace.
    pub peer_namespace: Option<i32>,
    /// As a port of a bridge it talks to non-isolated ports only.
    pub isolated: bool,
    /// What tunnel it is, for those this crate makes: VXLAN without learning, IP in IP to any host.
    pub tunnel: Option<TunnelKind>,
    /// Traffic counters.
    pub stats: LinkStats,
}

/// Counters of a link since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets received and dropped for want of room.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped on the way out.
    pub tx_dropped: u64,
}

/// One end of a veth pair to make.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkEnd {
    /// Name in its namespace.
    pub name: String,
    /// Ethernet address; the kernel draws one at random when none is given.
    pub mac: Option<MacAddr>,
}

impl LinkEnd {
    /// An end of that name with a random Ethernet address.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), mac: None }
    }

    /// The same with this Ethernet address.
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }
}

/// A veth pair to make. The near end lands in the socket's namespace, down; the peer directly in
/// `peer_namespace`, down: the kernel refuses to bring it up before the pair is joined.
#[derive(Debug, Clone)]
pub struct Veth<'fd> {
    /// The end in the socket's own namespace.
    pub end: LinkEnd,
    /// The other end.
    pub peer: LinkEnd,
    /// MTU of both ends; the kernel's 1500 when none.
    pub mtu: Option<u32>,
    /// Bridge to make the near end a port of.
    pub master: Option<LinkIndex>,
    /// Where the peer goes; the same namespace when none.
    pub peer_namespace: Option<BorrowedFd<'fd>>,
}

impl<'fd> Veth<'fd> {
    /// A pair within one namespace.
    pub fn new(end: LinkEnd, peer: LinkEnd) -> Self {
        Self { end, peer, mtu: None, master: None, peer_namespace: None }
    }

    /// The peer goes directly into this namespace.
    pub fn peer_in(mut self, namespace: BorrowedFd<'fd>) -> Self {
        self.peer_namespace = Some(namespace);
        self
    }

    /// Both ends have this MTU.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// The near end is a port of this bridge.
    pub fn master(mut self, bridge: LinkIndex) -> Self {
        self.master = Some(bridge);
        self
    }
}

/// A bridge to make, down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Ethernet address; without one it follows its ports, which moves it about.
    pub mac: Option<MacAddr>,
    /// MTU.
    pub mtu: Option<u32>,
    /// Whether the bridge follows IGMP and MLD; off floods multicast, which a lab's switch wants.
    pub multicast_snooping: bool,
}

/// What to change about a link; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct LinkSettings<'fd> {
    /// New name (by index only; the kernel takes a name beside a name as the selector).
    pub rename: Option<String>,
    /// Up or down.
    pub up: Option<bool>,
    /// Controller to join; `Some(0)` leaves the present one.
    pub master: Option<LinkIndex>,
    /// MTU.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// Alias; the empty string removes it.
    pub alias: Option<String>,
    /// Whether it takes frames for anybody.
    pub promiscuous: Option<bool>,
    /// Whether it takes all multicast frames.
    pub all_multicast: Option<bool>,
    /// Packets that may wait to be sent.
    pub tx_queue_len: Option<u32>,
    /// Moves the link to this namespace.
    pub namespace: Option<BorrowedFd<'fd>>,
    /// `Some(false)`: no automatic IPv6 link-local address (addrgenmode none).
    pub ipv6_link_local: Option<bool>,
}

impl LinkSettings<'_> {
    /// Only: up.
    pub fn up() -> Self {
        Self { up: Some(true), ..Self::default() }
    }

    /// Only: down.
    pub fn down() -> Self {
        Self { up: Some(false), ..Self::default() }
    }
}

/// Flags of a bridge port; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgePort {
    /// A frame may leave through the port it came in by.
    pub hairpin: Option<bool>,
    /// Source addresses are learned.
    pub learning: Option<bool>,
    /// Unknown unicast is flooded to this port.
    pub flood: Option<bool>,
    /// Talks to non-isolated ports only.
    pub isolated: Option<bool>,
}
