//! How long N Services with 5 endpoints each take: `cargo run --release -p fairway-service --example scale [N …]` (as root).
//! Everything happens in a network namespace of its own, removed at the end.

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

const ENDPOINTS: u32 = 5;

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

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn measure(count: u32) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut kernel = Netlink::open()?;
    let table = Name::new(TABLE)?;
    let mut writer = SnapshotWriter::default();
    for number in 0..count {
        writer.apply(Event::Service(Update::Applied(service(number))));
        writer.apply(Event::Slice(Update::Applied(slice(number, 0, ENDPOINTS))));
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
    let listed = kernel.list(Family::Inet, &table)?;
    let list = start.elapsed();
    let mut restarted = Planner::new(NodeName::new("node-1"), Config::default());
    let plan = restarted.full(writer.snapshot(), listed.as_ref());
    let again = nft::diff(&plan.table, listed.as_ref());
    let restart = start.elapsed();
    drop((plan, listed));
    if !again.is_empty() {
        return Err(format!("a restart wants {} operations:\n{again}", again.len()).into());
    }

    // One endpoint more and less; one Service more and less.
    let (mut endpoint_times, mut service_times, mut operations) = (Vec::new(), Vec::new(), (0, 0));
    for round in 0..21 {
        let (first, number) = (round % 2, count / 2);
        writer.apply(Event::Slice(Update::Applied(slice(number, first, ENDPOINTS))));
        let start = Instant::now();
        let change = writer.take_change();
        let delta = planner.update(writer.snapshot(), &change);
        kernel.commit(&delta.transaction)?;
        endpoint_times.push(start.elapsed());
        operations.0 = operations.0.max(delta.transaction.len());

        writer.apply(Event::Service(Update::Applied(service(count + round))));
        writer.apply(Event::Slice(Update::Applied(slice(count + round, 0, ENDPOINTS))));
        let start = Instant::now();
        let change = writer.take_change();
        let delta = planner.update(writer.snapshot(), &change);
        kernel.commit(&delta.transaction)?;
        service_times.push(start.elapsed());
        operations.1 = operations.1.max(delta.transaction.len());
    }
    Ok(format!(
        "{count} Services x {ENDPOINTS}: compile {compile:.1?}, diff {diff:.1?}, commit {commit:.1?} ({} operations, {} kB), \
         full sync {full:.1?}\n  restart: list {list:.1?}, list + compile + diff {restart:.1?}, 0 operations\n  one endpoint \
         replaced: p50 {:.2?} ({} operations); one Service added: p50 {:.2?} ({} operations)\n  resident: {snapshot_kib} KiB \
         with the snapshot, {} KiB at the end\n",
        committed.operations,
        committed.bytes / 1000,
        median(endpoint_times),
        operations.0,
        median(service_times),
        operations.1,
        resident_kib(),
    ))
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut counts: Vec<u32> =
        std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    if counts.is_empty() {
        counts = vec![1_000, 10_000];
    }
    for count in counts {
        let name = format!("fairway-scale-{}", std::process::id());
        let namespace = link::Namespace::create(&name)?;
        let outcome = namespace.run(|| measure(count));
        link::Namespace::delete(&name)?;
        std::io::stdout().write_all(outcome??.as_bytes())?;
    }
    Ok(())
}
