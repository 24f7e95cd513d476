//! The fabric loop: nodes, pools and blocks → tunnels and routes, the CNI configuration, and the NAT part of the table.

mod kernel;
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fabric::FabricPlan;
use ipnet::IpNet;
use link::kernel::{Netlink, Watch, WatchGroups};
use link::{Link, LinkIndex};
use model::{NodeName, Report};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::AgentConfig;
use crate::between::Between;
use crate::health::{Health, Need};
use crate::metrics::Metrics;
use crate::readable::readable;
use crate::worker::Worker;

/// Name of the network in the CNI configuration, and of its file.
pub(crate) const NETWORK: &str = "fairway";
const CONFLIST: &str = "10-fairway.conflist";
/// Routes are compared whole this often even when nothing seems to have happened.
const EVERY: Duration = Duration::from_secs(300);
/// And this soon after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Several notices about one change are one look.
const SETTLE: Duration = Duration::from_millis(20);
/// After a tunnel link was made, its routes wait this long: the other nodes hear of the same change and make theirs.
const OTHER_ENDS: Duration = Duration::from_millis(300);
/// A tunnel nobody wants any more is kept this long for what other nodes still send through it.
const FAREWELL: Duration = Duration::from_secs(30);

/// What a node that carries pods needs: packets pass through, and may come back another way than they went.
const SYSCTLS: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
    ("net/ipv4/conf/default/rp_filter", "2"),
];

/// What lives on the route thread.
struct Routes {
    netlink: Netlink,
    /// Whether the kernel has IP in IP, as far as is known.
    has_ipip: bool,
}

/// The loop's state.
pub(crate) struct FabricLoop {
    name: NodeName,
    settings: fabric::Settings,
    /// None where another network plugin connects the pods.
    cni_conf_dir: Option<PathBuf>,
    data_dir: PathBuf,
    run_dir: PathBuf,
    /// Where new pods wait for their policy; none where policies are not enforced.
    policy_socket: Option<PathBuf>,
    kernel: Worker<Routes>,
    events: AsyncFd<Watch>,
    facts: watch::Receiver<Option<Arc<Between>>>,
    /// Whether there is a list of blocks; closed where addresses come from the node's CIDRs.
    blocks: Option<watch::Receiver<bool>>,
    nat: watch::Sender<Option<nft::Table>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// What was wrong at the last look, so that each is said once.
    told: BTreeSet<String>,
    /// Tunnel links nobody wants any more, and when they go.
    leaving: BTreeMap<LinkIndex, Instant>,
    /// Links of pods that keep their MTU, and which one they were to have.
    keeping: BTreeMap<LinkIndex, u32>,
}

