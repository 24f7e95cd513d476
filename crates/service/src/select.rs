//! Which endpoints of a Service port answer.

use std::net::SocketAddr;

use model::{Endpoint, NodeFacts, NodeName};

/// The endpoints that take new connections: the ready ones; when there is none, those that still serve while they
/// terminate (KEP-1669), so that a roll-out to zero does not refuse what the last pod would have answered.
pub(crate) fn answering<'a>(endpoints: &[Endpoint<'a>]) -> Vec<Endpoint<'a>> {
    let ready: Vec<_> =
        endpoints.iter().copied().filter(|endpoint| endpoint.conditions.ready).collect();
    if !ready.is_empty() {
        return ready;
    }
    let last =
        |endpoint: &Endpoint<'_>| endpoint.conditions.serving && endpoint.conditions.terminating;
    endpoints.iter().copied().filter(last).collect()
}

/// Whether an endpoint is a pod of this node: by its node name, and where a slice gives none, by this node's pod CIDRs.
pub(crate) fn is_local(endpoint: &Endpoint<'_>, name: &NodeName, node: Option<&NodeFacts>) -> bool {
    match endpoint.node {
        Some(other) => other == name,
        None => node.is_some_and(|node| {
            node.pod_cidrs.iter().any(|cidr| cidr.contains(&endpoint.address.ip()))
        }),
    }
}

/// The addresses alone.
pub(crate) fn addresses(endpoints: &[Endpoint<'_>]) -> Vec<SocketAddr> {
    endpoints.iter().map(|endpoint| endpoint.address).collect()
}
