//! Plugin type `bridge`: a veth pair whose node end is a port of a bridge, which may be the pods'
//! gateway.
//!
//! The order makes every crash harmless: the address is reserved before a link exists and given back
//! after it is gone; the bridge stays, as the reference plugin leaves it.

use std::net::IpAddr;

use ipnet::IpNet;
use link::kernel::Netlink;
use link::{Address, Bridge, Change, Link, LinkSettings, MacAddr, Namespace, sysctl};
use serde::Deserialize;

use crate::attachment::everything;
use crate::environment::{Environment, Identity};
use crate::ipam::Ask;
use crate::pair::{self, Pair};
use crate::result::{AddResult, ResultInterface, ResultRoute};
use crate::rules::{self, Owner};
use crate::steps::{agree, ensure_where_known, gone, is_ours, kernel, one, remove_link, settle};
use crate::{CniError, NetworkConfig, paired};

const PLUGIN: &str = "bridge";
/// The bridge when the configuration names none.
const DEFAULT_BRIDGE: &str = "cni0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "the configuration's own switches")]
struct Conf {
    bridge: Option<String>,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: i64,
    #[serde(default, rename = "macspoofchk")]
    mac_spoof_check: bool,
    #[serde(default, rename = "enabledad")]
    enable_dad: bool,
}

impl Conf {
    fn read(config: &NetworkConfig) -> Result<Self, CniError> {
        let mut conf: Self = config.read()?;
        let wrong = |field, why: &str| Err(CniError::Config { field, why: why.to_owned() });
        conf.is_gateway |= conf.is_default_gateway;
        if conf.hairpin_mode && conf.promisc_mode {
            return wrong("hairpinMode", "cannot be together with promiscMode; choose one");
        }
        if conf.vlan != 0 {
            return wrong("vlan", "is not supported here; give each VLAN a bridge of its own");
        }
        if conf.mac_spoof_check {
            return wrong("macspoofchk", "is not supported here; `fairway` mode checks sources");
        }
        Ok(conf)
    }

    fn name(&self) -> &str {
        self.bridge.as_deref().filter(|name| !name.is_empty()).unwrap_or(DEFAULT_BRIDGE)
    }
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let conf = Conf::read(config)?;
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let wanted = config.wanted_ips(env)?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let name = pair::node_link(&identity);
    let old = node.link(name.as_str()).map_err(kernel("look for the pod's link"))?;
    let given = match &config.ipam {
        Some(ipam) => {
            Some(ipam.add(Ask { env, config, identity: &identity }, &wanted, old.is_none())?)
        }
        None => None,
    };
    let made = (|| {
        // A retried ADD finds what the first one left: it is made anew, with the same addresses.
        if let Some(old) = old.filter(is_ours) {
            remove_link(&mut node, &old)?;
        }
        let attachment = Attachment { env, config, conf: &conf, identity: &identity };
        attachment.make(&mut node, &namespace, given.unwrap_or_default())
    })();
    made.map_err(|error| {
        // A runtime may or may not call DEL after a failed ADD: leave nothing either way.
        let mut errors = vec![error];
        errors.extend(paired::take_down(owner(config, &identity), env, config, conf.ip_masq).err());
        one(errors)
    })
}

/// One attachment being made.
struct Attachment<'a> {
    env: &'a Environment,
    config: &'a NetworkConfig,
    conf: &'a Conf,
    identity: &'a Identity,
}

impl Attachment<'_> {
    fn make(
        &self,
        node: &mut Netlink,
        namespace: &Namespace,
        mut result: AddResult,
    ) -> Result<AddResult, CniError> {
        let conf = self.conf;
        let bridge = ensure_bridge(node, conf, self.config.mtu)?;
        let pair = Pair {
            env: self.env,
            config: self.config,
            identity: self.identity,
            namespace,
            master: Some(bridge.index),
            hairpin: conf.hairpin_mode,
        };
        let made = pair.make(node)?;
        result.interfaces = vec![ResultInterface {
            name: bridge.name.clone(),
            mac: bridge.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: Some(bridge.mtu),
            sandbox: String::new(),
        }];
        result.interfaces.extend(pair.told(&made));
        let gateways = gateways(conf, &mut result);
        let ifname = &self.identity.ifname;
        namespace
            .visit(|| pair::set_up_pod(ifname, &result, conf.enable_dad, |_| Vec::new()))??;
        settle(node, &[&made.node, &bridge])?;
        if conf.is_gateway {
            ensure_addresses(node, &bridge, &gateways, conf.force_address)?;
            pair::forward(gateways.iter().map(IpNet::addr).collect::<Vec<_>>().iter())?;
        }
        rules::apply(
            owner(self.config, self.identity),
            &paired::wanted(conf.ip_masq, self.env, &result),
        )?;
        if self.config.dns.is_some() {
            result.dns.clone_from(&self.config.dns);
        }
        Ok(result)
    }
}

