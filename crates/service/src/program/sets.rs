//! The sets and maps of the program.

use model::Family;
use nft::{Field, Selector, SetData, SetFlags, SetSpec};

use super::chains::CountChain;
use super::name;
use crate::frontend::{At, Side};

/// How many clients one affinity set remembers; the oldest expire first, and a client that finds no room is served
/// without affinity.
const AFFINE_CLIENTS: u32 = 65_535;

/// Sets of ranges.
const RANGES: SetFlags =
    SetFlags { interval: true, dynamic: false, timeout: false, constant: false };

/// One set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// Addresses of pods: they reach cluster addresses without masquerade.
    PodCidrs(Family),
    /// Addresses of this node's pods.
    NodePodCidrs(Family),
    /// Cluster addresses, given to a Service or not.
    ServiceCidrs(Family),
    /// This node's addresses that node ports answer on, where those are chosen.
    NodeAddresses(Family),
    /// Frontends with `loadBalancerSourceRanges`.
    Filtered(Family),
    /// Frontend and source, for the sources those ranges admit.
    Admitted(Family),
    /// (endpoint, endpoint) for pods of this node that reach themselves.
    Hairpin(Family),
    /// Frontend → chain.
    Dispatch(At, Family),
    /// Cluster addresses with this many slots, one picked at random: nearly all there are. Which chain serves them is said
    /// by the rule that asks, not by a verdict in an element: for one of those the kernel walks every verdict map of the
    /// table at every commit.
    Common(Family, u32),
    /// One side of a frontend that has two → chain.
    Inner(At, Side, Family),
    /// Frontend and slot number → endpoint.
    Slot(At, Side, Family),
    /// Frontends without any endpoint: connections are refused.
    NoEndpoint(At, Family),
    /// Frontends that have endpoints, but this node has none of them for outsiders: connections are dropped.
    NoLocalEndpoint(At, Family),
    /// Clients that were given slot n of an affine frontend.
    AffineClients(At, Side, Family, u32),
    /// Affine frontend → endpoint of slot n.
    AffineSlot(At, Side, Family, u32),
}

pub(crate) fn saddr(family: Family) -> Selector {
    match family {
        Family::V4 => Selector::IpSaddr,
        Family::V6 => Selector::Ip6Saddr,
    }
}

pub(crate) fn daddr(family: Family) -> Selector {
    match family {
        Family::V4 => Selector::IpDaddr,
        Family::V6 => Selector::Ip6Daddr,
    }
}

/// What identifies a frontend, as rules read it from a packet.
pub(crate) fn dialled(at: At, family: Family) -> Vec<Selector> {
    let transport = [Selector::MetaL4proto, Selector::ThDport];
    match at {
        At::Address => [daddr(family)].into_iter().chain(transport).collect(),
        At::Port => transport.into(),
    }
}

fn dialled_type(at: At, family: Family) -> Vec<Field> {
    dialled(at, family).iter().map(Selector::field).collect()
}

impl SetId {
    /// The sets that are always there.
    pub(crate) fn fixed() -> Vec<Self> {
        let mut sets = Vec::new();
        for family in Family::BOTH {
            sets.extend([
                Self::PodCidrs(family),
                Self::NodePodCidrs(family),
                Self::ServiceCidrs(family),
                Self::NodeAddresses(family),
                Self::Filtered(family),
                Self::Admitted(family),
                Self::Hairpin(family),
            ]);
            for at in At::ALL {
                sets.extend([
                    Self::Dispatch(at, family),
                    Self::NoEndpoint(at, family),
                    Self::NoLocalEndpoint(at, family),
                ]);
                for side in Side::ALL {
                    sets.extend([Self::Inner(at, side, family), Self::Slot(at, side, family)]);
                }
            }
            sets.extend(CountChain::common().map(|chain| Self::Common(family, chain.count)));
        }
        sets
    }

