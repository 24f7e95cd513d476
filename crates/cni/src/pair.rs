//! The veth pair of `bridge` and `ptp`: its names, and the pod's end set up from an address source's
//! answer.
//!
//! The node's end is named by a hash of container and interface, so DEL finds it without the pod's
//! namespace; its alias ends with the network's name, so GC knows whose it is.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use link::kernel::Netlink;
use link::{
    Address, AddressScope, Change, Dad, Link, LinkEnd, LinkIndex, LinkSettings, MacAddr, Namespace,
    Route, Veth, sysctl,
};

use crate::attachment::{self, hash};
use crate::environment::{Environment, Identity};
use crate::result::{AddResult, ResultInterface};
use crate::steps::{
    ensure_where_known, gone, is_ours, kernel, missing_is_fine, remove_link, remove_links,
};
use crate::{CniError, NetworkConfig, steps};

/// Longest wait for IPv6 addresses to count: with duplicate address detection, where it is asked for,
/// some two seconds; without, what a worker of the kernel takes.
const SETTLE: Duration = Duration::from_secs(10);
/// And how often it is looked.
const LOOK: Duration = Duration::from_millis(1);

/// Name of the node's end.
pub(crate) fn node_link(identity: &Identity) -> String {
    format!("veth{:011x}", hash(identity, b"veth") >> 20)
}

/// The alias of the node's end: `fairway:<namespace>/<pod>@<network>`.
fn alias(env: &Environment, network: &str) -> String {
    let mut alias = attachment::alias(env);
    let room = 255_usize.saturating_sub(network.len() + 1);
    let fits = (0..=room.min(alias.len())).rev().find(|at| alias.is_char_boundary(*at));
    alias.truncate(fits.unwrap_or(0));
    alias.push('@');
    alias.push_str(network);
    alias
}

/// One pair being made.
pub(crate) struct Pair<'a> {
    pub(crate) env: &'a Environment,
    pub(crate) config: &'a NetworkConfig,
    pub(crate) identity: &'a Identity,
    pub(crate) namespace: &'a Namespace,
    /// Bridge the node's end is a port of.
    pub(crate) master: Option<LinkIndex>,
    pub(crate) hairpin: bool,
}

/// A pair that was made.
pub(crate) struct Made {
    /// The node's end.
    pub(crate) node: Link,
    /// The pod's Ethernet address.
    pub(crate) mac: MacAddr,
}

impl Pair<'_> {
    /// Makes the pair, the node's end up.
    pub(crate) fn make(&self, node: &mut Netlink) -> Result<Made, CniError> {
        let name = node_link(self.identity);
        let wanted = self.config.wanted_mac(self.env)?;
        let mac = wanted.unwrap_or_else(|| attachment::pod_mac(self.identity));
        let veth = Veth {
            end: LinkEnd::named(&name),
            peer: LinkEnd::named(&self.identity.ifname).mac(mac),
            mtu: self.config.mtu,
            master: self.master,
            peer_namespace: Some(self.namespace.as_fd()),
        };
        let settings = LinkSettings {
            up: Some(true),
            alias: Some(alias(self.env, &self.config.name)),
            ..LinkSettings::default()
        };
        let mut changes =
            vec![Change::AddVeth(veth), Change::SetLink(name.as_str().into(), settings)];
        if self.master.is_some() && self.hairpin {
            let port = link::BridgePort { hairpin: Some(true), ..link::BridgePort::default() };
            changes.push(Change::SetBridgePort(name.as_str().into(), port));
        }
        node.apply(&changes).map_err(|error| match error.refusals().first() {
            Some(refusal) if refusal.at == 0 && refusal.is_taken() => {
                CniError::InterfaceTaken { interface: self.identity.ifname.clone() }
            }
            _ => kernel("make the pod's link")(error),
        })?;
        // The routes of this link are ours to make.
        ensure_where_known(&name, &[(sysctl::interface("ipv6", &name, "accept_ra"), "0")])?;
        let end = node.link(name.as_str()).map_err(kernel("find the node's end"))?;
        Ok(Made { node: end.ok_or_else(|| gone(&name))?, mac })
    }

    /// The interfaces of the result, the node's first.
    pub(crate) fn told(&self, made: &Made) -> [ResultInterface; 2] {
        let interface = |name: &str, mac: Option<MacAddr>, sandbox: &str| ResultInterface {
            name: name.to_owned(),
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: Some(made.node.mtu),
            sandbox: sandbox.to_owned(),
        };
        [
            interface(&made.node.name, made.node.mac, ""),
            interface(&self.identity.ifname, Some(made.mac), &self.env.netns),
        ]
    }
}

