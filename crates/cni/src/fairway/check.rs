//! CHECK: is everything ADD made still there, on both sides and in the store? Tells all differences
//! at once, as the kernel would be told to mend them.

use std::net::IpAddr;

use link::kernel::Netlink;
use link::{Link, MacAddr};

use super::{is_ours, owner, wanted};
use crate::attachment::{self, NODE_MAC, ROUTE_PROTOCOL, node_link};
use crate::bandwidth::{self, Limits};
use crate::environment::{Environment, Identity};
use crate::ipam::Ask;
use crate::steps::{agree, kernel};
use crate::{AddResult, CniError, NetworkConfig, rules};

pub(super) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let previous = config.previous()?;
    let addresses: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    let ask = Ask { env, config, identity: &identity };
    let mut differences = config.ipam()?.check(ask, &addresses)?;
    let mac = mac_told(previous, &identity.ifname);
    if mac.is_none() {
        differences.push(format!("prevResult has no interface {}", identity.ifname));
    }
    let pod = namespace.visit(|| check_pod(&identity.ifname, mac, &addresses))?;
    differences.extend(pod?);
    let name = node_link(&identity);
    differences.extend(check_node(&name, mac, &addresses)?);
    differences.extend(check_limits(config, &identity, &name)?);
    let wanted = wanted(env, config, &name, previous)?;
    differences.extend(rules::check(owner(config, &identity), &wanted)?);
    agree(differences)
}

fn mac_told(previous: &AddResult, ifname: &str) -> Option<MacAddr> {
    let interface = previous.interfaces.iter();
    let mut interface = interface.filter(|i| i.name == ifname && !i.sandbox.is_empty());
    interface.next()?.mac.parse().ok()
}

fn check_limits(
    config: &NetworkConfig,
    identity: &Identity,
    name: &str,
) -> Result<Vec<String>, CniError> {
    let limits = Limits::read(config)?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    match node.link(name).map_err(kernel("look for the pod's link"))? {
        Some(end) => bandwidth::differences(&mut node, &end, identity, limits),
        None => Ok(Vec::new()),
    }
}

fn check_link(link: &Link, mac: Option<MacAddr>, differences: &mut Vec<String>) {
    if !link.up {
        differences.push(format!("link {} is down", link.name));
    }
    if let (Some(wanted), Some(have)) = (mac, link.mac)
        && wanted != have
    {
        differences.push(format!("link {} has address {have}, not {wanted}", link.name));
    }
}

/// Runs inside the pod's namespace.
fn check_pod(
    ifname: &str,
    mac: Option<MacAddr>,
    addresses: &[IpAddr],
) -> Result<Vec<String>, CniError> {
    let mut differences = Vec::new();
    let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
    let Some(link) = pod.link(ifname).map_err(kernel("find the pod's interface"))? else {
        return Ok(vec![format!("the pod has no interface {ifname}")]);
    };
    check_link(&link, mac, &mut differences);
    let wanted = attachment::in_pod(link.index, addresses);
    let have = pod.addresses(Some(link.index)).map_err(kernel("list the pod's addresses"))?;
    for address in wanted.addresses {
        if !have.iter().any(|have| have.network == address.network && !have.tentative) {
            differences.push(format!("pod: missing address {address}"));
        }
    }
    let have = pod.neighbours(Some(link.index)).map_err(kernel("list the pod's neighbours"))?;
    for neighbour in wanted.neighbours {
        if !have.contains(&neighbour) {
            differences.push(format!("pod: missing neighbour {neighbour}"));
        }
    }
    let have = pod.every_route().map_err(kernel("list the pod's routes"))?;
    for route in wanted.routes {
        if !have.iter().any(|have| route.is_served_by(have)) {
            differences.push(format!("pod: missing route {route}"));
        }
    }
    Ok(differences)
}

fn check_node(
    name: &str,
    mac: Option<MacAddr>,
    addresses: &[IpAddr],
) -> Result<Vec<String>, CniError> {
    let mut differences = Vec::new();
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let link = node.link(name).map_err(kernel("look for the pod's link"))?;
    let Some(link) = link.filter(is_ours) else {
        return Ok(vec![format!("the node has no link {name} of ours")]);
    };
    check_link(&link, Some(NODE_MAC), &mut differences);
    let Some(mac) = mac else { return Ok(differences) };
    let wanted = attachment::on_node(link.index, mac, addresses);
    let have = node.neighbours(Some(link.index)).map_err(kernel("list the node's neighbours"))?;
    for neighbour in wanted.neighbours {
        if !have.contains(&neighbour) {
            differences.push(format!("node: missing neighbour {neighbour}"));
        }
    }
    let have = node.routes(ROUTE_PROTOCOL).map_err(kernel("list the node's routes"))?;
    for route in wanted.routes {
        if !have.iter().any(|have| route.is_served_by(have)) {
            differences.push(format!("node: missing route {route}"));
        }
    }
    Ok(differences)
}
