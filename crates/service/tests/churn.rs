//! Churn of thousands of Services over the double and over the real kernel: what updates left is what a restarted planner
//! wants, to the element, and a second sync sends nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU16, NonZeroU32};

use link::Namespace;
use model::{
    AddressType, ClusterIps, Conditions, EndpointSlice, Event, NodeName, ObjectKey, Protocol,
    Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, SnapshotWriter,
    TrafficDistribution, TrafficPolicy, Update,
};
use nft::kernel::Netlink;
use nft::{Double, Family, Kernel, Name};
use service::{Config, Planner, TABLE};

/// A small random number generator: the same churn in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % end
    }
}

/// Every eighth Service has a node port, every ninth affinity, every tenth speaks UDP.
fn service(number: u32) -> Event {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 10)) + number);
    let on_nodes = number.is_multiple_of(8);
    let protocol = if number.is_multiple_of(10) { Protocol::Udp } else { Protocol::Tcp };
    Event::Service(Update::Applied(Service {
        key: ObjectKey::new("default", &format!("service-{number}")),
        uid: None,
        created: i64::from(number),
        kind: if on_nodes { ServiceType::NodePort } else { ServiceType::ClusterIp },
        cluster_ips: ClusterIps { v4: Some(address), v6: None },
        headless: false,
        foreign_proxy: false,
        affinity_seconds: if number.is_multiple_of(9) { NonZeroU32::new(600) } else { None },
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        distribution: TrafficDistribution::Any,
        balance: model::Balance::Random,
        weights: Box::default(),
        ports: [ServicePort {
            name: "".into(),
            protocol,
            port: 80,
            node_port: if on_nodes { NonZeroU16::new(30_000 + number as u16) } else { None },
        }]
        .into(),
        external: None,
        external_name: None,
    }))
}

fn slice(number: u32, endpoints: impl Iterator<Item = u32>) -> Event {
    let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number * 16;
    let endpoint = |at: u32| SliceEndpoint {
        address: IpAddr::V4(Ipv4Addr::from(base + at)),
        conditions: Conditions { ready: true, serving: true, terminating: false },
        node: Some(NodeName::new(&format!("node-{}", at % 3))),
        zone: None,
        hints: None,
        hostname: None,
    };
    Event::Slice(Update::Applied(EndpointSlice {
        key: ObjectKey::new("default", &format!("service-{number}-abcde")),
        uid: None,
        service: ObjectKey::new("default", &format!("service-{number}")),
        address_type: AddressType::V4,
        ports: [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| SlicePort { name: "".into(), protocol, port: 8080 })
            .into(),
        endpoints: endpoints.map(endpoint).collect(),
    }))
}

fn gone(number: u32) -> [Event; 2] {
    let key = |suffix| ObjectKey::new("default", &format!("service-{number}{suffix}"));
    [Event::Service(Update::Deleted(key(""))), Event::Slice(Update::Deleted(key("-abcde")))]
}

fn apply(writer: &mut SnapshotWriter, events: impl IntoIterator<Item = Event>) {
    for event in events {
        writer.apply(event);
    }
}

/// Between none and seven endpoints of twelve, another choice each time.
fn some_endpoints(number: u32, random: &mut Random) -> Event {
    let (first, count) = (random.below(6), random.below(8));
    slice(number, first..first + count)
}

fn planner() -> Planner {
    Planner::new(NodeName::new("node-1"), Config::default())
}

/// What a restarted agent does at start; says how many operations it sends.
fn restart(kernel: &mut impl Kernel, writer: &SnapshotWriter) -> usize {
    let table = Name::new(TABLE).unwrap();
    let mut planner = planner();
    let plan = planner.full(writer.snapshot(), None);
    let listed = kernel.list_expecting(Family::Inet, &table, &plan).unwrap();
    let mut transaction = nft::diff(&plan.table, listed.as_ref());
    if let Some(listed) = listed.as_ref().filter(|_| !transaction.is_empty()) {
        let plan = planner.adopt(writer.snapshot(), listed);
        transaction = nft::diff(&plan.table, Some(listed));
    }
    kernel.commit(&transaction).unwrap_or_else(|error| panic!("{error}"));
    transaction.len()
}

fn churn(kernel: &mut impl Kernel, count: u32) {
    let mut random = Random(0xfa1e);
    let mut writer = SnapshotWriter::default();
    for number in 0..count {
        writer.apply(service(number));
        writer.apply(some_endpoints(number, &mut random));
    }
    writer.take_change();
    let mut live = planner();
    let plan = live.full(writer.snapshot(), None);
    kernel.commit(&nft::diff(&plan.table, None)).unwrap();
    for round in 0..8 {
        for _ in 0..100 {
            let number = random.below(count);
            match random.below(6) {
                0 => apply(&mut writer, gone(number)),
                1 => apply(&mut writer, [service(number)]),
                _ => apply(&mut writer, [some_endpoints(number, &mut random)]),
            }
        }
        let change = writer.take_change();
        let delta = live.update(writer.snapshot(), &change);
        kernel
            .commit(&delta.transaction)
            .unwrap_or_else(|error| panic!("round {round}: {error}\n{}", delta.transaction));
        assert!(live.update(writer.snapshot(), &change).transaction.is_empty(), "round {round}");
    }
    assert_eq!(restart(kernel, &writer), 0, "after the churn a restart has nothing to do");
    // The running planner, asked for everything, wants exactly what is there.
    let table = Name::new(TABLE).unwrap();
    let plan = live.full(writer.snapshot(), None);
    let listed = kernel.list_expecting(Family::Inet, &table, &plan).unwrap().unwrap();
    let wanted = nft::diff(&plan.table, Some(&listed));
    assert!(wanted.is_empty(), "{wanted}");
    // Things happen while no agent is there: the next one mends them, and then there is nothing left to do.
    for _ in 0..100 {
        let number = random.below(count);
        apply(&mut writer, gone(number));
        writer.apply(some_endpoints(random.below(count), &mut random));
    }
    assert!(restart(kernel, &writer) > 0);
    assert_eq!(restart(kernel, &writer), 0);
}

fn in_namespace(body: impl FnOnce() + Send) {
    let name = format!("fwchurn-{}-{:p}", std::process::id(), &raw const body);
    let namespace = match Namespace::create(&name) {
        Ok(namespace) => namespace,
        Err(error) => {
            let required =
                ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "missing: namespaces ({error})");
            println!("SKIP: namespaces (root is needed): {error}");
            return;
        }
    };
    let outcome = namespace.run(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)));
    Namespace::delete(&name).unwrap();
    if let Err(panic) = outcome.unwrap() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn hundreds_of_services_over_the_double() {
    churn(&mut Double::new(), 400);
}

#[test]
fn two_thousand_services_over_the_kernel() {
    in_namespace(|| churn(&mut Netlink::open().unwrap(), 2000));
}
