//! What this node's disk and kernel say about the addresses of its pods: what `fairway ipam` shows and mends.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use cni::ipam::Store;
use cni::ipam::audit::{Audit, YOUNG};
use cni::ipam::blocks::Blocks;
use ipnet::IpNet;
use link::kernel::Netlink;
use serde::Serialize;

use crate::fabric_loop::NETWORK;
use crate::ipam::compare;

/// A reserved address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reserved {
    /// The address.
    pub address: IpAddr,
    /// `namespace/name` of the pod, as its link's alias says; none without a link.
    pub pod: Option<String>,
    /// The runtime's id of the container.
    pub container: String,
    /// Its interface.
    pub interface: String,
    /// The node's end of its link; none when it is gone.
    pub link: Option<String>,
    /// Seconds since it was reserved.
    pub age_seconds: u64,
}

/// A range addresses are taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeUse {
    /// The range.
    pub cidr: IpNet,
    /// Its pool.
    pub pool: String,
    /// Addresses reserved.
    pub taken: usize,
    /// Addresses there are to give, taken or not.
    pub capacity: u64,
    /// New addresses come out of it.
    pub open: bool,
}

/// Addresses of this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Every reserved one, sorted.
    pub reserved: Vec<Reserved>,
    /// The blocks of this node; none where addresses come from its pod CIDRs.
    pub blocks: Vec<RangeUse>,
    /// What differs between reservations and links, a sentence each.
    pub differences: Vec<String>,
}

/// Reads the addresses kept under an agent's state directory, and the links of this network namespace.
///
/// # Errors
/// When files or the kernel cannot be read.
pub fn addresses(state_dir: &Path) -> anyhow::Result<Addresses> {
    let data_dir = state_dir.join("ipam");
    let Some(store) = Store::open_existing(&data_dir, NETWORK)? else {
        return Ok(Addresses::default());
    };
    let mut kernel = Netlink::open()?;
    let audit = compare(&store, &mut kernel)?;
    let links = kernel.links()?;
    let ages = store.ages()?;
    let mut reserved: Vec<Reserved> = ages
        .iter()
        .map(|(entry, age)| {
            let name = cni::ipam::audit::link_of(&entry.owner);
            let link = links.iter().find(|link| link.name == name);
            let alias = link.and_then(|link| link.alias.as_deref());
            let prefix = cni::attachment::ALIAS_PREFIX;
            Reserved {
                address: entry.address,
                pod: alias.and_then(|alias| alias.strip_prefix(prefix)).map(str::to_owned),
                container: entry.owner.container_id.clone(),
                interface: entry.owner.ifname.clone(),
                link: link.map(|link| link.name.clone()),
                age_seconds: age.as_secs(),
            }
        })
        .collect();
    reserved.sort_by_key(|entry| entry.address);
    let list = Blocks::read(&data_dir, NETWORK)?.unwrap_or_default();
    let blocks = list.blocks.iter().map(|block| {
        let one = Blocks { blocks: vec![block.clone()], ..Blocks::default() };
        let open = Blocks {
            blocks: vec![cni::ipam::blocks::HeldBlock {
                closed: false,
                on_request: false,
                ..block.clone()
            }],
            ..Blocks::default()
        };
        RangeUse {
            cidr: block.cidr,
            pool: block.pool.clone(),
            taken: reserved.iter().filter(|entry| block.cidr.contains(&entry.address)).count(),
            capacity: open.ranges(None).iter().map(cni::ipam::RangeSet::capacity).sum(),
            open: !one.ranges(None).is_empty(),
        }
    });
    let blocks = blocks.collect();
    Ok(Addresses { reserved, blocks, differences: sentences(&audit) })
}

fn sentences(audit: &Audit) -> Vec<String> {
    let leaked = audit.leaked.iter().map(|entry| {
        let (address, owner) = (entry.address, &entry.owner.container_id);
        format!("{address} is reserved for container {owner}, whose link is gone: leaked")
    });
    let unreserved = audit
        .unreserved
        .iter()
        .map(|(address, link)| format!("{address} is in use by link {link} and not reserved"));
    let twice = audit.twice.iter().map(|(address, links)| {
        format!("{address} is routed to {}: two pods have one address", links.join(" and "))
    });
    leaked.chain(unreserved).chain(twice).collect()
}

/// Gives an address back. One whose pod has a link, or that was reserved a moment ago, only with `force`.
///
/// # Errors
/// When it is not reserved, or in use, or the file cannot be removed.
pub fn release(state_dir: &Path, address: IpAddr, force: bool) -> anyhow::Result<()> {
    let known = addresses(state_dir)?;
    let entry = known.reserved.iter().find(|entry| entry.address == address);
    let entry = entry.with_context(|| format!("{address} is not reserved on this node"))?;
    if !force && let Some(link) = &entry.link {
        let pod = entry.pod.as_deref().unwrap_or(&entry.container);
        bail!("{address} is in use by {pod} (link {link}); delete the pod, or give --force");
    }
    if !force && entry.age_seconds < YOUNG.as_secs() {
        bail!(
            "{address} was reserved {} s ago, its pod may just be made; wait, or give --force",
            entry.age_seconds
        );
    }
    let mut store = Store::open(&state_dir.join("ipam"), NETWORK)?;
    store.release_where(|entry| entry.address == address)?;
    Ok(())
}

/// Frees what is leaked and reserves what is in use without; how much of each.
///
/// # Errors
/// When files or the kernel cannot be read or written.
pub fn repair(state_dir: &Path) -> anyhow::Result<(usize, usize)> {
    let found = crate::ipam::prove(state_dir)?;
    Ok((found.leaked.len(), found.unreserved.len()))
}
