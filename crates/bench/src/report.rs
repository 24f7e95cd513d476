//! What was measured, beside what is promised, as a table or as JSON. Pure but for reading the machine's description.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

/// Something that is measured: key, words, unit, decimals.
pub(crate) type Metric = (&'static str, &'static str, &'static str, usize);

/// Everything that is measured of Services.
const METRICS: &[Metric] = &[
    ("first_sync_s", "first sync: start → every sampled Service answers", "s", 2),
    (
        "first_sync_itself_s",
        "  of it the sync itself, without the lists (its own histogram)",
        "s",
        2,
    ),
    ("first_sync_cpu_s", "  processor time until it is idle", "s", 2),
    ("kernel_elements", "  elements in the kernel's table", "", 0),
    ("kernel_chains", "  chains in the kernel's table", "", 0),
    ("resident_mib", "memory after it, resident", "MiB", 1),
    ("anonymous_mib", "  of it anonymous (its own, not a file's)", "MiB", 1),
    ("proportional_mib", "  proportional (Pss)", "MiB", 1),
    ("peak_mib", "  resident at most", "MiB", 1),
    ("direct_us_p50", "connect–request–response–close, direct, p50", "µs", 0),
    ("service_us_p50", "  through a ClusterIP, p50", "µs", 0),
    ("service_us_p99", "  through a ClusterIP, p99", "µs", 0),
    ("service_ratio", "  ClusterIP against direct (p50)", "", 3),
    ("direct_per_s", "connections a second, one client, direct", "", 0),
    ("service_per_s", "  through a ClusterIP", "", 0),
    ("changes", "changes of each kind measured", "", 0),
    ("add_ms_p50", "Service added → reachable, p50", "ms", 1),
    ("add_ms_p99", "  p99", "ms", 1),
    ("scale_up_ms_p50", "endpoint added → chosen, p50", "ms", 1),
    ("scale_up_ms_p99", "  p99", "ms", 1),
    ("scale_down_ms_p50", "endpoint removed → chosen no more, p50", "ms", 1),
    ("scale_down_ms_p99", "  p99", "ms", 1),
    ("edit_ms_p50", "Service's port changed → reachable there, p50", "ms", 1),
    ("edit_ms_p99", "  p99", "ms", 1),
    ("delete_ms_p50", "Service deleted → refused, p50", "ms", 1),
    ("delete_ms_p99", "  p99", "ms", 1),
    ("api_ms_p50", "  in all of these: until the API answered, p50", "ms", 1),
    ("never", "  changes that had no effect in time", "", 0),
    ("commit_ms_p99", "event received → committed, p99 at most (its own histogram)", "ms", 2),
    ("operations_per_change", "operations per change", "", 1),
    ("cpu_ms_per_change", "processor time per change", "ms", 1),
    ("resident_after_mib", "memory after the changes, resident", "MiB", 1),
    ("restart_s", "restart with nothing changed → synced", "s", 2),
    ("restart_itself_s", "  of it the sync itself", "s", 2),
    ("restart_operations", "  operations of it", "", 0),
    ("restart_asked", "  requests meanwhile", "", 0),
    ("restart_lost", "  of these lost", "", 0),
];

/// Promised figures: key, Services, endpoints of each, at most.
const PROMISES: &[(&str, u32, u32, f64)] = &[
    ("first_sync_s", 10_000, 5, 0.4),
    ("first_sync_s", 45_000, 2, 2.0),
    ("restart_s", 10_000, 5, 0.5),
    ("restart_operations", 45_000, 5, 0.0),
    ("restart_lost", 45_000, 5, 0.0),
    ("never", 45_000, 5, 0.0),
    ("add_ms_p99", 10_000, 5, 15.0),
    ("commit_ms_p99", 45_000, 2, 10.0),
    ("resident_mib", 10_000, 5, 50.0),
    ("service_ratio", 10_000, 5, 1.05),
];

/// The figure promised for that many Services: that of the smallest promised size which is at least as large.
pub(crate) fn promise(key: &str, services: u32, endpoints: u32) -> Option<f64> {
    let large = PROMISES
        .iter()
        .filter(|(k, s, e, _)| *k == key && *s >= services && s * e >= services * endpoints);
    large.min_by_key(|(_, s, e, _)| s * e).map(|(_, _, _, most)| *most)
}

/// What one data plane showed, by key.
pub(crate) type Measured = BTreeMap<&'static str, f64>;

/// The whole result.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
    pub(crate) api: String,
    pub(crate) planes: Vec<(String, Measured)>,
    pub(crate) load_before: String,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut header = vec!["WHAT", "PROMISED"];
        let titles: Vec<String> =
            self.planes.iter().map(|(title, _)| title.to_uppercase()).collect();
        header.extend(titles.iter().map(String::as_str));
        let columns: Vec<&Measured> = self.planes.iter().map(|(_, measured)| measured).collect();
        let promised = |key: &str| promise(key, self.services, self.endpoints);
        let rows = rows(METRICS, promised, &columns);
        format!(
            "{} Services × {} endpoints; API server {}\n{}; load average before {}, after {}\n\n{}",
            self.services,
            self.endpoints,
            self.api,
            machine(),
            self.load_before,
            load(),
            print::table(&header, &rows)
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let promised: BTreeMap<_, _> = METRICS
            .iter()
            .filter_map(|(key, ..)| Some((*key, promise(key, self.services, self.endpoints)?)))
            .collect();
        json!({
            "services": self.services,
            "endpoints": self.endpoints,
            "api": self.api,
            "machine": machine(),
            "loadBefore": self.load_before,
            "loadAfter": load(),
            "promised": promised,
            "planes": self.planes.iter().map(|(title, measured)| json!({"name": title, "measured": measured})).collect::<Vec<_>>(),
        })
    }
}

