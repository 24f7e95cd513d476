//! The services loop's part for network policy: its planner, the pods that wait for theirs, and what was denied.
//!
//! Policy has its own completeness: until pods, namespaces and policies are all known, the kernel keeps what it has, Services go
//! on, and new pods wait.

mod claims;
mod counts;
mod gate;
mod noted;
mod severed;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use model::{Change, Event, ObjectKey, Snapshot, Update};
use nft::conntrack::Flow;
use nft::{Op, Table};
use policy::{Delta, Plan, Planner, Severed, Traffic};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
pub(crate) use claims::Claims;
use counts::Counts;
pub(crate) use gate::{Ask, serve};
use noted::Noted;
pub(crate) use noted::{EVERY, read};
pub(crate) use severed::remembered;

/// Questions of plugins that wait while a commit runs; more wait in the socket.
pub(crate) const ASKS: usize = 64;
/// Policies whose latency is measured per commit; a burst of more says nothing new.
const STAMPS: usize = 256;

/// A pod that waits for its policy.
struct Waiting {
    ask: Ask,
    /// The plan has it; the kernel will with the next commit.
    planned: bool,
}

/// The state.
pub(crate) struct Policies {
    planner: Planner,
    claims: Claims,
    /// The planner knows everything there is.
    planned: bool,
    /// What the kernel had of policy when the table was read, while it was not known what it should have.
    kept: Option<Table>,
    asks: mpsc::Receiver<Ask>,
    waiting: Vec<Waiting>,
    stamps: Vec<(ObjectKey, Instant)>,
    noted: Noted,
    counts: Counts,
    /// The kernel may remember answers of flows that were cut; an agent before this one may have told it.
    severed: bool,
}

impl Policies {
    pub(crate) fn new(planner: Planner, asks: mpsc::Receiver<Ask>, claims: Claims) -> Self {
        Self {
            planner,
            claims,
            planned: false,
            kept: None,
            asks,
            waiting: Vec::new(),
            stamps: Vec::new(),
            noted: Noted::default(),
            counts: Counts::default(),
            severed: true,
        }
    }

