//! Node facts to routes.

use std::net::IpAddr;

use ipnet::IpNet;
use link::{Change, LinkIndex, Route, RouteKind, RoutePlan, diff_routes};
use model::{NodeFacts, NodeName, Report, Severity};

use crate::cidrs::{Owned, accept, report};

/// Protocol number of every route Fairway makes.
pub const ROUTE_PROTOCOL: u8 = 250;

/// Metric of the route that drops. Longer prefixes win over it anyway; a high one also lets a route of
/// another program to the very same prefix win.
const BLACKHOLE_METRIC: u32 = 1 << 20;

/// What this node knows about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name in the cluster.
    pub name: NodeName,
    /// Its addresses on links that reach other nodes.
    pub addresses: Vec<LocalAddress>,
}

/// An address of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// The link it is on.
    pub device: LinkIndex,
    /// The address with the length of its on-link prefix.
    pub network: IpNet,
}

/// What the network between nodes should be on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricPlan {
    /// Routes to other nodes' pods, and one that drops for each of this node's own pod CIDRs: an
    /// address no pod has must not leave by the default route and come back. Pods' own routes are
    /// longer and win.
    pub routes: RoutePlan,
    /// All pod CIDRs that count, sorted.
    pub pod_cidrs: Vec<IpNet>,
    /// Those of this node, in the API's order: what the CNI configuration gives addresses from.
    pub own_pod_cidrs: Vec<IpNet>,
    /// All addresses of all nodes, sorted.
    pub node_ips: Vec<IpAddr>,
}

/// Compiles the plan. Total: whatever cannot be used is left out and reported.
pub fn compile<'a>(
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
    host: &HostFacts,
) -> (FabricPlan, Vec<Report>) {
    let mut nodes: Vec<&NodeFacts> = nodes.into_iter().collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let (accepted, mut reports) = accept(&nodes);
    let mut routes = RoutePlan::new(ROUTE_PROTOCOL);
    for owned in &accepted {
        if owned.node.name == host.name {
            routes.insert(Route::blackhole(owned.cidr).metric(BLACKHOLE_METRIC));
            continue;
        }
        match direct(owned, host) {
            Ok(route) => {
                routes.insert(route);
            }
            Err(report) => reports.push(*report),
        }
    }
    let own = accepted.iter().filter(|owned| owned.node.name == host.name);
    let own_pod_cidrs = own.map(|owned| owned.cidr).collect();
    let mut pod_cidrs: Vec<IpNet> = accepted.iter().map(|owned| owned.cidr).collect();
    pod_cidrs.sort();
    let mut node_ips: Vec<IpAddr> =
        nodes.iter().flat_map(|node| node.internal_ips.iter().copied()).collect();
    node_ips.extend(host.addresses.iter().map(|address| address.network.addr()));
    node_ips.sort();
    node_ips.dedup();
    (FabricPlan { routes, pod_cidrs, own_pod_cidrs, node_ips }, reports)
}

/// The route to a pod CIDR through its node's address on a subnet of ours; of several subnets the
/// most specific.
fn direct(owned: &Owned<'_>, host: &HostFacts) -> Result<Route, Box<Report>> {
    let Owned { node, cidr } = owned;
    let v4 = cidr.addr().is_ipv4();
    let gateways: Vec<IpAddr> =
        node.internal_ips.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
    let refuse = |reason, message, hint| {
        Err(Box::new(report(node, Severity::Warning, reason, message, hint)))
    };
    if gateways.is_empty() {
        let family = if v4 { "IPv4" } else { "IPv6" };
        let message = format!("pod CIDR {cidr} has no {family} address of its node to go through");
        let hint = "the node needs an InternalIP of each family its pods use";
        return refuse("NoNodeAddress", message, hint);
    }
    let ours = |ip: &IpAddr| host.addresses.iter().any(|have| have.network.addr() == *ip);
    if let Some(ip) = gateways.iter().find(|ip| ours(ip)) {
        let message = format!("the node's address {ip} is this node's ({}) too", host.name);
        return refuse("DuplicateNodeAddress", message, "give every node an address of its own");
    }
    let reachable = gateways.iter().filter_map(|gateway| {
        let subnets = host.addresses.iter().filter(|have| have.network.contains(gateway));
        subnets.max_by_key(|have| have.network.prefix_len()).map(|have| (*gateway, have.device))
    });
    match reachable.into_iter().next() {
        Some((gateway, device)) => Ok(Route::to(*cidr).via(gateway).on(device)),
        None => {
            let message = format!("pod CIDR {cidr}: {} is on no subnet of this node", gateways[0]);
            let hint = "direct routes need nodes on one subnet; routers between them must know the pod CIDRs";
            refuse("NotDirectlyReachable", message, hint)
        }
    }
}

/// Whether a route belongs to a pod, not to the fabric: one address, straight out of a link. The
/// CNI plugin makes these under the same protocol number, and they go with the pod's link.
pub fn is_pod_route(route: &Route) -> bool {
    route.protocol == ROUTE_PROTOCOL
        && route.kind == RouteKind::Unicast
        && route.via.is_none()
        && route.destination.prefix_len() == route.destination.max_prefix_len()
}

/// What turns the listed routes into the plan's. Routes of pods and of other programs stay.
pub fn diff(plan: &FabricPlan, listed: &[Route]) -> Vec<Change<'static>> {
    let ours: Vec<Route> = listed.iter().filter(|route| !is_pod_route(route)).cloned().collect();
    diff_routes(&plan.routes, &ours)
}
