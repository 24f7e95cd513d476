//! The tunnels of a node, and who is reached through them.
//!
//! Nothing has to be told between nodes. The Ethernet address of a VXLAN end follows from its node's name, and the address
//! packets for a range are handed to is the first of that range, which no pod gets (`10.244.2.0/24 via 10.244.2.0 dev
//! vxlan.fairway onlink`), or for IPv6 a link-local one that follows from the Ethernet address. A node's own end carries the first address of its first range, so that what the node itself sends
//! to pods comes back the way it went.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use link::{Address, Forwarding, LinkIndex, MacAddr, Neighbour, Route, Tunnel, TunnelKind};
use model::NodeName;

/// The alias of tunnel links: it says that they are ours.
pub const TUNNEL_ALIAS: &str = "fairway:tunnel";

/// Which tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelId {
    /// VXLAN between IPv4 addresses of nodes.
    Vxlan4,
    /// VXLAN between IPv6 addresses of nodes.
    Vxlan6,
    /// IP in IP.
    Ipip,
}

impl TunnelId {
    /// Name of its link.
    #[must_use]
    pub fn link_name(self) -> &'static str {
        match self {
            Self::Vxlan4 => "vxlan.fairway",
            Self::Vxlan6 => "vxlan6.fairway",
            Self::Ipip => "ipip.fairway",
        }
    }

    /// Bytes it adds to a packet.
    #[must_use]
    pub fn overhead(self) -> u32 {
        let v4 = Ipv4Addr::UNSPECIFIED;
        let kind = match self {
            Self::Vxlan4 => TunnelKind::Vxlan { vni: 0, port: 0, local: v4.into() },
            Self::Vxlan6 => {
                TunnelKind::Vxlan { vni: 0, port: 0, local: Ipv6Addr::UNSPECIFIED.into() }
            }
            Self::Ipip => TunnelKind::Ipip { local: v4 },
        };
        kind.overhead()
    }
}

/// A range behind the other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPeer {
    /// The range.
    pub cidr: IpNet,
    /// What its route names as gateway.
    pub gateway: IpAddr,
    /// The Ethernet address of the other end, for VXLAN.
    pub mac: Option<MacAddr>,
    /// The node's address the outer packet goes to.
    pub node: IpAddr,
}

/// A tunnel this node should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Which.
    pub id: TunnelId,
    /// Its link.
    pub link: Tunnel,
    /// The addresses of its link, one per family there are pods of.
    pub addresses: Vec<IpAddr>,
    /// Who is behind it, by range.
    pub peers: Vec<TunnelPeer>,
}

impl TunnelPlan {
    /// The addresses on its link.
    pub(crate) fn addresses_on(&self, device: LinkIndex) -> Vec<Address> {
        let one =
            |ip: &IpAddr| Address { prefix_route: false, ..Address::new(device, IpNet::from(*ip)) };
        self.addresses.iter().map(one).collect()
    }

    /// The gateways' Ethernet addresses.
    pub(crate) fn neighbours_on(&self, device: LinkIndex) -> Vec<Neighbour> {
        let all = self.peers.iter().filter_map(|peer| {
            let neighbour = Neighbour::permanent(device, peer.gateway, peer.mac?);
            Some((peer.gateway, neighbour))
        });
        // Several ranges of one node share a link-local gateway.
        all.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Which node an Ethernet address is at; each once.
    pub(crate) fn forwarding_on(&self, device: LinkIndex) -> BTreeMap<MacAddr, Forwarding> {
        let peers = self.peers.iter().filter_map(|peer| {
            let mac = peer.mac?;
            Some((mac, Forwarding { device, mac, to: peer.node }))
        });
        peers.collect()
    }

    /// The routes into it.
    pub fn routes_on(&self, device: LinkIndex) -> impl Iterator<Item = Route> + '_ {
        self.peers.iter().map(move |peer| {
            let route = Route::to(peer.cidr).via(peer.gateway).on(device);
            // A link-local gateway is on the link by definition.
            if peer.gateway.is_ipv4() { route.onlink() } else { route }
        })
    }
}

/// What a route into VXLAN names as gateway. An IPv6 gateway may not be covered by a route out of another link, as the first
/// address of the range is while the range is still reached directly; a link-local one never is.
pub(crate) fn tunnel_gateway(cidr: IpNet, mac: MacAddr) -> IpAddr {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    match cidr {
        IpNet::V4(net) => net.network().into(),
        // The interface identifier of RFC 4291, appendix A.
        IpNet::V6(_) => {
            let parts = [(a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f];
            Ipv6Addr::new(0xfe80, 0, 0, 0, parts[0], parts[1], parts[2], parts[3]).into()
        }
    }
}

/// The Ethernet address of a node's VXLAN end: the same on every node that works it out.
#[must_use]
pub fn vtep_mac(node: &NodeName, vni: u32) -> MacAddr {
    // 64-bit FNV-1a, then the finalizer of SplitMix64 for the high bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in vni.to_be_bytes().iter().chain(node.as_str().as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    MacAddr::from_hash(hash ^ (hash >> 31))
}
