//! Counters under the names CoreDNS has for them, so that its dashboards and alerts go on working.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::query::{code, kind};
use crate::reply::Reply;
use crate::server::Carrier;
use crate::text::{code_name, kind_name};

/// Server blocks counted apart; further ones are counted with the last.
const BLOCKS: usize = 8;
/// Types counted apart; others are `other`.
const KINDS: [u16; 10] = [
    kind::A,
    kind::AAAA,
    kind::CNAME,
    kind::MX,
    kind::NS,
    kind::PTR,
    kind::SOA,
    kind::SRV,
    kind::TXT,
    65,
];
/// Codes counted apart; others are counted as SERVFAIL is.
const CODES: [u16; 8] = [
    code::NOERROR,
    code::FORMERR,
    code::SERVFAIL,
    code::NXDOMAIN,
    code::NOTIMP,
    code::REFUSED,
    code::BADVERS,
    code::BADCOOKIE,
];
/// Upper bounds of durations in seconds: CoreDNS's.
const SECONDS: [f64; 16] = [
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];
/// Upper bounds of sizes in octets: CoreDNS's.
const OCTETS: [usize; 14] =
    [0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16_000, 32_000, 48_000, 64_000];

/// What is counted about an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Which server block; none when nobody was in charge.
    pub(crate) block: Option<usize>,
    pub(crate) carrier: Carrier,
    pub(crate) client: IpAddr,
    pub(crate) kind: u16,
    pub(crate) code: u16,
    /// Octets of the answer.
    pub(crate) size: usize,
    pub(crate) truncated: bool,
}

