//! Ways of choosing and weights, as slots: which endpoint has which, and how often.
//!
//! Pure arithmetic over endpoints; it knows no Service, no view and no chain.

pub(crate) mod least;
mod maglev;
mod weights;

use std::net::SocketAddr;
use std::num::NonZeroU32;

use model::Balance;

use crate::assign;
use weights::{MAX_SLOTS, slots_each, turns};

/// Endpoints of one list with their weights, sorted by address.
pub(crate) type Weighted = [(SocketAddr, u16)];

/// Slots of an affine frontend stand for a set and a chain each, so weights make no more of them than this.
const MAX_AFFINE_SLOTS: u32 = 64;

/// How a frontend chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What the client had less than so many seconds ago, else at random.
    Affine(NonZeroU32),
    /// As the annotation says.
    By(Balance),
}

impl Choice {
    /// The slots of `endpoints`, given those there were. Tables of consistent hashing and turns by weight follow from the
    /// endpoints alone; otherwise whoever stays keeps the slot.
    pub(crate) fn slots(self, before: &[SocketAddr], endpoints: &Weighted) -> Vec<SocketAddr> {
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let each = |limit: u32| {
            let weights: Vec<u16> = endpoints.iter().map(|(_, weight)| *weight).collect();
            slots_each(&weights, limit.max(count))
        };
        let by = match self {
            Self::Affine(_) => return assign(before, &dealt(endpoints, &each(MAX_AFFINE_SLOTS))),
            Self::By(balance) => balance,
        };
        match by {
            Balance::Random | Balance::RoundRobin if endpoints.iter().all(|it| it.1 == 1) => {
                let wanted: Vec<SocketAddr> = endpoints.iter().map(|it| it.0).collect();
                assign(before, &wanted)
            }
            Balance::Random => assign(before, &dealt(endpoints, &each(MAX_SLOTS))),
            Balance::RoundRobin => {
                let each = each(MAX_SLOTS);
                let turns = dealt(endpoints, &each);
                // Among equals any order will do; otherwise the order is what spreads the heavier ones out.
                if each.iter().all(|slots| *slots <= 1) { assign(before, &turns) } else { turns }
            }
            Balance::SourceHash | Balance::Maglev => maglev::table(endpoints),
            Balance::LeastConnections => {
                assign(before, &dealt(endpoints, &least::carry(before, endpoints)))
            }
        }
    }
}

/// The endpoints in turn, each as often as it has slots.
pub(crate) fn dealt(endpoints: &Weighted, each: &[u32]) -> Vec<SocketAddr> {
    turns(each).into_iter().map(|at| endpoints[at].0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_needs_no_choice() {
        let one = [(([10, 244, 0, 1], 80).into(), 3), (([10, 244, 0, 2], 80).into(), 0)];
        for balance in Balance::ALL {
            assert_eq!(Choice::By(balance).slots(&[], &one), [one[0].0], "{balance}");
        }
    }

    #[test]
    fn equals_keep_their_turn_and_the_heavy_are_spread_out() {
        let at = |last: u8| SocketAddr::from(([10, 244, 0, last], 80));
        let turns = Choice::By(Balance::RoundRobin);
        assert_eq!(turns.slots(&[at(3), at(1)], &[(at(1), 1), (at(3), 1)]), [at(3), at(1)]);
        let heavy = [(at(1), 3), (at(3), 1)];
        assert_eq!(turns.slots(&[at(3), at(1)], &heavy), [at(1), at(1), at(3), at(1)]);
    }

    #[test]
    fn weights_of_an_affine_frontend_stay_few() {
        let at = |last: u8| SocketAddr::from(([10, 244, 0, last], 80));
        let affine = Choice::Affine(NonZeroU32::MIN);
        assert_eq!(affine.slots(&[], &[(at(1), 1000), (at(2), 999)]).len(), 2);
        assert_eq!(affine.slots(&[], &[(at(1), 997), (at(2), 3)]).len(), 64);
    }
}
