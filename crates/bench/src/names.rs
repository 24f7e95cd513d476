//! `fairway-bench dns`: the agent's DNS server with that many Services, asked by dnsperf on the same cores; Knot DNS with the
//! same names as a static zone beside it.
//!
//! The server runs in this process, so that what its memory grows by is seen; the namespace is its own, and dnsperf's.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use dns::client::ask;
use dns::facts::{Keep, Patch};
use dns::query::kind;
use dns::{Config, Name, Server};
use link::kernel::Netlink;
use link::namespace::CommandInNamespace as _;
use link::{Change, LinkSettings, Namespace};
use model::{Event, Parsed, SnapshotWriter, Update};
use serde_json::{Value, json};

use crate::arguments::DnsOptions;

const OURS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What dnsperf saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Seen {
    /// Queries a second.
    rate: f64,
    lost: u64,
    /// Mean, in seconds.
    latency: f64,
}

/// The whole run.
#[derive(Debug)]
pub(crate) struct Outcome {
    services: u32,
    /// Bytes the process grew by for the names.
    grown: i64,
    rows: Vec<(&'static str, &'static str, Seen)>,
    /// Of single questions at the limited rate, in seconds: median and 99th percentile.
    tail: (f64, f64),
}

impl Outcome {
    pub(crate) fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|(who, how, seen)| {
                vec![
                    (*who).into(),
                    (*how).into(),
                    format!("{:.0}", seen.rate),
                    seen.lost.to_string(),
                    format!("{:.3} ms", seen.latency * 1e3),
                ]
            })
            .collect();
        let mut text = print::table(&["SERVER", "LOAD", "QUERIES/S", "LOST", "MEAN"], &rows);
        let grown = self.grown as f64 / f64::from(1 << 20);
        writeln!(text, "\n{} Services: {grown:.1} MiB", self.services).ok();
        let (median, p99) = self.tail;
        writeln!(
            text,
            "one question at a time beside the limited load: median {:.3} ms, p99 {:.3} ms",
            median * 1e3,
            p99 * 1e3
        )
        .ok();
        text
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|(who, how, seen)| {
            json!({"server": who, "load": how, "queriesPerSecond": seen.rate, "lost": seen.lost, "meanSeconds": seen.latency})
        });
        json!({"services": self.services, "grownBytes": self.grown, "runs": rows.collect::<Vec<_>>(),
            "medianSeconds": self.tail.0, "p99Seconds": self.tail.1})
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Measures.
pub(crate) fn run(options: &DnsOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let namespace = Namespace::create(&format!("fairway-bench-dns-{}", std::process::id()))
        .context("this needs root, to make a network namespace")?;
    let outcome = within(&namespace, options, dir);
    Namespace::delete(&format!("fairway-bench-dns-{}", std::process::id()))?;
    outcome
}

fn within(namespace: &Namespace, options: &DnsOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let mut links = Netlink::in_namespace(namespace)?;
    links.apply(&[Change::SetLink("lo".into(), LinkSettings::up())])?;
    let questions = dir.join("questions");
    fs::write(&questions, lines(options.services))?;

    let domain = [Name::parse("cluster.local")?];
    let server = namespace.run(|| {
        let server = Server::start(Config::usual(&domain, Vec::new()), &dns::Settings::default())?;
        server.listen(&[SocketAddr::new(OURS.into(), 53)]).map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(server)
    })??;
    let before = resident()?;
    server.publish(patch(options.services)?);
    let grown = resident()? - before;

    let mut rows = Vec::new();
    let perf = |address: Ipv4Addr, rate: Option<u32>| {
        dnsperf(namespace, address, &questions, options.seconds, rate)
    };
    rows.push(("fairway", "full", perf(OURS, None)?));
    let tail = std::thread::scope(|scope| {
        let load = scope.spawn(|| perf(OURS, Some(options.rate)));
        let tail = namespace.run(|| one_by_one(options.services, options.seconds))?;
        let seen = load.join().map_err(|_| anyhow::anyhow!("dnsperf's thread ended"))??;
        rows.push(("fairway", "limited", seen));
        tail
    })?;
    if !options.no_peer {
        let _knot = knot(namespace, options.services, dir)?;
        rows.push(("knot", "full", perf(PEER, None)?));
        rows.push(("knot", "limited", perf(PEER, Some(options.rate))?));
    }
    drop(server);
    Ok(Outcome { services: options.services, grown, rows, tail })
}

fn name(at: u32) -> String {
    format!("service-{at}.namespace-{}.svc.cluster.local", at % 100)
}

fn address(at: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + at)
}

/// The questions in an order that has nothing to do with the Services'.
fn lines(services: u32) -> String {
    let mut text = String::new();
    for at in 0..services {
        // A number with no factor in common with any count below two thousand millions goes round all of them.
        let at = (u64::from(at) * 2_147_483_647 % u64::from(services)) as u32;
        writeln!(text, "{} A", name(at)).ok();
    }
    text
}

