//! Which tracked connections no longer lead where they should.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::Frontend;

/// Connections to delete from connection tracking once the transaction is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StaleFlow {
    /// What their clients dialled.
    pub frontend: Frontend,
    /// The endpoint they lead to; `None` for all connections of the frontend.
    pub endpoint: Option<SocketAddr>,
}

/// The endpoints a frontend leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backends<'a> {
    /// Pods and this node, or everybody where a frontend has one side.
    pub inside: &'a [SocketAddr],
    /// Everybody else; empty where a frontend has one side.
    pub outside: &'a [SocketAddr],
    /// Those that get no new connections because of their weight, and keep the ones they have.
    pub idle: &'a [SocketAddr],
}

impl Backends<'_> {
    /// Whether a connection to `endpoint` may go on.
    #[must_use]
    pub fn contains(&self, endpoint: &SocketAddr) -> bool {
        [self.inside, self.outside, self.idle].iter().any(|list| list.contains(endpoint))
    }

    /// Whether no side leads anywhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.outside.is_empty()
    }

    /// Every endpoint a connection may lead to, once, in order.
    pub fn iter(&self) -> impl Iterator<Item = &SocketAddr> {
        let all = self.inside.iter().chain(self.outside).chain(self.idle);
        all.collect::<BTreeSet<_>>().into_iter()
    }
}

/// Frontends with what they lead to, before and after.
pub(crate) type Slots<'a> = BTreeMap<Frontend, Backends<'a>>;

/// What became stale between two states. UDP and SCTP only: a tracked entry is renewed by every packet, so a client that
/// keeps sending would stay with a dead endpoint, or with the frontend's own address when the first packet came before the
/// first endpoint did.
pub(crate) fn between(before: &Slots<'_>, after: &Slots<'_>) -> Vec<StaleFlow> {
    let mut stale = Vec::new();
    for (frontend, old) in before.iter().filter(|(frontend, _)| frontend.is_sticky_in_conntrack()) {
        match after.get(frontend) {
            Some(new) => {
                let still: BTreeSet<_> = new.iter().collect();
                stale.extend(
                    old.iter().filter(|endpoint| !still.contains(endpoint)).map(|endpoint| {
                        StaleFlow { frontend: *frontend, endpoint: Some(*endpoint) }
                    }),
                );
            }
            None => stale.push(StaleFlow { frontend: *frontend, endpoint: None }),
        }
    }
    for (frontend, new) in after.iter().filter(|(frontend, _)| frontend.is_sticky_in_conntrack()) {
        let had_none = before.get(frontend).is_none_or(|old| old.is_empty());
        if had_none && !new.is_empty() {
            stale.push(StaleFlow { frontend: *frontend, endpoint: None });
        }
    }
    stale
}