    /// The name in the table.
    pub(crate) fn name(self) -> nft::Name {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        let node = |at| if at == At::Port { "node-" } else { "" };
        let prefix = |at, side| match (at, side) {
            (At::Address, Side::Inside) => "",
            (At::Address, Side::Outside) => "outside-",
            (At::Port, Side::Inside) => "node-",
            (At::Port, Side::Outside) => "node-outside-",
        };
        name(&match self {
            Self::PodCidrs(family) => format!("pod-cidrs{}", digit(family)),
            Self::NodePodCidrs(family) => format!("node-pod-cidrs{}", digit(family)),
            Self::ServiceCidrs(family) => format!("service-cidrs{}", digit(family)),
            Self::NodeAddresses(family) => format!("node-addresses{}", digit(family)),
            Self::Filtered(family) => format!("filtered{}", digit(family)),
            Self::Admitted(family) => format!("admitted{}", digit(family)),
            Self::Hairpin(family) => format!("hairpin{}", digit(family)),
            Self::Dispatch(At::Address, family) => format!("frontend{}", digit(family)),
            Self::Dispatch(At::Port, family) => format!("nodeport{}", digit(family)),
            Self::Common(family, count) => format!("cluster{}-{count}", digit(family)),
            Self::Inner(at, Side::Inside, family) => format!("{}inside{}", node(at), digit(family)),
            Self::Inner(at, Side::Outside, family) => {
                format!("{}outside{}", node(at), digit(family))
            }
            Self::Slot(at, side, family) => format!("{}slot{}", prefix(at, side), digit(family)),
            Self::NoEndpoint(At::Address, family) => format!("no-endpoint{}", digit(family)),
            Self::NoEndpoint(At::Port, family) => format!("no-endpoint-node{}", digit(family)),
            Self::NoLocalEndpoint(At::Address, family) => {
                format!("no-local-endpoint{}", digit(family))
            }
            Self::NoLocalEndpoint(At::Port, family) => {
                format!("no-local-endpoint-node{}", digit(family))
            }
            Self::AffineClients(at, side, family, slot) => {
                format!("{}affine{}-{slot}", prefix(at, side), digit(family))
            }
            Self::AffineSlot(at, side, family, slot) => {
                format!("{}affine{}-slot-{slot}", prefix(at, side), digit(family))
            }
        })
    }

    /// The declaration.
    pub(crate) fn spec(self) -> SetSpec {
        let name = self.name();
        let endpoint = |family| SetData::value([daddr(family), Selector::ThDport]);
        match self {
            Self::PodCidrs(family)
            | Self::NodePodCidrs(family)
            | Self::ServiceCidrs(family)
            | Self::NodeAddresses(family) => {
                SetSpec::new(name, [saddr(family).field()]).with_flags(RANGES)
            }
            Self::Filtered(family) | Self::Common(family, _) => {
                SetSpec::new(name, dialled_type(At::Address, family))
            }
            // The kernel copies the whole of such a set in every transaction that touches it: few Services are in it.
            Self::Admitted(family) => {
                let key = dialled_type(At::Address, family).into_iter();
                SetSpec::new(name, key.chain([saddr(family).field()])).with_flags(RANGES)
            }
            Self::Hairpin(family) => {
                SetSpec::new(name, [saddr(family).field(), daddr(family).field()])
            }
            Self::Dispatch(at, family) | Self::Inner(at, _, family) => {
                SetSpec::new(name, dialled_type(at, family)).with_data(SetData::Verdict)
            }
            Self::Slot(at, _, family) => {
                // `numgen` of any modulus has the same type; nft prints the one of the declaration.
                let slot = Selector::NumgenRandom { modulus: 2, offset: 0 };
                let key = dialled(at, family).into_iter().chain([slot]);
                SetSpec::new(name, key).with_data(endpoint(family))
            }
            Self::NoEndpoint(at, family) | Self::NoLocalEndpoint(at, family) => {
                SetSpec::new(name, dialled_type(at, family))
            }
            Self::AffineClients(at, _, family, _) => {
                let key = [saddr(family)].into_iter().chain(dialled(at, family));
                SetSpec::new(name, key)
                    .with_flags(SetFlags { dynamic: true, timeout: true, ..SetFlags::default() })
                    .with_size(AFFINE_CLIENTS)
            }
            Self::AffineSlot(at, _, family, _) => {
                SetSpec::new(name, dialled(at, family)).with_data(endpoint(family))
            }
        }
    }
}
