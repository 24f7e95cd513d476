//! The addresses loop: proves reservations against the node's links, and where addresses come from pools, takes and gives
//! back blocks.
//!
//! A block belongs to who creates its object: the API server lets one create win, and a later write carries the version it
//! changes. What the plugin may give out is in a file beside the reservations (`cni::ipam::blocks`); it is narrowed under
//! the plugin's own lock *before* the API is told that a range is free for others, and widened *after* the API said that it
//! is ours. So an agent killed at any point leaves at worst a range nobody uses.

mod disk;
pub(crate) mod plan;
mod wishes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cluster::Client;
use ipnet::IpNet;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use model::convert::{AddressBlock, AddressBlockSpec, LentPart};
use model::{Block, Lent, NodeName, ObjectKey};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::between::Between;
use crate::metrics::Metrics;
use crate::worker::Worker;
use crate::{AgentConfig, Ipam};
use disk::Disk;
pub(crate) use disk::compare;
use plan::Step;
pub(crate) use wishes::Wishes;

/// Proves the reservations under a state directory against the links of this network namespace, once.
///
/// # Errors
/// When files or the kernel cannot be read or written.
pub(crate) fn prove(state_dir: &std::path::Path) -> anyhow::Result<cni::ipam::audit::Audit> {
    Disk::new(state_dir)?.prove()
}

/// How often the plugin's directory is looked at: it is one `stat` when nothing happened.
const LOOK: Duration = Duration::from_millis(250);
/// Reservations are proven against the links this often.
const PROVE: Duration = Duration::from_secs(300);
/// A block another node turned out to have is not tried again for this long.
const REFUSED: Duration = Duration::from_secs(60);
/// What a node that is gone held is taken back after this.
const ORPHANED: Duration = Duration::from_secs(600);
/// A write the watch has not shown yet counts for this long.
const UNSEEN: Duration = Duration::from_secs(10);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// The loop's state.
pub(crate) struct IpamLoop {
    node: NodeName,
    pools: bool,
    api: Api<AddressBlock>,
    disk: Worker<Disk>,
    facts: watch::Receiver<Option<Arc<Between>>>,
    /// Told when there is a list for the plugin.
    ready: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    /// Blocks of ours the watch has not shown yet.
    claimed: BTreeMap<IpNet, Instant>,
    refused: BTreeMap<IpNet, Instant>,
    orphans: BTreeMap<IpNet, Instant>,
    /// Ranges on their way out: nothing new is given out of them.
    closing: BTreeMap<IpNet, Instant>,
    not_before: Instant,
}

impl IpamLoop {
    pub(crate) fn new(
        config: &AgentConfig,
        client: Client,
        facts: watch::Receiver<Option<Arc<Between>>>,
        ready: watch::Sender<bool>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let disk = Disk::new(&config.state_dir)?;
        Ok(Self {
            node: NodeName::new(&config.node_name),
            pools: config.ipam == Ipam::Pools,
            api: Api::all(client),
            disk: Worker::start("addresses", disk)?,
            facts,
            ready,
            metrics,
            claimed: BTreeMap::new(),
            refused: BTreeMap::new(),
            orphans: BTreeMap::new(),
            closing: BTreeMap::new(),
            not_before: Instant::now(),
        })
    }

