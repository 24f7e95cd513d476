//! One change to the kernel's state. Prints as the `ip` command that would do the same.

use std::fmt;

use crate::{
    Address, Bridge, BridgePort, Forwarding, LinkEnd, LinkIndex, LinkRef, LinkSettings, Neighbour,
    Redirect, Route, TokenBucket, Tunnel, Veth,
};

/// A change [`crate::kernel::Netlink::apply`] can make. `'fd` is the life of the namespaces it
/// refers to; changes that refer to none are `Change<'static>`.
#[derive(Debug, Clone)]
pub enum Change<'fd> {
    /// Makes a veth pair; refused when a name is taken.
    AddVeth(Veth<'fd>),
    /// Makes a bridge; refused when the name is taken.
    AddBridge(Bridge),
    /// Makes a tunnel link; refused when the name is taken.
    AddTunnel(Tunnel),
    /// Changes an existing link.
    SetLink(LinkRef, LinkSettings<'fd>),
    /// Changes the flags of a bridge port.
    SetBridgePort(LinkRef, BridgePort),
    /// Makes an intermediate functional block, a link that sends what is redirected to it and gives it
    /// back; refused when the name is taken.
    AddIfb(LinkEnd, Option<u32>),
    /// Holds a link to a rate, in place of what is at its root.
    Shape(TokenBucket),
    /// Makes the place where filters on what a link receives hang; refused when it is there.
    OpenIngress(LinkIndex),
    /// Sends what a link receives by another one; needs [`Change::OpenIngress`].
    Redirect(Redirect),
    /// Removes a link (both ends, for a veth).
    DeleteLink(LinkRef),
    /// Adds an address; refused when the link has it.
    AddAddress(Address),
    /// Adds an address or changes its settings.
    ReplaceAddress(Address),
    /// Removes an address.
    DeleteAddress(Address),
    /// Adds a route; refused when its key is taken.
    AddRoute(Route),
    /// Adds a route or changes the one of the same key.
    ReplaceRoute(Route),
    /// Removes the route that equals this one.
    DeleteRoute(Route),
    /// Adds a neighbour or changes the one of the same address.
    ReplaceNeighbour(Neighbour),
    /// Removes a neighbour.
    DeleteNeighbour(Neighbour),
    /// Adds an entry to a VXLAN link's forwarding table or changes the one of the same Ethernet address.
    ReplaceForwarding(Forwarding),
    /// Removes such an entry.
    DeleteForwarding(Forwarding),
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddVeth(veth) => {
                write!(f, "ip link add {}", veth.end.name)?;
                if let Some(mac) = veth.end.mac {
                    write!(f, " address {mac}")?;
                }
                if let Some(mtu) = veth.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                if let Some(master) = veth.master {
                    write!(f, " master if{master}")?;
                }
                write!(f, " type veth peer name {}", veth.peer.name)?;
                if let Some(mac) = veth.peer.mac {
                    write!(f, " address {mac}")?;
                }
                if let Some(mtu) = veth.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                if veth.peer_namespace.is_some() {
                    f.write_str(" netns …")?;
                }
                Ok(())
            }
            Self::AddBridge(bridge) => {
                write!(f, "ip link add {}", bridge.name)?;
                if let Some(mac) = bridge.mac {
                    write!(f, " address {mac}")?;
                }
                if let Some(mtu) = bridge.mtu {
                    write!(f, " mtu {mtu}")?;
                }
                write!(f, " type bridge mcast_snooping {}", u8::from(bridge.multicast_snooping))
            }
            Self::AddTunnel(tunnel) => write!(f, "ip link add {tunnel}"),
            Self::SetLink(link, settings) => {
                write!(f, "ip link set {link}")?;
                write_settings(settings, f)
            }
            Self::SetBridgePort(link, port) => {
                write!(f, "ip link set {link} type bridge_slave")?;
                let flags = [
                    ("hairpin", port.hairpin),
                    ("learning", port.learning),
                    ("flood", port.flood),
                    ("isolated", port.isolated),
                ];
                for (name, value) in flags {
                    if let Some(on) = value {
                        write!(f, " {name} {}", if on { "on" } else { "off" })?;
                    }
                }
                Ok(())
            }
            Self::AddIfb(end, mtu) => {
                write!(f, "ip link add {}", end.name)?;
                if let Some(mtu) = mtu {
                    write!(f, " mtu {mtu}")?;
                }
                f.write_str(" type ifb")
            }
            Self::Shape(bucket) => write!(f, "tc qdisc replace {bucket}"),
            Self::OpenIngress(device) => write!(f, "tc qdisc add dev if{device} ingress"),
            Self::Redirect(redirect) => write!(f, "tc filter add {redirect}"),
            Self::DeleteLink(link) => write!(f, "ip link del {link}"),
            Self::AddAddress(address) => write!(f, "ip addr add {address}"),
            Self::ReplaceAddress(address) => write!(f, "ip addr replace {address}"),
            Self::DeleteAddress(address) => {
                write!(f, "ip addr del {} dev if{}", address.network, address.device)
            }
            Self::AddRoute(route) => write!(f, "ip route add {route}"),
            Self::ReplaceRoute(route) => write!(f, "ip route replace {route}"),
            Self::DeleteRoute(route) => write!(f, "ip route del {route}"),
            Self::ReplaceNeighbour(neighbour) => write!(f, "ip neigh replace {neighbour}"),
            Self::DeleteNeighbour(neighbour) => {
                write!(f, "ip neigh del {} dev if{}", neighbour.address, neighbour.device)
            }
            Self::ReplaceForwarding(entry) => write!(f, "bridge fdb replace {entry}"),
            Self::DeleteForwarding(entry) => write!(f, "bridge fdb del {entry}"),
        }
    }
}

fn write_settings(settings: &LinkSettings<'_>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(name) = &settings.rename {
        write!(f, " name {name}")?;
    }
    if let Some(up) = settings.up {
        f.write_str(if up { " up" } else { " down" })?;
    }
    for (name, value) in
        [("promisc", settings.promiscuous), ("allmulticast", settings.all_multicast)]
    {
        if let Some(on) = value {
            write!(f, " {name} {}", if on { "on" } else { "off" })?;
        }
    }
    if let Some(packets) = settings.tx_queue_len {
        write!(f, " txqueuelen {packets}")?;
    }
    match settings.master {
        Some(0) => f.write_str(" nomaster")?,
        Some(master) => write!(f, " master if{master}")?,
        None => {}
    }
    if let Some(mtu) = settings.mtu {
        write!(f, " mtu {mtu}")?;
    }
    if let Some(mac) = settings.mac {
        write!(f, " address {mac}")?;
    }
    if let Some(alias) = &settings.alias {
        write!(f, " alias {alias:?}")?;
    }
    if settings.namespace.is_some() {
        f.write_str(" netns …")?;
    }
    if let Some(on) = settings.ipv6_link_local {
        write!(f, " addrgenmode {}", if on { "eui64" } else { "none" })?;
    }
    Ok(())
}