    /// Waits for a plugin that asks. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        match self.asks.recv().await {
            Some(ask) => self.waiting.push(Waiting { ask, planned: false }),
            // The gate only ends with the agent.
            None => std::future::pending().await,
        }
    }

    /// The cluster changed.
    pub(crate) fn saw(&mut self, event: &Event, received: Instant, metrics: &Metrics) {
        if let Event::NetworkPolicy(Update::Deleted(key)) = event {
            metrics.policy_gone(key);
        }
        if let Event::NetworkPolicy(Update::Applied(policy)) = event
            && self.stamps.len() < STAMPS
        {
            self.stamps.push((policy.key.clone(), received));
        }
    }

    /// Whether the plan is of everything there is.
    pub(crate) fn is_planned(&self) -> bool {
        self.planned
    }

    /// It is not known what the kernel should have: this is what it has.
    pub(crate) fn keep(&mut self, kept: Table) {
        self.kept = Some(kept);
    }

    /// Everything is known now, or a pod waits that can be planned.
    pub(crate) fn wants_update(&mut self, snapshot: &Snapshot, known: bool) -> bool {
        if !self.planned {
            return known && self.kept.is_some();
        }
        self.waiting.retain(|waiting| !waiting.ask.answer.is_closed());
        let known = |it: &Waiting| !it.planned && snapshot.pod(&it.ask.claim.pod).is_some();
        self.waiting.iter().any(known)
    }

    /// The whole plan, once everything is known.
    pub(crate) fn whole(&mut self, snapshot: &Snapshot, known: bool) -> Option<Plan> {
        if !known {
            return None;
        }
        for claim in self.claims.remembered() {
            self.planner.claim(snapshot, claim);
        }
        self.claim(snapshot);
        self.planned = true;
        self.kept = None;
        Some(self.planner.full(snapshot))
    }

    /// What a change makes different.
    pub(crate) fn update(
        &mut self,
        snapshot: &Snapshot,
        change: &Change,
        known: bool,
    ) -> Option<Delta> {
        if !self.planned {
            let kept = self.kept.take_if(|_| known)?;
            let plan = self.whole(snapshot, known)?;
            let transaction = nft::diff(&plan.table, Some(&kept));
            let gone = transaction.ops.iter().filter_map(|op| match op {
                Op::DeleteChain { name } => Some(name.clone()),
                _ => None,
            });
            return Some(Delta {
                retires: gone.collect(),
                transaction,
                narrowed: self.isolated(),
                reports: plan.reports,
            });
        }
        let claimed = self.claim(snapshot);
        if claimed.is_empty() {
            return Some(self.planner.update(snapshot, change));
        }
        let mut change = change.clone();
        change.pods.extend(claimed);
        Some(self.planner.update(snapshot, &change))
    }

    fn claim(&mut self, snapshot: &Snapshot) -> Vec<ObjectKey> {
        let mut claimed = Vec::new();
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.planned) {
            let claim = &waiting.ask.claim;
            if self.planner.claim(snapshot, claim.clone()) {
                waiting.planned = true;
                claimed.push(claim.pod.clone());
            }
        }
        claimed
    }

    /// The kernel has the plan: who waits for it may go on.
    pub(crate) fn committed(&mut self, metrics: &Metrics) {
        if !self.planned {
            return;
        }
        for (policy, received) in self.stamps.drain(..) {
            metrics.policy_changed(&policy, received.elapsed());
        }
        let (identities, sets) = self.planner.counts();
        metrics.policy_size(identities, sets);
        if self.planner.take_claims_changed()
            && let Err(error) = self.claims.write(self.planner.claims())
        {
            metrics.failed("policy-claims");
            tracing::warn!(%error, "which addresses pods were given is not written down");
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if !waiting.planned {
                self.waiting.push(waiting);
                continue;
            }
            metrics.gate_seconds.observe(waiting.ask.since.elapsed().as_secs_f64());
            // Nobody may be left to hear it: the plugin's own wait is bounded.
            waiting.ask.answer.send(()).ok();
        }
    }

    /// Whether any pod here has rules.
    pub(crate) fn enforces(&self) -> bool {
        self.planner.counts().0 > 0
    }

    /// The addresses whose connections may have become denied.
    pub(crate) fn isolated(&self) -> HashSet<IpAddr> {
        self.planner.isolated().collect()
    }

    /// The connections that are denied now and are to be cut; `own` are the node's addresses, whose traffic always passes.
    pub(crate) fn cut(&self, flows: Vec<Flow>, own: impl Fn(IpAddr) -> bool) -> Vec<Flow> {
        // Flows that differ in the sender's port only have one fate.
        let mut known: HashMap<Traffic, bool> = HashMap::new();
        let mut denied = |flow: &Flow| {
            let (source, destination) = (flow.original.source, flow.reply.source);
            let traffic = Traffic {
                source,
                destination,
                protocol: flow.original.protocol,
                port: flow.reply.source_port,
            };
            let judge = || !own(source) && !own(destination) && self.planner.judge(&traffic).cuts();
            *known.entry(traffic).or_insert_with(judge)
        };
        flows.into_iter().filter(|flow| denied(flow)).collect()
    }

    /// The answers that would bring flows back which are to be cut.
    pub(crate) fn sever(&mut self, cut: &[Flow]) -> Vec<Severed> {
        let answers = severed::answers(cut, &self.planner);
        self.severed |= !answers.is_empty();
        answers
    }

    /// Whether the kernel has to be asked what it remembers of flows that were cut.
    pub(crate) fn has_severed(&self) -> bool {
        self.planned && self.severed
    }

    /// Of what the kernel remembers, the answers of flows that may be again.
    pub(crate) fn mended(&mut self, mut remembered: Vec<Severed>) -> Vec<Severed> {
        let all = remembered.len();
        remembered.retain(|answer| self.planner.judge(&answer.flow()).allows());
        // Asked once more than needed rather than once too little.
        self.severed = all > 0;
        remembered
    }

    /// Takes what the rules counted: all of them, or only some that go.
    pub(crate) fn count(&mut self, rules: &[nft::kernel::LiveRule], all: bool, metrics: &Metrics) {
        for (rule, direction, packets) in self.counts.take(rules, all) {
            metrics.policy_packets(rule, direction, packets);
        }
    }

    /// Looks at flows that were denied, logs those that are new, and counts them.
    pub(crate) fn note(&mut self, flows: Vec<policy::DeniedFlow>, metrics: &Metrics) {
        self.noted.take(flows, &self.planner, metrics);
    }
}
