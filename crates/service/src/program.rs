//! The constant program: which sets and chains there are. It depends on the counts of endpoints and the affinity timeouts
//! in use, never on how many Services there are. `dataplane.md` of the design holds the reasons.

mod chains;
mod fixed;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use nft::{Chain, Name, Table};

use crate::Config;

pub(crate) use chains::{Algorithm, CountChain};
pub(crate) use fixed::two_sides;
pub(crate) use sets::SetId;

/// The one table this node owns, in family `inet`.
pub const TABLE: &str = "fairway";

/// A name of the program's own making.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("invariant: the program's names are letters, digits and dashes")
}

/// Every chain, given the count chains in use.
pub(crate) fn chains(live: &BTreeSet<CountChain>, config: &Config) -> BTreeMap<Name, Chain> {
    let fixed = fixed::fixed(config);
    let on_demand = live.iter().flat_map(|chain| chain.chains(config));
    fixed.into_iter().chain(on_demand).map(|chain| (chain.name.clone(), chain)).collect()
}

/// The chains that exist because of the count chains in use.
pub(crate) fn chains_on_demand(
    live: &BTreeSet<CountChain>,
    config: &Config,
) -> BTreeMap<Name, Chain> {
    live.iter()
        .flat_map(|chain| chain.chains(config))
        .map(|chain| (chain.name.clone(), chain))
        .collect()
}

/// Every set, given the count chains in use.
pub(crate) fn sets(live: &BTreeSet<CountChain>) -> BTreeSet<SetId> {
    SetId::fixed().into_iter().chain(live.iter().flat_map(|chain| chain.sets())).collect()
}

/// The table with its chains and no sets: elements follow.
pub(crate) fn skeleton(live: &BTreeSet<CountChain>, config: &Config) -> Table {
    let mut table = Table::new(nft::Family::Inet, name(TABLE));
    table.chains = chains(live, config);
    table
}
