//! Which endpoints of a Service port answer, seen from this node: kube-proxy's rules (`pkg/proxy/topology.go`), which are
//! those of the API's documentation of traffic policies, conditions (KEP-1669) and hints (KEP-2433, KEP-3015).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::{Endpoint, NodeFacts, NodeName, WeightRule};

/// The lists a Service port asks for; the other stays empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) cluster: bool,
    pub(crate) local: bool,
}

/// The endpoints of a Service port as its two traffic policies see them.
#[derive(Debug, Default)]
pub(crate) struct Lists<'a> {
    /// Policy `Cluster`: the ready ones, as near as the hints say.
    pub(crate) cluster: Vec<Endpoint<'a>>,
    /// Policy `Local`: those of this node.
    pub(crate) local: Vec<Endpoint<'a>>,
    /// Whether any endpoint anywhere takes connections: without, clients are refused; otherwise those this node has nothing
    /// for are dropped.
    pub(crate) anywhere: bool,
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a> {
    pub(crate) node: &'a NodeName,
    pub(crate) facts: Option<&'a NodeFacts>,
}

impl<'a> Lists<'a> {
    /// Sorts `endpoints` into the lists asked for.
    pub(crate) fn of(endpoints: &[Endpoint<'a>], here: Here<'_>, asked: Asked) -> Self {
        let mut lists = Self {
            anywhere: endpoints.iter().any(|it| it.conditions.ready || is_last(it)),
            ..Self::default()
        };
        if asked.cluster {
            let near = Near::of(endpoints, here);
            lists.cluster = answering(endpoints, |endpoint| near.has(endpoint, here), |_| true);
        }
        if asked.local {
            let local = |endpoint: &Endpoint<'_>| endpoint.node == Some(here.node);
            lists.local = answering(endpoints, local, local);
        }
        lists
    }

    /// The endpoints of both lists with their weights, sorted, each once.
    pub(crate) fn weighted(&self, rules: &[WeightRule]) -> Vec<(SocketAddr, u16)> {
        let mut all = weighted(&self.cluster, rules);
        all.extend(weighted(&self.local, rules));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The endpoints that get no new connections and keep the ones they have, as TCP's do by themselves: they still serve,
    /// but terminate while others are ready, or are further away than others. What the policy rules out is not among them.
    pub(crate) fn passed_over(
        &self,
        endpoints: &[Endpoint<'a>],
        here: Here<'_>,
        asked: Asked,
    ) -> Vec<SocketAddr> {
        let chosen = if asked.cluster { &self.cluster } else { &self.local };
        if chosen.len() == endpoints.len() {
            return Vec::new();
        }
        let chosen: BTreeSet<SocketAddr> = chosen.iter().map(|endpoint| endpoint.address).collect();
        let allowed = |it: &&Endpoint<'_>| asked.cluster || it.node == Some(here.node);
        let serving = endpoints.iter().filter(|it| it.conditions.serving).filter(allowed);
        let addresses = serving.map(|endpoint| endpoint.address);
        addresses.filter(|address| !chosen.contains(address)).collect()
    }

    /// The endpoints of both lists that can reach themselves through this node.
    pub(crate) fn hairpins(&self, here: Here<'_>, two_sided: bool) -> Box<[IpAddr]> {
        // A pod elsewhere comes here only through a node port or external address; where those have one side, everything
        // through them is masqueraded already.
        let all = self.cluster.iter().chain(&self.local);
        let ours = all.filter(|endpoint| two_sided || is_here(endpoint, here));
        let mut addresses: Vec<IpAddr> = ours.map(|endpoint| endpoint.address.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into()
    }
}

/// The ready endpoints of a list; when there is none, those that still serve while they terminate (KEP-1669), so that a
/// roll-out to zero does not refuse what the last pod would have answered.
fn answering<'a>(
    endpoints: &[Endpoint<'a>],
    ready: impl Fn(&Endpoint<'a>) -> bool,
    last: impl Fn(&Endpoint<'a>) -> bool,
) -> Vec<Endpoint<'a>> {
    let chosen = endpoints.iter().filter(|it| it.conditions.ready && ready(it));
    let chosen: Vec<_> = chosen.copied().collect();
    if !chosen.is_empty() {
        return chosen;
    }
    endpoints.iter().filter(|it| is_last(it) && last(it)).copied().collect()
}

fn is_last(endpoint: &Endpoint<'_>) -> bool {
    endpoint.conditions.serving && endpoint.conditions.terminating
}

/// How near the endpoints of the cluster list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Anywhere,
    Zone,
    Node,
}

impl Near {
    /// Hints count only when every ready endpoint has them and one of them is for here: half-written hints would overload
    /// the few.
    fn of(endpoints: &[Endpoint<'_>], here: Here<'_>) -> Self {
        let (mut all_nodes, mut all_zones) = (true, true);
        let (mut this_node, mut this_zone) = (false, false);
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.conditions.ready) {
            let Some(hints) = endpoint.hints else { return Self::Anywhere };
            all_nodes &= !hints.nodes.is_empty();
            all_zones &= !hints.zones.is_empty();
            this_node |= Self::Node.has(endpoint, here);
            this_zone |= Self::Zone.has(endpoint, here);
        }
        if all_nodes && this_node {
            Self::Node
        } else if all_zones && this_zone {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    fn has(self, endpoint: &Endpoint<'_>, here: Here<'_>) -> bool {
        let zone = here.facts.and_then(|facts| facts.zone.as_deref());
        match (self, endpoint.hints) {
            (Self::Anywhere, _) => true,
            (_, None) => false,
            (Self::Node, Some(hints)) => hints.nodes.contains(here.node),
            (Self::Zone, Some(hints)) => hints.zones.iter().any(|hint| Some(&**hint) == zone),
        }
    }
}

/// Whether an endpoint is a pod of this node: by its node name, and where a slice gives none, by this node's pod CIDRs.
fn is_here(endpoint: &Endpoint<'_>, here: Here<'_>) -> bool {
    match endpoint.node {
        Some(other) => other == here.node,
        None => here.facts.is_some_and(|facts| {
            facts.pod_cidrs.iter().any(|cidr| cidr.contains(&endpoint.address.ip()))
        }),
    }
}

/// The addresses with their weights.
pub(crate) fn weighted(endpoints: &[Endpoint<'_>], rules: &[WeightRule]) -> Vec<(SocketAddr, u16)> {
    endpoints.iter().map(|endpoint| (endpoint.address, WeightRule::of(rules, endpoint))).collect()
}
