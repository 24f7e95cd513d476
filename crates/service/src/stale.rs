//! Which tracked connections no longer lead where they should.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::{Family, Protocol};
use nft::conntrack::Flow;

use crate::{Frontend, Side};

#[cfg(test)]
mod tests;

/// Connections to delete from connection tracking once the transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StaleFlow {
    /// What their clients dialled.
    pub frontend: Frontend,
    /// The endpoint they lead to; `None` for all connections of the frontend.
    pub endpoint: Option<SocketAddr>,
    /// Whose: with a `Local` policy an endpoint may be gone for one side and go on for the other. `None` for everybody's.
    pub clients: Option<Side>,
}

impl StaleFlow {
    /// Whether it means the connections of a client with this address.
    #[must_use]
    pub fn concerns(&self, client: IpAddr, insiders: &Insiders) -> bool {
        self.clients.is_none_or(|side| insiders.side_of(client) == side)
    }
}

impl Frontend {
    /// What a tracked connection's client dialled: the frontend by address, and the one by port, which it is only where the
    /// address is this node's. `None` where no Service can have the protocol.
    #[must_use]
    pub fn dialled_by(flow: &Flow) -> Option<[Self; 2]> {
        let protocol = Protocol::from_number(flow.original.protocol)?;
        let (address, port) = (flow.original.destination, flow.original.destination_port);
        let family = Family::of(address);
        Some([Self::Address { address, protocol, port }, Self::NodePort { family, protocol, port }])
    }
}

/// Stale connections by their frontend, to look at every tracked connection once.
#[derive(Debug)]
pub struct StaleFlows<'a> {
    by_frontend: HashMap<Frontend, Vec<&'a StaleFlow>>,
    insiders: &'a Insiders,
}

impl<'a> StaleFlows<'a> {
    /// Of these, `insiders` being who stands inside.
    #[must_use]
    pub fn new(stale: &'a [StaleFlow], insiders: &'a Insiders) -> Self {
        let mut by_frontend: HashMap<Frontend, Vec<&StaleFlow>> = HashMap::new();
        for one in stale {
            by_frontend.entry(one.frontend).or_default().push(one);
        }
        Self { by_frontend, insiders }
    }

    /// Whether it matters which addresses are this node's.
    #[must_use]
    pub fn has_node_ports(&self) -> bool {
        self.by_frontend.keys().any(|frontend| matches!(frontend, Frontend::NodePort { .. }))
    }

    /// The frontend all of them came through, if it is one.
    #[must_use]
    pub fn only(&self) -> Option<&Frontend> {
        self.by_frontend.keys().next().filter(|_| self.by_frontend.len() == 1)
    }

    /// Whether a tracked connection is one of them. A port alone is everybody's, pods talk to that port of other machines
    /// too: `is_local` says whether an address is this node's.
    pub fn covers(&self, flow: &Flow, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let Some([by_address, by_port]) = Frontend::dialled_by(flow) else { return false };
        let at_address = self.by_frontend.get(&by_address);
        let at_port = self.by_frontend.get(&by_port);
        let at_port = at_port.filter(|_| is_local(flow.original.destination));
        at_address.into_iter().chain(at_port).flatten().any(|one| {
            one.endpoint.is_none_or(|endpoint| endpoint == flow.answered_by())
                && one.concerns(flow.original.source, self.insiders)
        })
    }
}

/// Who stands inside, as far as an address can tell: where pods are recognised by links, their CIDRs have to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Insiders {
    /// First and last addresses of pods.
    pub(crate) pods: Vec<(IpAddr, IpAddr)>,
    /// This node's internal addresses.
    pub(crate) node: Vec<IpAddr>,
}

impl Insiders {
    /// On which side of a frontend a client is.
    #[must_use]
    pub fn side_of(&self, client: IpAddr) -> Side {
        let is_pod = self.pods.iter().any(|(first, last)| (first..=last).contains(&&client));
        let inside = is_pod || client.is_loopback() || self.node.contains(&client);
        if inside { Side::Inside } else { Side::Outside }
    }
}

/// The endpoints a frontend leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends<'a> {
    /// Pods and this node, or everybody where a frontend has one side.
    pub inside: &'a [SocketAddr],
    /// Everybody else; `None` where a frontend has one side.
    pub outside: Option<&'a [SocketAddr]>,
    /// Those that get no new connections and keep the ones they have: of weight zero, terminating while they serve, or
    /// further away than others.
    pub idle: &'a [SocketAddr],
}

impl<'a> Backends<'a> {
    /// What clients of a side are given.
    #[must_use]
    pub fn of(&self, side: Side) -> &'a [SocketAddr] {
        match side {
            Side::Inside => self.inside,
            Side::Outside => self.outside.unwrap_or(self.inside),
        }
    }

    /// Whether a connection of somebody on this side to `endpoint` may go on.
    #[must_use]
    pub fn keeps(&self, side: Side, endpoint: &SocketAddr) -> bool {
        self.of(side).contains(endpoint) || self.idle.contains(endpoint)
    }

    /// Whether no side leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Side::ALL.iter().all(|side| self.of(*side).is_empty())
    }

    /// Every endpoint a connection of this side may lead to, once, in order.
    fn all_of(&self, side: Side) -> BTreeSet<&'a SocketAddr> {
        self.of(side).iter().chain(self.idle).collect()
    }
}

/// Frontends with what they lead to, before and after.
pub(crate) type Slots<'a> = BTreeMap<Frontend, Backends<'a>>;

/// What became stale between two states. UDP and SCTP only: a tracked entry is renewed by every packet, so a client that
/// keeps sending would stay with a dead endpoint, or with the frontend's own address when the first packet came before the
/// first endpoint did.
pub(crate) fn between(before: &Slots<'_>, after: &Slots<'_>) -> Vec<StaleFlow> {
    let sticky = |it: &(&Frontend, &Backends<'_>)| it.0.is_sticky_in_conntrack();
    let mut stale = Vec::new();
    for (frontend, old) in before.iter().filter(sticky) {
        let Some(new) = after.get(frontend) else {
            stale.push(StaleFlow { frontend: *frontend, endpoint: None, clients: None });
            continue;
        };
        let gone = Side::ALL.map(|side| {
            let (old, new) = (old.all_of(side), new.all_of(side));
            old.difference(&new).copied().copied().collect::<BTreeSet<SocketAddr>>()
        });
        for endpoint in gone[0].union(&gone[1]) {
            let clients = whose(gone.each_ref().map(|gone| gone.contains(endpoint)));
            stale.push(StaleFlow { frontend: *frontend, endpoint: Some(*endpoint), clients });
        }
    }
    for (frontend, new) in after.iter().filter(sticky) {
        let first = Side::ALL.map(|side| {
            let had_none = before.get(frontend).is_none_or(|old| old.of(side).is_empty());
            had_none && !new.of(side).is_empty()
        });
        if first.contains(&true) {
            stale.push(StaleFlow { frontend: *frontend, endpoint: None, clients: whose(first) });
        }
    }
    stale
}

/// One side or both; at least one of them is.
fn whose(sides: [bool; 2]) -> Option<Side> {
    match sides {
        [true, true] => None,
        [true, false] => Some(Side::Inside),
        [false, _] => Some(Side::Outside),
    }
}
