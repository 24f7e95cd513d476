//! What a listed table does with connections: which frontends it serves, with which endpoints, for whom.
//!
//! This reads the rules as the kernel runs them, from the prerouting hook to the translation; it relies neither on names
//! of chains and maps nor on what this program would have written. So it tells the truth about a table of another
//! version of Fairway, and about one that somebody changed.

mod key;
mod walk;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nft::{HookKind, HookPoint, Match, MatchOp, Name, Packed, Right, Statement, Table, VerdictMap};

use crate::Frontend;
use key::Shape;

/// What a connection to a frontend meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Whether the nat hooks do anything with it; lists may be empty all the same, in a table not of our making.
    pub is_dispatched: bool,
    /// Lists of endpoints, in the order the rules try them: one, unless clients are told apart.
    pub lists: Vec<List>,
    /// What the filter hooks do with connections that were not translated.
    pub unserved: Option<Unserved>,
}

/// What happens without an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unserved {
    /// The client is told at once.
    Refused,
    /// The client hears nothing.
    Dropped,
}

/// How a list's slots are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Choice {
    /// A fresh random number per connection.
    Random,
    /// One after the other.
    RoundRobin,
    /// By a hash of the client's address.
    SourceHash,
    /// By a hash of the client's address and port.
    FlowHash,
    /// There is nothing to choose.
    Only,
}

/// When packets of a list are masqueraded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Masquerade {
    /// Clients keep their address.
    #[default]
    Never,
    /// Every client's address becomes this node's.
    Always,
    /// That of clients for which one of these holds.
    When(Vec<Condition>),
}

/// A condition on packets the frontend says nothing about, in `nft`'s words: `ip saddr @pod-cidrs4`.
pub type Condition = String;

/// The endpoints some clients of a frontend are led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// For which clients: all of these hold. Empty for everybody an earlier list did not take.
    pub clients: Vec<Condition>,
    /// The chain that translates.
    pub chain: Name,
    /// How a slot is chosen.
    pub choice: Choice,
    /// For how long a client keeps its slot, in seconds; `None` without session affinity.
    pub affinity_seconds: Option<u64>,
    /// Whose address is replaced.
    pub masquerade: Masquerade,
    /// The slots in order; an endpoint that has more than one is chosen more often.
    pub slots: Vec<Slot>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where connections go.
    pub endpoint: SocketAddr,
    /// The element that says so: a map of the table and the key in it.
    pub element: (Name, Packed),
    /// The set that holds the clients of this slot, with session affinity.
    pub clients: Option<Name>,
}

/// Everything the table serves or refuses.
#[must_use]
pub fn read(table: &Table) -> BTreeMap<Frontend, Reached> {
    let mut all: BTreeMap<Frontend, Reached> = BTreeMap::new();
    for_each_chain(table, HookKind::Nat, |rule| {
        // Which chain serves a frontend is said by its element, or by the rule that finds it in a set.
        let of_rule = rule.iter().find_map(|statement| match statement {
            Statement::Verdict(verdict) => verdict.chain(),
            _ => None,
        });
        for statement in rule {
            let (key, name) = match statement {
                Statement::Vmap { key, map: VerdictMap::Named(map) } => (key, map),
                Statement::Match(Match { left, op: MatchOp::Eq, right: Right::Set(set) })
                    if of_rule.is_some() =>
                {
                    (left, set)
                }
                _ => continue,
            };
            let Some(shape) = Shape::of(key, rule, name) else { continue };
            let Some(set) = table.sets.get(name) else { continue };
            for element in set.elements.iter().filter(|element| element.end().is_none()) {
                let Some(frontend) = shape.frontend(&element.key) else { continue };
                let chain = match &element.data {
                    nft::Data::Verdict(verdict) => verdict.chain(),
                    _ => of_rule,
                };
                let reached = all.entry(frontend).or_default();
                if !reached.is_dispatched {
                    reached.is_dispatched = true;
                    reached.lists = walk::lists(table, &frontend, chain);
                }
            }
        }
    });
    for_each_chain(table, HookKind::Filter, |rule| {
        let Some(fate) = fate(table, rule) else { return };
        for statement in rule {
            let Statement::Match(Match { left, op: MatchOp::Eq, right: Right::Set(name) }) =
                statement
            else {
                continue;
            };
            let Some(shape) = Shape::of(left, rule, name) else { continue };
            let Some(set) = table.sets.get(name) else { continue };
            for element in set.elements.iter().filter(|element| element.end().is_none()) {
                if let Some(frontend) = shape.frontend(&element.key) {
                    all.entry(frontend).or_default().unserved.get_or_insert(fate);
                }
            }
        }
    });
    all
}

/// Visits the rules of every chain a packet to this node may come through before it is routed (`Nat`), or on its way in,
/// through and out (`Filter`), each once.
fn for_each_chain(table: &Table, kind: HookKind, mut visit: impl FnMut(&[Statement])) {
    let wanted = |hook: &nft::Hook| {
        hook.kind == kind && (kind == HookKind::Filter || hook.point == HookPoint::Prerouting)
    };
    let hooked = table.chains.values().filter(|chain| chain.hook.as_ref().is_some_and(wanted));
    let mut open: Vec<&Name> = hooked.map(|chain| &chain.name).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(name) = open.pop() {
        let Some(chain) = table.chains.get(name).filter(|_| seen.insert(name)) else { continue };
        for rule in &chain.rules {
            visit(&rule.statements);
            for statement in &rule.statements {
                if let Statement::Verdict(verdict) = statement {
                    open.extend(verdict.chain());
                }
            }
        }
    }
}

/// What a rule of a filter chain does in the end, chains it goes to included.
fn fate(table: &Table, rule: &[Statement]) -> Option<Unserved> {
    let verdict = rule.iter().find_map(|statement| match statement {
        Statement::Reject(_) => Some(Err(Unserved::Refused)),
        Statement::Verdict(nft::Verdict::Drop) => Some(Err(Unserved::Dropped)),
        Statement::Verdict(verdict) => Some(Ok(verdict.chain()?)),
        _ => None,
    })?;
    match verdict {
        Err(fate) => Some(fate),
        // One step: a chain that refuses has the refusal in it.
        Ok(chain) => table.chains.get(chain)?.rules.iter().find_map(|rule| {
            rule.statements.iter().find_map(|statement| match statement {
                Statement::Reject(_) => Some(Unserved::Refused),
                Statement::Verdict(nft::Verdict::Drop) => Some(Unserved::Dropped),
                _ => None,
            })
        }),
    }
}

#[cfg(test)]
mod tests;
