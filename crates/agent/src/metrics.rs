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
        metrics
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
