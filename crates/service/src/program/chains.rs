//! The chains that pick a slot: one per view, algorithm and count of slots, made on demand.

use std::ops::RangeInclusive;
use std::time::Duration;

use model::Family;
use nft::{
    Chain, IpFamily, MarkPlace, MarkValue, Match, MatchOp, Name, Packed, Right, Selector,
    Statement, UpdateOp, Verdict, VerdictMap,
};

use super::name;
use super::sets::{SetId, dialled, saddr};
use crate::frontend::{Masquerade, View};
use crate::{Config, Frontend, LocalTraffic};

/// The seed of hashes, the same on every node; 0 would have the kernel draw one.
const HASH_SEED: u32 = 1;

/// Up to this many slots a frontend's count chain is always there. Every new connection that is to no Service asks one set
/// for each; frontends with more are few.
const COMMON: u32 = 8;

/// How a chain picks a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    /// A fresh random number per connection.
    Random,
    /// The slot this client had less than so many seconds ago, else a random one.
    Affine(u32),
    /// One slot after the other. The rule holds the counter, so each frontend has a chain of its own.
    RoundRobin(Frontend),
    /// By a hash of the client's address.
    SourceHash,
    /// By a hash of the client's address and port.
    Maglev,
}

impl Algorithm {
    /// The slot number, as a rule computes it; `None` where packets of this family do not come, or it takes more than a
    /// number.
    fn number(self, family: Family, count: u32) -> Option<Selector> {
        let (modulus, offset, seed) = (count, 0, HASH_SEED);
        match self {
            Self::Random => Some(Selector::NumgenRandom { modulus, offset }),
            Self::Affine(_) => None,
            Self::RoundRobin(frontend) if frontend.family() != family => None,
            Self::RoundRobin(_) => Some(Selector::NumgenInc { modulus, offset }),
            Self::SourceHash => {
                Some(Selector::Jhash { over: vec![saddr(family)], modulus, seed, offset })
            }
            Self::Maglev => {
                let over = vec![saddr(family), Selector::ThSport];
                Some(Selector::Jhash { over, modulus, seed, offset })
            }
        }
    }
}

/// A chain shared by all frontends that have this view, this algorithm and this many slots; round robin names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CountChain {
    pub(crate) view: View,
    pub(crate) algorithm: Algorithm,
    pub(crate) count: u32,
}

fn ip_family(family: Family) -> IpFamily {
    match family {
        Family::V4 => IpFamily::V4,
        Family::V6 => IpFamily::V6,
    }
}

fn affine_slot_name(view: View, seconds: u32, slot: u32) -> Name {
    name(&format!("{}-affine-{seconds}-slot-{slot}", view.word()))
}

/// Marks what must come back through this node, to be masqueraded on its way out.
pub(super) fn set_mark(mark: u32) -> Statement {
    Statement::SetMark { place: MarkPlace::Packet, value: MarkValue::Or(mark) }
}

impl CountChain {
    /// Those that are always there, and found by the set a frontend is in ([`SetId::Common`]) instead of an element's
    /// verdict.
    pub(crate) fn common() -> impl Iterator<Item = Self> {
        let of = |count| Self { view: View::Cluster, algorithm: Algorithm::Random, count };
        (1..=COMMON).map(of)
    }

    /// Whether it is one of those.
    pub(crate) fn is_common(self) -> bool {
        self.view == View::Cluster && self.algorithm == Algorithm::Random && self.count <= COMMON
    }

    /// The chain's name.
    pub(crate) fn name(self) -> Name {
        let view = self.view.word();
        name(&match self.algorithm {
            Algorithm::Random => format!("{view}-random-{}", self.count),
            Algorithm::Affine(seconds) => format!("{view}-affine-{seconds}-{}", self.count),
            Algorithm::RoundRobin(frontend) => {
                format!("{view}-round-robin-{}-{}", frontend.words(), self.count)
            }
            Algorithm::SourceHash => format!("{view}-source-hash-{}", self.count),
            Algorithm::Maglev => format!("{view}-maglev-{}", self.count),
        })
    }

    /// Whether another count chain may need the same chains or sets: those of affinity slots, whatever the timeout.
    pub(crate) fn shares(self) -> bool {
        matches!(self.algorithm, Algorithm::Affine(_))
    }

    /// Where in their order the count chains are that [share](Self::shares).
    pub(crate) fn sharing() -> [RangeInclusive<Self>; View::ALL.len()] {
        let bound = |view, most| Self { view, algorithm: Algorithm::Affine(most), count: most };
        View::ALL.map(|view| bound(view, 0)..=bound(view, u32::MAX))
    }

