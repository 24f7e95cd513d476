//! Values to netlink messages.

use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope as RawScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoIpTunnel,
    InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
    NeighbourState as RawState,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::socket::Request;
use super::{NetlinkError, tc};
use crate::namespace::raw;
use crate::{
    Address, AddressScope, Bridge, BridgePort, Change, Dad, Forwarding, LinkEnd, LinkIndex,
    LinkRef, LinkSettings, MacAddr, Neighbour, NeighbourState, Route, RouteKind, Tunnel,
    TunnelKind, Veth,
};

const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// The message and flags of a change.
pub(super) fn change(change: &Change<'_>) -> Result<Request, NetlinkError> {
    let invalid = |why| NetlinkError::Invalid { change: change.to_string(), why };
    Ok(match change {
        Change::AddVeth(veth) => (Message::NewLink(add_veth(veth).map_err(invalid)?), ADD),
        Change::AddBridge(bridge) => (Message::NewLink(add_bridge(bridge).map_err(invalid)?), ADD),
        Change::AddTunnel(tunnel) => (Message::NewLink(add_tunnel(tunnel).map_err(invalid)?), ADD),
        Change::SetLink(link, settings) => {
            (Message::SetLink(set_link(link, settings).map_err(invalid)?), 0)
        }
        // Port data of a link is only looked at by NEWLINK, without CREATE for an existing one.
        Change::SetBridgePort(link, port) => {
            (Message::NewLink(set_port(link, port).map_err(invalid)?), 0)
        }
        Change::AddIfb(end, mtu) => {
            let mut message = self::end(end, *mtu).map_err(invalid)?;
            message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]));
            (Message::NewLink(message), ADD)
        }
        Change::Shape(bucket) => (tc::token_bucket(bucket), REPLACE),
        Change::OpenIngress(device) => (tc::ingress(*device), ADD),
        Change::Redirect(redirect) => (tc::redirect(redirect), ADD),
        Change::DeleteLink(link) => (Message::DelLink(select(link).map_err(invalid)?), 0),
        Change::AddAddress(address) => (Message::NewAddress(self::address(address)), ADD),
        Change::ReplaceAddress(address) => (Message::NewAddress(self::address(address)), REPLACE),
        Change::DeleteAddress(address) => (Message::DelAddress(self::address(address)), 0),
        Change::AddRoute(route) => (Message::NewRoute(self::route(route).map_err(invalid)?), ADD),
        Change::ReplaceRoute(route) => {
            (Message::NewRoute(self::route(route).map_err(invalid)?), REPLACE)
        }
        Change::DeleteRoute(route) => (Message::DelRoute(self::route(route).map_err(invalid)?), 0),
        Change::ReplaceNeighbour(neighbour) => {
            (Message::NewNeighbour(self::neighbour(neighbour)), REPLACE)
        }
        Change::DeleteNeighbour(neighbour) => {
            (Message::DelNeighbour(self::neighbour(neighbour)), 0)
        }
        Change::ReplaceForwarding(entry) => {
            (Message::NewNeighbour(self::forwarding(entry)), REPLACE)
        }
        Change::DeleteForwarding(entry) => (Message::DelNeighbour(self::forwarding(entry)), 0),
    })
}

/// The kernel's rule for link names (dev_valid_name).
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let wrong = |b: u8| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace();
    if name.is_empty() || name == "." || name == ".." || name.bytes().any(wrong) {
        Err("a link name has no slash, colon or white space, and is not empty")
    } else if name.len() > 15 {
        Err("a link name has at most 15 bytes")
    } else {
        Ok(())
    }
}

fn select(link: &LinkRef) -> Result<LinkMessage, &'static str> {
    let mut message = LinkMessage::default();
    match link {
        LinkRef::Index(0) => return Err("no link has index 0"),
        LinkRef::Index(index) => message.header.index = *index,
        LinkRef::Name(name) => {
            check_name(name)?;
            message.attributes.push(LinkAttribute::IfName(name.clone()));
        }
    }
    Ok(message)
}

pub(super) fn get_link(link: &LinkRef) -> Message {
    let mut message = LinkMessage::default();
    match link {
        LinkRef::Index(index) => message.header.index = *index,
        LinkRef::Name(name) => message.attributes.push(LinkAttribute::IfName(name.clone())),
    }
    Message::GetLink(message)
}

fn mac(mac: MacAddr) -> LinkAttribute {
    LinkAttribute::Address(mac.0.to_vec())
}

