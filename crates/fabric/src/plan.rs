//! Node facts to routes and tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use link::{LinkIndex, Route, RouteKind, RoutePlan, Tunnel, TunnelKind};
use model::{Block, Encapsulation, NodeFacts, NodeName, Pool, Report, Severity};

use crate::cidrs::{Owned, accept, report};
use crate::tunnel::{TunnelId, TunnelPeer, TunnelPlan, tunnel_gateway, vtep_mac};

/// Protocol number of every route Fairway makes.
pub const ROUTE_PROTOCOL: u8 = 250;

/// Metric of the route that drops. Longer prefixes win over it anyway; a high one also lets a route of
/// another program to the very same prefix win.
const BLACKHOLE_METRIC: u32 = 1 << 20;
/// The least an IPv6 link may have (RFC 8200), and enough for IPv4.
const LEAST_MTU: u32 = 1280;
/// MTU of a link that is not known.
const ETHERNET_MTU: u32 = 1500;
/// MTU of the loopback link; of no other link, for no packet is as long.
const LOOPBACK_MTU: u32 = 65_536;

/// What is known of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Cluster<'a> {
    nodes: Vec<&'a NodeFacts>,
    pools: Vec<&'a Pool>,
    lent: BTreeSet<IpNet>,
}

impl<'a> Cluster<'a> {
    /// The facts, in any order.
    pub fn new(
        nodes: impl IntoIterator<Item = &'a NodeFacts>,
        pools: impl IntoIterator<Item = &'a Pool>,
        blocks: impl IntoIterator<Item = &'a Block>,
    ) -> Self {
        let mut nodes: Vec<&NodeFacts> = nodes.into_iter().collect();
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let mut pools: Vec<&Pool> = pools.into_iter().collect();
        // Of pools within each other the narrowest counts; of equal ones the first name.
        pools.sort_by(|one, other| {
            other.cidr.prefix_len().cmp(&one.cidr.prefix_len()).then(one.key.cmp(&other.key))
        });
        let lent = blocks.into_iter().flat_map(|block| block.lent.iter().map(|part| part.cidr));
        Self { nodes, pools, lent: lent.collect() }
    }

    fn pool_of(&self, cidr: IpNet) -> Option<&'a Pool> {
        self.pools.iter().find(|pool| pool.cidr.contains(&cidr)).copied()
    }
}

/// What the agent is told about the network between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For ranges that are in no pool.
    pub encapsulation: Encapsulation,
    /// VXLAN network number, at most 24 bits.
    pub vxlan_vni: u32,
    /// VXLAN's UDP port.
    pub vxlan_port: u16,
    /// MTU of pods, whatever the links say.
    pub mtu: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encapsulation: Encapsulation::Never,
            vxlan_vni: 4096,
            // IANA's.
            vxlan_port: 4789,
            mtu: None,
        }
    }
}

/// What this node knows about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name in the cluster.
    pub name: NodeName,
    /// Its addresses on links that reach other nodes.
    pub addresses: Vec<LocalAddress>,
    /// MTU of these links.
    pub mtus: BTreeMap<LinkIndex, u32>,
    /// By which link an address is reached that is on no subnet of these (see [`unknown_ways`]).
    pub ways: BTreeMap<IpAddr, LinkIndex>,
    /// Whether this kernel can make IP in IP links.
    pub has_ipip: bool,
}

/// An address of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// The link it is on.
    pub device: LinkIndex,
    /// The address with the length of its on-link prefix.
    pub network: IpNet,
}

impl HostFacts {
    /// The link of the longest subnet of ours with this address in it.
    fn on_link(&self, ip: IpAddr) -> Option<LinkIndex> {
        let subnets = self.addresses.iter().filter(|have| have.network.contains(&ip));
        subnets.max_by_key(|have| have.network.prefix_len()).map(|have| have.device)
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|have| have.network.addr() == ip)
    }

    fn mtu_towards(&self, ip: IpAddr) -> Option<u32> {
        let device = self.on_link(ip).or_else(|| self.ways.get(&ip).copied())?;
        self.mtus.get(&device).copied()
    }
}

