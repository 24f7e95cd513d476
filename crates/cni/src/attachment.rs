//! What one pod gets: names, Ethernet addresses, and the changes on both sides of its veth pair.
//! Pure: from identity and addresses to values.
//!
//! The pod's interface carries its addresses as /32 and /128, so everything it sends goes to the
//! gateway, 169.254.1.1 or fe80::1. No interface owns these two: both are permanent neighbour entries
//! for the fixed Ethernet address of the node's end. Proxy ARP and proxy NDP would do the same with
//! two settings and an answer delay of up to 0.8 s, but ARP is only answered for destinations the
//! node has a route to, and NDP only with an entry per interface; an entry in the pod needs neither,
//! and the pod's first packet leaves without a question asked. The node knows the pod's Ethernet
//! address likewise. All entries and routes go with the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use link::{Address, Change, LinkIndex, LinkSettings, MacAddr, Neighbour, Route};

use crate::environment::{Environment, Identity};

/// Protocol number of every route Fairway makes.
pub const ROUTE_PROTOCOL: u8 = 250;
/// IPv4 gateway of every pod.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// IPv6 gateway of every pod.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Ethernet address of the node's end of every pair. One is enough: each pair is a link of its own.
pub const NODE_MAC: MacAddr = MacAddr([0xee; 6]);
/// What the names of node ends begin with.
pub const NODE_LINK_PREFIX: &str = "fw";
/// What the aliases of links made by Fairway begin with.
pub const ALIAS_PREFIX: &str = "fairway:";

/// Name of the node's end: `fw` and 52 bits of a hash of container and interface, which is 15 bytes.
pub fn node_link(identity: &Identity) -> String {
    format!("{NODE_LINK_PREFIX}{:013x}", hash(identity, b"link") >> 12)
}

/// The pod's Ethernet address when the runtime asks for none: the same for a retried ADD.
pub fn pod_mac(identity: &Identity) -> MacAddr {
    MacAddr::from_hash(hash(identity, b"mac"))
}

/// The alias of the node's end: `fairway:<namespace>/<pod>`, or the container's id outside of
/// Kubernetes. Not longer than the kernel takes.
pub fn alias(env: &Environment) -> String {
    let mut alias = match (env.arg("K8S_POD_NAMESPACE"), env.arg("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => format!("{ALIAS_PREFIX}{namespace}/{name}"),
        _ => format!("{ALIAS_PREFIX}{}", env.container_id),
    };
    let fits = (0..=255).rev().find(|at| alias.is_char_boundary(*at)).unwrap_or(0);
    alias.truncate(fits);
    alias
}

/// 64-bit FNV-1a, then the finalizer of SplitMix64 for the high bits. The parts are separated: no
/// two pairs of container and interface run together into the same text.
pub(crate) fn hash(identity: &Identity, salt: &[u8]) -> u64 {
    let parts = [salt, identity.container_id.as_bytes(), identity.ifname.as_bytes()];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The gateway of an address's family.
pub fn gateway(of: IpAddr) -> IpAddr {
    if of.is_ipv4() { GATEWAY4.into() } else { GATEWAY6.into() }
}

/// The whole address space of an address's family.
pub fn everything(of: IpAddr) -> IpNet {
    let unspecified: IpAddr =
        if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    IpNet::new_assert(unspecified, 0)
}

/// The address as a network of its own: /32 or /128.
pub fn alone(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// The pod's addresses, gateways and default routes, on its interface.
pub fn in_pod(device: LinkIndex, addresses: &[IpAddr]) -> PodSide {
    let addresses = addresses.iter().copied();
    PodSide {
        addresses: addresses.clone().map(|ip| Address::new(device, alone(ip))).collect(),
        neighbours: addresses
            .clone()
            .map(|ip| Neighbour::permanent(device, gateway(ip), NODE_MAC))
            .collect(),
        routes: addresses
            .map(|ip| {
                let route = Route::to(everything(ip)).via(gateway(ip)).on(device);
                // A link-local IPv6 gateway is on the link by definition; IPv4 must be told.
                let route = if ip.is_ipv4() { route.onlink() } else { route };
                route.protocol(ROUTE_PROTOCOL)
            })
            .collect(),
    }
}

/// Desired state inside the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSide {
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Gateways' Ethernet addresses.
    pub neighbours: Vec<Neighbour>,
    /// Default routes.
    pub routes: Vec<Route>,
}

impl PodSide {
    /// The changes that make it, loopback and interface brought up first.
    pub fn changes(self, device: LinkIndex) -> Vec<Change<'static>> {
        let mut changes = vec![
            Change::SetLink("lo".into(), LinkSettings::up()),
            Change::SetLink(device.into(), LinkSettings::up()),
        ];
        changes.extend(self.addresses.into_iter().map(Change::ReplaceAddress));
        changes.extend(self.neighbours.into_iter().map(Change::ReplaceNeighbour));
        changes.extend(self.routes.into_iter().map(Change::ReplaceRoute));
        changes
    }
}

/// Desired state on the node: a host route and a neighbour per address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSide {
    /// The pod's Ethernet address under each of its addresses.
    pub neighbours: Vec<Neighbour>,
    /// Host routes.
    pub routes: Vec<Route>,
}