fn owner<'a>(config: &'a NetworkConfig, identity: &'a Identity) -> Owner<'a> {
    Owner::new(PLUGIN, config, identity)
}

/// The bridge, made and up.
fn ensure_bridge(node: &mut Netlink, conf: &Conf, mtu: Option<u32>) -> Result<Link, CniError> {
    let name = conf.name();
    let look = kernel("look for the bridge");
    let found = match node.link(name).map_err(look)? {
        Some(found) => found,
        None => {
            // Its own Ethernet address: else it is the lowest of its ports', and changes with them.
            let mac = MacAddr::from_hash(random()?);
            let bridge =
                Bridge { name: name.to_owned(), mac: Some(mac), mtu, multicast_snooping: true };
            match node.apply(&[Change::AddBridge(bridge)]) {
                // Another ADD was quicker.
                Err(error) if error.is_only(libc::EEXIST) => {}
                other => other.map_err(kernel("make the bridge"))?,
            }
            // The routes of this link are ours to make.
            ensure_where_known(name, &[(sysctl::interface("ipv6", name, "accept_ra"), "0")])?;
            let made = node.link(name).map_err(kernel("look for the bridge"))?;
            made.ok_or_else(|| gone(name))?
        }
    };
    if found.kind.as_deref() != Some("bridge") {
        let why = format!("{name} exists and is not a bridge");
        return Err(CniError::Config { field: "bridge", why });
    }
    if !found.up || (conf.promisc_mode && !found.promiscuous) {
        let settings = LinkSettings {
            up: Some(true),
            promiscuous: conf.promisc_mode.then_some(true),
            ..LinkSettings::default()
        };
        node.apply(&[Change::SetLink((&found).into(), settings)])
            .map_err(kernel("bring up the bridge"))?;
    }
    Ok(found)
}

fn random() -> Result<u64, CniError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |errno| CniError::Io { operation: "draw a random number", source: errno.into() },
    )?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Fills in gateways and default routes where the bridge is to be the gateway, and says which
/// addresses the bridge needs for that.
fn gateways(conf: &Conf, result: &mut AddResult) -> Vec<IpNet> {
    let mut gateways = Vec::new();
    for ip in &mut result.ips {
        ip.interface = Some(2);
        if !conf.is_gateway {
            continue;
        }
        let gateway = *ip.gateway.get_or_insert_with(|| first_host(ip.address));
        let default = everything(gateway);
        let is_routed = |route: &ResultRoute| route.dst == default && route.gw.is_some();
        if conf.is_default_gateway && !result.routes.iter().any(is_routed) {
            result.routes.push(ResultRoute { dst: default, gw: Some(gateway) });
        }
        gateways.extend(IpNet::new(gateway, ip.address.prefix_len()));
    }
    gateways
}

/// The first address of a network after its own.
fn first_host(address: IpNet) -> IpAddr {
    match address.network() {
        IpAddr::V4(network) => (u32::from(network).wrapping_add(1)).to_be_bytes().into(),
        IpAddr::V6(network) => (u128::from(network).wrapping_add(1)).to_be_bytes().into(),
    }
}

