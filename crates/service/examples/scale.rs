//! How long N Services with M endpoints each take, without an API server: `cargo run --release -p fairway-service --example
//! scale [NxM …]` (as root), by default 10000x5 and 45000x2. Everything happens in a network namespace of its own, removed
//! at the end.

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use model::{
    AddressType, ClusterIps, Conditions, EndpointSlice, Event, NodeName, ObjectKey, Protocol,
    Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, SnapshotWriter,
    TrafficDistribution, TrafficPolicy, Update,
};
use nft::kernel::Netlink;
use nft::{Family, Kernel as _, Name};
use service::{Config, Planner, TABLE};

/// Changes of each kind; enough for a 99th percentile.
const ROUNDS: u32 = 200;

fn service(number: u32) -> Service {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + 10 + number);
    Service {
        key: ObjectKey::new("default", &format!("service-{number}")),
        uid: None,
        created: i64::from(number),
        kind: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some(address), v6: None },
        headless: false,
        foreign_proxy: false,
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        distribution: TrafficDistribution::Any,
        balance: model::Balance::Random,
        weights: Box::default(),
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }]
        .into(),
        external: None,
        external_name: None,
    }
}

fn slice(number: u32, first: u32, count: u32) -> EndpointSlice {
    let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number * 8;
    let endpoint = |at| SliceEndpoint {
        address: IpAddr::V4(Ipv4Addr::from(base + at)),
        conditions: Conditions { ready: true, serving: true, terminating: false },
        node: Some(NodeName::new("node-2")),
        zone: None,
        hints: None,
        hostname: None,
    };
    EndpointSlice {
        key: ObjectKey::new("default", &format!("service-{number}-abcde")),
        uid: None,
        service: ObjectKey::new("default", &format!("service-{number}")),
        address_type: AddressType::V4,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: (first..first + count).map(endpoint).collect(),
    }
}

fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4
}

/// The median and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("p50 {:.2?}, p99 {:.2?}", times[times.len() / 2], times[times.len() * 99 / 100])
}

fn measure(count: u32, endpoints: u32) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut kernel = Netlink::open()?;
    let table = Name::new(TABLE)?;
    let mut writer = SnapshotWriter::default();
    for number in 0..count {
        writer.apply(Event::Service(Update::Applied(service(number))));
        writer.apply(Event::Slice(Update::Applied(slice(number, 0, endpoints))));
    }
    writer.take_change();
    let snapshot_kib = resident_kib();

    let start = Instant::now();
    let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
    let plan = planner.full(writer.snapshot(), None);
    let compile = start.elapsed();
    let transaction = nft::diff(&plan.table, None);
    let diff = start.elapsed() - compile;
    let committed = kernel.commit(&transaction)?;
    let commit = start.elapsed() - compile - diff;
    let full = start.elapsed();
    drop((plan, transaction));

    // A restart: a new planner goes on from what the kernel has.
    let start = Instant::now();
    let mut restarted = Planner::new(NodeName::new("node-1"), Config::default());
    let plan = restarted.full(writer.snapshot(), None);
    let planned = start.elapsed();
    let listed = kernel.list_expecting(Family::Inet, &table, &plan)?;
    let list = start.elapsed() - planned;
    let again = nft::diff(&plan.table, listed.as_ref());
    let restart = start.elapsed();
    drop((plan, listed));
    if !again.is_empty() {
        return Err(format!("a restart wants {} operations:\n{again}", again.len()).into());
    }

    // One endpoint instead of another; one more or less; one Service more.
    let (mut endpoint_times, mut service_times, mut operations) = (Vec::new(), Vec::new(), (0, 0));
    let mut scale_times = Vec::new();
    for round in 0..ROUNDS {
        let (first, number) = (round % 2, count / 2);
        writer.apply(Event::Slice(Update::Applied(slice(number, first, endpoints))));
        let start = Instant::now();
        let change = writer.take_change();
        let delta = planner.update(writer.snapshot(), &change);
        kernel.commit(&delta.transaction)?;
        endpoint_times.push(start.elapsed());
        operations.0 = operations.0.max(delta.transaction.len());

        let more = endpoints + 1 - round % 2;
        writer.apply(Event::Slice(Update::Applied(slice(count / 3, 0, more))));
        let start = Instant::now();
        let change = writer.take_change();
        let delta = planner.update(writer.snapshot(), &change);
        kernel.commit(&delta.transaction)?;
        scale_times.push(start.elapsed());

        writer.apply(Event::Service(Update::Applied(service(count + round))));
        writer.apply(Event::Slice(Update::Applied(slice(count + round, 0, endpoints))));
        let start = Instant::now();
        let change = writer.take_change();
        let delta = planner.update(writer.snapshot(), &change);
        kernel.commit(&delta.transaction)?;
        service_times.push(start.elapsed());
        operations.1 = operations.1.max(delta.transaction.len());
    }
    Ok(format!(
        "{count} Services x {endpoints}\n  first sync {full:.1?}: compile {compile:.1?}, diff {diff:.1?}, commit {commit:.1?} \
         ({} operations, {} kB)\n  restart {restart:.1?}: list {list:.1?}, 0 operations\n  one endpoint replaced: {} ({} \
         operations)\n  one endpoint more or less: {}\n  one Service added: {} ({} operations)\n  resident: {snapshot_kib} KiB with the snapshot, {} KiB at the \
         end\n",
        committed.operations,
        committed.bytes / 1000,
        percentiles(endpoint_times),
        operations.0,
        percentiles(scale_times),
        percentiles(service_times),
        operations.1,
        resident_kib(),
    ))
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut sizes = Vec::new();
    for word in std::env::args().skip(1) {
        let (count, endpoints) = word.split_once('x').ok_or("give sizes as 10000x5")?;
        sizes.push((count.parse()?, endpoints.parse()?));
    }
    if sizes.is_empty() {
        sizes = vec![(10_000, 5), (45_000, 2)];
    }
    for (count, endpoints) in sizes {
        let name = format!("fairway-scale-{}", std::process::id());
        let namespace = link::Namespace::create(&name)?;
        let outcome = namespace.run(|| measure(count, endpoints));
        link::Namespace::delete(&name)?;
        std::io::stdout().write_all(outcome??.as_bytes())?;
    }
    Ok(())
}