fn end(end: &LinkEnd, mtu: Option<u32>) -> Result<LinkMessage, &'static str> {
    check_name(&end.name)?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.clone()));
    message.attributes.extend(end.mac.map(mac));
    message.attributes.extend(mtu.map(LinkAttribute::Mtu));
    Ok(message)
}

fn add_veth(veth: &Veth<'_>) -> Result<LinkMessage, &'static str> {
    let mut peer = end(&veth.peer, veth.mtu)?;
    peer.attributes.extend(veth.peer_namespace.map(|fd| LinkAttribute::NetNsFd(raw(fd))));
    let mut message = end(&veth.end, veth.mtu)?;
    message.attributes.extend(veth.master.map(LinkAttribute::Controller));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Ok(message)
}

fn add_bridge(bridge: &Bridge) -> Result<LinkMessage, &'static str> {
    let named = LinkEnd { name: bridge.name.clone(), mac: bridge.mac };
    let mut message = end(&named, bridge.mtu)?;
    let snooping = InfoBridge::MulticastSnooping(bridge.multicast_snooping);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(vec![snooping])),
    ]));
    Ok(message)
}

fn add_tunnel(tunnel: &Tunnel) -> Result<LinkMessage, &'static str> {
    let named = LinkEnd { name: tunnel.name.clone(), mac: tunnel.mac };
    let mut message = end(&named, Some(tunnel.mtu))?;
    let (kind, data) = match tunnel.kind {
        TunnelKind::Vxlan { vni, port, local } => {
            if vni >= 1 << 24 {
                return Err("a VNI has at most 24 bits");
            }
            let local = match local {
                IpAddr::V4(ip) => InfoVxlan::Local(ip),
                IpAddr::V6(ip) => InfoVxlan::Local6(ip),
            };
            let told =
                vec![InfoVxlan::Id(vni), local, InfoVxlan::Port(port), InfoVxlan::Learning(false)];
            (InfoKind::Vxlan, InfoData::Vxlan(told))
        }
        TunnelKind::Ipip { local } => {
            // Outer packets are not fragmented on the way; the sender of an inner one that is too long is told.
            let told = vec![InfoIpTunnel::Local(local.into()), InfoIpTunnel::PMtuDisc(true)];
            (InfoKind::IpIp, InfoData::IpTunnel(told))
        }
    };
    let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Ok(message)
}