/// Sets up the pod's end; runs inside the pod's namespace. `more` adds to the changes.
pub(crate) fn set_up_pod(
    ifname: &str,
    given: &AddResult,
    detection: bool,
    more: impl FnOnce(LinkIndex) -> Vec<Change<'static>>,
) -> Result<(), CniError> {
    let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
    let link = pod.link(ifname).map_err(kernel("find the pod's interface"))?;
    let link = link.ok_or_else(|| gone(ifname))?;
    let has_ipv6 = given.ips.iter().any(|ip| ip.address.addr().is_ipv6());
    let mut settings = Vec::new();
    if has_ipv6 {
        // Runtimes disable IPv6 in new namespaces when they see no use for it.
        settings.push((sysctl::interface("ipv6", "lo", "disable_ipv6"), "0"));
        settings.push((sysctl::interface("ipv6", ifname, "disable_ipv6"), "0"));
    }
    if detection {
        settings.push((sysctl::interface("ipv6", ifname, "enhanced_dad"), "1"));
    }
    if !given.ips.is_empty() {
        let detect = if detection { "1" } else { "0" };
        settings.push((sysctl::interface("ipv6", ifname, "accept_dad"), detect));
        // Neighbours hear of the address at once.
        settings.push((sysctl::interface("ipv4", ifname, "arp_notify"), "1"));
    }
    ensure_where_known(ifname, &settings)?;
    let address =
        |network: IpNet| Address { dad: Dad::Interface, ..Address::new(link.index, network) };
    let of_family = |is_ipv4: bool| {
        let ips = given.ips.iter().filter(move |ip| ip.address.addr().is_ipv4() == is_ipv4);
        ips.map(|ip| Change::AddAddress(address(ip.address)))
    };
    // IPv4 addresses first: the link coming up announces them.
    let mut changes: Vec<Change<'_>> = of_family(true).collect();
    changes.push(Change::SetLink(link.index.into(), LinkSettings::up()));
    if has_ipv6 {
        // IPv6 addresses after: one given to a link that cannot send yet may be put off with it.
        pod.apply(&changes).map_err(kernel("bring up the pod's interface"))?;
        steps::settle(&mut pod, &[&link])?;
        changes = of_family(false).collect();
        pod.apply(&changes).map_err(kernel("give the pod its addresses"))?;
        settle(&mut pod, link.index)?;
        changes.clear();
    }
    changes.extend(routes(given, link.index).into_iter().map(Change::AddRoute));
    changes.extend(more(link.index));
    pod.apply(&changes).map_err(kernel("set up the pod's interface"))
}