/// The gateway addresses on the bridge. One that is there of another subnet is in the way: removed
/// when the configuration says so, an error otherwise; IPv6 subnets side by side are fine.
fn ensure_addresses(
    node: &mut Netlink,
    bridge: &Link,
    gateways: &[IpNet],
    force: bool,
) -> Result<(), CniError> {
    let mut have =
        node.addresses(Some(bridge.index)).map_err(kernel("list the bridge's addresses"))?;
    have.retain(|address| address.scope == link::AddressScope::Global);
    for gateway in gateways {
        if have.iter().any(|address| address.network == *gateway) {
            continue;
        }
        let in_the_way = |address: &&Address| match (address.network, gateway) {
            (IpNet::V4(_), IpNet::V4(_)) => !gateways.contains(&address.network),
            (IpNet::V6(have), IpNet::V6(wanted)) => {
                have.contains(&wanted.addr()) || wanted.contains(&have.addr())
            }
            _ => false,
        };
        let mut changes = Vec::new();
        for address in have.iter().filter(in_the_way) {
            if !force {
                let why = format!(
                    "{} has {} already, which is not {gateway}; forceAddress replaces it",
                    bridge.name, address.network
                );
                return Err(CniError::Config { field: "bridge", why });
            }
            changes.push(Change::DeleteAddress(address.clone()));
        }
        // Without detection, in which the gateway would not answer for a second.
        changes.push(Change::AddAddress(Address::new(bridge.index, *gateway)));
        match node.apply(&changes) {
            Err(error) if error.is_only(libc::EEXIST) => {}
            other => other.map_err(kernel("give the bridge its address"))?,
        }
        have.push(Address::new(bridge.index, *gateway));
    }
    Ok(())
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    // A configuration that changed under a running pod must not keep it from going.
    let conf: Conf = config.read()?;
    paired::take_down(owner(config, &env.identity()?), env, config, conf.ip_masq)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let conf = Conf::read(config)?;
    let identity = env.identity()?;
    let namespace = env.namespace()?;
    let previous = config.previous()?;
    let mut differences = Vec::new();
    if let Some(ipam) = &config.ipam {
        let addresses: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
        differences.extend(ipam.check(Ask { env, config, identity: &identity }, &addresses)?);
    }
    differences.extend(namespace.visit(|| pair::check_pod(&identity.ifname, previous))??);
    differences.extend(check_node(&conf, &pair::node_link(&identity), previous)?);
    differences.extend(rules::check(
        owner(config, &identity),
        &paired::wanted(conf.ip_masq, env, previous),
    )?);
    agree(differences)
}

fn check_node(conf: &Conf, name: &str, previous: &AddResult) -> Result<Vec<String>, CniError> {
    let mut differences = Vec::new();
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let told = |name: &str| {
        let mut on_node = previous.interfaces.iter().filter(|it| it.sandbox.is_empty());
        on_node.find(|it| it.name == name).map(|it| it.mac.clone()).unwrap_or_default()
    };
    let bridge = node.link(conf.name()).map_err(kernel("look for the bridge"))?;
    let Some(bridge) = bridge.filter(|it| it.kind.as_deref() == Some("bridge")) else {
        return Ok(vec![format!("the node has no bridge {}", conf.name())]);
    };
    pair::check_link(&bridge, &told(&bridge.name), &mut differences);
    if conf.promisc_mode && !bridge.promiscuous {
        differences.push(format!("bridge {} is not promiscuous", bridge.name));
    }
    // The pair may be the reference plugin's: then the result knows its name.
    let of_result =
        previous.interfaces.iter().find(|it| it.sandbox.is_empty() && it.name != bridge.name);
    let name = of_result.map_or(name, |it| it.name.as_str());
    match node.link(name).map_err(kernel("look for the pod's link"))? {
        None => differences.push(format!("the node has no link {name}")),
        Some(link) => {
            pair::check_link(&link, &told(&link.name), &mut differences);
            if link.master != Some(bridge.index) {
                differences.push(format!("link {name} is no port of bridge {}", bridge.name));
            }
        }
    }
    if conf.is_gateway {
        let have =
            node.addresses(Some(bridge.index)).map_err(kernel("list the bridge's addresses"))?;
        for gateway in previous.ips.iter().filter_map(|ip| ip.gateway) {
            if !have.iter().any(|have| have.ip() == gateway) {
                differences.push(format!("bridge {} lacks {gateway}", bridge.name));
            }
        }
    }
    Ok(differences)
}

pub(crate) fn gc(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    paired::gc(PLUGIN, env, config)
}

pub(crate) fn status(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let not_ready = |error: CniError| CniError::NotReady { source: Box::new(error) };
    Conf::read(config)?;
    Netlink::open().map_err(|error| not_ready(kernel("reach the node's network")(error)))?;
    match &config.ipam {
        Some(ipam) => ipam.status(env, config).map_err(not_ready),
        None => Ok(()),
    }
}