#[derive(Debug, Default)]
struct Block {
    /// By carrier, family and type; the last type is `other`.
    requests: [[[AtomicU64; KINDS.len() + 1]; 2]; 2],
    responses: [AtomicU64; CODES.len()],
    seconds: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
    octets: [AtomicU64; OCTETS.len() + 1],
    total_octets: AtomicU64,
    hits: [AtomicU64; 2],
    misses: AtomicU64,
}

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    blocks: [Block; BLOCKS],
    truncated: AtomicU64,
    limited: AtomicU64,
    errors: AtomicU64,
    prefetched: AtomicU64,
    stale: AtomicU64,
    rejected: AtomicU64,
    broken: AtomicU64,
    upstream: std::sync::Mutex<std::collections::BTreeMap<(String, u16), (u64, f64)>>,
    failures: std::sync::Mutex<std::collections::BTreeMap<String, u64>>,
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Relaxed);
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn block(&self, block: Option<usize>) -> &Block {
        &self.blocks[block.unwrap_or(0).min(BLOCKS - 1)]
    }

    /// A question was answered, after so long.
    pub(crate) fn answered(&self, seen: &Seen, after: Duration) {
        let block = self.block(seen.block);
        let kind = KINDS.iter().position(|kind| *kind == seen.kind).unwrap_or(KINDS.len());
        let carrier = usize::from(seen.carrier == Carrier::Tcp);
        let family = usize::from(seen.client.is_ipv6());
        add(&block.requests[carrier][family][kind], 1);
        let code = CODES.iter().position(|code| *code == seen.code).unwrap_or(2);
        add(&block.responses[code], 1);
        let seconds = after.as_secs_f64();
        let at = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        add(&block.seconds[at], 1);
        add(&block.nanoseconds, u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
        let at = OCTETS.iter().position(|bound| seen.size <= *bound).unwrap_or(OCTETS.len());
        add(&block.octets[at], 1);
        add(&block.total_octets, seen.size as u64);
        if seen.truncated {
            add(&self.truncated, 1);
        }
    }

    /// Something that was no query was answered with a code.
    pub(crate) fn refused(&self, code: u16) {
        let code = CODES.iter().position(|known| *known == code).unwrap_or(2);
        add(&self.blocks[0].responses[code], 1);
    }

    /// A client had to come another way.
    pub(crate) fn limited(&self) {
        add(&self.limited, 1);
    }

    /// A question was not answered.
    pub(crate) fn error(&self) {
        add(&self.errors, 1);
    }

    /// A cache was asked.
    pub(crate) fn cache(&self, block: usize, hit: Option<&Reply>) {
        let block = self.block(Some(block));
        match hit {
            Some(reply) => add(&block.hits[usize::from(reply.answers.is_empty())], 1),
            None => add(&block.misses, 1),
        }
    }

    /// An answer is asked for anew.
    pub(crate) fn renewing(&self, stale: bool) {
        add(if stale { &self.stale } else { &self.prefetched }, 1);
    }

    /// An upstream answered.
    pub(crate) fn asked(&self, upstream: &str, code: u16, after: Duration) {
        let mut all = self.upstream.lock().unwrap_or_else(|it| it.into_inner());
        let (count, seconds) = all.entry((upstream.to_owned(), code)).or_default();
        *count += 1;
        *seconds += after.as_secs_f64();
    }

    /// An upstream did not say that it lives.
    pub(crate) fn unhealthy(&self, upstream: &str) {
        let mut all = self.failures.lock().unwrap_or_else(|it| it.into_inner());
        *all.entry(upstream.to_owned()).or_default() += 1;
    }

    /// A question was not sent on: too many wait.
    pub(crate) fn rejected(&self) {
        add(&self.rejected, 1);
    }

    /// All upstreams were down.
    pub(crate) fn all_broken(&self) {
        add(&self.broken, 1);
    }

    /// All of it in Prometheus' text form. `labels` names the blocks, `caches` says what is in their caches: answers,
    /// absences, and how many gave way.
    pub(crate) fn text(&self, labels: &[String], caches: &[(&str, (usize, usize), u64)]) -> String {
        let mut out = Text(String::with_capacity(8192));
        const SERVER: &str = "server=\"dns://:53\"";
        let blocks = || labels.iter().zip(&self.blocks);
        out.head(
            "coredns_build_info",
            "gauge",
            "A metric with a constant 1: which program this is.",
        );
        let version = env!("CARGO_PKG_VERSION");
        out.line("coredns_build_info", &format!("version=\"fairway-{version}\""), "1");
        out.head(
            "coredns_dns_requests_total",
            "counter",
            "Queries, by zone, carrier, family and type.",
        );
        for (zone, block) in blocks() {
            for (carrier, families) in ["udp", "tcp"].iter().zip(&block.requests) {
                for (family, kinds) in ["1", "2"].iter().zip(families) {
                    for (at, count) in kinds.iter().enumerate() {
                        let kind =
                            KINDS.get(at).map_or("other".to_owned(), |kind| kind_name(*kind));
                        let labels = format!(
                            "{SERVER},zone=\"{zone}\",view=\"\",proto=\"{carrier}\",family=\"{family}\",type=\"{kind}\""
                        );
                        out.count("coredns_dns_requests_total", &labels, count);
                    }
                }
            }
        }
        out.head("coredns_dns_responses_total", "counter", "Answers, by zone and code.");
        for (zone, block) in blocks() {
            for (code, count) in CODES.iter().zip(&block.responses) {
                let code = code_name(*code);
                let labels = format!(
                    "{SERVER},zone=\"{zone}\",view=\"\",rcode=\"{code}\",plugin=\"fairway\""
                );
                out.count("coredns_dns_responses_total", &labels, count);
            }
        }
        let name = "coredns_dns_request_duration_seconds";
        out.head(name, "histogram", "How long an answer took.");
        for (zone, block) in blocks() {
            let sum = block.nanoseconds.load(Relaxed) as f64 / 1e9;
            let labels = format!("{SERVER},zone=\"{zone}\",view=\"\"");
            out.histogram(name, &labels, SECONDS.map(|it| it.to_string()), &block.seconds, sum);
        }
        let name = "coredns_dns_response_size_bytes";
        out.head(name, "histogram", "How long answers were.");
        for (zone, block) in blocks() {
            let sum = block.total_octets.load(Relaxed) as f64;
            let labels = format!("{SERVER},zone=\"{zone}\",view=\"\"");
            out.histogram(name, &labels, OCTETS.map(|it| it.to_string()), &block.octets, sum);
        }
        out.head("coredns_cache_hits_total", "counter", "Questions answered from the cache.");
        out.head("coredns_cache_requests_total", "counter", "Questions the cache was asked.");
        out.head("coredns_cache_misses_total", "counter", "Questions it could not answer.");
        for (zone, block) in blocks() {
            let zones = format!("{SERVER},zones=\"{zone}\",view=\"\"");
            let mut total = block.misses.load(Relaxed);
            out.count("coredns_cache_misses_total", &zones, &block.misses);
            for (class, count) in ["success", "denial"].iter().zip(&block.hits) {
                total += count.load(Relaxed);
                out.count("coredns_cache_hits_total", &format!("{zones},type=\"{class}\""), count);
            }
            out.line("coredns_cache_requests_total", &zones, &total.to_string());
        }
        out.head("coredns_cache_entries", "gauge", "What is in the cache.");
        out.head("coredns_cache_evictions_total", "counter", "What had to give way.");
        for (zone, (success, denial), evictions) in caches {
            for (class, count) in [("success", success), ("denial", denial)] {
                let labels = format!("{SERVER},zones=\"{zone}\",view=\"\",type=\"{class}\"");
                out.line("coredns_cache_entries", &labels, &count.to_string());
            }
            let labels = format!("{SERVER},zones=\"{zone}\",view=\"\"");
            out.line("coredns_cache_evictions_total", &labels, &evictions.to_string());
        }
        for (name, help, count) in [
            (
                "coredns_cache_prefetch_total",
                "Answers renewed before they expired.",
                &self.prefetched,
            ),
            ("coredns_cache_served_stale_total", "Answers used after they expired.", &self.stale),
            (
                "coredns_forward_max_concurrent_rejects_total",
                "Questions not sent on: too many waited.",
                &self.rejected,
            ),
            (
                "coredns_forward_healthcheck_broken_total",
                "Questions for which every upstream was down.",
                &self.broken,
            ),
            ("fairway_dns_truncated_total", "Answers that did not fit.", &self.truncated),
            (
                "fairway_dns_limited_total",
                "Queries over UDP beyond their client's share.",
                &self.limited,
            ),
            ("fairway_dns_errors_total", "Questions that failed.", &self.errors),
        ] {
            out.head(name, "counter", help);
            out.line(name, SERVER, &count.load(Relaxed).to_string());
        }
        let upstream = self.upstream.lock().unwrap_or_else(|it| it.into_inner());
        let name = "coredns_proxy_request_duration_seconds";
        out.head(name, "summary", "How long upstreams took.");
        for ((to, code), (count, seconds)) in upstream.iter() {
            let labels =
                format!("proxy_name=\"forward\",to=\"{to}\",rcode=\"{}\"", code_name(*code));
            out.line(&format!("{name}_count"), &labels, &count.to_string());
            out.line(&format!("{name}_sum"), &labels, &seconds.to_string());
        }
        let failures = self.failures.lock().unwrap_or_else(|it| it.into_inner());
        let name = "coredns_proxy_healthcheck_failures_total";
        out.head(name, "counter", "Upstreams that did not say that they live.");
        for (to, count) in failures.iter() {
            let labels = format!("proxy_name=\"forward\",to=\"{to}\"");
            out.line(name, &labels, &count.to_string());
        }
        out.0
    }
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn line(&mut self, name: &str, labels: &str, value: &str) {
        self.0.push_str(&format!("{name}{{{labels}}} {value}\n"));
    }

    /// A counter that counted something.
    fn count(&mut self, name: &str, labels: &str, count: &AtomicU64) {
        let count = count.load(Relaxed);
        if count > 0 {
            self.line(name, labels, &count.to_string());
        }
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &str,
        labels: &str,
        bounds: [String; N],
        counts: &[AtomicU64],
        sum: f64,
    ) {
        let mut total = 0;
        for (bound, count) in bounds.iter().map(String::as_str).chain(["+Inf"]).zip(counts) {
            total += count.load(Relaxed);
            let labels = format!("{labels},le=\"{bound}\"");
            self.line(&format!("{name}_bucket"), &labels, &total.to_string());
        }
        self.line(&format!("{name}_sum"), labels, &sum.to_string());
        self.line(&format!("{name}_count"), labels, &total.to_string());
    }
}