/// The Services, as the watch would tell them.
fn patch(services: u32) -> anyhow::Result<Patch> {
    let mut writer = SnapshotWriter::default();
    for at in 0..services {
        let object = json!({
            "metadata": {"namespace": format!("namespace-{}", at % 100), "name": format!("service-{at}")},
            "spec": {"clusterIP": address(at).to_string(), "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        });
        let object: k8s_openapi::api::core::v1::Service = serde_json::from_value(object)?;
        let parsed = Parsed::try_from(&object).map_err(|report| anyhow::anyhow!("{report}"))?;
        writer.apply(Event::Service(Update::Applied(parsed.value)));
    }
    Ok(Patch::whole(writer.snapshot(), &Keep::default()))
}

/// Resident memory of this process, in bytes.
fn resident() -> anyhow::Result<i64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok());
    Ok(kibibytes.context("/proc/self/status has no VmRSS")? * 1024)
}

fn dnsperf(
    namespace: &Namespace,
    server: Ipv4Addr,
    questions: &Path,
    seconds: u32,
    rate: Option<u32>,
) -> anyhow::Result<Seen> {
    let mut command = Command::new("dnsperf");
    command.args(["-s", &server.to_string(), "-c", "20", "-l", &seconds.to_string(), "-d"]);
    command.arg(questions);
    if let Some(rate) = rate {
        command.args(["-Q", &rate.to_string()]);
    }
    command.in_namespace(namespace)?;
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("dnsperf does not start; `tools/install test` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    read(&text)
        .with_context(|| format!("dnsperf said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// What dnsperf's summary says.
fn read(text: &str) -> anyhow::Result<Seen> {
    let value = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.and_then(|word| word.parse::<f64>().ok()).with_context(|| format!("no {label:?}"))
    };
    let codes = text.lines().find(|line| line.contains("Response codes:")).unwrap_or_default();
    if !codes.contains("NOERROR") || codes.contains(',') {
        bail!("not every answer was one: {codes:?}");
    }
    Ok(Seen {
        rate: value("Queries per second:")?,
        lost: value("Queries lost:")? as u64,
        latency: value("Average Latency (s):")?,
    })
}

/// Asks one question after the other; the median and the 99th percentile of what they took, in seconds.
fn one_by_one(services: u32, seconds: u32) -> anyhow::Result<(f64, f64)> {
    let server = SocketAddr::new(OURS.into(), 53);
    let until = Instant::now() + Duration::from_secs(seconds.into());
    let mut took = Vec::new();
    while Instant::now() < until {
        let name = Name::parse(&name(took.len() as u32 % services))?;
        took.push(ask(server, &name, kind::A, false, Duration::from_secs(5))?.took.as_secs_f64());
        std::thread::sleep(Duration::from_millis(1));
    }
    took.sort_by(f64::total_cmp);
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    Ok((at(50), at(99)))
}

/// Knot DNS with the same names as a zone.
fn knot(namespace: &Namespace, services: u32, dir: &Path) -> anyhow::Result<Killed> {
    let mut zone = String::from(
        "$ORIGIN cluster.local.\n$TTL 30\n@ SOA ns.dns hostmaster 1 7200 1800 86400 30\n@ NS ns.dns\nns.dns A 127.0.0.2\n",
    );
    for at in 0..services {
        writeln!(zone, "{}. A {}", name(at), address(at)).ok();
    }
    fs::write(dir.join("zone"), zone)?;
    let place = dir.display();
    let config = format!(
        "server:\n    rundir: {place}\n    listen: {PEER}@53\n    user: root\ndatabase:\n    storage: {place}\nlog:\n  - target: stderr\n    any: error\ntemplate:\n  - id: default\n    storage: {place}\n    journal-content: none\nzone:\n  - domain: cluster.local\n    file: zone\n"
    );
    let file = dir.join("knot.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("knotd");
    command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.in_namespace(namespace)?;
    let child = command.spawn().context(
        "knotd does not start; `tools/install test` installs it, --no-peer leaves it out",
    )?;
    let knot = Killed(child);
    let asked = Name::parse(&name(0))?;
    let until = Instant::now() + Duration::from_secs(30);
    let server = SocketAddr::new(PEER.into(), 53);
    let answers = || ask(server, &asked, kind::A, false, Duration::from_millis(200));
    while !namespace.run(|| answers().is_ok_and(|it| !it.reply.answers.is_empty()))? {
        if Instant::now() > until {
            bail!("knotd does not answer within 30 s");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(knot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read() {
        let text = "  Queries sent:         12\n  Queries lost:         2 (0.00%)\n  Response codes:       NOERROR 10 (100.00%)\n  Queries per second:   1234.5\n  Average Latency (s):  0.000321 (min 0.000057, max 0.005638)\n";
        let seen = Seen { rate: 1234.5, lost: 2, latency: 0.000_321 };
        assert_eq!(read(text).unwrap(), seen);
        assert!(
            read(&text.replace("NOERROR 10 (100.00%)", "NOERROR 5 (50.00%), SERVFAIL 5 (50.00%)"))
                .is_err()
        );
    }
}
