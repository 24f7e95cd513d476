//! The services loop: facts → planner → one transaction → stale connections.

mod balance;
mod kernel;
pub(crate) mod merge;
mod policed;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use cluster::{EventWriter, Message};
use model::{Kind, NodeFacts, NodeName, Report, SnapshotWriter, Update};
use service::{Config, Planner};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::between::Between;
use crate::followers::Followers;
use crate::health::{BEAT, Health, Need};
use crate::ipam::Wishes;
use crate::memory;
use crate::metrics::Metrics;
use crate::policies::{self, Policies};
use crate::progress::Progress;
use crate::readable::{events, readable};
use crate::worker::Worker;

pub(crate) use kernel::Sockets;

/// Waits after failures double between these.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// Kinds the network between nodes follows from.
const TOLD: usize = 3;
/// Latencies measured per transaction; a burst of more says nothing new.
const STAMPS: usize = 4096;

/// Who else is told of nodes, and of what the network between them follows from.
type Told = (watch::Sender<Option<Vec<NodeFacts>>>, watch::Sender<Option<Arc<Between>>>);
/// When a change arrived, and when it happened.
type Stamp = (Instant, Option<SystemTime>);

/// The loop's state.
pub(crate) struct ServicesLoop {
    node: NodeName,
    pace: Pace,
    writer: SnapshotWriter,
    planner: Planner,
    kernel: Worker<Sockets>,
    /// None before the first commit: while somebody listens the kernel makes an event of each of its elements, which takes
    /// as long as the commit itself.
    foreign: Option<AsyncFd<nft::kernel::Watch>>,
    inbox: mpsc::Receiver<Message>,
    nodes: watch::Sender<Option<Vec<NodeFacts>>>,
    between: watch::Sender<Option<Arc<Between>>>,
    nat: watch::Receiver<Option<nft::Table>>,
    wishes: Wishes,
    /// Of nodes, pools and blocks, those the API has listed.
    told: BTreeSet<Kind>,
    told_published: usize,
    nat_dirty: bool,
    /// The fabric's part of the table, as committed.
    nat_applied: Option<nft::Table>,
    /// Whether the kernel's slots are the planner's.
    adopted: bool,
    /// None where policies are not enforced.
    policies: Option<Policies>,
    /// When to ask the kernel what policies denied.
    look: tokio::time::Instant,
    events: Arc<EventWriter>,
    followers: Followers,
    progress: Progress,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    stamps: Vec<Stamp>,
    /// The table must be read back and compared whole, because …
    full: Option<&'static str>,
    next_full: tokio::time::Instant,
    retry: Option<(tokio::time::Instant, Duration)>,
    counting: balance::Counting,
    /// No commit before this.
    hold: Option<tokio::time::Instant>,
}

/// How often what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// The table is read back and compared this often even when nothing seems to have happened; up to a fifth more.
    pub(crate) full: Duration,
    /// The least time between two commits, if there is one.
    pub(crate) least: Option<Duration>,
}

