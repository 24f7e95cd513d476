//! The fabric loop: nodes → routes, the CNI configuration, and the NAT part of the table.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fabric::{FabricPlan, LocalAddress, ROUTE_PROTOCOL};
use link::LinkIndex;
use link::kernel::{Netlink, Watch, WatchGroups};
use model::{NodeFacts, NodeName};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::AgentConfig;
use crate::desired::host_facts;
use crate::health::{Health, Need};
use crate::metrics::Metrics;
use crate::readable::readable;
use crate::worker::Worker;

/// Name of the network in the CNI configuration, and of its file.
const NETWORK: &str = "fairway";
const CONFLIST: &str = "10-fairway.conflist";
/// Routes are compared whole this often even when nothing seems to have happened.
const EVERY: Duration = Duration::from_secs(300);
/// And this soon after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Several notices about one change are one look.
const SETTLE: Duration = Duration::from_millis(20);
/// Used when the link of the node's address is not found.
const DEFAULT_MTU: u32 = 1500;

/// What a node that carries pods needs: packets pass through, and may come back another way than they went.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
];

/// What the route thread found and did.
struct Applied {
    plan: FabricPlan,
    reports: Vec<model::Report>,
    changes: usize,
    mtu: u32,
}

/// The loop's state.
pub(crate) struct FabricLoop {
    name: NodeName,
    /// None where another network plugin connects the pods.
    cni_conf_dir: Option<PathBuf>,
    data_dir: PathBuf,
    kernel: Worker<Netlink>,
    events: AsyncFd<Watch>,
    nodes: watch::Receiver<Option<Vec<NodeFacts>>>,
    nat: watch::Sender<Option<nft::Table>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl FabricLoop {
    pub(crate) fn new(
        config: &AgentConfig,
        nodes: watch::Receiver<Option<Vec<NodeFacts>>>,
        nat: watch::Sender<Option<nft::Table>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let groups = WatchGroups { routes: true, addresses: true, ..WatchGroups::default() };
        let events = Watch::open(groups).context("cannot watch routes")?;
        Ok(Self {
            name: NodeName::new(&config.node_name),
            cni_conf_dir: (!config.without.cni).then(|| config.cni_conf_dir.clone()),
            data_dir: config.state_dir.join("ipam"),
            kernel: Worker::start("routes", Netlink::open().context("cannot open rtnetlink")?)?,
            events: readable(events)?,
            nodes,
            nat,
            health,
            metrics,
        })
    }

    /// Runs until the services loop is gone.
    pub(crate) async fn run(mut self) {
        for (name, value) in SYSCTLS {
            match link::sysctl::ensure(name, value) {
                Ok(true) => tracing::info!(name, value, "sysctl set"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "a setting of the kernel was not made"),
            }
        }
        loop {
            let wait = match self.sync().await {
                Ok(()) => EVERY,
                Err(error) => {
                    self.metrics.failed("routes");
                    tracing::warn!(error = format!("{error:#}"), "routes are behind, trying again");
                    RETRY
                }
            };
            tokio::select! {
                changed = self.nodes.changed() => if changed.is_err() { return },
                event = changed(&mut self.events) => if let Err(error) = event {
                    tracing::warn!(%error, "route events");
                    tokio::time::sleep(RETRY).await;
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        let Some(nodes) = self.nodes.borrow_and_update().clone() else { return Ok(()) };
        let name = self.name.clone();
        let applied = self.kernel.call(move |kernel| apply(kernel, &nodes, name)).await??;
        for report in &applied.reports {
            tracing::debug!(%report, "fabric");
        }
        if applied.changes > 0 {
            tracing::info!(
                changes = applied.changes,
                routes = applied.plan.routes.len(),
                "routes changed"
            );
        }
        let nat = fabric::nat_table(&applied.plan).context("the NAT part of the table")?;
        self.nat.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&nat);
            *current = Some(nat);
            changed
        });
        self.health.met(Need::Routes);
        let Some(cni_conf_dir) = &self.cni_conf_dir else {
            self.health.met(Need::CniConfig);
            return Ok(());
        };
        if applied.plan.own_pod_cidrs.is_empty() {
            return Ok(());
        }
        let spec = cni::Conflist {
            name: NETWORK,
            mtu: applied.mtu,
            pod_cidrs: &applied.plan.own_pod_cidrs,
            data_dir: &self.data_dir,
        };
        match write(cni_conf_dir, &cni::conflist(&spec)) {
            Ok(true) => {
                tracing::info!(dir = %cni_conf_dir.display(), "CNI configuration written")
            }
            Ok(false) => {}
            Err(error) => {
                self.metrics.failed("cni-config");
                return Err(error);
            }
        }
        self.health.met(Need::CniConfig);
        Ok(())
    }
}

/// Waits for a change of routes or addresses. Our own changes are heard too; the look they cause finds nothing to do.
async fn changed(events: &mut AsyncFd<Watch>) -> anyhow::Result<()> {
    loop {
        let mut guard = events.readable_mut().await?;
        let seen = guard.get_inner_mut().drain()?;
        guard.clear_ready();
        if seen.any() {
            tokio::time::sleep(SETTLE).await;
            return Ok(());
        }
    }
}

/// On the route thread: what this node has, what it should have, the difference.
fn apply(kernel: &mut Netlink, nodes: &[NodeFacts], name: NodeName) -> anyhow::Result<Applied> {
    let host = host_facts(kernel, name)?;
    let own = nodes.iter().find(|node| node.name == host.name);
    let device: Option<LinkIndex> = own.and_then(|node| {
        let is_own = |address: &&LocalAddress| node.internal_ips.contains(&address.network.addr());
        host.addresses.iter().find(is_own).map(|address| address.device)
    });
    let link = device.map(|device| kernel.link(device)).transpose()?.flatten();
    let (plan, reports) = fabric::compile(nodes, &host);
    let listed = kernel.routes(ROUTE_PROTOCOL)?;
    let changes = fabric::diff(&plan, &listed);
    if !changes.is_empty() {
        kernel.apply(&changes)?;
    }
    let mtu = link.map_or(DEFAULT_MTU, |link| link.mtu);
    Ok(Applied { plan, reports, changes: changes.len(), mtu })
}

/// Writes the CNI configuration unless it is there; a reader sees the old file or the new one.
fn write(dir: &Path, text: &str) -> anyhow::Result<bool> {
    let path = dir.join(CONFLIST);
    if std::fs::read_to_string(&path).is_ok_and(|current| current == text) {
        return Ok(false);
    }
    let cannot =
        || format!("cannot write {}; is the disk full or the directory read-only?", path.display());
    std::fs::create_dir_all(dir).with_context(cannot)?;
    // The runtime reads only *.conf, *.conflist and *.json, so the half-written file is not seen.
    let draft = dir.join(format!(".{CONFLIST}.new"));
    std::fs::write(&draft, text).with_context(cannot)?;
    std::fs::rename(&draft, &path).with_context(cannot)?;
    Ok(true)
}