/// The node's side of a pod's addresses.
pub fn on_node(device: LinkIndex, pod: MacAddr, addresses: &[IpAddr]) -> NodeSide {
    let addresses = addresses.iter().copied();
    NodeSide {
        neighbours: addresses.clone().map(|ip| Neighbour::permanent(device, ip, pod)).collect(),
        routes: addresses
            .map(|ip| Route::to(alone(ip)).on(device).protocol(ROUTE_PROTOCOL))
            .collect(),
    }
}

impl NodeSide {
    /// The changes that make it.
    pub fn changes(self) -> Vec<Change<'static>> {
        let neighbours = self.neighbours.into_iter().map(Change::ReplaceNeighbour);
        neighbours.chain(self.routes.into_iter().map(Change::ReplaceRoute)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(container_id: &str, ifname: &str) -> Identity {
        Identity { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
    }

    #[test]
    fn names_fit_and_parts_do_not_run_together() {
        let one = node_link(&identity("ab", "c"));
        assert_eq!(one.len(), 15);
        assert_eq!(one, node_link(&identity("ab", "c")));
        assert_ne!(one, node_link(&identity("a", "bc")));
        assert_ne!(pod_mac(&identity("ab", "c")), pod_mac(&identity("a", "bc")));
        let names: std::collections::HashSet<String> =
            (0..20_000).map(|n| node_link(&identity(&format!("{n:064x}"), "eth0"))).collect();
        assert_eq!(names.len(), 20_000);
    }

    #[test]
    fn aliases_fit_the_kernel() {
        let pod = "é".repeat(300);
        let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME={pod}");
        let alias = alias(&Environment { args, ..Environment::default() });
        assert!(alias.starts_with("fairway:web/é") && alias.len() <= 255);
    }

    #[test]
    fn both_sides_print_as_commands() {
        let addresses = ["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let pod: Vec<String> =
            in_pod(2, &addresses).changes(2).iter().map(ToString::to_string).collect();
        assert_eq!(
            pod,
            [
                "ip link set lo up",
                "ip link set if2 up",
                "ip addr replace 10.244.1.2/32 dev if2",
                "ip addr replace fd00::2/128 dev if2 nodad",
                "ip neigh replace 169.254.1.1 dev if2 lladdr ee:ee:ee:ee:ee:ee nud permanent",
                "ip neigh replace fe80::1 dev if2 lladdr ee:ee:ee:ee:ee:ee nud permanent",
                "ip route replace 0.0.0.0/0 via 169.254.1.1 dev if2 proto 250 onlink",
                "ip route replace ::/0 via fe80::1 dev if2 proto 250",
            ]
        );
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let node: Vec<String> =
            on_node(7, mac, &addresses).changes().iter().map(ToString::to_string).collect();
        assert_eq!(
            node,
            [
                "ip neigh replace 10.244.1.2 dev if7 lladdr 02:00:00:00:00:01 nud permanent",
                "ip neigh replace fd00::2 dev if7 lladdr 02:00:00:00:00:01 nud permanent",
                "ip route replace 10.244.1.2 dev if7 proto 250",
                "ip route replace fd00::2 dev if7 proto 250",
            ]
        );
    }
}
