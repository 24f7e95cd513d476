//! `fairway-bench fabric`: what pods of different nodes have of each other in every mode this kernel knows, against a bare veth
//! pair.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use link::kernel::Netlink;
use link::{Change, LinkEnd, LinkSettings, Namespace, Tunnel, TunnelKind, Veth};
use serde_json::{Value, json};

use crate::api::Api;
use crate::arguments::FabricOptions;
use crate::report::{load, machine};
use crate::say::say;
use crate::site::Site;
use crate::stream::{Joined, join, round_trips, throughput};
use crate::world::{settle_in, unnamed};

/// The modes, and between which of the site's nodes each is measured.
const MODES: [(&str, &[Between]); 4] = [
    ("never", &[Between::OneSubnet]),
    ("vxlan", &[Between::OneSubnet, Between::Subnets]),
    ("vxlan-cross-subnet", &[Between::OneSubnet, Between::Subnets]),
    ("ipip", &[Between::OneSubnet, Between::Subnets]),
];
/// EOPNOTSUPP: no such driver, and no module of it.
const UNKNOWN_DRIVER: i32 = 95;
/// How long a way may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which nodes.
#[derive(Debug, Clone, Copy)]
enum Between {
    OneSubnet,
    Subnets,
}

impl Between {
    /// The other node.
    fn node(self) -> usize {
        match self {
            Self::OneSubnet => 1,
            Self::Subnets => 2,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::OneSubnet => "one subnet",
            Self::Subnets => "across a router",
        }
    }
}

/// One way.
#[derive(Debug)]
struct Row {
    mode: &'static str,
    between: &'static str,
    measured: Result<Measured, &'static str>,
}

/// What it carries.
#[derive(Debug, Clone, Copy)]
struct Measured {
    mtu: u32,
    bits_per_second: f64,
    /// Microseconds.
    median: f64,
    p99: f64,
}

/// The whole run.
#[derive(Debug)]
pub(crate) struct Outcome {
    seconds: u32,
    load_before: String,
    rows: Vec<Row>,
}