/// Addresses of nodes on no subnet of this one: the kernel has to be asked how it reaches them.
pub fn unknown_ways<'a>(
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
    host: &HostFacts,
) -> Vec<IpAddr> {
    let addresses = nodes.into_iter().flat_map(|node| node.internal_ips.iter().copied());
    addresses.filter(|ip| host.on_link(*ip).is_none()).collect()
}

/// How packets for a range leave this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// As they are, by this link.
    Direct(LinkIndex),
    /// In a tunnel.
    Tunnel(TunnelId),
}

/// A range of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeName,
    /// The range.
    pub cidr: IpNet,
    /// The node's address packets go to.
    pub address: IpAddr,
    /// How.
    pub path: Path,
    /// Bytes a pod's packet may have on that way.
    pub mtu: u32,
}

/// What the network between nodes should be on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricPlan {
    /// Routes to other nodes' pods that need no tunnel, and one that drops for each of this node's own pod CIDRs: an
    /// address no pod has must not leave by the default route and come back. Pods' own routes are
    /// longer and win.
    pub routes: RoutePlan,
    /// The tunnels, and who is behind them.
    pub tunnels: Vec<TunnelPlan>,
    /// Everything that is reached, by range.
    pub peers: Vec<Peer>,
    /// All pod CIDRs that count, none inside another, sorted.
    pub pod_cidrs: Vec<IpNet>,
    /// All pools, none inside another, sorted: packets to them stay as they are, whether a node has the address or not.
    pub pool_cidrs: Vec<IpNet>,
    /// The pod CIDRs whose pods keep their address when they leave the cluster.
    pub no_nat_cidrs: Vec<IpNet>,
    /// Those of this node, in the API's order: what the CNI configuration gives addresses from.
    pub own_pod_cidrs: Vec<IpNet>,
    /// All addresses of all nodes, sorted.
    pub node_ips: Vec<IpAddr>,
    /// MTU of pods: what every way to another node carries, tunnels taken off.
    pub mtu: u32,
}

impl FabricPlan {
    /// All routes, those into the tunnels that have a link included. A range whose tunnel is not there yet has no route:
    /// without one its packets would go out as they are.
    #[must_use]
    pub fn routes_with(&self, tunnels: &BTreeMap<TunnelId, LinkIndex>) -> RoutePlan {
        let mut routes = self.routes.clone();
        for tunnel in &self.tunnels {
            if let Some(device) = tunnels.get(&tunnel.id) {
                for route in tunnel.routes_on(*device) {
                    routes.insert(route);
                }
            }
        }
        routes
    }
}

/// Compiles the plan. Total: whatever cannot be used is left out and reported.
pub fn compile(
    cluster: &Cluster<'_>,
    host: &HostFacts,
    settings: &Settings,
) -> (FabricPlan, Vec<Report>) {
    let nodes = &cluster.nodes;
    let (accepted, mut reports) = accept(nodes, &cluster.lent);
    let own = nodes.iter().find(|node| node.name == host.name).copied();
    let own_cidrs: Vec<IpNet> =
        accepted.iter().filter(|owned| owned.node.name == host.name).map(|o| o.cidr).collect();
    let mut compiler = Compiler {
        cluster,
        host,
        settings,
        own,
        own_modes: Vec::new(),
        routes: RoutePlan::new(ROUTE_PROTOCOL),
        tunnels: BTreeMap::new(),
        peers: Vec::new(),
    };
    compiler.own_modes = own_cidrs.iter().map(|cidr| compiler.mode(*cidr)).collect();
    let base = compiler.base_mtu();
    for owned in &accepted {
        if owned.node.name == host.name {
            compiler.routes.insert(Route::blackhole(owned.cidr).metric(BLACKHOLE_METRIC));
        } else if let Err(report) = compiler.reach(owned, base) {
            reports.push(*report);
        }
    }
    let mtu = compiler.pod_mtu(base);
    let tunnels = compiler.tunnels(&own_cidrs, base);
    let (routes, peers) = (compiler.routes, compiler.peers);
    let keeps = |cidr: &IpNet| cluster.pool_of(*cidr).is_some_and(|pool| !pool.nat_outgoing);
    let pods = || accepted.iter().map(|owned| owned.cidr);
    let pod_cidrs = outermost(pods());
    let pool_cidrs = outermost(cluster.pools.iter().map(|pool| pool.cidr));
    let no_nat_cidrs = outermost(pods().filter(keeps));
    let mut node_ips: Vec<IpAddr> =
        nodes.iter().flat_map(|node| node.internal_ips.iter().copied()).collect();
    node_ips.extend(host.addresses.iter().map(|address| address.network.addr()));
    node_ips.sort();
    node_ips.dedup();
    let plan = FabricPlan {
        routes,
        tunnels,
        peers,
        pod_cidrs,
        pool_cidrs,
        no_nat_cidrs,
        own_pod_cidrs: own_cidrs,
        node_ips,
        mtu,
    };
    (plan, reports)
}

