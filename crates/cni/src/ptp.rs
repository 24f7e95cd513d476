//! Plugin type `ptp`: a routed veth pair. The node's end carries the gateway's address, the pod sends
//! everything to it, its own subnet included.

use std::net::IpAddr;

use link::kernel::Netlink;
use link::{Address, AddressScope, Change, Link, LinkIndex, Route};
use serde::Deserialize;

use crate::attachment::alone;
use crate::environment::{Environment, Identity};
use crate::ipam::Ask;
use crate::pair::{self, PROTOCOL_BOOT, Pair};
use crate::result::{AddResult, ResultIp};
use crate::rules::{self, Owner};
use crate::steps::{agree, is_ours, kernel, one, remove_link, settle};
use crate::{CniError, NetworkConfig, paired};

const PLUGIN: &str = "ptp";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    ip_masq: bool,
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let conf: Conf = config.read()?;
    let ipam = config.ipam()?;
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let wanted_ips = config.wanted_ips(env)?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let name = pair::node_link(&identity);
    let old = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?;
    let ask = Ask { env, config, identity: &identity };
    let mut result = ipam.add(ask, &wanted_ips, old.is_none())?;
    let mut make = || {
        if let Some(ip) = result.ips.iter().find(|ip| ip.gateway.is_none()) {
            let why = format!("gives {} without a gateway; ptp needs one", ip.address);
            return Err(CniError::Config { field: "ipam", why });
        }
        if let Some(old) = old.as_ref().filter(|old| is_ours(old)) {
            remove_link(&mut node, old)?;
        }
        pair::forward(result.ips.iter().map(|ip| ip.address.addr()).collect::<Vec<_>>().iter())?;
        let pair = Pair {
            env,
            config,
            identity: &identity,
            namespace: &namespace,
            master: None,
            hairpin: false,
        };
        let made = pair.make(&mut node)?;
        result.interfaces = pair.told(&made).into();
        for ip in &mut result.ips {
            ip.interface = Some(1);
        }
        let ips = result.ips.clone();
        namespace.visit(|| {
            pair::set_up_pod(&identity.ifname, &result, false, |device| by_gateway(&ips, device))
        })??;
        settle(&mut node, &[&made.node])?;
        node.apply(&on_node(&result.ips, &made.node)).map_err(kernel("route to the pod"))?;
        rules::apply(owner(config, &identity), &paired::wanted(conf.ip_masq, env, &result))
    };
    if let Err(error) = make() {
        let mut errors = vec![error];
        errors.extend(paired::take_down(owner(config, &identity), env, config, conf.ip_masq).err());
        return Err(one(errors));
    }
    if config.dns.is_some() {
        result.dns.clone_from(&config.dns);
    }
    Ok(result)
}

/// The kernel's own route of the subnet goes; in its place the gateway is on the link and the subnet
/// behind it.
fn by_gateway(ips: &[ResultIp], device: LinkIndex) -> Vec<Change<'static>> {
    let mut changes = Vec::new();
    for ip in ips {
        let Some(gateway) = ip.gateway else { continue };
        let own = ip.address.addr();
        let subnet = Route::to(ip.address.trunc()).on(device);
        let link_route = match own {
            IpAddr::V4(_) => subnet.clone().protocol(PROTOCOL_KERNEL).source(own),
            IpAddr::V6(_) => subnet.clone().protocol(PROTOCOL_KERNEL).metric(IPV6_PREFIX_METRIC),
        };
        changes.push(Change::DeleteRoute(link_route));
        let to_gateway = Route::to(alone(gateway)).on(device).source(own).protocol(PROTOCOL_BOOT);
        changes.push(Change::AddRoute(to_gateway));
        let route = subnet.via(gateway).source(own).protocol(PROTOCOL_BOOT);
        changes.push(Change::AddRoute(route));
    }
    changes
}

/// RTPROT_KERNEL.
const PROTOCOL_KERNEL: u8 = 2;
/// Metric of the route the kernel makes for an IPv6 prefix (IP6_RT_PRIO_ADDRCONF).
const IPV6_PREFIX_METRIC: u32 = 256;

/// The gateway's address on the node's end, and a route to the pod.
fn on_node(ips: &[ResultIp], link: &Link) -> Vec<Change<'static>> {
    let gateways = ips.iter().filter_map(|ip| ip.gateway);
    let mut changes: Vec<Change<'_>> = gateways
        .map(|gateway| Change::AddAddress(Address::new(link.index, alone(gateway))))
        .collect();
    changes.extend(ips.iter().map(|ip| Change::AddRoute(host_route(ip, link.index))));
    changes
}

fn host_route(ip: &ResultIp, device: LinkIndex) -> Route {
    Route::to(alone(ip.address.addr())).on(device).protocol(PROTOCOL_BOOT)
}

fn owner<'a>(config: &'a NetworkConfig, identity: &'a Identity) -> Owner<'a> {
    Owner::new(PLUGIN, config, identity)
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let conf: Conf = config.read()?;
    paired::take_down(owner(config, &env.identity()?), env, config, conf.ip_masq)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let conf: Conf = config.read()?;
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let previous = config.previous()?;
    let addresses: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
    let ask = Ask { env, config, identity: &identity };
    let mut differences = config.ipam()?.check(ask, &addresses)?;
    differences.extend(namespace.visit(|| pair::check_pod(&identity.ifname, previous))??);
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let of_result = previous.interfaces.iter().find(|it| it.sandbox.is_empty());
    let name =
        of_result.map_or_else(|| pair::node_link(&identity), |interface| interface.name.clone());
    match node.link(name.as_str()).map_err(kernel("look for the pod's link"))? {
        None => differences.push(format!("the node has no link {name}")),
        Some(link) => {
            let mac = of_result.map_or("", |interface| interface.mac.as_str());
            pair::check_link(&link, mac, &mut differences);
            let have =
                node.addresses(Some(link.index)).map_err(kernel("list the node's addresses"))?;
            let routes = node.every_route().map_err(kernel("list the node's routes"))?;
            for ip in &previous.ips {
                let is_gateway = |have: &Address| {
                    have.scope == AddressScope::Global && Some(have.ip()) == ip.gateway
                };
                if !have.iter().any(is_gateway) {
                    differences.push(format!("node: {name} lacks the gateway of {}", ip.address));
                }
                let route = host_route(ip, link.index);
                let same = |have: &Route| route.clone().protocol(have.protocol).is_served_by(have);
                if !routes.iter().any(same) {
                    differences.push(format!("node: missing route {route}"));
                }
            }
        }
    }
    differences.extend(rules::check(
        owner(config, &identity),
        &paired::wanted(conf.ip_masq, env, previous),
    )?);
    agree(differences)
}

pub(crate) fn gc(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    paired::gc(PLUGIN, env, config)
}

pub(crate) fn status(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let not_ready = |error: CniError| CniError::NotReady { source: Box::new(error) };
    Netlink::open().map_err(|error| not_ready(kernel("reach the node's network")(error)))?;
    config.ipam()?.status(env, config).map_err(not_ready)
}
