//! On the route thread: what this node has, what it should have, the difference. Links and what hangs on them first; routes
//! in a second step, so that the loop can give the other nodes a moment to make their ends.

use std::collections::BTreeMap;

use fabric::{Cluster, FabricPlan, Observed, ROUTE_PROTOCOL, Settings, TunnelId};
use link::kernel::{Netlink, NetlinkError, Refusal};
use link::{Change, Link, LinkIndex};
use model::{NodeName, Report};

use crate::between::Between;
use crate::desired::host_facts;

/// The plan, and how far it is carried out.
pub(super) struct Prepared {
    pub(super) plan: FabricPlan,
    pub(super) reports: Vec<Report>,
    /// Links of the tunnels that have one.
    pub(super) tunnels: BTreeMap<TunnelId, LinkIndex>,
    /// A tunnel link was made: the other nodes may not have theirs yet.
    pub(super) fresh: bool,
    /// Tunnel links of ours nobody wants any more.
    pub(super) retired: Vec<LinkIndex>,
    /// Links of pods that have another MTU than new ones get.
    pub(super) misfits: Vec<Link>,
    pub(super) changes: usize,
    /// What the kernel did not want to make.
    pub(super) refused: Vec<String>,
}

/// Observes, compiles, and makes everything but routes. `has_ipip` is what earlier attempts taught.
pub(super) fn prepare(
    kernel: &mut Netlink,
    facts: &Between,
    name: NodeName,
    settings: &Settings,
    has_ipip: &mut bool,
) -> Result<Prepared, NetlinkError> {
    loop {
        let host = fabric::HostFacts {
            has_ipip: *has_ipip,
            ..host_facts(kernel, name.clone(), &facts.nodes)?
        };
        let cluster = Cluster::new(&facts.nodes, &facts.pools, &facts.blocks);
        let (plan, reports) = fabric::compile(&cluster, &host, settings);
        let links = kernel.links()?;
        let changes = fabric::device_changes(&plan, &links);
        let fresh = changes.iter().any(|change| matches!(change, Change::AddTunnel(_)));
        let mut refused = Vec::new();
        if let Err(error) = apply(kernel, &changes) {
            let refusals = refusals(error)?;
            if *has_ipip && refusals.iter().any(|refusal| lacks_driver(&changes, refusal)) {
                *has_ipip = false;
                continue;
            }
            refused.extend(refusals.iter().map(ToString::to_string));
        }
        let mut count = changes.len();
        let links = if changes.is_empty() { links } else { kernel.links()? };
        let tunnels = fabric::tunnel_links(&plan, &links);
        for tunnel in &plan.tunnels {
            let Some(device) = tunnels.get(&tunnel.id).copied() else { continue };
            let observed = Observed {
                addresses: kernel.addresses(Some(device))?,
                neighbours: kernel.neighbours(Some(device))?,
                forwarding: match tunnel.id {
                    TunnelId::Ipip => Vec::new(),
                    _ => kernel.forwarding(device)?,
                },
            };
            let changes = fabric::entry_changes(tunnel, device, &observed);
            count += changes.len();
            if let Err(error) = apply(kernel, &changes) {
                refused.extend(refusals(error)?.iter().map(ToString::to_string));
            }
        }
        let retired =
            fabric::retired(&plan, &links).iter().map(|link: &&Link| link.index).collect();
        let misfits = super::pods::misfits(&links, plan.mtu);
        let changes = count;
        return Ok(Prepared { plan, reports, tunnels, fresh, retired, misfits, changes, refused });
    }
}

/// Makes the routes; how many changes that took.
pub(super) fn route(
    kernel: &mut Netlink,
    plan: &FabricPlan,
    tunnels: &BTreeMap<TunnelId, LinkIndex>,
) -> Result<usize, NetlinkError> {
    let changes = fabric::diff(plan, tunnels, &kernel.routes(ROUTE_PROTOCOL)?);
    apply(kernel, &changes)?;
    Ok(changes.len())
}

/// Removes links; those that are gone already are fine.
pub(super) fn remove(kernel: &mut Netlink, links: &[LinkIndex]) -> Result<(), NetlinkError> {
    let changes: Vec<_> = links.iter().map(|link| Change::DeleteLink((*link).into())).collect();
    match apply(kernel, &changes) {
        Err(error)
            if !error.refusals().is_empty() && error.refusals().iter().all(Refusal::is_missing) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn apply(kernel: &mut Netlink, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
    if changes.is_empty() { Ok(()) } else { kernel.apply(changes) }
}

/// The refusals of an error; other errors are passed on.
fn refusals(error: NetlinkError) -> Result<Vec<Refusal>, NetlinkError> {
    match error {
        NetlinkError::Refused(refusals) => Ok(refusals),
        other => Err(other),
    }
}

/// The kernel has no such driver, and no module of it either.
fn lacks_driver(changes: &[Change<'_>], refusal: &Refusal) -> bool {
    let is_ipip = |change: &Change<'_>| matches!(change, Change::AddTunnel(tunnel) if matches!(tunnel.kind, link::TunnelKind::Ipip { .. }));
    // EOPNOTSUPP; spelled by the kernel as "Unknown device type".
    refusal.errno == 95 && changes.get(refusal.at).is_some_and(is_ipip)
}
