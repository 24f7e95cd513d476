//! From what the kernel has to what the plan wants. Devices first, then what hangs on them, then routes; a tunnel nobody
//! wants any more goes last, after the other nodes had time to stop sending through it.

use std::collections::BTreeMap;

use link::{
    Address, Change, Forwarding, Link, LinkIndex, LinkSettings, Neighbour, NeighbourState, Route,
    diff_routes,
};

use crate::FabricPlan;
use crate::plan::{is_own_address, is_pod_route};
use crate::tunnel::{TUNNEL_ALIAS, TunnelId, TunnelPlan};

/// What hangs on one tunnel link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Its forwarding table.
    pub forwarding: Vec<Forwarding>,
}

/// The planned tunnels that have a link which is as it should be; its index.
#[must_use]
pub fn tunnel_links(plan: &FabricPlan, links: &[Link]) -> BTreeMap<TunnelId, LinkIndex> {
    let wanted = plan.tunnels.iter();
    let present = wanted.filter_map(|tunnel| {
        let link = links.iter().find(|link| is_it(tunnel, link))?;
        Some((tunnel.id, link.index))
    });
    present.collect()
}

/// Same name and same tunnel. Ethernet address, MTU and state can be changed on it.
fn is_it(tunnel: &TunnelPlan, link: &Link) -> bool {
    link.name == tunnel.link.name && link.tunnel == Some(tunnel.link.kind)
}

/// What makes the tunnel links.
#[must_use]
pub fn device_changes(plan: &FabricPlan, links: &[Link]) -> Vec<Change<'static>> {
    let mut changes = Vec::new();
    for tunnel in &plan.tunnels {
        let settings = LinkSettings {
            up: Some(true),
            mtu: Some(tunnel.link.mtu),
            mac: tunnel.link.mac,
            alias: Some(TUNNEL_ALIAS.to_owned()),
            ipv6_link_local: Some(false),
            ..LinkSettings::default()
        };
        let same_name = links.iter().find(|link| link.name == tunnel.link.name);
        let set = match same_name {
            Some(link) if is_it(tunnel, link) => {
                let right = link.up
                    && link.mtu == tunnel.link.mtu
                    && (tunnel.link.mac.is_none() || link.mac == tunnel.link.mac)
                    && link.alias.as_deref() == Some(TUNNEL_ALIAS);
                !right
            }
            other => {
                // Another port, number or address is another link. One that is not ours stays, and the kernel's refusal
                // of the name says so.
                if let Some(link) = other.filter(|link| is_ours(link)) {
                    changes.push(Change::DeleteLink(link.into()));
                }
                changes.push(Change::AddTunnel(tunnel.link.clone()));
                true
            }
        };
        if set {
            changes.push(Change::SetLink(tunnel.link.name.as_str().into(), settings));
        }
    }
    changes
}

fn is_ours(link: &Link) -> bool {
    link.alias.as_deref() == Some(TUNNEL_ALIAS)
}

/// Tunnel links of ours the plan does not have.
pub fn retired<'a>(plan: &FabricPlan, links: &'a [Link]) -> Vec<&'a Link> {
    let wanted = |link: &Link| plan.tunnels.iter().any(|tunnel| tunnel.link.name == link.name);
    links.iter().filter(|link| is_ours(link) && !wanted(link)).collect()
}

/// What brings addresses, neighbours and forwarding entries of one tunnel link to what they should be.
#[must_use]
pub fn entry_changes(
    tunnel: &TunnelPlan,
    device: LinkIndex,
    observed: &Observed,
) -> Vec<Change<'static>> {
    let mut changes = Vec::new();
    let wanted = tunnel.addresses_on(device);
    let has = |address: &&Address| observed.addresses.iter().any(|a| a.network == address.network);
    changes.extend(wanted.iter().filter(|a| !has(a)).cloned().map(Change::ReplaceAddress));
    for stale in &observed.addresses {
        let global = stale.scope == link::AddressScope::Global;
        if global && !wanted.iter().any(|address| address.network == stale.network) {
            changes.push(Change::DeleteAddress(stale.clone()));
        }
    }
    let mut table = tunnel.forwarding_on(device);
    let mut stale = Vec::new();
    for entry in &observed.forwarding {
        match table.get(&entry.mac) {
            Some(wanted) if wanted == entry => drop(table.remove(&entry.mac)),
            // A second destination of one Ethernet address is added, not replaced: the first must go.
            Some(_) => changes.push(Change::DeleteForwarding(*entry)),
            None => stale.push(Change::DeleteForwarding(*entry)),
        }
    }
    changes.extend(table.into_values().map(Change::ReplaceForwarding));
    let mut neighbours: BTreeMap<_, _> =
        tunnel.neighbours_on(device).into_iter().map(|wanted| (wanted.address, wanted)).collect();
    for entry in &observed.neighbours {
        match neighbours.get(&entry.address) {
            Some(wanted) if wanted == entry => drop(neighbours.remove(&entry.address)),
            Some(_) => {}
            // The kernel's own entries, for multicast, are none of ours.
            None if entry.state == NeighbourState::Permanent => {
                stale.push(Change::DeleteNeighbour(entry.clone()));
            }
            None => {}
        }
    }
    changes.extend(neighbours.into_values().map(Change::ReplaceNeighbour));
    changes.append(&mut stale);
    changes
}

/// What turns the listed routes into the plan's, tunnels at these links. Routes of pods and of other programs stay.
#[must_use]
pub fn diff(
    plan: &FabricPlan,
    tunnels: &BTreeMap<TunnelId, LinkIndex>,
    listed: &[Route],
) -> Vec<Change<'static>> {
    let ours: Vec<Route> = listed
        .iter()
        .filter(|route| !is_pod_route(route) && !is_own_address(route))
        .cloned()
        .collect();
    diff_routes(&plan.routes_with(tunnels), &ours)
}