/// Waits until no address is tentative any more. The link's own (fe80::) is not waited for.
fn settle(pod: &mut Netlink, device: LinkIndex) -> Result<(), CniError> {
    let until = Instant::now() + SETTLE;
    loop {
        let have = pod.addresses(Some(device)).map_err(kernel("list the pod's addresses"))?;
        let is_pending = |it: &Address| it.tentative && it.scope == AddressScope::Global;
        if !have.iter().any(is_pending) || Instant::now() >= until {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// The routes of an answer: those without a gateway go by the first gateway of their family.
pub(crate) fn routes(given: &AddResult, device: LinkIndex) -> Vec<Route> {
    let default = |is_ipv4: bool| {
        let gateways = given.ips.iter().filter_map(|ip| ip.gateway);
        gateways.into_iter().find(|gateway| gateway.is_ipv4() == is_ipv4)
    };
    let route = |wanted: &crate::ResultRoute| {
        let route = Route::to(wanted.dst).on(device).protocol(PROTOCOL_BOOT);
        match wanted.gw.or_else(|| default(wanted.dst.addr().is_ipv4())) {
            Some(gateway) => route.via(gateway),
            None => route,
        }
    };
    given.routes.iter().map(route).collect()
}

/// RTPROT_BOOT, as `ip route add` without a word about it: routes inside a pod are the pod's.
pub(crate) const PROTOCOL_BOOT: u8 = 3;

/// Removes the pair of an attachment: by the node's end, or, when another program made it, by the
/// pod's.
pub(crate) fn take_down(
    env: &Environment,
    identity: &Identity,
    node: &mut Netlink,
) -> Result<(), CniError> {
    let name = node_link(identity);
    if let Some(link) = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?
        && is_ours(&link)
    {
        return remove_link(node, &link);
    }
    // A pod that was attached by the reference plugin, before this one took over.
    let Ok(namespace) = env.namespace() else { return Ok(()) };
    namespace.visit(|| {
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = pod.link(identity.ifname.as_str()).map_err(kernel("look for the pod's link"))?;
        match link {
            Some(link) => missing_is_fine(pod.remove_link(&link))
                .map_err(kernel("remove the pod's interface")),
            None => Ok(()),
        }
    })?
}

/// Removes the pairs of a network that belong to no valid attachment.
pub(crate) fn gc(network: &str, valid: &[Identity]) -> Result<(), CniError> {
    let keep: Vec<String> = valid.iter().map(node_link).collect();
    let ending = format!("@{network}");
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let links = node.links().map_err(kernel("list links"))?;
    let is_its = |link: &&Link| {
        is_ours(link)
            && link.kind.as_deref() == Some("veth")
            && link.alias.as_deref().is_some_and(|alias| alias.ends_with(&ending))
    };
    let leaked: Vec<&Link> =
        links.iter().filter(is_its).filter(|link| !keep.contains(&link.name)).collect();
    if leaked.is_empty() { Ok(()) } else { remove_links(&mut node, &leaked) }
}

/// CHECK of the pod's end; runs inside the pod's namespace. `given` is the result of ADD.
pub(crate) fn check_pod(ifname: &str, given: &AddResult) -> Result<Vec<String>, CniError> {
    let mut differences = Vec::new();
    let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
    let Some(link) = pod.link(ifname).map_err(kernel("find the pod's interface"))? else {
        return Ok(vec![format!("the pod has no interface {ifname}")]);
    };
    let told = given.interfaces.iter().find(|it| it.name == ifname && !it.sandbox.is_empty());
    match told {
        Some(told) => check_link(&link, &told.mac, &mut differences),
        None => differences.push(format!("prevResult has no interface {ifname} in a sandbox")),
    }
    let have = pod.addresses(Some(link.index)).map_err(kernel("list the pod's addresses"))?;
    for ip in &given.ips {
        if !have.iter().any(|have| have.network == ip.address && !have.tentative) {
            differences.push(format!("pod: missing address {}", ip.address));
        }
    }
    let have = pod.every_route().map_err(kernel("list the pod's routes"))?;
    for route in routes(given, link.index) {
        // Whoever made it: a route is as good under another protocol number.
        let same = |have: &Route| route.clone().protocol(have.protocol).is_served_by(have);
        if !have.iter().any(same) {
            differences.push(format!("pod: missing route {route}"));
        }
    }
    Ok(differences)
}

/// Up, and with the Ethernet address of the result.
pub(crate) fn check_link(link: &Link, mac: &str, differences: &mut Vec<String>) {
    if !link.up {
        differences.push(format!("link {} is down", link.name));
    }
    let have = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !mac.is_empty() && !mac.eq_ignore_ascii_case(&have) {
        differences.push(format!("link {} has address {have}, not {mac}", link.name));
    }
}

/// Forwarding for the families of these addresses.
pub(crate) fn forward<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Result<(), CniError> {
    let mut settings = Vec::new();
    for address in addresses {
        let name =
            if address.is_ipv4() { "net/ipv4/ip_forward" } else { "net/ipv6/conf/all/forwarding" };
        if !settings.iter().any(|(have, _)| have == name) {
            settings.push((name.to_owned(), "1"));
        }
    }
    crate::steps::ensure("the node", &settings)
}
