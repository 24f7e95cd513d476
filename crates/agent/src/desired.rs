//! What a node's table should be: Services and the fabric's NAT in one. The loops build it piece by piece; `fairway diff`
//! asks for all of it at once.

use std::collections::BTreeMap;

use fabric::{Cluster, HostFacts, LocalAddress, TUNNEL_ALIAS};
use link::AddressScope;
use link::kernel::{Netlink, NetlinkError};
use model::{NodeFacts, NodeName, Report, Snapshot};
use nft::Table;
use service::Planner;

use crate::between::Between;
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
    (settings, fabric): (&ServiceSettings, &fabric::Settings),
    without: Without,
    snapshot: &Snapshot,
    listed: Option<&Table>,
) -> anyhow::Result<Desired> {
    let name = NodeName::new(node);
    let services = Planner::new(name.clone(), settings.plan.clone()).full(snapshot, listed);
    if without.fabric {
        return Ok(Desired { table: services.table, reports: services.reports });
    }
    let facts = Between::of(snapshot);
    let host = host_facts(&mut Netlink::open()?, name, &facts.nodes)?;
    let cluster = Cluster::new(&facts.nodes, &facts.pools, &facts.blocks);
    let (plan, mut reports) = fabric::compile(&cluster, &host, fabric);
    let nat = fabric::nat_table(&plan)?;
    reports.extend(services.reports);
    Ok(Desired { table: services::merge::tables(services.table, Some(&nat)), reports })
}

/// What this node knows of itself: its own addresses, loopback, link-local ones and those of its tunnels left out, and by
/// which links `nodes` are reached.
pub(crate) fn host_facts(
    kernel: &mut Netlink,
    name: NodeName,
    nodes: &[NodeFacts],
) -> Result<HostFacts, NetlinkError> {
    let links = kernel.links()?;
    let tunnels: Vec<_> = links
        .iter()
        .filter(|link| link.alias.as_deref() == Some(TUNNEL_ALIAS))
        .map(|link| link.index)
        .collect();
    let addresses = kernel.addresses(None)?;
    let global = addresses.iter().filter(|address| address.scope == AddressScope::Global);
    let addresses: Vec<LocalAddress> = global
        .filter(|address| !address.network.addr().is_loopback())
        .filter(|address| !tunnels.contains(&address.device))
        .map(|address| LocalAddress { device: address.device, network: address.network })
        .collect();
    let mtus = links.iter().map(|link| (link.index, link.mtu)).collect();
    let mut host = HostFacts { name, addresses, mtus, ways: BTreeMap::new(), has_ipip: true };
    for ip in fabric::unknown_ways(nodes, &host) {
        if let Some(reach) = kernel.reach(ip)?.filter(|reach| !tunnels.contains(&reach.device)) {
            host.ways.insert(ip, reach.device);
        }
    }
    Ok(host)
}