impl Outcome {
    pub(crate) fn table(&self) -> String {
        let bare = self.rows.iter().find_map(|row| row.measured.ok());
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let mut cells = vec![row.mode.to_owned(), row.between.to_owned()];
                match row.measured {
                    Ok(it) => {
                        let share =
                            bare.map_or(0.0, |bare| it.bits_per_second / bare.bits_per_second);
                        cells.extend([
                            it.mtu.to_string(),
                            format!("{:.2} Gbit/s", it.bits_per_second / 1e9),
                            format!("{:.0} %", share * 100.0),
                            format!("{:.1} µs", it.median),
                            format!("{:.1} µs", it.p99),
                        ]);
                    }
                    Err(why) => cells.push(why.to_owned()),
                }
                cells.resize(7, String::new());
                cells
            })
            .collect();
        let header = ["MODE", "NODES", "MTU", "ONE TCP STREAM", "OF BARE", "ROUND TRIP p50", "p99"];
        format!(
            "pod to pod across nodes, {} s each; network policy left out\n{}; load average before {}, after {}\n\n{}",
            self.seconds,
            machine(),
            self.load_before,
            load(),
            print::table(&header, &rows)
        )
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| match row.measured {
            Ok(it) => json!({
                "mode": row.mode, "between": row.between, "mtu": it.mtu, "bitsPerSecond": it.bits_per_second,
                "roundTripMicroseconds": {"p50": it.median, "p99": it.p99},
            }),
            Err(why) => json!({"mode": row.mode, "between": row.between, "leftOut": why}),
        };
        json!({
            "seconds": self.seconds, "machine": machine(), "loadBefore": self.load_before,
            "loadAfter": load(), "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

pub(crate) fn run(options: &FabricOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let load_before = load();
    let binary = crate::binary(options.fairway.as_deref())?.canonicalize()?;
    let lasts = Duration::from_secs(options.seconds.into());
    let has_ipip = has_ipip()?;
    let mut rows = vec![bare(lasts)?];
    for (mode, pairs) in MODES {
        if mode == "ipip" && !has_ipip {
            let measured = Err("this kernel has no ipip");
            rows.push(Row { mode, between: "", measured });
            continue;
        }
        say!("{mode}: three nodes, an agent each");
        let dir = dir.join(mode);
        std::fs::create_dir_all(&dir)?;
        rows.extend(
            one(mode, pairs, &binary, lasts, &dir).with_context(|| format!("in mode {mode}"))?,
        );
    }
    Ok(Outcome { seconds: options.seconds, load_before, rows })
}

/// One mode, in a site of its own: pods have the MTU of the mode they were made in.
fn one(
    mode: &'static str,
    pairs: &[Between],
    binary: &Path,
    lasts: Duration,
    dir: &Path,
) -> anyhow::Result<Vec<Row>> {
    let mut site = Site::new()?;
    let runtime = crate::runtime()?;
    let nodes: Vec<&Namespace> = site.nodes.iter().collect();
    let api = runtime.block_on(Api::start(None, &nodes, dir))?;
    runtime.block_on(Site::tell(&api.client))?;
    let pods = site.settle(binary, &api.kubeconfig, mode, dir)?;
    let mut rows = Vec::new();
    for between in pairs {
        let (from, at, pod) = (&site.pods[0], &site.pods[between.node()], pods[between.node()]);
        say!("{mode}, {}", between.words());
        // The first connection waits for the way.
        let began = Instant::now();
        while let Err(error) = join(from, at, pod.address) {
            if began.elapsed() > PATIENCE {
                return Err(error.context(format!("no way to {}", pod.address)));
            }
            sleep(Duration::from_millis(20));
        }
        let mtu = pods[0].mtu.min(pod.mtu);
        let measured = measure(|| join(from, at, pod.address), mtu, lasts)?;
        rows.push(Row { mode, between: between.words(), measured: Ok(measured) });
    }
    Ok(rows)
}

/// Two namespaces, one veth pair, nothing else.
fn bare(lasts: Duration) -> anyhow::Result<Row> {
    const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 8, 1), Ipv4Addr::new(10, 9, 8, 2)];
    say!("a bare veth pair");
    let (one, other) = (unnamed("one")?, unnamed("other")?);
    let veth = Veth::new(LinkEnd::named("eth0"), LinkEnd::named("eth0")).peer_in(other.as_fd());
    let mut wire = Netlink::in_namespace(&one)?;
    wire.apply(&[Change::AddVeth(veth), Change::SetLink("eth0".into(), LinkSettings::up())])?;
    settle_in(&other, ENDS[1], ENDS[0])?;
    settle_in(&one, ENDS[0], ENDS[1])?;
    let measured = measure(|| join(&one, &other, ENDS[1]), 1500, lasts)?;
    Ok(Row { mode: "bare veth pair", between: "", measured: Ok(measured) })
}

fn measure(
    join: impl Fn() -> anyhow::Result<Joined>,
    mtu: u32,
    lasts: Duration,
) -> anyhow::Result<Measured> {
    let bits_per_second = throughput(join()?, lasts)?;
    let times = round_trips(join()?, lasts)?;
    let quantile = |q| times.quantile(q).context("no round trip was measured");
    Ok(Measured { mtu, bits_per_second, median: quantile(0.5)?, p99: quantile(0.99)? })
}

/// Whether this kernel makes IP in IP links.
fn has_ipip() -> anyhow::Result<bool> {
    let place = unnamed("ipip")?;
    let tunnel = Tunnel {
        name: "try".to_owned(),
        kind: TunnelKind::Ipip { local: Ipv4Addr::LOCALHOST },
        mac: None,
        mtu: 1480,
    };
    match Netlink::in_namespace(&place)?.apply(&[Change::AddTunnel(tunnel)]) {
        Ok(()) => Ok(true),
        Err(error) if error.is_only(UNKNOWN_DRIVER) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