    /// Runs as long as the agent.
    pub(crate) async fn run(mut self) {
        let mut prove = tokio::time::interval(PROVE);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                _ = prove.tick() => self.prove().await,
                changed = self.facts.changed(), if self.pools => match changed {
                    Ok(()) => self.sync(true).await,
                    Err(_) => return,
                },
                _ = look.tick(), if self.pools => self.sync(false).await,
            };
            if let Err(error) = outcome {
                self.metrics.failed("addresses");
                tracing::warn!(error = format!("{error:#}"), "addresses for pods");
                self.not_before = Instant::now() + RETRY;
            }
        }
    }

    async fn prove(&mut self) -> anyhow::Result<()> {
        let found = self.disk.call(Disk::prove).await??;
        if !found.is_clean() {
            tracing::warn!(
                freed = found.leaked.len(),
                reserved = found.unreserved.len(),
                "addresses and links differed: what no pod has is free again, what a pod has is reserved"
            );
        }
        for (address, links) in &found.twice {
            tracing::error!(%address, links = links.join(", "), "two pods have one address; delete one of them");
        }
        Ok(())
    }

    /// Looks at what is taken, and does what follows from it.
    async fn sync(&mut self, changed: bool) -> anyhow::Result<()> {
        let Some(known) = self.facts.borrow_and_update().clone() else { return Ok(()) };
        if !known.from_api {
            // What this node holds stands on its disk; facts of yesterday may name what is another's by now.
            let listed = self.disk.call(|disk| disk.has_list()).await?;
            self.ready.send_if_modified(|ready| listed && !std::mem::replace(ready, true));
            return Ok(());
        }
        let waiting = Instant::now() < self.not_before;
        let pending =
            !self.claimed.is_empty() || !self.closing.is_empty() || !self.orphans.is_empty();
        let retry = pending && !waiting;
        let Some(look) = self.disk.call(move |disk| disk.look(changed || retry)).await?? else {
            return Ok(());
        };
        let facts = self.with_claimed(&known);
        self.write(&facts).await?;
        if waiting {
            return Ok(());
        }
        let now = Instant::now();
        self.refused.retain(|_, until| *until > now);
        let refused = self.refused.keys().copied().collect();
        let mut steps =
            plan::steps(&facts, &self.node, &look.taken, &known.wishes.all, look.hungry, &refused);
        steps.extend(self.due_orphans(&facts));
        for step in steps {
            tracing::debug!(?step, "addresses for pods");
            self.carry_out(&facts, step).await?;
        }
        Ok(())
    }

    /// The facts, with blocks the watch has not shown yet.
    fn with_claimed(&mut self, known: &Between) -> Between {
        let mut facts = known.clone();
        let now = Instant::now();
        let is_known = |cidr: &IpNet| known.blocks.iter().any(|block| block.cidr == *cidr);
        self.claimed.retain(|cidr, until| *until > now && !is_known(cidr));
        facts.blocks.extend(self.claimed.keys().map(|cidr| block_of(*cidr, &self.node)));
        facts.blocks.sort_by_key(|block| block.cidr);
        self.closing.retain(|_, until| *until > now);
        facts
    }

    /// Lays down the list for the plugin.
    async fn write(&mut self, facts: &Between) -> anyhow::Result<()> {
        let closing: BTreeSet<IpNet> = self.closing.keys().copied().collect();
        let list = plan::list(facts, &self.node, &closing, facts.wishes.all.clone());
        let any = list.blocks.iter().any(|block| !block.closed);
        if self.disk.call(move |disk| disk.write(&list)).await?? {
            tracing::info!(
                blocks = facts.blocks.iter().filter(|b| b.node == self.node).count(),
                "blocks for pods written"
            );
        }
        if any {
            self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
        Ok(())
    }

    /// Blocks of nodes that have been gone for long. One node sees to it: the first by name.
    fn due_orphans(&mut self, facts: &Between) -> Vec<Step> {
        let first = facts.nodes.iter().map(|node| &node.name).min();
        if first != Some(&self.node) {
            self.orphans.clear();
            return Vec::new();
        }
        let now = Instant::now();
        let orphans: Vec<IpNet> = plan::orphans(facts)
            .into_iter()
            .filter_map(|step| if let Step::Reclaim(cidr) = step { Some(cidr) } else { None })
            .collect();
        self.orphans.retain(|cidr, _| orphans.contains(cidr));
        for cidr in orphans {
            self.orphans.entry(cidr).or_insert(now + ORPHANED);
        }
        let due = self.orphans.iter().filter(|(_, at)| **at <= now);
        due.map(|(cidr, _)| Step::Reclaim(*cidr)).collect()
    }

    async fn carry_out(&mut self, facts: &Between, step: Step) -> anyhow::Result<()> {
        let find = |cidr: IpNet| facts.blocks.iter().find(|block| block.cidr == cidr).cloned();
        match step {
            Step::Claim(cidr) => self.claim(facts, cidr).await,
            Step::GiveBack(cidr) => {
                let Some(block) = find(cidr).filter(|block| block.version.is_some()) else {
                    return Ok(());
                };
                if self.close(facts, cidr).await? {
                    self.delete(&block).await?;
                }
                Ok(())
            }
            Step::Return { block, part } => {
                let Some(mut block) = find(block) else { return Ok(()) };
                if self.close(facts, part).await? {
                    block.lent.retain(|lent| lent.cidr != part);
                    self.replace(block).await?;
                }
                Ok(())
            }
            Step::Ask(cidr) => {
                let Some(mut block) = find(cidr) else { return Ok(()) };
                block.asking.push(self.node.clone());
                self.replace(block).await
            }
            Step::Lend(cidr, who) => {
                let Some(block) = find(cidr).filter(|block| block.version.is_some()) else {
                    return Ok(());
                };
                self.lend(facts, block, who).await
            }
            Step::Reclaim(cidr) => {
                let Some(mut block) = find(cidr) else { return Ok(()) };
                let known = |name: &NodeName| facts.nodes.iter().any(|node| node.name == *name);
                block.asking.retain(known);
                block.lent.retain(|part| known(&part.node));
                tracing::warn!(block = %cidr, node = %block.node, "taken back from a node that is gone");
                if known(&block.node) {
                    self.replace(block).await
                } else if block.lent.is_empty() {
                    self.delete(&block).await
                } else {
                    // Others use parts of it; they give them back in their time.
                    Ok(())
                }
            }
        }
    }

    async fn claim(&mut self, facts: &Between, cidr: IpNet) -> anyhow::Result<()> {
        let object = object_of(&block_of(cidr, &self.node));
        match self.api.create(&PostParams::default(), &object).await {
            Ok(_) => {
                tracing::info!(block = %cidr, "block taken");
                self.claimed.insert(cidr, Instant::now() + UNSEEN);
                let facts = self.with_claimed(facts);
                self.write(&facts).await
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.refused.insert(cidr, Instant::now() + REFUSED);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives nothing out of a range any more; false when something of it is taken.
    async fn close(&mut self, facts: &Between, cidr: IpNet) -> anyhow::Result<bool> {
        self.closing.insert(cidr, Instant::now() + UNSEEN);
        self.write(facts).await?;
        let look = self.disk.call(|disk| disk.look(true)).await??;
        let taken = look.map(|look| look.taken).unwrap_or_default();
        let is_empty = taken.range(cidr.network()..=cidr.broadcast()).next().is_none();
        if !is_empty {
            self.closing.remove(&cidr);
        }
        Ok(is_empty)
    }

    /// Sets a part aside on this node's disk, then tells the API; without one to spare says no.
    async fn lend(&mut self, facts: &Between, block: Block, who: NodeName) -> anyhow::Result<()> {
        let reserved: Vec<IpNet> =
            facts.pools.iter().flat_map(|pool| pool.reserved.iter().copied()).collect();
        let closing: BTreeSet<IpNet> = self.closing.keys().copied().collect();
        let (node, all, wanted, to) =
            (self.node.clone(), facts.clone(), block.clone(), who.clone());
        let set_aside = move |disk: &mut Disk| {
            disk.set_aside(|taken| {
                let part = plan::part_to_lend(&wanted, &reserved, taken)?;
                let mut facts = all;
                let mine = facts.blocks.iter_mut().find(|block| block.cidr == wanted.cidr)?;
                mine.lent.push(Lent { cidr: part, node: to });
                let wishes = facts.wishes.all.clone();
                Some((part, plan::list(&facts, &node, &closing, wishes)))
            })
        };
        let part = self.disk.call(set_aside).await??;
        let mut block = block;
        block.asking.retain(|asking| *asking != who);
        match part {
            Some(cidr) => {
                tracing::info!(part = %cidr, to = %who, "part of a block lent");
                block.lent.push(Lent { cidr, node: who });
            }
            None => tracing::info!(block = %block.cidr, to = %who, "no part of a block to lend"),
        }
        self.replace(block).await
    }

    /// Writes a block as long as nobody else did.
    async fn replace(&mut self, block: Block) -> anyhow::Result<()> {
        let outcome =
            self.api.replace(block.key.name(), &PostParams::default(), &object_of(&block)).await;
        match outcome {
            Ok(_) => Ok(()),
            // Somebody else wrote; the watch will show it, and then it is decided anew.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&mut self, block: &Block) -> anyhow::Result<()> {
        let preconditions = Preconditions { resource_version: block.version.clone(), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api.delete(block.key.name(), &params).await {
            Ok(_) => {
                tracing::info!(block = %block.cidr, "block given back");
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                self.closing.remove(&block.cidr);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn block_of(cidr: IpNet, node: &NodeName) -> Block {
    Block {
        key: ObjectKey::new("", &Block::name_of(cidr)),
        cidr,
        node: node.clone(),
        lent: Vec::new(),
        asking: Vec::new(),
        version: None,
    }
}

fn object_of(block: &Block) -> AddressBlock {
    let mut object = AddressBlock::default();
    object.metadata.name = Some(block.key.name().to_owned());
    object.metadata.resource_version.clone_from(&block.version);
    object.spec = AddressBlockSpec {
        cidr: block.cidr.to_string(),
        node: block.node.as_str().to_owned(),
        lent: block
            .lent
            .iter()
            .map(|part| LentPart {
                cidr: part.cidr.to_string(),
                node: part.node.as_str().to_owned(),
            })
            .collect(),
        asking: block.asking.iter().map(|name| name.as_str().to_owned()).collect(),
    };
    object
}
