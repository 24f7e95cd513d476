//! One table of two capabilities: Services, and NAT of pods that leave the cluster. Pure.

use nft::{Table, Transaction};

/// Adds the fabric's chains and sets to the Services' table. A set both have is the Services' own: it is kept up to date
/// element by element.
pub(crate) fn tables(mut services: Table, fabric: Option<&Table>) -> Table {
    let Some(fabric) = fabric else { return services };
    for (name, chain) in &fabric.chains {
        services.chains.entry(name.clone()).or_insert_with(|| chain.clone());
    }
    for (name, set) in &fabric.sets {
        services.sets.entry(name.clone()).or_insert_with(|| set.clone());
    }
    services
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
