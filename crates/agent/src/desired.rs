//! What a node's table should be: Services and the fabric's NAT in one. The loops build it piece by piece; `fairway diff`
//! asks for all of it at once.

use fabric::{HostFacts, LocalAddress};
use link::AddressScope;
use link::kernel::{Netlink, NetlinkError};
use model::{NodeName, Report, Snapshot};
use nft::Table;
use service::Planner;

use crate::{ServiceSettings, Without, services};

/// The table of one node.
#[derive(Debug)]
pub struct Desired {
    /// The table.
    pub table: Table,
    /// What is wrong with which object.
    pub reports: Vec<Report>,
}

/// The table `node` should have, served as `settings` say, slots as `listed` has them. Reads the addresses of this network
/// namespace.
///
/// # Errors
/// When the addresses cannot be read.
pub fn desired(
    node: &str,
    settings: &ServiceSettings,
    without: Without,
    snapshot: &Snapshot,
    listed: Option<&Table>,
) -> anyhow::Result<Desired> {
    let name = NodeName::new(node);
    let services = Planner::new(name.clone(), settings.plan.clone()).full(snapshot, listed);
    if without.fabric {
        return Ok(Desired { table: services.table, reports: services.reports });
    }
    let host = host_facts(&mut Netlink::open()?, name)?;
    let nodes: Vec<_> = snapshot.nodes().cloned().collect();
    let (plan, mut reports) = fabric::compile(&nodes, &host);
    let nat = fabric::nat_table(&plan)?;
    reports.extend(services.reports);
    Ok(Desired { table: services::merge::tables(services.table, Some(&nat)), reports })
}

/// What this node knows of itself: its own addresses, loopback and link-local ones left out.
pub(crate) fn host_facts(kernel: &mut Netlink, name: NodeName) -> Result<HostFacts, NetlinkError> {
    let addresses = kernel.addresses(None)?;
    let global = addresses.iter().filter(|address| address.scope == AddressScope::Global);
    let addresses = global
        .filter(|address| !address.network.addr().is_loopback())
        .map(|address| LocalAddress { device: address.device, network: address.network })
        .collect();
    Ok(HostFacts { name, addresses })
}
