//! What plugins put into nf_tables: masquerading, host ports, source checks. One table of our own,
//! `inet fairway-cni`, in which a pod is a few elements (see [`program`]); beside it one small file per
//! attachment under `/run/fairway/cni/<cookie>` that says which ([`records`]).
//!
//! The files make the rules repairable: whoever flushes the ruleset, [`restore`] makes the table from
//! them again, as a difference. The next ADD does that when it finds the table gone, and so do CHECK's
//! reader and the agent, which listens for such flushes. They also let DEL find its elements when
//! nothing else is left.
//!
//! Order on disk and in the kernel: record, then elements; away with the record, then the elements. A
//! process that dies between leaves what GC, DEL or the next restore sets right. Both happen under a
//! shared lock, [`restore`] under an exclusive one, so it never sees a half.

pub(crate) mod program;
pub(crate) mod records;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use link::kernel::close_later;
use nft::kernel::{Kernel, Netlink};
use nft::{CommitError, ListError, Op, Transaction, diff};

use crate::environment::Identity;
use crate::{CniError, NetworkConfig};

pub use program::{FAMILY, HostPort, Protocol, TABLE, Wanted};
use records::Records;

/// Whose rules: one plugin's for one attachment of one network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// The plugin's name.
    pub(crate) plugin: &'a str,
    /// The network's name.
    pub(crate) network: &'a str,
    /// The attachment.
    pub(crate) identity: &'a Identity,
    /// Where the configuration has run-time files.
    pub(crate) run_dir: Option<&'a Path>,
}

impl<'a> Owner<'a> {
    /// Of a plugin with this configuration.
    pub(crate) fn new(plugin: &'a str, config: &'a NetworkConfig, identity: &'a Identity) -> Self {
        let run_dir = config.run_dir.as_deref();
        Self { plugin, network: &config.name, identity, run_dir }
    }
}

/// Puts rules into the kernel, in place of what this owner had. An owner without any costs nothing.
///
/// # Errors
/// [`CniError::HostPortTaken`], [`CniError::Rules`] or [`CniError::File`].
pub(crate) fn apply(owner: Owner<'_>, wanted: &Wanted) -> Result<(), CniError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let records = Records::open(owner.run_dir)?;
    if wanted.host_ports.is_empty() {
        let lock = records.lock_shared()?;
        records.write(owner, wanted)?;
        let committed = open()?.commit(&program::insertion(owner, wanted));
        drop(lock);
        return match committed {
            Ok(_) => Ok(()),
            // No table, or not its chain for this subnet, or an address somebody else left behind.
            Err(error) if is_other(&error) => restore_with(&records),
            Err(error) => Err(rules("add the pod's rules")(&error)),
        };
    }
    // Host ports are first come, first served: who looks and writes does so alone.
    let lock = records.lock_exclusive()?;
    for other in records.all()? {
        if let Some(port) = other.wanted.clash(wanted)
            && !other.is(owner)
        {
            if other.wanted.is_alive() {
                let owner = other.identity.container_id;
                return Err(CniError::HostPortTaken { port: port.to_string(), owner });
            }
            // Its pod is gone and nobody called DEL: the port is free.
            records.remove_file(&other.path)?;
        }
    }
    records.write(owner, wanted)?;
    let committed = open()?.commit(&program::insertion(owner, wanted));
    match committed {
        Ok(_) => {}
        Err(error) if is_other(&error) => restore_locked(&records)?,
        Err(error) => return Err(rules("add the pod's rules")(&error)),
    }
    drop(lock);
    forget_connections(wanted)
}

/// Removes an owner's rules; there being none is fine.
///
/// # Errors
/// [`CniError::Rules`] or [`CniError::File`].
pub(crate) fn withdraw(owner: Owner<'_>) -> Result<(), CniError> {
    let Some(records) = Records::open_existing(owner.run_dir)? else { return Ok(()) };
    let lock = records.lock_shared()?;
    let Some(had) = records.take(owner)? else { return Ok(()) };
    let mut kernel = open()?;
    let committed = kernel.commit(&program::removal(&had));
    drop(lock);
    close_later(kernel);
    match committed {
        Ok(_) => {}
        // Somebody flushed some of it: what is left of it goes by the difference.
        Err(error) if is_other(&error) => restore_with(&records)?,
        Err(error) => return Err(rules("remove the pod's rules")(&error)),
    }
    tidy(&records)?;
    forget_connections(&had)
}

/// With the last record goes the table, and the directory.
fn tidy(records: &Records) -> Result<(), CniError> {
    if records.is_empty() {
        restore_with(records)?;
        records.remove_directory_if_empty();
    }
    Ok(())
}

/// Tells which of an owner's rules are not in the kernel.
///
/// # Errors
/// [`CniError`] when it cannot be told.
pub(crate) fn check(owner: Owner<'_>, wanted: &Wanted) -> Result<Vec<String>, CniError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let table = program::table(&[(owner_of(owner), wanted.clone())]).map_err(internal)?;
    let actual = list(&mut open()?)?;
    let mut differences = Vec::new();
    let Some(actual) = actual else {
        return Ok(vec![format!("nf_tables has no table inet {}", program::TABLE)]);
    };
    for (name, set) in &table.sets {
        let have = actual.sets.get(name);
        for element in set.elements.iter() {
            let there = have.and_then(|have| have.elements.get(&element.key));
            if there.is_none_or(|there| there.data != element.data) {
                differences.push(format!("nf_tables: {name} lacks its element of this pod"));
            }
        }
    }
    for (name, chain) in &table.chains {
        let have = actual.chains.get(name);
        if have.is_none_or(|have| have.hook != chain.hook || have.rules.len() != chain.rules.len())
        {
            differences.push(format!("nf_tables: chain {name} is not as it was made"));
        }
    }
    Ok(differences)
}