fn set_link(link: &LinkRef, settings: &LinkSettings<'_>) -> Result<LinkMessage, &'static str> {
    let mut message = select(link)?;
    if let Some(name) = &settings.rename {
        check_name(name)?;
        if !matches!(link, LinkRef::Index(_)) {
            return Err("a link is renamed by index");
        }
        message.attributes.push(LinkAttribute::IfName(name.clone()));
    }
    let flags = [
        (LinkFlags::Up, settings.up),
        (LinkFlags::Promisc, settings.promiscuous),
        (LinkFlags::Allmulti, settings.all_multicast),
    ];
    for (flag, on) in flags {
        if let Some(on) = on {
            message.header.change_mask |= flag;
            message.header.flags.set(flag, on);
        }
    }
    let attributes = &mut message.attributes;
    attributes.extend(settings.master.map(LinkAttribute::Controller));
    attributes.extend(settings.mtu.map(LinkAttribute::Mtu));
    attributes.extend(settings.tx_queue_len.map(LinkAttribute::TxQueueLen));
    attributes.extend(settings.mac.map(mac));
    if let Some(alias) = &settings.alias {
        if alias.len() > 255 {
            return Err("an alias has at most 255 bytes");
        }
        attributes.push(LinkAttribute::IfAlias(alias.clone()));
    }
    attributes.extend(settings.namespace.map(|fd| LinkAttribute::NetNsFd(raw(fd))));
    if let Some(on) = settings.ipv6_link_local {
        let mode = if on { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        attributes.push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    Ok(message)
}

fn set_port(link: &LinkRef, port: &BridgePort) -> Result<LinkMessage, &'static str> {
    let mut message = select(link)?;
    let mut flags = Vec::new();
    flags.extend(port.hairpin.map(InfoBridgePort::HairpinMode));
    flags.extend(port.learning.map(InfoBridgePort::Learning));
    flags.extend(port.flood.map(InfoBridgePort::UnicastFlood));
    flags.extend(port.isolated.map(InfoBridgePort::Isolated));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(flags)),
    ]));
    Ok(message)
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(address: &Address) -> AddressMessage {
    let ip = address.ip();
    let mut flags = AddressFlags::empty();
    if ip.is_ipv6() {
        match address.dad {
            Dad::Interface => {}
            Dad::Off => flags |= AddressFlags::Nodad,
            Dad::Optimistic => flags |= AddressFlags::Optimistic,
        }
    }
    if !address.prefix_route {
        flags |= AddressFlags::Noprefixroute;
    }
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = address.network.prefix_len();
    message.header.index = address.device;
    message.header.scope = match address.scope {
        AddressScope::Global => RawScope::Universe,
        AddressScope::Link => RawScope::Link,
        AddressScope::Host => RawScope::Host,
    };
    message.header.flags = AddressHeaderFlags::from_bits_truncate(
        u8::try_from(flags.bits() & 0xff).unwrap_or_default(),
    );
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    if let IpNet::V4(network) = address.network
        && network.prefix_len() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(network.broadcast()));
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn route(route: &Route) -> Result<RouteMessage, &'static str> {
    let to = route.destination.addr();
    let others = [route.via, route.source];
    if others.into_iter().flatten().any(|ip| ip.is_ipv4() != to.is_ipv4()) {
        return Err("gateway and source are of the destination's address family");
    }
    if route.kind == RouteKind::Unicast && route.via.is_none() && route.device.is_none() {
        return Err("a route needs a gateway or a device");
    }
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(to);
    header.destination_prefix_length = route.destination.prefix_len();
    // Tables beyond 255 only fit the attribute, which the kernel prefers.
    header.table = u8::try_from(route.table).unwrap_or_default();
    header.protocol = RouteProtocol::from(route.protocol);
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
        RouteKind::Throw => RouteType::Throw,
        RouteKind::Local => RouteType::Local,
        RouteKind::Other(kind) => RouteType::from(kind),
    };
    header.scope = match (to, route.kind, route.via) {
        (IpAddr::V4(_), RouteKind::Local, _) => RouteScope::Host,
        (IpAddr::V4(_), RouteKind::Unicast, None) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if route.onlink {
        header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route_address(to)));
    }
    attributes.extend(route.via.map(|via| RouteAttribute::Gateway(route_address(via))));
    attributes.extend(route.device.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|ip| RouteAttribute::PrefSource(route_address(ip))));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.push(RouteAttribute::Table(route.table));
    Ok(message)
}

fn neighbour(neighbour: &Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = neighbour.device;
    message.header.state = match neighbour.state {
        NeighbourState::Permanent => RawState::Permanent,
        NeighbourState::Reachable => RawState::Reachable,
        NeighbourState::Stale => RawState::Stale,
        NeighbourState::Resolving => RawState::Incomplete,
        NeighbourState::Failed => RawState::Failed,
        NeighbourState::NoArp => RawState::Noarp,
    };
    message.attributes.push(NeighbourAttribute::Destination(match neighbour.address {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    let mac = neighbour.mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(mac);
    message
}

/// Static, in the VXLAN link's own table and not in that of a bridge it may be a port of.
fn forwarding(entry: &Forwarding) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.device;
    message.header.state = RawState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(match entry.to {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }),
    ];
    message
}

pub(super) fn list_forwarding(device: LinkIndex) -> Message {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    // Strict requests filter by this field here, not by NDA_IFINDEX (rtnl_fdb_dump).
    message.header.ifindex = device;
    Message::GetNeighbour(message)
}

pub(super) fn get_route(to: IpAddr) -> Message {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(route_address(to)));
    Message::GetRoute(message)
}

pub(super) fn list_links() -> Message {
    Message::GetLink(LinkMessage::default())
}

pub(super) fn list_addresses(device: Option<LinkIndex>) -> Message {
    let mut message = AddressMessage::default();
    message.header.index = device.unwrap_or_default();
    Message::GetAddress(message)
}

pub(super) fn list_routes(protocol: u8) -> [Message; 2] {
    [AddressFamily::Inet, AddressFamily::Inet6].map(|family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::from(protocol);
        Message::GetRoute(message)
    })
}

pub(super) fn list_neighbours(device: Option<LinkIndex>) -> Message {
    let mut message = NeighbourMessage::default();
    message.attributes.extend(device.map(NeighbourAttribute::IfIndex));
    Message::GetNeighbour(message)
}

pub(super) fn get_namespace_id(of: &crate::Namespace) -> Message {
    let mut message = NsidMessage::default();
    let fd = u32::try_from(raw(of.as_fd())).unwrap_or_default();
    message.attributes.push(NsidAttribute::Fd(fd));
    Message::GetNsId(message)
}