impl FabricLoop {
    pub(crate) fn new(
        config: &AgentConfig,
        facts: watch::Receiver<Option<Arc<Between>>>,
        blocks: Option<watch::Receiver<bool>>,
        nat: watch::Sender<Option<nft::Table>>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let groups = WatchGroups { links: true, addresses: true, routes: true, neighbours: true };
        let mut events = Watch::open(groups).context("cannot watch routes")?;
        events.only_neighbours_of(Vec::new());
        let netlink = Netlink::open().context("cannot open rtnetlink")?;
        Ok(Self {
            name: NodeName::new(&config.node_name),
            settings: config.fabric.clone(),
            cni_conf_dir: (!config.without.cni).then(|| config.cni_conf_dir.clone()),
            data_dir: config.state_dir.join("ipam"),
            run_dir: config.run_dir.clone(),
            policy_socket: (!config.without.policy).then(|| config.run_dir.join(cni::GATE_SOCKET)),
            kernel: Worker::start("routes", Routes { netlink, has_ipip: true })?,
            events: readable(events)?,
            facts,
            blocks,
            nat,
            health,
            metrics,
            told: BTreeSet::new(),
            leaving: BTreeMap::new(),
            keeping: BTreeMap::new(),
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
                Ok(()) => {
                    let next = self.leaving.values().min();
                    next.map_or(EVERY, |at| at.saturating_duration_since(Instant::now()))
                }
                Err(error) => {
                    self.metrics.failed("routes");
                    tracing::warn!(error = format!("{error:#}"), "routes are behind, trying again");
                    RETRY
                }
            };
            tokio::select! {
                changed = self.facts.changed() => if changed.is_err() { return },
                () = listed(&mut self.blocks) => {}
                event = changed(&mut self.events) => if let Err(error) = event {
                    tracing::warn!(%error, "route events");
                    tokio::time::sleep(RETRY).await;
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn sync(&mut self) -> anyhow::Result<()> {
        let Some(facts) = self.facts.borrow_and_update().clone() else { return Ok(()) };
        let (name, settings) = (self.name.clone(), self.settings.clone());
        let prepare = move |thread: &mut Routes| {
            kernel::prepare(&mut thread.netlink, &facts, name, &settings, &mut thread.has_ipip)
        };
        let prepared = self.kernel.call(prepare).await??;
        self.events.get_mut().only_neighbours_of(prepared.tunnels.values().copied().collect());
        self.tell(&prepared.reports, &prepared.refused);
        // The table first: what goes by a new route must find its NAT.
        self.publish_nat(&prepared.plan)?;
        if prepared.fresh {
            tokio::time::sleep(OTHER_ENDS).await;
        }
        let plan = Arc::new(prepared.plan);
        // Who must send shorter packets does so before their way is one; who may send longer ones, after.
        let (shorter, longer) = prepared.misfits.into_iter().partition(|it| it.mtu > plan.mtu);
        self.fit_pods(shorter, plan.mtu).await?;
        let (routes_of, tunnels) = (plan.clone(), prepared.tunnels.clone());
        let route =
            move |thread: &mut Routes| kernel::route(&mut thread.netlink, &routes_of, &tunnels);
        let changes = prepared.changes + self.kernel.call(route).await??;
        if changes > 0 {
            let routes = plan.routes_with(&prepared.tunnels).len();
            tracing::info!(changes, routes, tunnels = prepared.tunnels.len(), "routes changed");
        }
        self.fit_pods(longer, plan.mtu).await?;
        self.retire(prepared.retired).await?;
        self.health.met(Need::Routes);
        self.write_conflist(&plan)?;
        anyhow::ensure!(prepared.refused.is_empty(), "{}", prepared.refused.join("; "));
        Ok(())
    }

    /// Says what is wrong, once as long as it is.
    fn tell(&mut self, reports: &[Report], refused: &[String]) {
        let all = reports.iter().map(ToString::to_string).chain(refused.iter().cloned());
        let now: BTreeSet<String> = all.collect();
        for line in now.difference(&self.told) {
            tracing::warn!("between nodes: {line}");
        }
        self.told = now;
    }

    fn publish_nat(&self, plan: &FabricPlan) -> anyhow::Result<()> {
        let nat = fabric::nat_table(plan).context("the NAT part of the table")?;
        self.nat.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&nat);
            *current = Some(nat);
            changed
        });
        Ok(())
    }

    /// Gives pods that run the MTU new ones get.
    async fn fit_pods(&mut self, mut pods: Vec<Link>, mtu: u32) -> anyhow::Result<()> {
        pods.retain(|link| self.keeping.get(&link.index) != Some(&mtu));
        if pods.is_empty() {
            return Ok(());
        }
        let count = pods.len();
        let fit = move |thread: &mut Routes| pods::fit(&mut thread.netlink, &pods, mtu);
        let kept = self.kernel.call(fit).await?.context("cannot change the MTU of pods")?;
        tracing::info!(mtu, pods = count - kept.len(), kept = kept.len(), "pods have another MTU");
        self.keeping.retain(|_, wanted| *wanted == mtu);
        self.keeping.extend(kept.into_iter().map(|link| (link, mtu)));
        Ok(())
    }

    /// Removes tunnel links whose time has come.
    async fn retire(&mut self, retired: Vec<LinkIndex>) -> anyhow::Result<()> {
        let now = Instant::now();
        self.leaving.retain(|link, _| retired.contains(link));
        for link in retired {
            self.leaving.entry(link).or_insert(now + FAREWELL);
        }
        let due: Vec<LinkIndex> =
            self.leaving.iter().filter(|(_, at)| **at <= now).map(|(link, _)| *link).collect();
        if due.is_empty() {
            return Ok(());
        }
        self.leaving.retain(|link, _| !due.contains(link));
        tracing::info!(links = due.len(), "tunnels that nobody uses any more are removed");
        let remove = move |thread: &mut Routes| kernel::remove(&mut thread.netlink, &due);
        self.kernel.call(remove).await?.context("cannot remove a tunnel")
    }

    fn write_conflist(&self, plan: &FabricPlan) -> anyhow::Result<()> {
        let Some(cni_conf_dir) = &self.cni_conf_dir else {
            self.health.met(Need::CniConfig);
            return Ok(());
        };
        let pod_cidrs: &[IpNet] = match &self.blocks {
            None => &plan.own_pod_cidrs,
            Some(_) => &[],
        };
        let ready = match &self.blocks {
            None => !pod_cidrs.is_empty(),
            Some(blocks) => *blocks.borrow(),
        };
        if !ready {
            return Ok(());
        }
        let spec = cni::Conflist {
            name: NETWORK,
            mtu: plan.mtu,
            pod_cidrs,
            data_dir: &self.data_dir,
            run_dir: &self.run_dir,
            policy_socket: self.policy_socket.as_deref(),
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

/// Waits until there is a first list of blocks; for ever where there will be none.
async fn listed(blocks: &mut Option<watch::Receiver<bool>>) {
    let told = match blocks {
        Some(blocks) => blocks.changed().await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending::<()>().await;
    }
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