/// Sorted, without what lies inside another.
fn outermost(cidrs: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut sorted: Vec<IpNet> = cidrs.collect();
    sorted.sort_by_key(|cidr| (cidr.network(), cidr.prefix_len()));
    let mut kept: Vec<IpNet> = Vec::with_capacity(sorted.len());
    for cidr in sorted {
        if !kept.last().is_some_and(|last| last.contains(&cidr)) {
            kept.push(cidr);
        }
    }
    kept
}

struct Compiler<'a> {
    cluster: &'a Cluster<'a>,
    host: &'a HostFacts,
    settings: &'a Settings,
    own: Option<&'a NodeFacts>,
    /// Of this node's ranges: other nodes may send to them in a tunnel.
    own_modes: Vec<(IpNet, Encapsulation)>,
    routes: RoutePlan,
    /// Peers by tunnel; a tunnel without peers is one others send through.
    tunnels: BTreeMap<TunnelId, Vec<TunnelPeer>>,
    peers: Vec<Peer>,
}

impl<'a> Compiler<'a> {
    fn mode(&self, cidr: IpNet) -> (IpNet, Encapsulation) {
        let pool = self.cluster.pool_of(cidr).map(|pool| pool.encapsulation);
        let mode = pool.unwrap_or(self.settings.encapsulation);
        // The default may be for both families; a pool's was looked at when it was read.
        let mode = match mode {
            Encapsulation::Ipip if cidr.addr().is_ipv6() => Encapsulation::Vxlan,
            Encapsulation::IpipCrossSubnet if cidr.addr().is_ipv6() => {
                Encapsulation::VxlanCrossSubnet
            }
            mode => mode,
        };
        (cidr, mode)
    }

    /// This node's own address of a family, as the others know it.
    fn own_address(&self, v4: bool) -> Option<IpAddr> {
        let known = self.own.iter().flat_map(|node| &node.internal_ips);
        let known = known.copied().find(|ip| ip.is_ipv4() == v4 && self.host.is_own(*ip));
        known.filter(|_| self.own.is_some())
    }

    /// MTU of the link of this node's own address.
    fn base_mtu(&self) -> u32 {
        let own = [true, false].into_iter().filter_map(|v4| self.own_address(v4));
        // An address on the loopback link says nothing about the links that packets take.
        let outside = |mtu: &u32| *mtu < LOOPBACK_MTU;
        let own = own.filter_map(|ip| self.host.mtu_towards(ip)).filter(outside).min();
        let all = || self.host.mtus.values().copied().filter(outside).min();
        own.or_else(all).unwrap_or(ETHERNET_MTU)
    }

    /// The tunnel between this node and that one for a range, and the other node's address.
    fn tunnel_to(
        &self,
        node: &NodeFacts,
        v4: bool,
        mode: Encapsulation,
    ) -> Option<(TunnelId, IpAddr)> {
        // Both nodes look for a family both have, that of the pods first, and so come to the same.
        let families = if mode.is_ipip() { vec![true] } else { vec![v4, !v4] };
        families.into_iter().find_map(|v4| {
            self.own_address(v4)?;
            let peer = node.internal_ips.iter().copied().find(|ip| ip.is_ipv4() == v4)?;
            let id = match (mode.is_ipip(), v4) {
                (true, _) => TunnelId::Ipip,
                (false, true) => TunnelId::Vxlan4,
                (false, false) => TunnelId::Vxlan6,
            };
            Some((id, peer))
        })
    }