/// Removes the rules of a plugin's attachments to a network that are not valid any more.
///
/// # Errors
/// [`CniError`].
pub(crate) fn gc(plugin: &str, config: &NetworkConfig, valid: &[Identity]) -> Result<(), CniError> {
    let Some(records) = Records::open_existing(config.run_dir.as_deref())? else { return Ok(()) };
    let mut gone = false;
    for record in records.all()? {
        let is_its = record.plugin == plugin && record.network == config.name;
        if is_its && !valid.contains(&record.identity) {
            records.remove_file(&record.path)?;
            forget_connections(&record.wanted)?;
            gone = true;
        }
    }
    if gone {
        restore_with(&records)?;
        tidy(&records)?;
    }
    Ok(())
}

/// Makes the table what the records of the calling thread's network namespace say, those below
/// `run_dir` and those of plugins without one, and tells whether there was anything to do.
///
/// # Errors
/// [`CniError`].
pub fn restore(run_dir: Option<&Path>) -> Result<bool, CniError> {
    let records = match Records::open_existing(run_dir)? {
        Some(records) => records,
        None => match Records::open_existing(None)? {
            Some(records) => records,
            None => return Ok(false),
        },
    };
    let _lock = records.lock_exclusive()?;
    restore_difference(&records, &mut open()?)
}

/// Where the records of the calling thread's network namespace are below `run_dir`.
///
/// # Errors
/// [`CniError`] when the namespace cannot be told.
pub fn directory(run_dir: &Path) -> Result<PathBuf, CniError> {
    Records::directory(Some(run_dir))
}

fn restore_with(records: &Records) -> Result<(), CniError> {
    let _lock = records.lock_exclusive()?;
    restore_locked(records)
}

fn restore_locked(records: &Records) -> Result<(), CniError> {
    let mut kernel = open()?;
    let restored = restore_difference(records, &mut kernel).map(drop);
    close_later(kernel);
    restored
}

fn restore_difference(records: &Records, kernel: &mut Netlink) -> Result<bool, CniError> {
    let all: Vec<_> = records.all()?.into_iter().map(|it| (it.comment(), it.wanted)).collect();
    let actual = list(kernel)?;
    if all.is_empty() {
        // The last pod with rules takes the table with it.
        if actual.is_some() {
            let mut transaction = Transaction::new(program::FAMILY, program::name(program::TABLE));
            transaction.push(Op::DeleteTable);
            kernel.commit(&transaction).map_err(|error| rules("remove the table")(&error))?;
        }
        return Ok(actual.is_some());
    }
    let desired = program::table(&all).map_err(internal)?;
    let transaction = diff(&desired, actual.as_ref());
    if transaction.is_empty() {
        return Ok(false);
    }
    kernel.commit(&transaction).map_err(|error| rules("restore the pods' rules")(&error))?;
    Ok(true)
}

/// UDP (and SCTP) clients go on talking to whom connection tracking remembers; a host port that came
/// or went is remembered wrongly.
fn forget_connections(wanted: &Wanted) -> Result<(), CniError> {
    let ports = wanted.host_ports.iter().filter(|port| port.protocol != Protocol::Tcp);
    let mut ports = ports.peekable();
    if ports.peek().is_none() {
        return Ok(());
    }
    let failed = |error: nft::conntrack::ConntrackError| rules("forget old connections")(&error);
    let mut conntrack = nft::conntrack::Conntrack::open().map_err(failed)?;
    for port in ports {
        let frontend = nft::conntrack::Frontend {
            protocol: port.protocol.number(),
            address: port.host_address,
            port: port.host_port,
        };
        let mut flows = conntrack.of_frontend(frontend).map_err(failed)?;
        flows.retain(|flow| {
            let of_family = flow.original.destination.is_ipv4() == port.pod_address.is_ipv4();
            let translated = flow.reply.source != flow.original.destination;
            // Not those of a Service with that port number, and not somebody else's through here.
            of_family && (flow.reply.source == port.pod_address || !translated)
        });
        conntrack.delete(&flows).map_err(failed)?;
    }
    Ok(())
}

fn open() -> Result<Netlink, CniError> {
    Netlink::open().map_err(|error| rules("reach nf_tables")(&error))
}

fn list(kernel: &mut Netlink) -> Result<Option<nft::Table>, CniError> {
    let table = program::name(program::TABLE);
    kernel
        .list(program::FAMILY, &table)
        .map_err(|error: ListError| rules("list the pods' rules")(&error))
}

/// The kernel has something else than a record says: missing, or different.
fn is_other(error: &CommitError) -> bool {
    matches!(error.errno(), Some(libc::ENOENT | libc::EEXIST | libc::EBUSY))
}

fn rules<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(&E) -> CniError {
    move |error| CniError::Rules { step, why: error.to_string() }
}

fn internal(error: nft::ElementError) -> CniError {
    CniError::Rules { step: "write the pod's rules", why: error.to_string() }
}

fn owner_of(owner: Owner<'_>) -> String {
    records::comment(owner.network, owner.identity)
}

/// Whether an address is of the loopback network.
pub(crate) fn is_loopback(ip: Option<IpAddr>) -> bool {
    ip.is_some_and(|ip| ip.is_loopback())
}
