//! Removing every trace of Fairway from a node, and nothing else.
//!
//! What is ours is said by marks only we set (ARCHITECTURE.md, "Ownership on a node"): the table's name, the routes'
//! protocol, the links' alias. Labs of this machine live in namespaces and directories of their own and are left alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cni::attachment::ALIAS_PREFIX;
use fabric::ROUTE_PROTOCOL;
use link::{Change, Link, Route};
use nft::{Family, Kernel as _, Name, Op, Transaction};

use crate::processes;

/// What a lab keeps under the same directories.
const LABS: &str = "labs";
/// The directories of the plugins' records, one per network namespace.
const RECORDS: &str = "cni";
/// The agent's table, and the plugins'.
const TABLES: [&str; 2] = [service::TABLE, cni::rules::TABLE];
/// The CNI configuration the agent writes.
const CONFLIST: &str = "10-fairway.conflist";
/// Settings the agent makes and cleanup leaves: what they were before is not known.
const SYSCTLS: [&str; 4] = [
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
];

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Run-time files.
    pub run_dir: PathBuf,
    /// Files that survive a reboot.
    pub state_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    pub cni_conf_dir: PathBuf,
}

/// What is there to remove.
#[derive(Debug, Default)]
pub struct Traces {
    /// Names of our tables that are there.
    tables: Vec<&'static str>,
    routes: Vec<Route>,
    links: Vec<Link>,
    files: Vec<PathBuf>,
    /// Agents that run here.
    pub agents: Vec<processes::Process>,
}

impl Traces {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.routes.is_empty()
            && self.links.is_empty()
            && self.files.is_empty()
    }

    /// The pods that would lose their network, as the links' aliases name them.
    #[must_use]
    pub fn pods(&self) -> Vec<&str> {
        // Tunnels have such an alias, too.
        let pods = self.links.iter().filter(|link| link.kind.as_deref() == Some("veth"));
        let aliases = pods.filter_map(|link| link.alias.as_deref());
        aliases.map(|alias| alias.strip_prefix(ALIAS_PREFIX).unwrap_or(alias)).collect()
    }

    /// Everything, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.tables.iter().map(|table| format!("nf_tables table inet {table}")));
        lines.extend(self.routes.iter().map(|route| format!("route {}", route.destination)));
        lines.extend(self.links.iter().map(|link| {
            format!("link {} ({})", link.name, link.alias.as_deref().unwrap_or_default())
        }));
        lines.extend(self.files.iter().map(|file| format!("file {}", file.display())));
        lines
    }

    /// What stays and why, a line each.
    #[must_use]
    pub fn stays() -> Vec<String> {
        vec![format!(
            "settings the agent made stay, what they were is not known: {}",
            SYSCTLS.join(", ")
        )]
    }
}

/// Looks for traces.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn find(places: &Places) -> anyhow::Result<Traces> {
    let mut nft = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
    let there = nft.tables()?;
    let mut tables = Vec::new();
    for table in TABLES {
        if there.contains(&(Family::Inet, Name::new(table)?)) {
            tables.push(table);
        }
    }
    let mut netlink = link::kernel::Netlink::open()?;
    let links = netlink.links()?;
    let is_ours =
        |link: &Link| link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX));
    let mut files: Vec<PathBuf> = [&places.run_dir, &places.state_dir]
        .into_iter()
        .flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name() != LABS && entry.file_name() != RECORDS)
        .map(|entry| entry.path())
        .collect();
    // Of the plugins' records only this namespace's.
    files.push(cni::rules::directory(&places.run_dir)?);
    files.push(places.cni_conf_dir.join(CONFLIST));
    files.retain(|file| file.symlink_metadata().is_ok());
    files.sort();
    Ok(Traces {
        tables,
        routes: netlink.routes(ROUTE_PROTOCOL)?,
        links: links.into_iter().filter(is_ours).collect(),
        files,
        agents: processes::agents(),
    })
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Pods may lose their network.
    pub pods: bool,
    /// An agent that runs may be ignored; it will make the traces again.
    pub agent: bool,
}

/// Why traces may not be removed; `None` when they may.
#[must_use]
pub fn refusal(traces: &Traces, allowed: Allowed) -> Option<String> {
    if let (Some(agent), false) = (traces.agents.first(), allowed.agent) {
        let agent = agent.words();
        return Some(format!(
            "the agent runs here ({agent}) and would bring everything back: stop it first, or give --force"
        ));
    }
    let pods = traces.pods();
    if !pods.is_empty() && !allowed.pods {
        let (count, named) = (pods.len(), pods.iter().take(3).copied().collect::<Vec<_>>());
        return Some(format!(
            "{count} pods would lose their network ({}{}): `kubectl drain` this node first, or give --pods",
            named.join(", "),
            if count > named.len() { ", …" } else { "" }
        ));
    }
    None
}

/// Removes what was found. Goes on after a failure, so that one stubborn file does not keep the rest.
///
/// # Errors
/// Every failure in one line; what is gone already is none.
pub fn remove(traces: &Traces, places: &Places) -> anyhow::Result<()> {
    let mut failures: Vec<String> = Vec::new();
    // First the way for new pods, then what leads packets, last what is left of the links.
    for file in &traces.files {
        let outcome = if file.is_dir() { fs::remove_dir_all(file) } else { fs::remove_file(file) };
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("{}: {error}", file.display()));
            }
            _ => {}
        }
    }
    remove_if_empty(&places.run_dir.join(RECORDS));
    for dir in [&places.run_dir, &places.state_dir] {
        remove_if_empty(dir);
    }
    for table in &traces.tables {
        if let Err(error) = remove_table_named(table) {
            failures.push(format!("{error:#}"));
        }
    }
    let mut netlink = link::kernel::Netlink::open()?;
    let routes = traces.routes.iter().cloned().map(Change::DeleteRoute);
    let links = traces.links.iter().map(|link| Change::DeleteLink(link.index.into()));
    for change in routes.chain(links) {
        match netlink.apply(std::slice::from_ref(&change)) {
            Err(error)
                if error.refusals().is_empty()
                    || !error.refusals().iter().all(link::kernel::Refusal::is_missing) =>
            {
                failures.push(error.to_string());
            }
            _ => {}
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("not everything could be removed: {}", failures.join("; "))
}

/// Removes the agent's table whole.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn remove_table() -> anyhow::Result<()> {
    remove_table_named(service::TABLE)
}

fn remove_table_named(table: &str) -> anyhow::Result<()> {
    let mut nft = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
    let mut transaction = Transaction::new(Family::Inet, Name::new(table)?);
    transaction.push(Op::DeleteTable);
    match nft.commit(&transaction) {
        // Gone already.
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => Ok(()),
        other => other.map(drop).context("our table cannot be removed"),
    }
}

fn remove_if_empty(dir: &Path) {
    // A lab's directory in it keeps it.
    drop(fs::remove_dir(dir));
}