    /// Whether a node is on a subnet of ours, in a family.
    fn is_near(&self, node: &NodeFacts, v4: bool) -> Option<(IpAddr, LinkIndex)> {
        let addresses = node.internal_ips.iter().copied().filter(|ip| ip.is_ipv4() == v4);
        addresses.filter_map(|ip| Some((ip, self.host.on_link(ip)?))).next()
    }

    /// The way to a range of another node.
    fn reach(&mut self, owned: &Owned<'_>, base: u32) -> Result<(), Box<Report>> {
        let Owned { node, cidr } = *owned;
        let v4 = cidr.addr().is_ipv4();
        let refuse = |reason, message, hint| {
            Err(Box::new(report(node, Severity::Warning, reason, message, hint)))
        };
        if let Some(ip) = node.internal_ips.iter().find(|ip| self.host.is_own(**ip)) {
            let name = &self.host.name;
            let message = format!("the node's address {ip} is this node's ({name}) too");
            return refuse(
                "DuplicateNodeAddress",
                message,
                "give every node an address of its own",
            );
        }
        let (_, mode) = self.mode(cidr);
        let near = self.is_near(node, v4);
        // What others send into a tunnel must find one here.
        for (own, mode) in self.own_modes.clone() {
            let own_v4 = own.addr().is_ipv4();
            let encapsulated = mode != Encapsulation::Never
                && !(mode.only_across_subnets() && self.is_near(node, own_v4).is_some());
            if let Some((id, _)) = self.tunnel_to(node, own_v4, mode).filter(|_| encapsulated) {
                self.tunnels.entry(id).or_default();
            }
        }
        let direct = mode == Encapsulation::Never || mode.only_across_subnets() && near.is_some();
        if direct {
            let gateways = || node.internal_ips.iter().filter(|ip| ip.is_ipv4() == v4);
            let Some((gateway, device)) = near else {
                return match gateways().next() {
                    None => {
                        let family = if v4 { "IPv4" } else { "IPv6" };
                        let message = format!(
                            "pod CIDR {cidr} has no {family} address of its node to go through"
                        );
                        let hint = "the node needs an InternalIP of each family its pods use";
                        refuse("NoNodeAddress", message, hint)
                    }
                    Some(gateway) => {
                        let message =
                            format!("pod CIDR {cidr}: {gateway} is on no subnet of this node");
                        let hint = "direct routes need nodes on one subnet, or routers between them that know the pod CIDRs; else use encapsulation across subnets (vxlan-cross-subnet)";
                        refuse("NotDirectlyReachable", message, hint)
                    }
                };
            };
            self.routes.insert(Route::to(cidr).via(gateway).on(device));
            let mtu = self.host.mtus.get(&device).copied().unwrap_or(base);
            let path = Path::Direct(device);
            self.peers.push(Peer { node: node.name.clone(), cidr, address: gateway, path, mtu });
            return Ok(());
        }
        let Some((id, address)) = self.tunnel_to(node, v4, mode) else {
            let message = format!(
                "pod CIDR {cidr}: its node and this one have no address of one family for a tunnel"
            );
            let hint = "both nodes need an InternalIP of the same family (IPv4 for IP in IP)";
            return refuse("NoTunnelAddress", message, hint);
        };
        if id == TunnelId::Ipip && !self.host.has_ipip {
            let message =
                format!("pod CIDR {cidr} wants IP in IP, which this kernel does not have");
            let hint = "load the module ipip, or set the pool's vxlanMode instead of its ipipMode";
            return refuse("NoIPIP", message, hint);
        }
        let (gateway, mac) = match id {
            TunnelId::Ipip => (address, None),
            _ => {
                let mac = vtep_mac(&node.name, self.settings.vxlan_vni);
                (tunnel_gateway(cidr, mac), Some(mac))
            }
        };
        self.tunnels.entry(id).or_default().push(TunnelPeer { cidr, gateway, mac, node: address });
        let below = self.host.mtu_towards(address).unwrap_or(base);
        let mtu = below.saturating_sub(id.overhead());
        let path = Path::Tunnel(id);
        self.peers.push(Peer { node: node.name.clone(), cidr, address, path, mtu });
        Ok(())
    }