impl ServicesLoop {
    #[expect(
        clippy::too_many_arguments,
        reason = "the composition root hands every channel over once"
    )]
    pub(crate) fn new(
        node: NodeName,
        (plan, pace): (Config, Pace),
        policies: Option<Policies>,
        sockets: Sockets,
        inbox: mpsc::Receiver<Message>,
        (nodes, between): Told,
        writer: SnapshotWriter,
        nat: watch::Receiver<Option<nft::Table>>,
        events: Arc<EventWriter>,
        followers: Followers,
        progress: Progress,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            writer,
            planner: Planner::new(node.clone(), plan),
            node,
            pace,
            kernel: Worker::start("nf-tables", sockets)?,
            foreign: None,
            inbox,
            nodes,
            between,
            nat,
            wishes: Wishes::default(),
            told: BTreeSet::new(),
            told_published: 0,
            nat_dirty: false,
            nat_applied: None,
            adopted: false,
            policies,
            look: tokio::time::Instant::now() + policies::EVERY,
            events,
            followers,
            progress,
            health,
            metrics,
            stamps: Vec::new(),
            full: Some("start"),
            next_full: tokio::time::Instant::now() + pace.full,
            retry: None,
            counting: balance::Counting::default(),
            hold: None,
        })
    }

    /// Runs until a kernel thread or the watches end.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            self.wait().await?;
            while let Ok(message) = self.inbox.try_recv() {
                self.absorb(message);
            }
            self.health.beat();
            self.metrics.revision_wanted.set(self.writer.snapshot().revision() as i64);
            if !self.writer.is_complete() {
                let programmed =
                    async || self.kernel.call(Sockets::is_programmed).await.unwrap_or(true);
                if !self.followers.wants_disk(programmed).await
                    || !self.followers.load(&mut self.writer)
                {
                    continue;
                }
                self.metrics.from_disk.set(1);
            }
            self.followers.step(self.writer.snapshot());
            if self.is_waiting() {
                continue;
            }
            self.health.met(Need::Lists);
            let known = self.writer.knows_policies();
            let snapshot = self.writer.snapshot();
            let waiting = self.policies.as_mut().is_some_and(|it| it.wants_update(snapshot, known));
            let outcome = match self.full.take() {
                Some(reason) => self.full_sync(reason).await?,
                None if self.writer.has_change()
                    || self.nat_dirty
                    || waiting
                    || self.told_published != self.told.len() =>
                {
                    self.update().await?
                }
                None => {
                    self.progress.reached(self.policies.as_ref().is_some_and(Policies::is_planned));
                    self.steer().await?;
                    self.look().await?;
                    continue;
                }
            };
            self.settle(outcome);
            self.steer().await?;
            self.look().await?;
        }
    }

    /// Waits for anything to do.
    async fn wait(&mut self) -> anyhow::Result<()> {
        let beat = tokio::time::Instant::now() + BEAT;
        let retry = self.retry.map(|(at, _)| at);
        let counting = self.counting.due(&self.planner);
        let look = self.enforces().then_some(self.look);
        let next = [retry, self.hold, self.followers.due(), counting, look];
        let next = next.into_iter().flatten().min();
        let next = next.map_or(beat, |at| at.min(beat));
        tokio::select! {
            message = self.inbox.recv() => match message {
                Some(message) => self.absorb(message),
                None => anyhow::bail!("the watches of the API ended"),
            },
            change = events(&mut self.foreign) => if change? != nft::kernel::Change::None {
                self.full = Some("changed by others");
            },
            changed = self.nat.changed() => {
                // The fabric loop only ends with the agent.
                changed?;
                self.nat_dirty = true;
            }
            () = sleep_until(self.next_full) => {
                self.next_full += self.pace.full;
                self.full.get_or_insert("periodic");
            }
            () = asked(&mut self.policies) => {}
            () = sleep_until(next) => {}
        }
        Ok(())
    }

    /// The agent stops: what is known is written down.
    pub(crate) async fn finish(&mut self) {
        if self.writer.is_complete() {
            self.followers.finish(self.writer.snapshot()).await;
        }
    }

    /// Whether a failure or the pace forbids a commit now.
    fn is_waiting(&mut self) -> bool {
        let now = tokio::time::Instant::now();
        self.hold.take_if(|at| *at <= now);
        self.hold.is_some() || self.retry.is_some_and(|(at, _)| now < at)
    }

    fn absorb(&mut self, message: Message) {
        match message {
            Message::Event { event, revision, received, happened, reports } => {
                self.report(reports);
                self.progress.saw(&event, revision);
                if let Some(policies) = &mut self.policies {
                    policies.saw(&event, received, &self.metrics);
                }
                match &event {
                    model::Event::Node(Update::End) => drop(self.told.insert(Kind::Node)),
                    model::Event::Pool(Update::End) => drop(self.told.insert(Kind::Pool)),
                    model::Event::Block(Update::End) => drop(self.told.insert(Kind::Block)),
                    _ => {}
                }
                let of_node = matches!(event, model::Event::Node(_));
                // No Service depends on these: they say nothing about how fast Services are.
                let of_pods = matches!(
                    event,
                    model::Event::Pod(_)
                        | model::Event::Namespace(_)
                        | model::Event::NetworkPolicy(_)
                );
                let changed = self.writer.apply(event);
                if of_node {
                    let own = self.writer.snapshot().node(self.node.as_str());
                    self.health.set_leaving(own.is_some_and(|node| node.leaving));
                }
                if changed && !of_pods && self.writer.is_complete() && self.stamps.len() < STAMPS {
                    self.stamps.push((received, happened));
                }
            }
            Message::Failed { kind, error } => {
                self.metrics.failed("watch");
                self.followers.api_failed();
                tracing::warn!(kind = kind.as_str(), error, "watching failed, trying again");
            }
        }
    }

    fn report(&self, reports: Vec<Report>) {
        for report in reports {
            tracing::debug!(object = %report.object, reason = report.reason, message = report.message, "report");
            self.events.write(report);
        }
    }

    /// Whether any of these pods asks for another address than before.
    fn wishes_changed(&mut self, change: &model::Change) -> bool {
        self.wishes.update(&self.node, self.writer.snapshot(), &change.pods)
    }

    /// The facts other parts of the agent and the metrics want.
    fn publish(&mut self) {
        let snapshot = self.writer.snapshot();
        self.metrics.objects("service", snapshot.services().len());
        self.metrics.objects("endpointslice", snapshot.slice_count());
        self.metrics.objects("node", snapshot.nodes().len());
    }

    fn publish_nodes(&mut self) {
        self.told_published = self.told.len();
        let facts =
            Between::of(self.writer.snapshot(), self.wishes.clone(), self.told.len() == TOLD);
        self.nodes.send_replace(Some(facts.nodes.clone()));
        self.between.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&facts);
            *current = Some(Arc::new(facts));
            changed
        });
    }

    /// Reads the table back and brings it to what it should be.
    async fn full_sync(&mut self, reason: &'static str) -> anyhow::Result<Result<usize, String>> {
        let started = Instant::now();
        self.metrics.full_syncs.inc();
        self.next_full = tokio::time::Instant::now() + self.pace.full + jitter(self.pace.full / 5);
        let first = self.nat_applied.is_none() && reason == "start";
        let change = self.writer.take_change();
        self.followers.full(self.writer.snapshot(), &change);
        self.publish();
        self.wishes_changed(&change);
        self.publish_nodes();
        if first && self.nat.borrow().is_none() {
            // The fabric's part is needed for a first commit without a gap, and never late: it has no outside to wait for.
            drop(tokio::time::timeout(Duration::from_secs(2), self.nat.changed()).await);
        }
        let revision = self.writer.snapshot().revision();
        // Planned before it is listed: who knows what to expect need not walk the kernel's sets.
        let plan = self.planner.full(self.writer.snapshot(), None);
        let list = move |sockets: &mut Sockets| (sockets.generation(), sockets.list(&plan), plan);
        let (generation, listed, plan) = self.kernel.call(list).await?;
        let mut reports = plan.reports;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.metrics.failed("list");
                return Ok(Err(error.to_string()));
            }
        };
        self.followers.planned(self.writer.snapshot(), &self.planner, None);
        let nat = self.nat.borrow_and_update().clone();
        self.nat_dirty = false;
        let known = self.writer.knows_policies();
        let snapshot = self.writer.snapshot();
        let policy = self.policies.as_mut().and_then(|it| it.whole(snapshot, known));
        reports.extend(policy.as_ref().into_iter().flat_map(|policy| policy.reports.clone()));
        let policy = policy.map(|policy| policy.table);
        let kept = self.policies.as_mut().filter(|_| policy.is_none()).map(|policies| {
            let mut kept = nft::Table::new(plan.table.family, plan.table.name.clone());
            if let Some(listed) = &listed {
                merge::keep(&mut kept, listed, policy::is_ours);
            }
            policies.keep(kept.clone());
            kept
        });
        let whole = |services| {
            let desired = merge::tables(services, nat.as_ref());
            merge::tables(desired, policy.as_ref().or(kept.as_ref()))
        };
        let mut desired = whole(plan.table);
        let mut transaction = nft::diff(&desired, listed.as_ref());
        if let Some(listed) = listed.as_ref().filter(|_| !self.adopted && !transaction.is_empty()) {
            // A restart moves nobody: endpoints keep the slots they were given.
            let plan = self.planner.adopt(self.writer.snapshot(), listed);
            reports.extend(plan.reports);
            desired = whole(plan.table);
            transaction = nft::diff(&desired, Some(listed));
        }
        drop((desired, policy, kept, listed));
        let operations = transaction.len();
        if let Err(error) = self.kernel.call(move |sockets| sockets.commit(&transaction)).await? {
            self.metrics.failed("commit");
            return Ok(Err(error.to_string()));
        }
        if self.foreign.is_none() {
            self.listen(generation.map(|it| it.wrapping_add(u32::from(operations > 0)))).await?;
        }
        self.followers.committed(self.writer.snapshot());
        self.nat_applied = nat;
        self.adopted = true;
        self.report(reports);
        if reason == "changed by others" && operations > 0 {
            self.metrics.foreign_repairs.inc();
        }
        self.metrics.revision_applied.set(revision as i64);
        let spent = started.elapsed();
        self.metrics.full_sync_seconds.observe(spent.as_secs_f64());
        let (services, frontends) = self.planner.counts();
        tracing::info!(reason, operations, services, frontends, ?spent, "table compared whole");
        self.sweep().await?;
        self.mend().await?;
        let isolated = self.policies.as_ref().map(Policies::isolated);
        self.cut(isolated.unwrap_or_default()).await?;
        memory::trim();
        Ok(Ok(operations))
    }

    /// Listens to what others do to the table. If `expected` is not the last transaction, somebody did something already.
    async fn listen(&mut self, expected: Option<u32>) -> anyhow::Result<()> {
        let begin = |sockets: &mut Sockets| (sockets.watch(), sockets.generation());
        let (watch, generation) = self.kernel.call(begin).await?;
        self.foreign = Some(readable(watch.context("cannot watch nf_tables")?)?);
        if generation.is_none() || generation != expected {
            self.full = Some("changed by others");
        }
        Ok(())
    }

    /// Sends what changed.
    async fn update(&mut self) -> anyhow::Result<Result<usize, String>> {
        let change = self.writer.take_change();
        self.followers.changed(self.writer.snapshot(), &change);
        self.publish();
        let wishes = self.wishes_changed(&change);
        let between =
            !(change.nodes.is_empty() && change.pools.is_empty() && change.blocks.is_empty());
        if wishes || between || self.told_published != self.told.len() {
            self.publish_nodes();
        }
        let revision = self.writer.snapshot().revision();
        let delta = self.planner.update(self.writer.snapshot(), &change);
        self.report(delta.reports);
        let mut transaction = delta.transaction;
        self.followers.planned(self.writer.snapshot(), &self.planner, Some(&change));
        let nat = self.nat.borrow_and_update().clone();
        self.nat_dirty = false;
        merge::append(&mut transaction, nat.as_ref(), self.nat_applied.as_ref());
        let known = self.writer.knows_policies();
        let snapshot = self.writer.snapshot();
        let policy = self.policies.as_mut().and_then(|it| it.update(snapshot, &change, known));
        let (mut narrowed, mut retires, mut judged_anew) = (HashSet::new(), Vec::new(), false);
        if let Some(policy) = policy {
            self.report(policy.reports);
            (narrowed, retires) = (policy.narrowed, policy.retires);
            judged_anew = !policy.transaction.is_empty();
            transaction.ops.extend(policy.transaction.ops);
        }
        if !retires.is_empty() {
            // What chains that go counted goes with them.
            let counts = self.kernel.call(move |sockets| sockets.counts_of(&retires)).await?;
            if let (Some(policies), Ok(counts)) = (&mut self.policies, counts) {
                policies.count(&counts, false, &self.metrics);
            }
        }
        let operations = transaction.len();
        let stale = delta.stale;
        if operations > 0 {
            let committed = self.kernel.call(move |sockets| sockets.commit(&transaction)).await?;
            if let Err(error) = committed {
                self.metrics.failed("commit");
                // What the planner believes and what the kernel has differ now, stale connections included.
                return Ok(Err(error.to_string()));
            }
        }
        self.followers.committed(self.writer.snapshot());
        self.nat_applied = nat;
        self.metrics.revision_applied.set(revision as i64);
        tracing::debug!(operations, stale = stale.len(), "updated");
        if !stale.is_empty() {
            let insiders = self.planner.insiders();
            let delete = move |sockets: &mut Sockets| sockets.delete_stale(&stale, &insiders);
            let outcome = self.kernel.call(delete).await?;
            self.count_deleted(outcome);
        }
        if judged_anew {
            self.mend().await?;
        }
        self.cut(narrowed).await?;
        Ok(Ok(operations))
    }

    /// Deletes tracked connections whose endpoint went away while nobody was looking.
    async fn sweep(&mut self) -> anyhow::Result<()> {
        let listed = self.kernel.call(|sockets| {
            let flows = sockets.flows()?;
            Ok((flows, sockets.local_addresses()))
        });
        let (flows, local) = match listed.await? {
            Ok(listed) => listed,
            Err(error) => {
                self.count_deleted(Err(error));
                return Ok(());
            }
        };
        let stale = kernel::stale_flows(flows, &local, &self.planner);
        if !stale.is_empty() {
            let outcome = self.kernel.call(move |sockets| sockets.delete(&stale)).await?;
            self.count_deleted(outcome);
        }
        Ok(())
    }

    fn count_deleted(&self, outcome: Result<usize, nft::conntrack::ConntrackError>) {
        match outcome {
            Ok(deleted) => drop(self.metrics.stale_flows.inc_by(deleted as u64)),
            Err(error) => {
                self.metrics.failed("conntrack");
                tracing::warn!(%error, "stale connections were not deleted");
            }
        }
    }

    /// Books the outcome of a sync.
    fn settle(&mut self, outcome: Result<usize, String>) {
        match outcome {
            Ok(operations) => {
                self.metrics.committed(operations);
                self.hold = self.pace.least.map(|least| tokio::time::Instant::now() + least);
                for (received, happened) in self.stamps.drain(..) {
                    self.metrics.changed(received.elapsed(), happened);
                }
                self.retry = None;
                self.health.met(Need::Table);
                if let Some(policies) = &mut self.policies {
                    policies.committed(&self.metrics);
                }
                self.health.up_to_date();
                self.progress.reached(self.policies.as_ref().is_some_and(Policies::is_planned));
            }
            Err(error) => {
                let wait = self.retry.map_or(RETRY_FIRST, |(_, wait)| (wait * 2).min(RETRY_LAST));
                tracing::warn!(error, retry = ?wait, "the table is behind, comparing it whole");
                self.health.behind(&error);
                self.full = Some("failure");
                self.retry = Some((tokio::time::Instant::now() + wait + jitter(wait / 4), wait));
            }
        }
    }
}

/// Waits for a plugin that asks.
async fn asked(policies: &mut Option<Policies>) {
    match policies {
        Some(policies) => policies.asked().await,
        None => std::future::pending().await,
    }
}

/// Our table with nothing in it.
pub(crate) fn empty_table() -> anyhow::Result<nft::Table> {
    Ok(nft::Table::new(nft::Family::Inet, nft::Name::new(service::TABLE)?))
}

/// A random share of `most`.
fn jitter(most: Duration) -> Duration {
    use std::hash::{BuildHasher as _, RandomState};
    most.mul_f64((RandomState::new().hash_one(0) % 1000) as f64 / 1000.0)
}
