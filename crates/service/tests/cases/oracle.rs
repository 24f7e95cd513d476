//! What the API promises, said once more and differently: for one client and one endpoint at a time.
//!
//! Sources: the field documentation of `internalTrafficPolicy`, `externalTrafficPolicy` and of EndpointConditions, KEP-2086,
//! KEP-1669, and for what the API leaves open the behaviour of kube-proxy's nftables mode.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::case::{Expect, Source};

/// What a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    ExternalIp,
    Balancer,
    NodePort,
}

/// How an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Still serves while it goes away.
    Terminating,
    /// Not ready, and not going away.
    Unready,
    /// Going away and not serving any more.
    Dead,
}

/// An endpoint of the Service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) source: Source,
    pub(crate) state: State,
}

impl Endpoint {
    fn is_on_this_node(&self) -> bool {
        matches!(self.source, Source::Pod(_))
    }

    fn is_usable(&self) -> bool {
        matches!(self.state, State::Ready | State::Terminating)
    }
}

/// The two policies: whether they are `Local`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policies {
    pub(crate) internal_local: bool,
    pub(crate) external_local: bool,
}

/// What a client must find.
pub(crate) fn expected(
    policies: Policies,
    kind: Kind,
    from: Source,
    endpoints: &[Endpoint],
) -> Expect {
    // "Local" restricts a cluster address for everybody, and an external one for those who come from outside the cluster.
    let is_insider = from != Source::Outside;
    let only_here = match kind {
        Kind::Cluster => policies.internal_local,
        _ => policies.external_local && !is_insider,
    };
    let in_question = |endpoint: &&Endpoint| !only_here || endpoint.is_on_this_node();
    let in_state = |state| {
        let these = endpoints.iter().filter(in_question).filter(move |it| it.state == state);
        these.copied().collect::<Vec<_>>()
    };
    // Terminating endpoints are the last resort, and only of the list in question.
    let mut chosen = in_state(State::Ready);
    if chosen.is_empty() {
        chosen = in_state(State::Terminating);
    }
    if chosen.is_empty() {
        // Another node could have answered: a load balancer must not be told otherwise.
        let elsewhere = endpoints.iter().any(Endpoint::is_usable);
        return if elsewhere { Expect::Dropped } else { Expect::Refused };
    }
    let is_pod = matches!(from, Source::Pod(_) | Source::FarPod(_));
    let hides_client = match kind {
        // Pods find their way back by themselves.
        Kind::Cluster => !is_pod,
        // An endpoint elsewhere would answer the client directly.
        _ if !policies.external_local => true,
        // "Local" keeps the client's address; only the node's own may be the dialled one.
        _ => from == Source::Node,
    };
    let answers = chosen.iter().map(|it| (it.address, hides_client || it.source == from));
    Expect::Answer(answers.collect::<BTreeMap<_, _>>())
}