    /// Tunnels with their links.
    fn tunnels(&mut self, own_cidrs: &[IpNet], base: u32) -> Vec<TunnelPlan> {
        let mut plans = Vec::new();
        for (id, peers) in std::mem::take(&mut self.tunnels) {
            if id == TunnelId::Ipip && !self.host.has_ipip {
                continue;
            }
            let Some(local) = self.own_address(id != TunnelId::Vxlan6) else { continue };
            let kind = match (id, local) {
                (TunnelId::Ipip, IpAddr::V4(local)) => TunnelKind::Ipip { local },
                _ => {
                    let (vni, port) = (self.settings.vxlan_vni, self.settings.vxlan_port);
                    TunnelKind::Vxlan { vni, port, local }
                }
            };
            let below = peers.iter().filter_map(|peer| self.host.mtu_towards(peer.node)).min();
            let link = Tunnel {
                name: id.link_name().to_owned(),
                kind,
                mac: (id != TunnelId::Ipip)
                    .then(|| vtep_mac(&self.host.name, self.settings.vxlan_vni)),
                mtu: below.unwrap_or(base).saturating_sub(id.overhead()).max(LEAST_MTU),
            };
            let families = [true, false].into_iter().filter(|v4| *v4 || id != TunnelId::Ipip);
            let addresses = families
                .filter(|v4| {
                    // The address of a family lives on the tunnel its packets take.
                    let preferred = self.own_address(*v4).map(|ip| ip.is_ipv4()).unwrap_or(!*v4);
                    id == TunnelId::Ipip || preferred == (id == TunnelId::Vxlan4)
                })
                .filter_map(|v4| own_cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == v4))
                .map(IpNet::network)
                .collect();
            plans.push(TunnelPlan { id, link, addresses, peers });
        }
        plans
    }

    /// The least of every way there is, and of those there may be tomorrow: a mode that may need a tunnel counts as if it
    /// did, or a node that joins would make the pods' packets too long.
    fn pod_mtu(&self, base: u32) -> u32 {
        if let Some(mtu) = self.settings.mtu {
            return mtu;
        }
        let over_v4 = self.own_address(true).is_some();
        let overhead = |mode: Encapsulation, v4: bool| match mode {
            Encapsulation::Never => 0,
            mode if mode.is_ipip() => TunnelId::Ipip.overhead(),
            _ if v4 && over_v4 => TunnelId::Vxlan4.overhead(),
            _ if self.own_address(false).is_some() => TunnelId::Vxlan6.overhead(),
            _ => TunnelId::Vxlan4.overhead(),
        };
        let own = self.own_modes.iter().map(|(cidr, mode)| overhead(*mode, cidr.addr().is_ipv4()));
        let pools = self
            .cluster
            .pools
            .iter()
            .map(|pool| overhead(pool.encapsulation, pool.cidr.addr().is_ipv4()));
        let most = own.chain(pools).max().unwrap_or_default();
        let ways = self.peers.iter().map(|peer| peer.mtu);
        ways.chain([base.saturating_sub(most)]).min().unwrap_or(base).max(LEAST_MTU)
    }
}

/// Whether a route has an address delivered here, as that of the cluster's DNS is.
pub(crate) fn is_own_address(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL && route.kind == RouteKind::Local
}

/// Whether a route belongs to a pod, not to the fabric: one address, straight out of a link. The
/// CNI plugin makes these under the same protocol number, and they go with the pod's link.
pub fn is_pod_route(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL
        && route.kind == RouteKind::Unicast
        && route.via.is_none()
        && route.destination.prefix_len() == route.destination.max_prefix_len()
}
