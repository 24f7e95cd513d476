//! Plugin type `firewall`: who may open connections to the pod.
//!
//! `ingressPolicy: same-bridge`: whoever is on the pod's bridge. Otherwise everybody, which needs no
//! rule here. The reference plugin then also adds accepting rules to iptables' FORWARD chain; in
//! nf_tables no table can accept what another one drops, so where some other forward chain has the
//! policy `drop`, this plugin says so on standard error instead of pretending.

use nft::Policy;
use nft::kernel::Netlink as Nftables;
use serde::Deserialize;

use crate::environment::Environment;
use crate::rules::{self, Owner, Wanted};
use crate::{AddResult, CniError, NetworkConfig, ruled};

const PLUGIN: &str = "firewall";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(default)]
    ingress_policy: Option<String>,
}

impl Conf {
    fn same_bridge(&self) -> Result<bool, CniError> {
        match self.ingress_policy.as_deref().unwrap_or_default() {
            "" | "open" => Ok(false),
            "same-bridge" => Ok(true),
            other => {
                let why = format!("`{other}` is none of open and same-bridge");
                Err(CniError::Config { field: "ingressPolicy", why })
            }
        }
    }
}

fn wanted(env: &Environment, conf: &Conf, previous: &AddResult) -> Result<Wanted, CniError> {
    let mut wanted = Wanted { netns: env.netns.clone(), ..Wanted::default() };
    if !conf.same_bridge()? {
        return Ok(wanted);
    }
    // The bridge plugin tells its bridge first.
    let bridge = previous.interfaces.first().filter(|it| it.sandbox.is_empty());
    let Some(bridge) = bridge else {
        let why = "begins with no bridge; same-bridge follows the bridge plugin".to_owned();
        return Err(CniError::Config { field: "prevResult", why });
    };
    let addresses = previous.ips.iter().map(|ip| (ip.address.addr(), bridge.name.clone()));
    wanted.same_bridge = addresses.collect();
    Ok(wanted)
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let conf: Conf = config.read()?;
    let identity = env.identity()?;
    let previous = config.previous()?;
    rules::apply(Owner::new(PLUGIN, config, &identity), &wanted(env, &conf, previous)?)?;
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
    let wanted = wanted(env, &config.read()?, config.previous()?)?;
    ruled::check(PLUGIN, env, config, &wanted)
}

pub(crate) fn gc(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    rules::gc(PLUGIN, config, config.valid_attachments()?)
}

pub(crate) fn status(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    config.read::<Conf>()?.same_bridge().map(drop)
}
