//! Plugin type `fairway`: a routed veth pair.
//!
//! ADD, DEL, CHECK, GC and STATUS against the kernel. The order makes every crash harmless: the
//! address is reserved before a link exists and given back after it is gone, and the link's removal
//! takes routes and neighbours with it.

mod check;

use std::net::IpAddr;
use std::os::fd::AsFd;

use link::kernel::{Netlink, NetlinkError};
use link::sysctl::{self, SysctlError};
use link::{Change, Link, LinkEnd, LinkSettings, MacAddr, Namespace, Veth};

use crate::attachment::{
    self, ALIAS_PREFIX, NODE_LINK_PREFIX, NODE_MAC, ROUTE_PROTOCOL, gateway, node_link,
};
use crate::environment::{Command, Environment, Identity};
use crate::ipam::{IpamError, Store};
use crate::result::{AddResult, ResultInterface, ResultIp, ResultRoute};
use crate::{CniError, NetworkConfig, gate};

/// Runs a command; the text is for standard output.
pub(crate) fn run(
    command: Command,
    env: &Environment,
    config: &NetworkConfig,
) -> Result<String, CniError> {
    match command {
        Command::Add => add(env, config).map(|result| result.to_json(config.version)),
        Command::Del => del(env, config).map(|()| String::new()),
        Command::Check => check::check(env, config).map(|()| String::new()),
        Command::Gc => gc(config).map(|()| String::new()),
        Command::Status => status(config).map(|()| String::new()),
        Command::Version => Ok(crate::version::supported_json()),
    }
}

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
}

fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let wanted = config.wanted_ips(env)?;
    let name = node_link(&identity);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    // A retried ADD finds what the first one left: it is made anew, with the same addresses.
    let old = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?;
    // The lock is held for the reservation only: links of many pods are made at once.
    let addresses = Store::open(&config.data_dir, &config.name)?.reserve(
        &config.ranges,
        &identity,
        &wanted,
        old.is_none(),
    )?;
    if let Some(old) = old.filter(is_ours) {
        let removed = node.apply(&[Change::DeleteLink((&old).into())]);
        missing_is_fine(removed).map_err(kernel("remove the pod's old link"))?;
    }
    let attachment = Attachment {
        env,
        config,
        node_link: name,
        mac: config.wanted_mac.unwrap_or_else(|| attachment::pod_mac(&identity)),
        identity,
        namespace,
        addresses,
    };
    // The container starts when this returns: not before its policy is in the kernel.
    let made = attachment.make(&mut node).and_then(|mtu| {
        let socket = config.policy_socket.as_deref();
        gate::wait(socket, env, &attachment.addresses).map(|()| mtu)
    });
    match made {
        Ok(mtu) => Ok(attachment.result(mtu)),
        Err(error) => {
            // A runtime may or may not call DEL after a failed ADD: leave nothing either way.
            let mut errors = vec![error];
            errors.extend(take_down(&attachment.identity, config).err());
            Err(one(errors))
        }
    }
}

impl Attachment<'_> {
    fn make(&self, node: &mut Netlink) -> Result<u32, CniError> {
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
        let changes = attachment::on_node(end.index, self.mac, &self.addresses).changes();
        node.apply(&changes).map_err(kernel("route to the pod"))?;
        Ok(end.mtu)
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
        ensure(&settings).map_err(|source| CniError::Sysctl { interface: link.clone(), source })
    }

    /// Runs inside the pod's namespace.
    fn prepare_pod(&self) -> Result<(), CniError> {
        let name = &self.identity.ifname;
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = pod.link(name.as_str()).map_err(kernel("find the pod's interface"))?;
        let link = link.ok_or_else(|| gone(name))?;
        if self.has_ipv6() {
            // Runtimes disable IPv6 in new namespaces when they see no use for it.
            ensure(&[(sysctl::interface("ipv6", name, "disable_ipv6"), "0")])
                .map_err(|source| CniError::Sysctl { interface: name.clone(), source })?;
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
            dns: self.config.dns.clone(),
        }
    }
}

fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    take_down(&env.identity()?, config)
}