    /// The sets it needs besides the fixed ones.
    pub(crate) fn sets(self) -> Vec<SetId> {
        let Algorithm::Affine(_) = self.algorithm else { return Vec::new() };
        let of_family = |family| {
            (0..self.count).flat_map(move |slot| {
                [
                    SetId::AffineClients(self.view.at(), self.view.side(), family, slot),
                    SetId::AffineSlot(self.view.at(), self.view.side(), family, slot),
                ]
            })
        };
        Family::BOTH.into_iter().flat_map(of_family).collect()
    }

    /// The chain, and those it goes to.
    pub(crate) fn chains(self, config: &Config) -> Vec<Chain> {
        let mut chain = self.marking(Chain::new(self.name()), config);
        match self.algorithm {
            Algorithm::Random
            | Algorithm::RoundRobin(_)
            | Algorithm::SourceHash
            | Algorithm::Maglev => {
                for family in Family::BOTH {
                    let Some(slot) = self.algorithm.number(family, self.count) else { continue };
                    let key = dialled(self.view.at(), family).into_iter().chain([slot]);
                    let map = SetId::Slot(self.view.at(), self.view.side(), family).name();
                    chain = chain.rule([
                        Statement::any_transport(),
                        Statement::dnat(ip_family(family), key, map),
                    ]);
                }
                vec![chain]
            }
            Algorithm::Affine(seconds) => {
                let slot_name = |slot| affine_slot_name(self.view, seconds, slot);
                for family in Family::BOTH {
                    for slot in 0..self.count {
                        let clients = affine_clients(self.view, family, slot);
                        let known = Statement::in_set(client(self.view, family), clients);
                        chain = chain.rule([known, Statement::goto(slot_name(slot))]);
                    }
                }
                let choices = (0..self.count)
                    .map(|slot| (Packed::new().index(slot), Verdict::Goto(slot_name(slot))));
                chain = chain.rule([Statement::Vmap {
                    key: vec![Selector::NumgenRandom { modulus: self.count, offset: 0 }],
                    map: VerdictMap::Inline(choices.collect()),
                }]);
                let slots = (0..self.count).map(|slot| affine_slot(self.view, seconds, slot));
                slots.chain([chain]).collect()
            }
        }
    }

    fn marking(self, chain: Chain, config: &Config) -> Chain {
        match self.view.masquerade() {
            Masquerade::Foreign if config.masquerade_all => chain.rule([set_mark(config.mark)]),
            // A pod's own node sees the answer pass; anybody else's answer must be sent back here.
            Masquerade::Foreign => sources(config, MatchOp::Ne)
                .into_iter()
                .fold(chain, |chain, foreign| chain.rule([foreign, set_mark(config.mark)])),
            Masquerade::Always => chain.rule([set_mark(config.mark)]),
            Masquerade::Decided => chain,
        }
    }
}

/// Matches that together say whether a packet is a local pod's own (`Eq`) or not (`Ne`): one per family, or one for both.
pub(super) fn sources(config: &Config, op: MatchOp) -> Vec<Statement> {
    let link =
        |right| vec![Statement::Match(Match { left: vec![Selector::MetaIifname], op, right })];
    let address = |set: fn(Family) -> SetId| {
        let one = |family| {
            let right = Right::Set(set(family).name());
            Statement::Match(Match { left: vec![saddr(family)], op, right })
        };
        Family::BOTH.map(one).into()
    };
    match &config.local_traffic {
        LocalTraffic::ClusterCidrs => address(SetId::PodCidrs),
        LocalTraffic::NodeCidrs => address(SetId::NodePodCidrs),
        LocalTraffic::Bridge(name) => link(Right::Value(Packed::new().ifname(name))),
        LocalTraffic::InterfacePrefix(prefix) => link(Right::NamePrefix(prefix.as_str().into())),
    }
}

fn affine_clients(view: View, family: Family, slot: u32) -> Name {
    SetId::AffineClients(view.at(), view.side(), family, slot).name()
}

/// Who a client of an affine frontend is.
fn client(view: View, family: Family) -> Vec<Selector> {
    [saddr(family)].into_iter().chain(dialled(view.at(), family)).collect()
}

/// Gives slot `slot` to a client: remembers it, then translates.
fn affine_slot(view: View, seconds: u32, slot: u32) -> Chain {
    let mut chain = Chain::new(affine_slot_name(view, seconds, slot));
    for family in Family::BOTH {
        chain = chain
            .rule([Statement::Update {
                op: UpdateOp::Update,
                set: affine_clients(view, family, slot),
                key: client(view, family),
                timeout: Some(Duration::from_secs(seconds.into())),
            }])
            .rule([
                Statement::any_transport(),
                Statement::dnat(
                    ip_family(family),
                    dialled(view.at(), family),
                    SetId::AffineSlot(view.at(), view.side(), family, slot).name(),
                ),
            ]);
    }
    chain
}
