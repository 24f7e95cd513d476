//! Plugin type `bandwidth`: a pod's interface held to a rate in both directions, by traffic control.
//!
//! What the pod receives is what the node's end sends: a token bucket there. What the pod sends is
//! what the node's end receives, where nothing can wait; it is sent on by an `ifb` link first, which
//! has the other token bucket. The rates come from the configuration or from the runtime
//! (`runtimeConfig.bandwidth`, which container runtimes fill from the annotations
//! `kubernetes.io/ingress-bandwidth` and `egress-bandwidth`). Bits per second, as there.

use link::kernel::Netlink;
use link::{Change, Link, LinkEnd, LinkSettings, Namespace, Redirect, TokenBucket};
use serde::Deserialize;

use crate::attachment::{ALIAS_PREFIX, hash};
use crate::environment::{Environment, Identity};
use crate::result::ResultInterface;
use crate::steps::{agree, gone, is_ours, kernel, remove_link, remove_links};
use crate::{AddResult, CniError, NetworkConfig};

/// What the names of the `ifb` links begin with.
const PREFIX: &str = "bwp";
/// Bursts nobody thought about: what runtimes send when the annotation names only a rate, dockershim,
/// containerd and CRI-O (old and new). Taken literally 256 MiB to 4 GiB pass before the rate applies.
const ANY_BURST: [u64; 4] =
    [i32::MAX as u64, u32::MAX as u64, u32::MAX as u64 * 8 - 1, u32::MAX as u64 * 8];
/// Then the burst is what this part of a second sends, …
const BURST_PART: u64 = 20;
/// … but not less than a few large frames.
const BURST_LEAST: u64 = 64 * 1024;

#[derive(Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
struct Rates {
    ingress_rate: i64,
    ingress_burst: i64,
    egress_rate: i64,
    egress_burst: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conf {
    #[serde(flatten)]
    own: Rates,
    #[serde(default)]
    runtime_config: Option<Runtime>,
}

#[derive(Deserialize, Default)]
struct Runtime {
    #[serde(default)]
    bandwidth: Option<Rates>,
}

/// One direction's limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    rate: u64,
    burst: u32,
}

/// Both directions, as the pod sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    ingress: Option<Limit>,
    egress: Option<Limit>,
}

impl Limits {
    /// What the configuration says, the runtime's word first.
    pub(crate) fn read(config: &NetworkConfig) -> Result<Self, CniError> {
        let conf: Conf = config.read()?;
        let rates = conf.runtime_config.and_then(|it| it.bandwidth).unwrap_or(conf.own);
        Ok(Self {
            ingress: limit("ingress", rates.ingress_rate, rates.ingress_burst)?,
            egress: limit("egress", rates.egress_rate, rates.egress_burst)?,
        })
    }

    fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

fn limit(direction: &str, rate: i64, burst: i64) -> Result<Option<Limit>, CniError> {
    let wrong = |why: String| CniError::Config { field: "bandwidth", why };
    let (Ok(rate), Ok(burst)) = (u64::try_from(rate), u64::try_from(burst)) else {
        return Err(wrong(format!("{direction} rate and burst cannot be negative")));
    };
    if rate == 0 {
        if burst == 0 {
            return Ok(None);
        }
        return Err(wrong(format!("{direction} has a burst and no rate")));
    }
    let rate = (rate / 8).max(1);
    let usual = (rate / BURST_PART).max(BURST_LEAST);
    let burst = match burst {
        0 => usual,
        bits if ANY_BURST.contains(&bits) => usual,
        bits => (bits / 8).max(1),
    };
    let burst = u32::try_from(burst).map_err(|_| {
        wrong(format!("{direction} burst {burst} bytes is more than the kernel takes (4 GiB)"))
    })?;
    Ok(Some(Limit { rate, burst }))
}

/// Name of an attachment's `ifb` link.
fn ifb_name(identity: &Identity) -> String {
    format!("{PREFIX}{:012x}", hash(identity, b"bandwidth") >> 16)
}

/// Holds a node's end to limits; the `ifb` link, where one was made.
pub(crate) fn apply(
    node: &mut Netlink,
    end: &Link,
    identity: &Identity,
    network: &str,
    limits: Limits,
) -> Result<Option<Link>, CniError> {
    let mut changes = Vec::new();
    if let Some(Limit { rate, burst }) = limits.ingress {
        changes.push(Change::Shape(TokenBucket { device: end.index, rate, burst }));
    }
    let mut made = None;
    if let Some(Limit { rate, burst }) = limits.egress {
        let name = ifb_name(identity);
        // A retried ADD begins anew.
        if let Some(old) = node.link(name.as_str()).map_err(kernel("look for the pod's ifb"))? {
            remove_link(node, &old)?;
        }
        let settings = LinkSettings {
            up: Some(true),
            alias: Some(format!("{ALIAS_PREFIX}{}@{network}", shortened(&identity.container_id))),
            ..LinkSettings::default()
        };
        node.apply(&[
            Change::AddIfb(LinkEnd::named(&name), Some(end.mtu)),
            Change::SetLink(name.as_str().into(), settings),
        ])
        .map_err(kernel("make the pod's ifb link (does the kernel have CONFIG_IFB?)"))?;
        let ifb = node.link(name.as_str()).map_err(kernel("find the pod's ifb"))?;
        let ifb = ifb.ok_or_else(|| gone(&name))?;
        changes.push(Change::Shape(TokenBucket { device: ifb.index, rate, burst }));
        changes.push(Change::OpenIngress(end.index));
        changes.push(Change::Redirect(Redirect { from: end.index, to: ifb.index }));
        made = Some(ifb);
    }
    node.apply(&changes).map_err(kernel("limit the pod's bandwidth"))?;
    Ok(made)
}

fn shortened(container_id: &str) -> &str {
    container_id.get(..64).unwrap_or(container_id)
}

/// Removes what [`apply`] made beside the node's end.
pub(crate) fn withdraw(node: &mut Netlink, identity: &Identity) -> Result<(), CniError> {
    let name = ifb_name(identity);
    match node.link(name.as_str()).map_err(kernel("look for the pod's ifb"))? {
        Some(ifb) if is_ours(&ifb) => remove_link(node, &ifb),
        _ => Ok(()),
    }
}

/// What differs from the limits.
pub(crate) fn differences(
    node: &mut Netlink,
    end: &Link,
    identity: &Identity,
    limits: Limits,
) -> Result<Vec<String>, CniError> {
    let mut differences = Vec::new();
    let name = ifb_name(identity);
    let ifb = match limits.egress {
        Some(_) => node.link(name.as_str()).map_err(kernel("look for the pod's ifb"))?,
        None => None,
    };
    if limits.egress.is_some() && ifb.is_none() {
        differences.push(format!("the node has no link {name}"));
    }
    let pairs = [(limits.ingress, Some(end)), (limits.egress, ifb.as_ref())];
    for (limit, link) in pairs {
        let (Some(limit), Some(link)) = (limit, link) else { continue };
        let have = node.token_bucket(link.index).map_err(kernel("look at traffic control"))?;
        match have {
            Some(have) if have.rate == limit.rate => {}
            Some(have) => differences.push(format!(
                "{} is held to {} bytes/s, not {}",
                link.name, have.rate, limit.rate
            )),
            None => differences.push(format!("{} is not held to a rate", link.name)),
        }
    }
    Ok(differences)
}

/// The node's end of the pod's interface, whoever made it.
fn node_end(namespace: &Namespace, ifname: &str, node: &mut Netlink) -> Result<Link, CniError> {
    let inner = namespace.visit(|| {
        let mut pod = Netlink::open().map_err(kernel("reach the pod's network"))?;
        let link = pod.link(ifname).map_err(kernel("find the pod's interface"))?;
        link.ok_or_else(|| gone(ifname))
    })??;
    let end = match inner.peer {
        Some(index) => node.link(index).map_err(kernel("find the node's end"))?,
        None => None,
    };
    end.filter(|end| end.peer == Some(inner.index)).ok_or_else(|| CniError::Config {
        field: "prevResult",
        why: format!("{ifname} has no other end on the node; bandwidth needs a veth pair"),
    })
}

pub(crate) fn add(env: &Environment, config: &NetworkConfig) -> Result<AddResult, CniError> {
    let limits = Limits::read(config)?;
    let identity = env.identity()?;
    let mut result = config.previous()?.clone();
    if limits.is_none() {
        return Ok(result);
    }
    let namespace = env.namespace()?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let end = node_end(&namespace, &identity.ifname, &mut node)?;
    let ifb = apply(&mut node, &end, &identity, &config.name, limits)?;
    result.interfaces.extend(ifb.map(|ifb| ResultInterface {
        name: ifb.name,
        mac: ifb.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: Some(ifb.mtu),
        sandbox: String::new(),
    }));
    Ok(result)
}

/// The token bucket on the node's end goes with it.
pub(crate) fn del(env: &Environment, _: &NetworkConfig) -> Result<(), CniError> {
    let identity = env.identity()?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    withdraw(&mut node, &identity)
}

pub(crate) fn check(env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let limits = Limits::read(config)?;
    let identity = env.identity()?;
    config.previous()?;
    if limits.is_none() {
        return Ok(());
    }
    let namespace = env.namespace()?;
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let end = node_end(&namespace, &identity.ifname, &mut node)?;
    let differences = differences(&mut node, &end, &identity, limits)?;
    agree(differences)
}

pub(crate) fn gc(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    let keep: Vec<String> = config.valid_attachments()?.iter().map(ifb_name).collect();
    gc_links(&config.name, &keep)
}

/// Removes a network's `ifb` links but those to keep.
fn gc_links(network: &str, keep: &[String]) -> Result<(), CniError> {
    let ending = format!("@{network}");
    let mut node = Netlink::open().map_err(kernel("reach the node's network"))?;
    let links = node.links().map_err(kernel("list links"))?;
    let is_its = |link: &&Link| {
        is_ours(link)
            && link.name.starts_with(PREFIX)
            && link.alias.as_deref().is_some_and(|alias| alias.ends_with(&ending))
            && !keep.contains(&link.name)
    };
    let leaked: Vec<&Link> = links.iter().filter(is_its).collect();
    if leaked.is_empty() { Ok(()) } else { remove_links(&mut node, &leaked) }
}

/// The same for another plugin that limits by itself.
pub(crate) fn gc_for(network: &str, valid: &[Identity]) -> Result<(), CniError> {
    let keep: Vec<String> = valid.iter().map(ifb_name).collect();
    gc_links(network, &keep)
}

pub(crate) fn status(_: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
    Limits::read(config).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_nobody_thought_about_is_a_twentieth_of_a_second() {
        let ten_mbit = limit("ingress", 10_000_000, i64::from(i32::MAX)).unwrap().unwrap();
        assert_eq!(ten_mbit, Limit { rate: 1_250_000, burst: 65_536 });
        for burst in ANY_BURST {
            let of_runtime = limit("ingress", 10_000_000, i64::try_from(burst).unwrap()).unwrap();
            assert_eq!(of_runtime, Some(ten_mbit), "{burst}");
        }
        let gbit = limit("ingress", 1_000_000_000, 0).unwrap().unwrap();
        assert_eq!(gbit, Limit { rate: 125_000_000, burst: 6_250_000 });
        let said = limit("ingress", 16_000, 8_000).unwrap().unwrap();
        assert_eq!(said, Limit { rate: 2_000, burst: 1_000 });
        assert_eq!(limit("ingress", 0, 0).unwrap(), None);
        assert!(limit("ingress", 0, 5).is_err() && limit("ingress", -1, 5).is_err());
    }
}
