//! What the agent counts. Names and units follow the Prometheus conventions; all begin with `fairway_`.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use model::ObjectKey;

use crate::memory;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Since {
    /// `watch`: from the event's arrival; `api`: from the time the object carries.
    since: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FailureOf {
    /// `commit`, `list`, `conntrack`, `routes`, `cni-config`, `watch`.
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ObjectKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PolicyName {
    /// `namespace/name`.
    policy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DeniedBy {
    /// `namespace/name`.
    policy: String,
    direction: &'static str,
    /// `deny`, or `audit`: it went on all the same.
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PolicyRule {
    /// `namespace/name direction[place]`, or the policies none of whose rules matched.
    rule: String,
    direction: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    change_to_commit: Family<Since, Histogram, fn() -> Histogram>,
    operations: Histogram,
    transactions: Counter,
    pub(crate) full_syncs: Counter,
    pub(crate) full_sync_seconds: Histogram,
    pub(crate) foreign_repairs: Counter,
    pub(crate) stale_flows: Counter,
    failures: Family<FailureOf, Counter>,
    objects: Family<ObjectKind, Gauge>,
    last_success: Gauge<f64, AtomicU64>,
    pub(crate) revision_wanted: Gauge,
    pub(crate) revision_applied: Gauge,
    pub(crate) from_disk: Gauge,
    resident: Gauge,
    policy_change: Histogram,
    policy_last: Family<PolicyName, Gauge<f64, AtomicU64>>,
    policy_denied: Family<DeniedBy, Counter>,
    policy_packets: Family<PolicyRule, Counter>,
    policy_identities: Gauge,
    policy_sets: Gauge,
    pub(crate) policy_cut: Counter,
    pub(crate) gate_seconds: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn latency() -> Histogram {
    // 0.25 ms to 8 s.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("fairway"),
            change_to_commit: Family::new_with_constructor(latency),
            operations: Histogram::new(exponential_buckets(1.0, 4.0, 10)),
            transactions: Counter::default(),
            full_syncs: Counter::default(),
            full_sync_seconds: latency(),
            foreign_repairs: Counter::default(),
            stale_flows: Counter::default(),
            failures: Family::default(),
            objects: Family::default(),
            last_success: Gauge::default(),
            revision_wanted: Gauge::default(),
            revision_applied: Gauge::default(),
            from_disk: Gauge::default(),
            resident: Gauge::default(),
            policy_change: latency(),
            policy_last: Family::default(),
            policy_denied: Family::default(),
            policy_packets: Family::default(),
            policy_identities: Gauge::default(),
            policy_sets: Gauge::default(),
            policy_cut: Counter::default(),
            gate_seconds: latency(),
        };
        let m = &mut metrics;
        let r = &mut m.registry;
        let help = "Time from a change of the cluster to its commit in the kernel";
        r.register("change_to_commit_seconds", help, m.change_to_commit.clone());
        r.register("transaction_operations", "Operations of a transaction", m.operations.clone());
        r.register("transactions", "Transactions committed", m.transactions.clone());
        r.register("full_syncs", "Tables read back and compared whole", m.full_syncs.clone());
        let help = "Time to read a table back, compare it whole and commit the difference";
        r.register("full_sync_seconds", help, m.full_sync_seconds.clone());
        r.register(
            "foreign_repairs",
            "Changes by others to our table, undone",
            m.foreign_repairs.clone(),
        );
        r.register(
            "stale_flows_deleted",
            "Tracked UDP and SCTP connections deleted",
            m.stale_flows.clone(),
        );
        r.register("failures", "Failures by kind", m.failures.clone());
        r.register("objects", "Objects known", m.objects.clone());
        r.register(
            "last_success_timestamp_seconds",
            "When the kernel last was what it should be",
            m.last_success.clone(),
        );
        r.register("revision_wanted", "Revision of the facts", m.revision_wanted.clone());
        r.register("revision_applied", "Revision the kernel has", m.revision_applied.clone());
        let help =
            "1 when this process started from the facts on disk, because the API did not answer";
        r.register("started_from_disk", help, m.from_disk.clone());
        r.register("resident_memory_bytes", "Resident memory of this process", m.resident.clone());
        let help = "Time from a change of a NetworkPolicy to its commit in the kernel";
        r.register("policy_change_to_commit_seconds", help, m.policy_change.clone());
        let help = "The same, of each policy's last change";
        r.register("policy_last_change_to_commit_seconds", help, m.policy_last.clone());
        let help = "Flows denied, or that would have been; each once a minute";
        r.register("policy_denied_flows", help, m.policy_denied.clone());
        let help = "First packets of flows a rule allowed, or none of the policies' rules did";
        r.register("policy_rule_packets", help, m.policy_packets.clone());
        let help = "Different sets of rules that pods of this node have";
        r.register("policy_identities", help, m.policy_identities.clone());
        r.register("policy_sets", "Sets of peers the rules need", m.policy_sets.clone());
        let help = "Connections deleted because a policy denies them now";
        r.register("policy_cut_flows", help, m.policy_cut.clone());
        let help = "Time a new pod waited for its policy";
        r.register("policy_gate_seconds", help, m.gate_seconds.clone());
        metrics
    }

    pub(crate) fn policy_changed(&self, policy: &ObjectKey, since: Duration) {
        self.policy_change.observe(since.as_secs_f64());
        let policy = policy.to_string();
        self.policy_last.get_or_create(&PolicyName { policy }).set(since.as_secs_f64());
    }

    pub(crate) fn policy_gone(&self, policy: &ObjectKey) {
        self.policy_last.remove(&PolicyName { policy: policy.to_string() });
    }

    pub(crate) fn policy_size(&self, identities: usize, sets: usize) {
        self.policy_identities.set(i64::try_from(identities).unwrap_or(i64::MAX));
        self.policy_sets.set(i64::try_from(sets).unwrap_or(i64::MAX));
    }

    pub(crate) fn policy_packets(&self, rule: String, direction: &'static str, packets: u64) {
        self.policy_packets.get_or_create(&PolicyRule { rule, direction }).inc_by(packets);
    }

    pub(crate) fn flow_denied(&self, policy: &ObjectKey, direction: &'static str, audit: bool) {
        let mode = if audit { "audit" } else { "deny" };
        let policy = policy.to_string();
        self.policy_denied.get_or_create(&DeniedBy { policy, direction, mode }).inc();
    }

    pub(crate) fn changed(&self, since_watch: Duration, happened: Option<SystemTime>) {
        self.change_to_commit
            .get_or_create(&Since { since: "watch" })
            .observe(since_watch.as_secs_f64());
        let since_api = happened.and_then(|at| SystemTime::now().duration_since(at).ok());
        if let Some(since_api) = since_api {
            self.change_to_commit
                .get_or_create(&Since { since: "api" })
                .observe(since_api.as_secs_f64());
        }
    }

    pub(crate) fn committed(&self, operations: usize) {
        if operations > 0 {
            self.transactions.inc();
            self.operations.observe(operations as f64);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(now.as_secs_f64());
    }

    pub(crate) fn failed(&self, kind: &'static str) {
        self.failures.get_or_create(&FailureOf { kind }).inc();
    }

    pub(crate) fn objects(&self, kind: &'static str, count: usize) {
        self.objects
            .get_or_create(&ObjectKind { kind })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The exposition text.
    pub(crate) fn text(&self) -> String {
        self.resident.set(memory::resident());
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
