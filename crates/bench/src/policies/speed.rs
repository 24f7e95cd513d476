//! What policies cost a pair of pods: bytes a second over one connection, and how long a connection, a request and its answer take.
//! Every variant has a node of its own with the same wiring; rounds go through all of them by turns, in changing order.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use link::Namespace;
use model::NodeName;
use nft::Kernel as _;
use nft::kernel::Netlink;
use nft::{Chain, Hook, HookKind, HookPoint, Match, MatchOp, Name, Right, Selector, Statement};
use policy::Planner;
use serde_json::json;

use super::full::{facts, pod, policy};
use super::objects;
use crate::ask::ask;
use crate::backend;
use crate::objects::{NODE_NAME, endpoint};
use crate::samples::Samples;
use crate::say::say;
use crate::world::{CLIENT, World};

/// Where bytes are swallowed.
const SINK: u16 = 8083;
/// How long one round's stream lasts.
const STREAM: Duration = Duration::from_millis(300);
/// Connections of one round.
const CONNECTIONS: u32 = 200;
/// The receiving pod.
const RECEIVER: u32 = 0x20_0000;

/// What a node has in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// No table at all, so no connection tracking either.
    Nothing,
    /// One rule that asks for the connection's state: what tracking alone costs.
    Tracking,
    /// The policy program with so many policies in the cluster.
    Policies(u32),
    /// So many policies, all of which isolate the receiver; the last lets the sender in.
    OnePod(u32),
}

/// What was seen of one variant; medians over all rounds.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) what: String,
    pub(super) gigabits: f64,
    pub(super) micros: f64,
    /// Whether it is promised to be as fast as no table at all.
    pub(super) promised: bool,
}

impl Variant {
    fn words(self) -> String {
        match self {
            Self::Nothing => "no table at all".to_owned(),
            Self::Tracking => "connection tracking only".to_owned(),
            Self::Policies(count) => format!("{count} policies"),
            Self::OnePod(count) => format!("{count} policies on one pod"),
        }
    }

    fn table(self, pods: u32) -> anyhow::Result<Option<nft::Table>> {
        let policies = match self {
            Self::Nothing => return Ok(None),
            Self::Tracking => return tracking().map(Some),
            Self::Policies(count) => count,
            Self::OnePod(_) => 0,
        };
        let mut writer = facts(pods, policies)?;
        // Both are pods of this node, in a namespace and of an application the policies select.
        let labels = json!({"app": "app-0", "tier": "blue"});
        let namespace = objects::namespace_of(0);
        for (name, address) in [("sender", CLIENT), ("receiver", endpoint(RECEIVER))] {
            writer.apply(pod(&objects::pod((&namespace, name), NODE_NAME, address, &labels)?)?);
        }
        if let Self::OnePod(count) = self {
            for number in 0..count {
                let from =
                    json!([{"podSelector": {"matchLabels": {"app": format!("none-{number}")}}}]);
                let from = if number + 1 == count { json!([{"podSelector": {}}]) } else { from };
                let spec = json!({"podSelector": {"matchLabels": {"app": "app-0"}},
                    "ingress": [{"from": from}]});
                let name = format!("one-{number:05}");
                writer.apply(policy(&objects::policy(&namespace, &name, &spec)?)?);
            }
        }
        Ok(Some(Planner::new(NodeName::new(NODE_NAME)).full(writer.snapshot()).table))
    }
}

/// A table that does nothing but ask for the state of connections.
fn tracking() -> anyhow::Result<nft::Table> {
    let mut table = nft::Table::new(nft::Family::Inet, Name::new(policy::TABLE)?);
    let known =
        Match { left: vec![Selector::CtState], op: MatchOp::Eq, right: Right::AnyBit(2 | 4) };
    let hook = Hook::new(HookKind::Filter, HookPoint::Forward, 10);
    let chain = Chain::base(Name::new("forward")?, hook)
        .rule([Statement::Match(known), Statement::accept()]);
    table.insert_chain(chain);
    Ok(table)
}

/// Measures all variants.
pub(super) fn measure(pods: u32, policies: u32, rounds: u32) -> anyhow::Result<Vec<Seen>> {
    let variants = [
        Variant::Nothing,
        Variant::Tracking,
        Variant::Policies(0),
        Variant::Policies(policies.min(10)),
        Variant::Policies(policies),
        Variant::OnePod(policies),
    ];
    let mut worlds = Vec::new();
    for variant in variants {
        let world = World::with_links("fwclient", "fwbackend")?;
        backend::serve(&world.backend)?;
        sink(&world.backend)?;
        if let Some(table) = variant.table(pods)? {
            world.node.run(|| -> anyhow::Result<()> {
                Netlink::open()?.commit(&nft::diff(&table, None))?;
                Ok(())
            })??;
        }
        worlds.push((world, Samples::default(), Samples::default()));
    }
    let to = endpoint(RECEIVER);
    for round in 0..rounds as usize {
        for turn in 0..worlds.len() {
            let at = (round + turn) % variants.len();
            let (world, speeds, times) = &mut worlds[at];
            let what = || variants[at].words();
            let seen = world.client.run(|| io::Result::Ok((stream(to)?, connections(to)?)))?;
            let (speed, took) = seen.with_context(what)?;
            speeds.add(speed);
            times.add(took);
        }
        if (round + 1).is_multiple_of(10) {
            say!("{} of {rounds} rounds of packets", round + 1);
        }
    }
    let seen = variants.iter().zip(&worlds).map(|(variant, (_, speeds, times))| Seen {
        what: variant.words(),
        gigabits: speeds.quantile(0.5).unwrap_or(f64::NAN),
        micros: times.quantile(0.5).unwrap_or(f64::NAN),
        promised: matches!(variant, Variant::Policies(_)),
    });
    Ok(seen.collect())
}

/// One stream for a while: gigabits a second, by what the other end had received.
fn stream(to: Ipv4Addr) -> io::Result<f64> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddrV4::new(to, SINK).into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let chunk = vec![7; 128 << 10];
    let began = Instant::now();
    while began.elapsed() < STREAM {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok(u64::from_be_bytes(total) as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9)
}

/// The median of a round's connections, in microseconds.
fn connections(to: Ipv4Addr) -> io::Result<f64> {
    let to = SocketAddrV4::new(to, backend::PORT);
    let mut samples = Samples::default();
    for turn in 0..CONNECTIONS {
        let began = Instant::now();
        match ask(to) {
            Ok(_) => samples.add(began.elapsed().as_secs_f64() * 1e6),
            // One that waits too long for a processor is not what is measured; many are.
            Err(error) if turn as usize > 2 * samples.len() + 10 => return Err(error),
            Err(_) => {}
        }
    }
    Ok(samples.quantile(0.5).unwrap_or(f64::NAN))
}

/// Swallows streams in `backend` from now on, and says how long each was.
fn sink(backend: &Namespace) -> anyhow::Result<()> {
    let listener = backend.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SINK)))??;
    thread::Builder::new().name("sink".into()).spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        for mut stream in listener.incoming().flatten() {
            let mut total = 0;
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                total += length as u64;
            }
            // A client that went away is its own affair.
            drop(stream.write_all(&total.to_be_bytes()));
        }
    })?;
    Ok(())
}
