//! What a node's table should be: Services, the fabric's NAT and network policy in one. The loops build it piece by piece; `fairway diff`
//! asks for all of it at once.

use std::collections::BTreeMap;

use fabric::{Cluster, HostFacts, LocalAddress, TUNNEL_ALIAS};
use link::AddressScope;
use link::kernel::{Netlink, NetlinkError};
use model::{NodeFacts, NodeName, Report, Snapshot};
use nft::Table;
use service::Planner;

use crate::between::Between;
use crate::ipam::Wishes;
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
    let (mut table, mut reports) = (services.table, services.reports);
    let has_pods = snapshot.pods().len() > 0;
    if let Some(listed) = listed.filter(|_| !without.policy && !has_pods) {
        // Facts without pods say nothing about policy.
        services::merge::keep(&mut table, listed, policy::is_ours);
    } else if !without.policy {
        let policy = policy::Planner::new(name.clone()).full(snapshot);
        table = services::merge::tables(table, Some(&policy.table));
        reports.extend(policy.reports);
    }
    if !without.fabric {
        let facts = Between::of(snapshot, Wishes::default(), true);
        let host = host_facts(&mut Netlink::open()?, name, &facts.nodes)?;
        let cluster = Cluster::new(&facts.nodes, &facts.pools, &facts.blocks);
        let (plan, found) = fabric::compile(&cluster, &host, fabric);
        let nat = fabric::nat_table(&plan)?;
        table = services::merge::tables(table, Some(&nat));
        reports.extend(found);
    }
    Ok(Desired { table, reports })
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
