//! Netlink messages to values. What the kernel sends beyond our words is left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope as RawScope,
};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoIpTunnel, InfoPortData, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState as RawState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType,
};

use crate::{
    Address, AddressScope, Dad, Forwarding, Link, LinkStats, MacAddr, Neighbour, NeighbourState,
    Reach, Route, RouteKind, TunnelKind,
};

pub(super) fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        kind: None,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        promiscuous: flags.contains(LinkFlags::Promisc),
        all_multicast: flags.contains(LinkFlags::Allmulti),
        tx_queue_len: 0,
        master: None,
        peer: None,
        peer_namespace: None,
        isolated: false,
        tunnel: None,
        stats: LinkStats::default(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = mac(&bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(packets) => link.tx_queue_len = packets,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(id),
            LinkAttribute::Stats64(counters) => link.stats = stats(&counters),
            LinkAttribute::LinkInfo(parts) => {
                for part in &parts {
                    match part {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vxlan(told)) => link.tunnel = vxlan(told),
                        LinkInfo::Data(InfoData::IpTunnel(told)) => link.tunnel = ipip(told),
                        LinkInfo::PortData(InfoPortData::BridgePort(flags)) => {
                            link.isolated = flags.contains(&InfoBridgePort::Isolated(true));
                        }
                        _ => {}
                    }
                }
                if link.kind.as_deref() != link.tunnel.as_ref().map(TunnelKind::driver) {
                    link.tunnel = None;
                }
            }
            _ => {}
        }
    }
    link
}

/// None when it is not of the sort this crate makes: it learns, or sends to a group.
fn vxlan(told: &[InfoVxlan]) -> Option<TunnelKind> {
    let (mut vni, mut port, mut local) = (None, None, None);
    for part in told {
        match part {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(ip) => local = Some(IpAddr::V4(*ip)),
            InfoVxlan::Local6(ip) => local = Some(IpAddr::V6(*ip)),
            InfoVxlan::Learning(true)
            | InfoVxlan::CollectMetadata(true)
            | InfoVxlan::Group(_)
            | InfoVxlan::Group6(_) => return None,
            _ => {}
        }
    }
    Some(TunnelKind::Vxlan { vni: vni?, port: port?, local: local? })
}

fn ipip(told: &[InfoIpTunnel]) -> Option<TunnelKind> {
    let mut from = None;
    for part in told {
        match part {
            InfoIpTunnel::Local(IpAddr::V4(ip)) if !ip.is_unspecified() => from = Some(*ip),
            InfoIpTunnel::Remote(ip) if !ip.is_unspecified() => return None,
            _ => {}
        }
    }
    from.map(|local| TunnelKind::Ipip { local })
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok().map(MacAddr)
}

fn stats(counters: &Stats64) -> LinkStats {
    LinkStats {
        rx_packets: counters.rx_packets,
        rx_bytes: counters.rx_bytes,
        rx_errors: counters.rx_errors,
        rx_dropped: counters.rx_dropped,
        tx_packets: counters.tx_packets,
        tx_bytes: counters.tx_bytes,
        tx_errors: counters.tx_errors,
        tx_dropped: counters.tx_dropped,
    }
}

pub(super) fn address(message: AddressMessage) -> Option<Address> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let (mut local, mut remote) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => remote = Some(ip),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // Only point-to-point links have a local address that differs from the other.
    let ip = local.or(remote)?;
    Some(Address {
        device: message.header.index,
        network: IpNet::new(ip, message.header.prefix_len).ok()?,
        scope: match message.header.scope {
            RawScope::Host => AddressScope::Host,
            RawScope::Link => AddressScope::Link,
            _ => AddressScope::Global,
        },
        dad: if flags.contains(AddressFlags::Optimistic) {
            Dad::Optimistic
        } else if flags.contains(AddressFlags::Nodad) || ip.is_ipv4() {
            Dad::Off
        } else {
            Dad::Interface
        },
        prefix_route: !flags.contains(AddressFlags::Noprefixroute),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    })
}

fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// The routes a message stands for: one, or one per next hop of a multipath route.
pub(super) fn route(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(to) => route_ip(to),
        _ => None,
    });
    let prefix = header.destination_prefix_length;
    let Ok(destination) = IpNet::new(destination.unwrap_or(unspecified), prefix) else {
        return Vec::new();
    };
    let mut route = Route::to(destination).protocol(header.protocol.into());
    route.table = u32::from(header.table);
    route.kind = kind(header.kind);
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(via) => route.via = route_ip(via),
            RouteAttribute::Oif(device) => route.device = Some(*device),
            RouteAttribute::PrefSource(source) => route.source = route_ip(source),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::MultiPath(next) => hops.extend(next),
            _ => {}
        }
    }
    // For IPv6 the kernel hangs refusing routes on the loopback link; nobody asked for it there.
    if !matches!(route.kind, RouteKind::Unicast | RouteKind::Local | RouteKind::Other(_)) {
        route.device = None;
    }
    if hops.is_empty() {
        return vec![route];
    }
    let one = |hop: &&netlink_packet_route::route::RouteNextHop| {
        let mut route = route.clone().on(hop.interface_index);
        route.via = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(via) => route_ip(via),
            _ => None,
        });
        route
    };
    hops.iter().map(one).collect()
}

fn kind(raw: RouteType) -> RouteKind {
    match raw {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        other => RouteKind::Other(other.into()),
    }
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    Some(Neighbour {
        device: message.header.ifindex,
        address: address?,
        mac: lladdr,
        state: match message.header.state {
            RawState::Permanent => NeighbourState::Permanent,
            RawState::Reachable => NeighbourState::Reachable,
            RawState::Stale | RawState::Delay | RawState::Probe => NeighbourState::Stale,
            RawState::Incomplete | RawState::None => NeighbourState::Resolving,
            RawState::Noarp => NeighbourState::NoArp,
            _ => NeighbourState::Failed,
        },
    })
}

/// What the kernel answers to the question how to reach one address.
pub(super) fn reach(message: &RouteMessage) -> Option<Reach> {
    let (mut device, mut via, mut source, mut mtu) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(gateway) => via = route_ip(gateway),
            RouteAttribute::PrefSource(ip) => source = route_ip(ip),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let local = message.header.kind == RouteType::Local;
    Some(Reach { device: device?, via, source, mtu, local })
}

/// An entry of a bridge's or a VXLAN link's table. The family is that of bridges, so the address comes as bytes.
pub(super) fn forwarding(message: &NeighbourMessage) -> Option<Forwarding> {
    let (mut to, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from);
                to = v4.or(v6).ok();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    Some(Forwarding { device: message.header.ifindex, mac: lladdr?, to: to? })
}

/// Not negative: the kernel says -1 for "none".
pub(super) fn namespace_id(message: &NsidMessage) -> Option<i32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NsidAttribute::Id(id) => Some(*id).filter(|id| *id >= 0),
        _ => None,
    })
}
