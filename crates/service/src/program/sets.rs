//! The sets and maps of the program.

use model::Family;
use nft::{Field, Selector, SetData, SetFlags, SetSpec};

use super::name;
use crate::View;

/// How many clients one affinity set remembers; the oldest expire first, and a client that finds no room is served
/// without affinity.
const AFFINE_CLIENTS: u32 = 65_535;

/// One set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// Addresses of pods: they reach cluster addresses without masquerade.
    PodCidrs(Family),
    /// (endpoint, endpoint) for pods of this node that reach themselves.
    Hairpin(Family),
    /// Frontend → chain.
    Dispatch(View, Family),
    /// Frontend and slot number → endpoint.
    Slot(View, Family),
    /// Frontends that refuse connections.
    NoEndpoint(View, Family),
    /// Clients that were given slot n of an affine frontend.
    AffineClients(View, Family, u32),
    /// Affine frontend → endpoint of slot n.
    AffineSlot(View, Family, u32),
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

/// What identifies a frontend of a view, as rules read it from a packet.
pub(crate) fn dialled(view: View, family: Family) -> Vec<Selector> {
    let transport = [Selector::MetaL4proto, Selector::ThDport];
    match view {
        View::Cluster => [daddr(family)].into_iter().chain(transport).collect(),
        View::Node => transport.into(),
    }
}

fn dialled_type(view: View, family: Family) -> Vec<Field> {
    dialled(view, family).iter().map(Selector::field).collect()
}

impl SetId {
    /// The sets that are always there.
    pub(crate) fn fixed() -> Vec<Self> {
        let mut sets = Vec::new();
        for family in Family::BOTH {
            sets.extend([Self::PodCidrs(family), Self::Hairpin(family)]);
            for view in View::ALL {
                sets.extend([
                    Self::Dispatch(view, family),
                    Self::Slot(view, family),
                    Self::NoEndpoint(view, family),
                ]);
            }
        }
        sets
    }

    /// The name in the table.
    pub(crate) fn name(self) -> nft::Name {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        let prefix = |view| if view == View::Node { "node-" } else { "" };
        name(&match self {
            Self::PodCidrs(family) => format!("pod-cidrs{}", digit(family)),
            Self::Hairpin(family) => format!("hairpin{}", digit(family)),
            Self::Dispatch(View::Cluster, family) => format!("frontend{}", digit(family)),
            Self::Dispatch(View::Node, family) => format!("nodeport{}", digit(family)),
            Self::Slot(view, family) => format!("{}slot{}", prefix(view), digit(family)),
            Self::NoEndpoint(View::Cluster, family) => format!("no-endpoint{}", digit(family)),
            Self::NoEndpoint(View::Node, family) => format!("no-endpoint-node{}", digit(family)),
            Self::AffineClients(view, family, slot) => {
                format!("{}affine{}-{slot}", prefix(view), digit(family))
            }
            Self::AffineSlot(view, family, slot) => {
                format!("{}affine{}-slot-{slot}", prefix(view), digit(family))
            }
        })
    }

    /// The declaration.
    pub(crate) fn spec(self) -> SetSpec {
        let name = self.name();
        let endpoint = |family| SetData::value([daddr(family), Selector::ThDport]);
        match self {
            Self::PodCidrs(family) => SetSpec::new(name, [saddr(family).field()])
                .with_flags(SetFlags { interval: true, ..SetFlags::default() }),
            Self::Hairpin(family) => {
                SetSpec::new(name, [saddr(family).field(), daddr(family).field()])
            }
            Self::Dispatch(view, family) => {
                SetSpec::new(name, dialled_type(view, family)).with_data(SetData::Verdict)
            }
            Self::Slot(view, family) => {
                // `numgen` of any modulus has the same type; nft prints the one of the declaration.
                let slot = Selector::NumgenRandom { modulus: 2, offset: 0 };
                let key = dialled(view, family).into_iter().chain([slot]);
                SetSpec::new(name, key).with_data(endpoint(family))
            }
            Self::NoEndpoint(view, family) => SetSpec::new(name, dialled_type(view, family)),
            Self::AffineClients(view, family, _) => {
                let key = [saddr(family)].into_iter().chain(dialled(view, family));
                SetSpec::new(name, key)
                    .with_flags(SetFlags { dynamic: true, timeout: true, ..SetFlags::default() })
                    .with_size(AFFINE_CLIENTS)
            }
            Self::AffineSlot(view, family, _) => {
                SetSpec::new(name, dialled(view, family)).with_data(endpoint(family))
            }
        }
    }
}
