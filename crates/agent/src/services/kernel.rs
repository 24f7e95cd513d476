//! The sockets of the kernel thread: nf_tables and connection tracking.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use model::Protocol;
use nft::conntrack::{self, Conntrack, ConntrackError, Flow};
use nft::kernel::{Netlink, Watch};
use nft::{CommitError, Committed, Kernel as _, ListError, Name, Table, Transaction};
use service::{Frontend, Insiders, Plan, Planner, StaleFlow, StaleFlows};

use crate::policies;

/// Of so many addresses the kernel is asked one by one.
const FEW: usize = 8;

/// Owned by the kernel thread.
#[derive(Debug)]
pub(crate) struct Sockets {
    nft: Netlink,
    conntrack: Conntrack,
    link: link::kernel::Netlink,
    table: Name,
}

impl Sockets {
    /// Opens them in the calling thread's network namespace, and tries whether nf_tables is there.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let mut sockets = Self {
            nft: Netlink::open()?,
            conntrack: Conntrack::open()?,
            link: link::kernel::Netlink::open()?,
            table: Name::new(service::TABLE)?,
        };
        sockets.nft.probe()?;
        Ok(sockets)
    }

    /// Events about our table that are not our own doing.
    pub(crate) fn watch(&self) -> io::Result<Watch> {
        let mut watch = Watch::open(nft::Family::Inet, self.table.clone())?;
        watch.ignore(self.nft.port())?;
        Ok(watch)
    }

    /// Whose commits are these sockets', as netlink knows it.
    pub(crate) fn port(&self) -> u32 {
        self.nft.port()
    }

    /// The number of the last transaction of anybody.
    pub(crate) fn generation(&mut self) -> Option<u32> {
        self.nft.generation()
    }

    /// The table as it is; `expected` is what it probably has.
    pub(crate) fn list(&mut self, expected: &Plan) -> Result<Option<Table>, ListError> {
        self.nft.list_expecting(nft::Family::Inet, &self.table, expected)
    }

    /// Whether the kernel has a table of ours with anything in it.
    pub(crate) fn is_programmed(&mut self) -> bool {
        self.nft.is_filled(nft::Family::Inet, &self.table).unwrap_or(false)
    }

    pub(crate) fn commit(&mut self, transaction: &Transaction) -> Result<Committed, CommitError> {
        if transaction.is_empty() {
            return Ok(Committed::default());
        }
        self.nft.commit(transaction)
    }

    pub(crate) fn flows(&mut self) -> Result<Vec<Flow>, ConntrackError> {
        let mut flows = self.conntrack.list()?;
        flows.retain(|flow| {
            matches!(
                Protocol::from_number(flow.original.protocol),
                Some(Protocol::Udp | Protocol::Sctp)
            )
        });
        Ok(flows)
    }

    /// The connections that one of these addresses has a part in, and this node's own addresses. The kernel walks its whole
    /// table for each question; of a few addresses it shows only theirs.
    pub(crate) fn flows_of(
        &mut self,
        addresses: &HashSet<IpAddr>,
    ) -> Result<(Vec<Flow>, LocalAddresses), ConntrackError> {
        let mut flows = Vec::new();
        if addresses.len() <= FEW {
            for address in addresses {
                flows.extend(self.conntrack.of_end(*address)?);
            }
        } else {
            self.conntrack.each(|flow| {
                let ends = [flow.original.source, flow.reply.source];
                if ends.iter().any(|end| addresses.contains(end)) {
                    flows.push(flow.clone());
                }
            })?;
        }
        let own = if flows.is_empty() { LocalAddresses::default() } else { self.local_addresses() };
        Ok((flows, own))
    }

    /// The flows policy denied of late, and what its rules counted.
    pub(crate) fn policy_noted(
        &mut self,
    ) -> Result<(Vec<policy::DeniedFlow>, Vec<nft::kernel::LiveRule>), ListError> {
        let flows = policies::read(&mut self.nft, &self.table)?;
        Ok((flows, self.policy_counts()?))
    }

    /// The answers of cut flows that are dropped.
    pub(crate) fn severed(&mut self) -> Result<Vec<policy::Severed>, ListError> {
        policies::remembered(&mut self.nft, &self.table)
    }

    pub(crate) fn policy_counts(&mut self) -> Result<Vec<nft::kernel::LiveRule>, ListError> {
        self.nft.live_rules(nft::Family::Inet, &self.table)
    }

    /// What the rules of these chains counted.
    pub(crate) fn counts_of(
        &mut self,
        chains: &[Name],
    ) -> Result<Vec<nft::kernel::LiveRule>, ListError> {
        let mut rules = Vec::new();
        for chain in chains {
            rules.extend(self.nft.live_chain(nft::Family::Inet, &self.table, chain)?);
        }
        Ok(rules)
    }

    /// Shows every tracked connection.
    pub(crate) fn each_flow(&mut self, take: impl FnMut(&Flow)) -> Result<(), ConntrackError> {
        self.conntrack.each(take)
    }

    pub(crate) fn delete(&mut self, flows: &[Flow]) -> Result<usize, ConntrackError> {
        self.conntrack.delete(flows)
    }

    /// Deletes what became stale. The kernel walks its whole table for any question, so there is one question for all.
    pub(crate) fn delete_stale(
        &mut self,
        stale: &[StaleFlow],
        insiders: &Insiders,
    ) -> Result<usize, ConntrackError> {
        let stale = StaleFlows::new(stale, insiders);
        let local =
            if stale.has_node_ports() { self.local_addresses() } else { LocalAddresses::default() };
        let mut flows = Vec::new();
        let mut take = |flow: &Flow| {
            if stale.covers(flow, |address| local.contains(address)) {
                flows.push(flow.clone());
            }
        };
        match stale.only() {
            Some(&Frontend::Address { address, protocol, port }) => {
                // The kernel leaves out all others.
                let protocol = protocol.number();
                let asked = conntrack::Frontend { protocol, address: Some(address), port };
                self.conntrack.of_frontend(asked)?.iter().for_each(&mut take);
            }
            _ => self.conntrack.each(&mut take)?,
        }
        self.conntrack.delete(&flows)
    }

    /// The addresses of this node. None when the kernel does not say: then no flow counts as one to a node port.
    pub(crate) fn local_addresses(&mut self) -> LocalAddresses {
        let listed = self.link.addresses(None);
        let addresses = listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "this node's addresses are not known; flows to node ports are left alone");
            Vec::new()
        });
        LocalAddresses(addresses.iter().map(|address| address.network.addr()).collect())
    }
}

/// The addresses of this node.
#[derive(Debug, Default)]
pub(crate) struct LocalAddresses(HashSet<IpAddr>);

impl LocalAddresses {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.0.contains(&address)
    }
}

/// The connections that were translated to an endpoint their frontend no longer has, and those to a frontend that came
/// before it could translate.
pub(super) fn stale_flows(
    flows: Vec<Flow>,
    local: &LocalAddresses,
    planner: &Planner,
) -> Vec<Flow> {
    let insiders = planner.insiders();
    let is_local = |address| local.contains(address);
    flows.into_iter().filter(|flow| planner.is_stale(flow, &insiders, is_local)).collect()
}
