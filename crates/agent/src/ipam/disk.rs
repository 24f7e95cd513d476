//! What the loop does on the plugin's directory and in the kernel; runs on a thread of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use cni::ipam::audit::{self, Audit};
use cni::ipam::blocks::{self, Blocks};
use cni::ipam::{IpamError, Store};
use fabric::ROUTE_PROTOCOL;
use ipnet::IpNet;
use link::kernel::Netlink;

use super::plan::Taken;
use crate::fabric_loop::NETWORK;

/// The directory of the network, and the node's links.
pub(super) struct Disk {
    data_dir: PathBuf,
    kernel: Netlink,
    /// When the directory changed last, as far as it was looked at.
    seen: Option<SystemTime>,
}

/// What a look found.
pub(super) struct Look {
    pub(super) taken: Taken,
    /// A pod waits for an address.
    pub(super) hungry: bool,
}

impl Disk {
    pub(super) fn new(state_dir: &Path) -> anyhow::Result<Self> {
        let kernel = Netlink::open().context("cannot open rtnetlink")?;
        Ok(Self { data_dir: state_dir.join("ipam"), kernel, seen: None })
    }

    /// Whether the plugin has a list.
    pub(super) fn has_list(&mut self) -> bool {
        matches!(Blocks::read(&self.data_dir, NETWORK), Ok(Some(_)))
    }

    /// What is taken; `None` when nothing changed since the last look and `anyway` is not set.
    pub(super) fn look(&mut self, anyway: bool) -> Result<Option<Look>, IpamError> {
        let hungry = blocks::take_hunger(&self.data_dir, NETWORK);
        let directory = self.data_dir.join(NETWORK);
        let changed = std::fs::metadata(&directory).and_then(|meta| meta.modified()).ok();
        if !anyway && !hungry && changed == self.seen {
            return Ok(None);
        }
        self.seen = changed;
        let store = Store::open(&self.data_dir, NETWORK)?;
        let taken = store.reservations()?.into_iter().map(|entry| entry.address).collect();
        Ok(Some(Look { taken, hungry }))
    }

    /// Writes the list unless it is there.
    pub(super) fn write(&mut self, list: &Blocks) -> Result<bool, IpamError> {
        let store = Store::open(&self.data_dir, NETWORK)?;
        // One that cannot be read is replaced.
        if Blocks::read(&self.data_dir, NETWORK).ok().flatten().as_ref() == Some(list) {
            return Ok(false);
        }
        list.write(&store)?;
        Ok(true)
    }

    /// Chooses a part by what is taken and writes the list without it, all under the lock.
    pub(super) fn set_aside(
        &mut self,
        choose: impl FnOnce(&Taken) -> Option<(IpNet, Blocks)>,
    ) -> Result<Option<IpNet>, IpamError> {
        let store = Store::open(&self.data_dir, NETWORK)?;
        let taken = store.reservations()?.into_iter().map(|entry| entry.address).collect();
        let Some((part, list)) = choose(&taken) else { return Ok(None) };
        list.write(&store)?;
        Ok(Some(part))
    }

    /// Proves the reservations against the links there are: what no pod has is freed, what a pod has is reserved.
    pub(super) fn prove(&mut self) -> anyhow::Result<Audit> {
        let Some(mut store) = Store::open_existing(&self.data_dir, NETWORK)? else {
            return Ok(Audit::default());
        };
        let audit = compare(&store, &mut self.kernel)?;
        store.release_where(|entry| audit.leaked.contains(entry))?;
        for (address, link) in &audit.unreserved {
            store.insert(*address, &audit::found_on(link))?;
        }
        Ok(audit)
    }
}

/// Reservations beside links and routes; the lock is held, so nobody reserves meanwhile.
pub(crate) fn compare(store: &Store, kernel: &mut Netlink) -> anyhow::Result<Audit> {
    let links = kernel.links()?;
    let names: BTreeSet<String> = links.iter().map(|link| link.name.clone()).collect();
    let routes = kernel.routes(ROUTE_PROTOCOL)?;
    let routed: Vec<_> = routes
        .iter()
        .filter(|route| fabric::is_pod_route(route))
        .filter_map(|route| {
            let link = links.iter().find(|link| Some(link.index) == route.device)?;
            Some((route.destination.addr(), link.name.clone()))
        })
        .collect();
    Ok(audit::audit(&store.ages()?, &names, &routed))
}
