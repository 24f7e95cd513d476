//! One table of three capabilities: Services, NAT of pods that leave the cluster, and network policy. Pure.

use nft::{Table, Transaction};

/// Adds another capability's chains and sets to the Services' table. A set both have is the Services' own: it is kept up to date
/// element by element.
pub(crate) fn tables(mut services: Table, other: Option<&Table>) -> Table {
    let Some(other) = other else { return services };
    for (name, chain) in &other.chains {
        services.chains.entry(name.clone()).or_insert_with(|| chain.clone());
    }
    for (name, set) in &other.sets {
        services.sets.entry(name.clone()).or_insert_with(|| set.clone());
    }
    services
}

/// Leaves a part as it is listed: it is not known yet what it should be.
pub(crate) fn keep(desired: &mut Table, listed: &Table, part: impl Fn(&nft::Name) -> bool) {
    let chains = listed.chains.iter().filter(|(name, _)| part(name));
    desired.chains.extend(chains.map(|(name, chain)| (name.clone(), chain.clone())));
    let sets = listed.sets.iter().filter(|(name, _)| part(name));
    desired.sets.extend(sets.map(|(name, set)| (name.clone(), set.clone())));
}

/// Appends what changes the fabric's part from `before` to `after`.
pub(super) fn append(transaction: &mut Transaction, after: Option<&Table>, before: Option<&Table>) {
    if after == before {
        return;
    }
    let own = |table: &Table| {
        let mut table = table.clone();
        // The Services' part keeps these.
        table.sets.retain(|name, _| !name.as_str().starts_with("pod-cidrs"));
        table
    };
    let empty = Table::new(transaction.family, transaction.table.clone());
    let after = after.map_or_else(|| empty.clone(), own);
    let before = before.map_or(empty, own);
    transaction.ops.extend(nft::diff(&after, Some(&before)).ops);
}
