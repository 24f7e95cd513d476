//! What a Service wants to be dialled at, and from where.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{Family, NodeFacts, Service, ServiceType};

use crate::Frontend;
use crate::planner::merged;

/// Where an address comes from; decides which traffic policy it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposure {
    /// A cluster address: `internalTrafficPolicy`.
    Internal,
    /// An external address or a node port: `externalTrafficPolicy`.
    External,
    /// A load balancer's address: the same, and `loadBalancerSourceRanges`.
    Balancer,
}

/// What a Service wants to be dialled at: one entry per port and family, in order.
pub(crate) struct Wanted<'a> {
    pub(crate) port: &'a model::ServicePort,
    pub(crate) family: Family,
    pub(crate) frontends: Vec<(Frontend, Exposure)>,
}

/// A family without a cluster address is not served at all: what the API allocates says which families a Service has.
pub(crate) fn wanted(service: &Service) -> Vec<Wanted<'_>> {
    if !service.is_served() {
        return Vec::new();
    }
    let on_nodes = matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let mut all: Vec<Wanted<'_>> = Vec::new();
    for port in &service.ports {
        for family in Family::BOTH {
            let Some(cluster) = service.cluster_ips.of(family) else { continue };
            let protocol = port.protocol;
            let mut frontends = Vec::new();
            let mut add = |frontend: Frontend, exposure| {
                // What one Service names twice it has once, the first time; the API refuses most such objects.
                let mut earlier = all.iter().flat_map(|wanted| &wanted.frontends).chain(&frontends);
                if !earlier.any(|(known, _)| *known == frontend) {
                    frontends.push((frontend, exposure));
                }
            };
            let at = |address| Frontend::Address { address, protocol, port: port.port };
            add(at(cluster), Exposure::Internal);
            for (address, exposure) in external_addresses(service, family) {
                add(at(address), exposure);
            }
            if let Some(node_port) = port.node_port.filter(|_| on_nodes) {
                let frontend = Frontend::NodePort { family, protocol, port: node_port.get() };
                add(frontend, Exposure::External);
            }
            all.push(Wanted { port, family, frontends });
        }
    }
    all
}

/// A load balancer's addresses unless traffic must go out to it (`ipMode: Proxy`), and `externalIPs`.
fn external_addresses(
    service: &Service,
    family: Family,
) -> impl Iterator<Item = (IpAddr, Exposure)> + '_ {
    let external = service.external.as_deref();
    let balancing = external.filter(|_| service.kind == ServiceType::LoadBalancer);
    let ingress = balancing.into_iter().flat_map(|external| &external.ingress);
    let balanced = ingress.filter(|ingress| !ingress.proxied).map(|ingress| ingress.address);
    let own = external.into_iter().flat_map(|external| external.addresses.iter().copied());
    balanced
        .map(|address| (address, Exposure::Balancer))
        .chain(own.map(|address| (address, Exposure::External)))
        .filter(move |(address, _)| Family::of(*address) == family)
}

/// The sources `loadBalancerSourceRanges` admits in a family, as ranges that do not touch; none if everybody is.
pub(crate) fn admitted(
    service: &Service,
    family: Family,
    node: Option<&NodeFacts>,
) -> Vec<(IpAddr, IpAddr)> {
    let Some(external) = service.external.as_deref() else { return Vec::new() };
    let ranges = external.source_ranges.iter().filter(|range| Family::of(range.addr()) == family);
    let mut ranges: Vec<IpNet> = ranges.copied().collect();
    let itself = node.and_then(|node| node.internal_ip(family));
    if itself.is_some_and(|itself| ranges.iter().any(|range| range.contains(&itself))) {
        // A load balancer may have put its address on this node: then it is also what the node sends from.
        let balanced = external_addresses(service, family);
        let balanced = balanced.filter(|(_, exposure)| *exposure == Exposure::Balancer);
        ranges.extend(balanced.map(|(address, _)| IpNet::from(address)));
    }
    merged(&ranges)
}

/// Everything a Service claims.
pub(crate) fn claims(service: &Service) -> Box<[Frontend]> {
    let all = wanted(service).into_iter().flat_map(|wanted| wanted.frontends);
    all.map(|(frontend, _)| frontend).collect()
}
