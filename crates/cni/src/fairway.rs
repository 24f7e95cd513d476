//! Plugin type `fairway`: a routed veth pair.
//!
//! ADD, DEL, CHECK, GC and STATUS against the kernel. The order makes every crash harmless: the
//! address is reserved before a link exists and given back after it is gone, and the link's removal
//! takes routes and neighbours with it.

mod check;

use std::net::IpAddr;
use std::os::fd::AsFd;

use link::kernel::Netlink;
use link::{Change, Link, LinkEnd, LinkSettings, MacAddr, Namespace, Veth, sysctl};
use serde_json::Value;

use crate::attachment::{self, NODE_LINK_PREFIX, NODE_MAC, ROUTE_PROTOCOL, gateway, node_link};
use crate::bandwidth::{self, Limits};
use crate::environment::{Environment, Identity};
use crate::ipam::Ask;
use crate::result::{AddResult, ResultInterface, ResultIp, ResultRoute};
use crate::rules::{self, Owner, Wanted};
use crate::steps::{
    all, ensure, gone, is_ours as has_our_alias, kernel, one, remove_link, remove_links,
};
use crate::{CniError, NetworkConfig, gate, portmap, steps};

const PLUGIN: &str = "fairway";

/// One attachment being made.
struct Attachment<'a> {
    env: &'a Environment,
    config: &'a NetworkConfig,
    identity: Identity,
    namespace: Namespace,
    /// Name of the node's end.
    node_link: String,
    mac: MacAddr,
    addresses: Vec<IpAddr>,
    /// Resolver settings of the address source.
    dns: Option<Value>,
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let wanted = config.wanted_ips(env)?;
    let name = node_link(&identity);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    // A retried ADD finds what the first one left: it is made anew, with the same addresses.
    let old = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?;
    let ask = Ask { env, config, identity: &identity };
    let given = config.ipam()?.add(ask, &wanted, old.is_none())?;
    if let Some(old) = old.filter(is_ours) {
        remove_link(&mut node, &old)?;
    }
    let attachment = Attachment {
        env,
        config,
        node_link: name,
        mac: config.wanted_mac(env)?.unwrap_or_else(|| attachment::pod_mac(&identity)),
        identity,
        namespace,
        addresses: given.ips.iter().map(|ip| ip.address.addr()).collect(),
        dns: given.dns,
    };
    // The container starts when this returns: not before its policy is in the kernel.
    let made = attachment.make(&mut node).and_then(|result| {
        let socket = config.policy_socket.as_deref();
        gate::wait(socket, env, &attachment.addresses).map(|()| result)
    });
    match made {
        Ok(result) => Ok(result),
        Err(error) => {
            // A runtime may or may not call DEL after a failed ADD: leave nothing either way.
            let mut errors = vec![error];
            errors.extend(take_down(env, &attachment.identity, config).err());
            Err(one(errors))
        }
    }
}

impl Attachment<'_> {
    fn make(&self, node: &mut Netlink) -> Result<AddResult, CniError> {
        let veth = Veth {
            end: LinkEnd::named(&self.node_link).mac(NODE_MAC),
            peer: LinkEnd::named(&self.identity.ifname).mac(self.mac),
            mtu: self.config.mtu,
            master: None,
            peer_namespace: Some(self.namespace.as_fd()),
        };
        // No address of any kind on the node's end, so no link-local one either.
        let settings = LinkSettings {
            up: Some(true),
            alias: Some(attachment::alias(self.env)),
            ipv6_link_local: self.has_ipv6().then_some(false),
            ..LinkSettings::default()
        };
        node.apply(&[
            Change::AddVeth(veth),
            Change::SetLink(self.node_link.as_str().into(), settings),
        ])
        .map_err(|error| match error.refusals().first() {
            Some(refusal) if refusal.at == 0 && refusal.is_taken() => {
                CniError::InterfaceTaken { interface: self.identity.ifname.clone() }
            }
            _ => kernel("make the pod's link")(error),
        })?;
        let end = node.link(self.node_link.as_str()).map_err(kernel("find the node's end"))?;
        let end = end.ok_or_else(|| gone(&self.node_link))?;
        self.prepare_node_end()?;
        self.namespace.visit(|| self.prepare_pod())??;
        steps::settle(node, &[&end])?;
        let changes = attachment::on_node(end.index, self.mac, &self.addresses).changes();
        node.apply(&changes).map_err(kernel("route to the pod"))?;
        let result = self.result(end.mtu);
        let wanted = wanted(self.env, self.config, &self.node_link, &result)?;
        portmap::prepare(&wanted)?;
        rules::apply(owner(self.config, &self.identity), &wanted)?;
        let limits = Limits::read(self.config)?;
        bandwidth::apply(node, &end, &self.identity, &self.config.name, limits)?;
        Ok(result)
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }

    /// Forwarding on; and by the host routes a strict reverse path filter is a source check: IPv4 that
    /// comes out of this link with another pod's address is dropped.
    fn prepare_node_end(&self) -> Result<(), CniError> {
        let link = &self.node_link;
        let mut settings = Vec::new();
        if self.addresses.iter().any(IpAddr::is_ipv4) {
            settings.push(("net/ipv4/ip_forward".to_owned(), "1"));
            settings.push((sysctl::interface("ipv4", link, "forwarding"), "1"));
            settings.push((sysctl::interface("ipv4", link, "rp_filter"), "1"));
        }
        if self.has_ipv6() {
            settings.push((sysctl::interface("ipv6", link, "disable_ipv6"), "0"));
            settings.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
            settings.push((sysctl::interface("ipv6", link, "forwarding"), "1"));
            settings.push((sysctl::interface("ipv6", link, "accept_ra"), "0"));
        }
        ensure(link, &settings)
    }

    /// Runs inside the pod's namespace.
    fn prepare_pod(&self) -> Result<(), CniError> {
        let name = &self.identity.ifname;
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = pod.link(name.as_str()).map_err(kernel("find the pod's interface"))?;
        let link = link.ok_or_else(|| gone(name))?;
        if self.has_ipv6() {
            // Runtimes disable IPv6 in new namespaces when they see no use for it.
            ensure(name, &[(sysctl::interface("ipv6", name, "disable_ipv6"), "0")])?;
        }
        let changes = attachment::in_pod(link.index, &self.addresses).changes(link.index);
        pod.apply(&changes).map_err(kernel("set up the pod's interface"))
    }

    fn result(&self, mtu: u32) -> AddResult {
        let interface = |name: &str, mac: MacAddr, sandbox: &str| ResultInterface {
            name: name.to_owned(),
            mac: mac.to_string(),
            mtu: Some(mtu),
            sandbox: sandbox.to_owned(),
        };
        let addresses = self.addresses.iter().copied();
        AddResult {
            interfaces: vec![
                interface(&self.node_link, NODE_MAC, ""),
                interface(&self.identity.ifname, self.mac, &self.env.netns),
            ],
            ips: addresses
                .clone()
                .map(|ip| ResultIp {
                    interface: Some(1),
                    address: attachment::alone(ip),
                    gateway: Some(gateway(ip)),
                })
                .collect(),
            routes: addresses
                .map(|ip| ResultRoute { dst: attachment::everything(ip), gw: Some(gateway(ip)) })
                .collect(),
            dns: self.config.dns.clone().or_else(|| self.dns.clone()),
        }
    }
}

