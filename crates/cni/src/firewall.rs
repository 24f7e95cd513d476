//! Plugin type `firewall`: who may open connections to the pod.
//!
//! `ingressPolicy: same-bridge`: whoever is on the pod's bridge. `isolated`: nobody, pods on the same bridge included; their ports
//! of it are isolated from each other, so a port of the bridge that is not stays able to reach them. Either way a host port
//! leads in. `open`: everybody, which needs no rule here. The reference plugin then also adds accepting rules to iptables'
//! FORWARD chain; in nf_tables no table can accept what another one drops, so where some other forward chain has the policy
//! `drop`, this plugin says so on standard error instead of pretending.

use link::kernel::Netlink;
use link::{BridgePort, Change, Link};
use nft::Policy;
use nft::kernel::Netlink as Nftables;
use serde::Deserialize;

use crate::environment::Environment;
use crate::rules::{self, Owner, Wanted};
use crate::steps::{agree, kernel};
use crate::{AddResult, CniError, NetworkConfig, ruled};

const PLUGIN: &str = "firewall";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    ingress_policy: Option<String>,
}

/// Who may open connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ingress {
    Everybody,
    SameBridge,
    Nobody,
}

impl Conf {
    fn ingress(&self) -> Result<Ingress, CniError> {
        match self.ingress_policy.as_deref().unwrap_or_default() {
            "" | "open" => Ok(Ingress::Everybody),
            "same-bridge" => Ok(Ingress::SameBridge),
            "isolated" => Ok(Ingress::Nobody),
            other => {
                let why = format!("`{other}` is none of open, same-bridge and isolated");
                Err(CniError::Config { field: "ingressPolicy", why })
            }
        }
    }
}

fn wanted(env: &Environment, conf: &Conf, previous: &AddResult) -> Result<Wanted, CniError> {
    let mut wanted = Wanted { netns: env.netns.clone(), ..Wanted::default() };
    let addresses = previous.ips.iter().map(|ip| ip.address.addr());
    match conf.ingress()? {
        Ingress::Everybody => {}
        Ingress::SameBridge => {
            // The bridge plugin tells its bridge first.
            let bridge = previous.interfaces.first().filter(|it| it.sandbox.is_empty());
            let Some(bridge) = bridge else {
                let why = "begins with no bridge; same-bridge follows the bridge plugin".to_owned();
                return Err(CniError::Config { field: "prevResult", why });
            };
            wanted.same_bridge = addresses.map(|ip| (ip, bridge.name.clone())).collect();
        }
        Ingress::Nobody => wanted.isolated = addresses.collect(),
    }
    Ok(wanted)
}

/// The node's ends of the result that are ports of a bridge.
fn ports(node: &mut Netlink, previous: &AddResult) -> Result<Vec<Link>, CniError> {
    let mut ports = Vec::new();
    for interface in previous.interfaces.iter().filter(|it| it.sandbox.is_empty()) {
        let link = node.link(interface.name.as_str()).map_err(kernel("look for the pod's link"))?;
        ports.extend(link.filter(|link| link.master.is_some()));
    }
    Ok(ports)
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let conf: Conf = config.read()?;
    let identity = env.identity()?;
    let previous = config.previous()?;
    rules::apply(Owner::new(PLUGIN, config, &identity), &wanted(env, &conf, previous)?)?;
    if conf.ingress()? == Ingress::Nobody {
        let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
        let port = BridgePort { isolated: Some(true), ..BridgePort::default() };
        for link in ports(&mut node, previous)? {
            node.apply(&[Change::SetBridgePort((&link).into(), port)])
                .map_err(kernel("isolate the pod's port of the bridge"))?;
        }
    }
    warn_of_dropping();
    Ok(previous.clone())
}

/// Says which forward chains drop what nobody in them accepts.
fn warn_of_dropping() {
    use std::io::Write as _;
    let chains = Nftables::open().ok().and_then(|mut kernel| kernel.every_chain().ok());
    for chain in chains.into_iter().flatten() {
        let Some(hook) = chain.hook else { continue };
        if hook.point == nft::HookPoint::Forward && hook.policy == Policy::Drop {
            let (family, table, name) = (chain.family, chain.table, chain.name);
            let text = format!(
                "firewall: chain {name} of table {family} {table} drops what it does not accept; \
                 pods need an accepting rule there\n"
            );
            drop(std::io::stderr().lock().write_all(text.as_bytes()));
        }
    }
}

pub(crate) fn del(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    ruled::del(PLUGIN, env, config)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let (conf, previous): (Conf, _) = (config.read()?, config.previous()?);
    ruled::check(PLUGIN, env, config, &wanted(env, &conf, previous)?)?;
    if conf.ingress()? != Ingress::Nobody {
        return Ok(());
    }
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let open = ports(&mut node, previous)?.into_iter().filter(|link| !link.isolated);
    agree(open.map(|link| format!("port {} of its bridge is not isolated", link.name)).collect())
}

pub(crate) fn gc(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    rules::gc(PLUGIN, config, config.valid_attachments()?)
}

pub(crate) fn status(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    config.read::<Conf>()?.ingress().map(drop)
}