/// What was measured as rows: words, what is promised at most, and a column for each.
pub(crate) fn rows(
    metrics: &[Metric],
    promise: impl Fn(&str) -> Option<f64>,
    columns: &[&Measured],
) -> Vec<Vec<String>> {
    let shown = |value: Option<&f64>, unit: &str, decimals: usize| match value {
        Some(value) => format!("{value:.decimals$} {unit}").trim_end().to_owned(),
        None => "–".to_owned(),
    };
    let known = metrics.iter().filter(|(key, ..)| columns.iter().any(|it| it.contains_key(key)));
    let row = |(key, what, unit, decimals): &Metric| {
        let promised = promise(key).map(|most| format!("≤ {most} {unit}").trim_end().to_owned());
        let mut row = vec![(*what).to_owned(), promised.unwrap_or_default()];
        row.extend(columns.iter().map(|measured| shown(measured.get(key), unit, *decimals)));
        row
    };
    known.map(row).collect()
}

/// The load averages of 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Processor and kernel.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processors = info.lines().filter(|line| line.starts_with("processor")).count();
    let model = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map(|(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{} × {}, Linux {}",
        processors,
        model.unwrap_or("unknown processor").trim(),
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_holds_for_everything_smaller() {
        assert_eq!(promise("first_sync_s", 10_000, 5), Some(0.4));
        assert_eq!(promise("first_sync_s", 20, 2), Some(0.4));
        assert_eq!(promise("first_sync_s", 45_000, 2), Some(2.0));
        assert_eq!(promise("first_sync_s", 45_000, 5), None);
        assert_eq!(promise("service_ratio", 45_000, 2), None);
        for (key, ..) in PROMISES {
            assert!(METRICS.iter().any(|(metric, ..)| metric == key), "{key} is not measured");
        }
    }

    #[test]
    fn a_peer_stands_beside_ours_and_gaps_are_shown() {
        let report = Report {
            services: 10,
            endpoints: 2,
            api: "a".into(),
            planes: vec![
                ("ours".into(), [("first_sync_s", 0.25), ("restart_operations", 0.0)].into()),
                ("theirs".into(), [("first_sync_s", 14.6)].into()),
            ],
            load_before: "0 0 0".into(),
        };
        let table = report.table();
        assert!(
            table.contains("OURS") && table.contains("0.25 s") && table.contains("14.60 s"),
            "{table}"
        );
        assert!(table.contains("≤ 0.4 s") && table.contains('–'), "{table}");
        assert!(!table.contains("resident"), "what nobody measured is left out: {table}");
        assert_eq!(report.json()["planes"][1]["measured"]["first_sync_s"], 14.6);
    }
}