/// The rules of an attachment: its host ports, and what may come out of its link. IPv6 has no reverse
/// path filter: what comes with an address that is not the pod's is dropped by a rule. For IPv4 the
/// strict filter of the link does it.
fn wanted(
    env: &Environment,
    config: &NetworkConfig,
    link: &str,
    result: &AddResult,
) -> Result<Wanted, CniError> {
    let mut wanted = portmap::wanted(env, &config.read()?, result)?;
    for ip in &result.ips {
        if let IpAddr::V6(address) = ip.address.addr() {
            wanted.sources.push((link.to_owned(), address));
        }
    }
    Ok(wanted)
}

fn owner<'a>(config: &'a NetworkConfig, identity: &'a Identity) -> Owner<'a> {
    Owner::new(PLUGIN, config, identity)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    check::check(env, config)
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    take_down(env, &env.identity()?, config)
}

/// Removes the link, then gives the addresses back: an address must not be given to another pod while
/// the node still routes it to this one. Needs nothing of the pod; what is gone already is fine.
fn take_down(
    env: &Environment,
    identity: &Identity,
    config: &NetworkConfig,
) -> Result<(), CniError> {
    let name = node_link(identity);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    if let Some(link) = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?
        && is_ours(&link)
    {
        remove_link(&mut node, &link)?;
    }
    bandwidth::withdraw(&mut node, identity)?;
    rules::withdraw(owner(config, identity))?;
    match &config.ipam {
        Some(ipam) => ipam.del(Ask { env, config, identity }),
        None => Ok(()),
    }
}

/// Removes what belongs to no attachment the runtime still knows: links, rules, then reservations.
pub(crate) fn gc(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let valid = config.valid_attachments()?;
    let mut errors = Vec::new();
    let keep: Vec<String> = valid.iter().map(node_link).collect();
    errors.extend(gc_links(config, &keep).err());
    errors.extend(bandwidth::gc_for(&config.name, valid).err());
    errors.extend(rules::gc(PLUGIN, config, valid).err());
    // With a link left over its address stays reserved; the next GC tries again.
    if errors.is_empty() {
        errors.extend(config.ipam()?.gc(env, config, valid).err());
    }
    all(errors)
}

/// A link is this network's when a host route of ours to an address of this network's leads to it:
/// another network of the same plugin type has links that look alike.
fn gc_links(config: &NetworkConfig, keep: &[String]) -> Result<(), CniError> {
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let routes = node.routes(ROUTE_PROTOCOL).map_err(kernel("list routes"))?;
    let ipam = config.ipam()?;
    let routed: Vec<_> = routes
        .iter()
        .filter(|route| ipam.gives(route.destination.addr()))
        .filter_map(|route| route.device)
        .collect();
    let links = node.links().map_err(kernel("list links"))?;
    let leaked: Vec<&Link> = links
        .iter()
        .filter(|link| is_ours(link) && routed.contains(&link.index) && !keep.contains(&link.name))
        .collect();
    if leaked.is_empty() { Ok(()) } else { remove_links(&mut node, &leaked) }
}

/// Whether an ADD would have what it needs.
pub(crate) fn status(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let not_ready = |error: CniError| CniError::NotReady { source: Box::new(error) };
    Netlink::open().map_err(|error| not_ready(kernel("reach the node's network")(error)))?;
    config.ipam()?.status(env, config).map_err(not_ready)
}

/// Made by this plugin: by kind, name and alias.
fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && link.name.starts_with(NODE_LINK_PREFIX)
        && has_our_alias(link)
}
