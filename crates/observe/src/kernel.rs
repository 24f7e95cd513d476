//! What the kernel holds, in the calling thread's network namespace. An edge: it reads and changes nothing.

use std::collections::HashMap;

use anyhow::Context as _;
use nft::conntrack::{Conntrack, Flow};
use nft::kernel::{LiveElement, LiveRule, Netlink};
use nft::{Family, Kernel as _, Name, Table};

/// What was found.
#[derive(Debug, Default)]
pub struct Actual {
    /// Our table; `None` when there is none.
    pub table: Option<Table>,
    /// Tracked connections; empty when the kernel does not tell.
    pub flows: Vec<Flow>,
    /// Expiry and counters of elements, by set, where they were asked for.
    pub live: HashMap<Name, Vec<LiveElement>>,
    /// What could not be read, for people.
    pub notes: Vec<String>,
}

/// Which sets to read with expiry and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// None: enough for a list.
    Plain,
    /// Those that remember clients, and those that say where connections go.
    Live,
}

/// Reads the table.
///
/// # Errors
/// When nf_tables cannot be asked.
pub fn table() -> anyhow::Result<Option<Table>> {
    let name = Name::new(service::TABLE)?;
    let mut kernel = Netlink::open().context("no nf_tables netlink here")?;
    kernel
        .list(Family::Inet, &name)
        .context("the table cannot be read; this needs root (CAP_NET_ADMIN)")
}

/// The rules of the table with what they counted.
///
/// # Errors
/// When nf_tables cannot be asked.
pub fn rules() -> anyhow::Result<Vec<LiveRule>> {
    let mut kernel = Netlink::open().context("no nf_tables netlink here")?;
    kernel
        .live_rules(Family::Inet, &Name::new(service::TABLE)?)
        .context("the rules cannot be read; this needs root (CAP_NET_ADMIN)")
}

/// The connections this node tracks.
///
/// # Errors
/// When connection tracking cannot be asked.
pub fn flows() -> anyhow::Result<Vec<Flow>> {
    let flows = Conntrack::open().and_then(|mut conntrack| conntrack.list());
    flows.context("connections cannot be read; this needs root (CAP_NET_ADMIN)")
}

/// Reads everything.
///
/// # Errors
/// When nf_tables cannot be asked.
pub fn read(detail: Detail) -> anyhow::Result<Actual> {
    let mut actual = Actual { table: table()?, ..Actual::default() };
    match Conntrack::open().and_then(|mut conntrack| conntrack.list()) {
        Ok(flows) => actual.flows = flows,
        Err(error) => actual.notes.push(format!("connections are not shown: {error}")),
    }
    let (Some(table), Detail::Live) = (&actual.table, detail) else { return Ok(actual) };
    let mut kernel = Netlink::open().context("no nf_tables netlink here")?;
    for (name, set) in &table.sets {
        let remembers = set.spec.flags.dynamic;
        let translates = matches!(set.spec.data, nft::SetData::Value(_));
        if remembers || (translates && !set.elements.is_empty()) {
            let live = kernel.live_elements(table.family, &table.name, name)?;
            actual.live.insert(name.clone(), live);
        }
    }
    Ok(actual)
}