/// Removes the link, then gives the addresses back: an address must not be given to another pod while
/// the node still routes it to this one. Needs nothing of the pod; what is gone already is fine.
fn take_down(identity: &Identity, config: &NetworkConfig) -> Result<(), CniError> {
    let name = node_link(identity);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    if let Some(link) = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?
        && is_ours(&link)
    {
        let removed = node.apply(&[Change::DeleteLink((&link).into())]);
        missing_is_fine(removed).map_err(kernel("remove the pod's link"))?;
    }
    if let Some(mut store) = Store::open_existing(&config.data_dir, &config.name)? {
        store.release(identity)?;
    }
    Ok(())
}

/// Removes what belongs to no attachment the runtime still knows: links, then reservations.
fn gc(config: &NetworkConfig) -> Result<(), CniError> {
    let Some(valid) = &config.valid_attachments else {
        // Taking "not said" for "none" would cut off every pod of the node.
        let why = "is missing; the runtime lists the attachments to keep".to_owned();
        return Err(CniError::Config { field: "cni.dev/valid-attachments", why });
    };
    let mut errors = Vec::new();
    let keep: Vec<String> = valid.iter().map(node_link).collect();
    if let Err(error) = gc_links(config, &keep) {
        errors.push(error);
    }
    // With a link left over its address stays reserved; the next GC tries again.
    if errors.is_empty() {
        match Store::open_existing(&config.data_dir, &config.name) {
            Ok(Some(mut store)) => {
                let leaked = store.release_where(|entry| !valid.contains(&entry.owner));
                errors.extend(leaked.err().map(CniError::Ipam));
            }
            Ok(None) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(one(errors)) }
}

/// A link is this network's when a host route of ours into this network's ranges leads to it: another
/// network of the same plugin type has links that look alike.
fn gc_links(config: &NetworkConfig, keep: &[String]) -> Result<(), CniError> {
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let routes = node.routes(ROUTE_PROTOCOL).map_err(kernel("list routes"))?;
    let ours = |ip: IpAddr| config.ranges.iter().any(|set| set.gives(ip));
    let routed: Vec<_> = routes
        .iter()
        .filter(|route| ours(route.destination.addr()))
        .filter_map(|route| route.device)
        .collect();
    let links = node.links().map_err(kernel("list links"))?;
    let leaked: Vec<Change<'_>> = links
        .iter()
        .filter(|link| is_ours(link) && routed.contains(&link.index) && !keep.contains(&link.name))
        .map(|link| Change::DeleteLink(link.into()))
        .collect();
    missing_is_fine(node.apply(&leaked)).map_err(kernel("remove leaked links"))
}

/// Whether an ADD would have what it needs.
fn status(config: &NetworkConfig) -> Result<(), CniError> {
    let not_ready = |error: CniError| CniError::NotReady { source: Box::new(error) };
    Netlink::open().map_err(|error| not_ready(kernel("reach the node's network")(error)))?;
    let store =
        Store::open(&config.data_dir, &config.name).map_err(|error| not_ready(error.into()))?;
    let reserved = store.reservations().map_err(|error| not_ready(error.into()))?;
    for set in &config.ranges {
        let taken = reserved.iter().filter(|entry| set.gives(entry.address)).count();
        if taken as u64 >= set.capacity() {
            let ranges = set.to_string();
            return Err(not_ready(IpamError::Exhausted { ranges, taken }.into()));
        }
    }
    Ok(())
}

/// Made by this plugin: by kind, name and alias.
fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && link.name.starts_with(NODE_LINK_PREFIX)
        && link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX))
}

fn ensure(settings: &[(String, &str)]) -> Result<(), SysctlError> {
    for (name, value) in settings {
        sysctl::ensure(name, value)?;
    }
    Ok(())
}

fn kernel(step: &'static str) -> impl FnOnce(NetlinkError) -> CniError {
    move |source| CniError::Kernel { step, source }
}

fn gone(link: &str) -> CniError {
    let change = format!("ip link show {link}");
    let refusal = link::kernel::Refusal { at: 0, change, errno: libc::ENODEV, text: None };
    CniError::Kernel { step: "find the new link", source: NetlinkError::Refused(vec![refusal]) }
}

/// A removal of what is not there has done its work.
fn missing_is_fine(removed: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match removed {
        Err(NetlinkError::Refused(refusals)) => {
            let real: Vec<_> = refusals.into_iter().filter(|r| !r.is_missing()).collect();
            if real.is_empty() { Ok(()) } else { Err(NetlinkError::Refused(real)) }
        }
        other => other,
    }
}

fn one(mut errors: Vec<CniError>) -> CniError {
    if errors.len() == 1 { errors.remove(0) } else { CniError::Several { errors } }
}
