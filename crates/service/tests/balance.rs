//! Balancing: whatever ways and weights change, incremental equals full; nodes agree on tables whatever they went through;
//! steering touches the Services that ask for it and nothing but their slots.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking and says why")]

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::{
    AddressType, Balance, ClusterIps, Conditions, EndpointSlice, Event, NodeName, ObjectKey,
    Protocol, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, SnapshotWriter,
    TrafficDistribution, TrafficPolicy, Update, WeightRule,
};
use nft::{Double, Family, HookPoint, Kernel as _, Name, Op, Packed, Packet, Table, Transaction};
use proptest::prelude::*;
use service::{Config, Frontend, Loads, Planner};

const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };

fn service(number: u8, balance: Balance, weights: &str, is_affine: bool) -> Event {
    let rules = weights.split(',').filter(|entry| !entry.is_empty());
    Event::Service(Update::Applied(Service {
        key: ObjectKey::new("default", &format!("service-{number}")),
        uid: None,
        created: 0,
        kind: ServiceType::NodePort,
        cluster_ips: ClusterIps { v4: Some([10, 96, 0, number].into()), v6: None },
        headless: false,
        foreign_proxy: false,
        affinity_seconds: std::num::NonZeroU32::new(u32::from(is_affine) * 60),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        distribution: TrafficDistribution::Any,
        balance: if is_affine { Balance::Random } else { balance },
        weights: rules.map(|entry| WeightRule::parse(entry).expect("an entry")).collect(),
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: std::num::NonZeroU16::new(30_000 + u16::from(number)),
        }]
        .into(),
        external: None,
        external_name: None,
    }))
}

fn address(at: u8) -> SocketAddr {
    SocketAddr::new([10, 244, at % 3, at].into(), 8080)
}

fn slice(number: u8, endpoints: &[u8]) -> Event {
    let endpoint = |at: &u8| SliceEndpoint {
        address: address(*at).ip(),
        conditions: READY,
        node: Some(NodeName::new(&format!("node-{}", at % 3))),
        zone: Some(if at.is_multiple_of(2) { "a" } else { "b" }.into()),
        hints: None,
        hostname: None,
    };
    Event::Slice(Update::Applied(EndpointSlice {
        key: ObjectKey::new("default", &format!("service-{number}-1")),
        uid: None,
        service: ObjectKey::new("default", &format!("service-{number}")),
        address_type: AddressType::V4,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    }))
}

fn cluster(number: u8) -> Frontend {
    Frontend::Address { address: [10, 96, 0, number].into(), protocol: Protocol::Tcp, port: 80 }
}

/// A node: facts, planner and kernel.
struct Node {
    writer: SnapshotWriter,
    planner: Planner,
    kernel: Double,
}

impl Node {
    fn new() -> Self {
        let mut node =
            Self { writer: SnapshotWriter::default(), planner: planner(), kernel: Double::new() };
        let plan = node.planner.full(node.writer.snapshot(), None);
        node.kernel.commit(&nft::diff(&plan.table, None)).expect("the empty program");
        node
    }

    fn commit(&mut self, events: impl IntoIterator<Item = Event>) -> Transaction {
        for event in events {
            self.writer.apply(event);
        }
        let change = self.writer.take_change();
        let delta = self.planner.update(self.writer.snapshot(), &change);
        self.take(delta.transaction)
    }

    fn load(&mut self, loads: &Loads) -> Transaction {
        let delta = self.planner.set_loads(self.writer.snapshot(), loads);
        self.take(delta.transaction)
    }

    fn take(&mut self, transaction: Transaction) -> Transaction {
        if let Err(error) = self.kernel.commit(&transaction) {
            panic!("{error}\n{transaction}");
        }
        transaction
    }

    fn table(&mut self) -> Table {
        let name = Name::new(service::TABLE).expect("a name");
        self.kernel.list(Family::Inet, &name).expect("a listing").expect("the table")
    }

    /// The endpoint a client's first packet goes to.
    fn choice(&mut self, from: (IpAddr, u16), number: u8) -> IpAddr {
        let packet = Packet::new(6, from, ([10, 96, 0, number].into(), 80));
        let outcome = nft::evaluate(&self.table(), HookPoint::Prerouting, &packet, &mut |_| 0);
        outcome.expect("a way").translation.expect("an endpoint").address
    }

    fn slots(&mut self) -> BTreeMap<SocketAddr, usize> {
        let mut slots = BTreeMap::new();
        for endpoint in self.planner.endpoints_of(&cluster(1)).expect("an owner").inside {
            *slots.entry(*endpoint).or_default() += 1;
        }
        slots
    }
}

fn planner() -> Planner {
    Planner::new(NodeName::new("node-1"), Config::default())
}

#[derive(Clone, Debug)]
enum Step {
    Service(u8, Balance, &'static str, bool),
    Slice(u8, Vec<u8>),
    Loads(Vec<(u8, u8, u8)>),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let weights = prop::sample::select(vec![
        "",
        "",
        "zone:a=3",
        "*=0",
        "node:node-1=0,zone:b=5,*=2",
        "10.244.1.1=7,10.244.0.0/24=3",
        "zone:a=1000,*=999",
    ]);
    let balance = prop::sample::select(Balance::ALL.to_vec());
    prop_oneof![
        3 => (1..4u8, balance, weights, prop::bool::weighted(0.15))
            .prop_map(|(number, balance, weights, affine)| Step::Service(number, balance, weights, affine)),
        3 => (1..4u8, prop::collection::btree_set(0..12u8, 0..7))
            .prop_map(|(number, endpoints)| Step::Slice(number, endpoints.into_iter().collect())),
        2 => prop::collection::vec((1..4u8, 0..12u8, 0..50u8), 0..9).prop_map(Step::Loads),
        3 => Just(Step::Commit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_full(steps in prop::collection::vec(step(), 1..18)) {
        let mut node = Node::new();
        for step in steps.iter().chain([&Step::Commit]) {
            match step {
                Step::Service(number, balance, weights, affine) => {
                    node.writer.apply(service(*number, *balance, weights, *affine));
                    continue;
                }
                Step::Slice(number, endpoints) => {
                    node.writer.apply(slice(*number, endpoints));
                    continue;
                }
                Step::Loads(counts) => {
                    // What is not committed yet is, as in the agent.
                    node.commit([]);
                    let mut loads = Loads::default();
                    for (number, at, count) in counts {
                        loads.set(cluster(*number), address(*at), (*count).into());
                    }
                    node.load(&loads);
                }
                Step::Commit => drop(node.commit([])),
            }
            let listed = node.table();
            let restarted = planner().full(node.writer.snapshot(), Some(&listed));
            let wanted = nft::diff(&restarted.table, Some(&listed));
            prop_assert!(wanted.is_empty(), "after a restart:\n{}", wanted);
            let again = node.planner.full(node.writer.snapshot(), Some(&listed));
            prop_assert_eq!(&again.table, &restarted.table);
        }
    }
}

#[test]
fn nodes_agree_on_every_client_whatever_they_went_through() {
    for balance in [Balance::Maglev, Balance::SourceHash] {
        let (mut old, mut new) = (Node::new(), Node::new());
        old.commit([service(1, Balance::Random, "", false), slice(1, &[7, 3])]);
        old.commit([service(1, balance, "", false)]);
        for endpoints in [&[3, 4, 5][..], &[9, 3], &[1], &[1, 2, 3, 4, 5, 6, 7, 8], &[2, 3, 5, 7]] {
            old.commit([slice(1, endpoints)]);
        }
        new.commit([service(1, balance, "", false), slice(1, &[7, 5, 3, 2])]);
        assert_eq!(old.table().to_string(), new.table().to_string());
        let mut seen = HashMap::new();
        for client in 0..200u8 {
            let from = ([192, 0, 2, client].into(), 40_000 + u16::from(client));
            let choice = old.choice(from, 1);
            assert_eq!(choice, new.choice(from, 1));
            *seen.entry(choice).or_insert(0) += 1;
            let other_port = old.choice((from.0, 1), 1);
            if balance == Balance::SourceHash {
                assert_eq!(other_port, choice, "a client is its address");
            }
        }
        assert!(seen.len() == 4 && seen.values().all(|count| *count > 20), "{seen:?}");
    }
}

#[test]
fn an_endpoint_more_moves_few_slots_and_no_chain() {
    let mut node = Node::new();
    node.commit([service(1, Balance::Maglev, "", false), slice(1, &[1, 2, 3, 4, 5])]);
    let transaction = node.commit([slice(1, &[1, 2, 3, 4, 5, 6])]);
    let mut added = 0;
    for op in &transaction.ops {
        match op {
            Op::AddElements { elements, .. } => added += elements.len(),
            Op::DeleteElements { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // Two frontends; a sixth of 251 slots each must move, 42.
    assert!((70..=110).contains(&added), "{added}");
}

#[test]
fn steering_concerns_whom_it_was_asked_for() {
    let mut node = Node::new();
    node.commit([
        service(1, Balance::LeastConnections, "", false),
        service(2, Balance::Random, "", false),
        slice(1, &[1, 2, 3]),
        slice(2, &[1, 2, 3]),
    ]);
    let steered: Vec<Frontend> = node.planner.steered().collect();
    let by_port =
        Frontend::NodePort { family: model::Family::V4, protocol: Protocol::Tcp, port: 30_001 };
    assert_eq!(steered, [cluster(1), by_port]);
    assert_eq!(node.slots().into_values().collect::<Vec<_>>(), [8, 8, 8]);

    // Connections through both frontends count together: 60 of one endpoint.
    let mut loads = Loads::default();
    for (frontend, at, count) in [
        (cluster(1), 1, 40),
        (cluster(1), 2, 20),
        (cluster(1), 3, 20),
        (by_port, 1, 20),
        (cluster(2), 3, 1000),
    ] {
        loads.set(frontend, address(at), count);
    }
    let transaction = node.load(&loads);
    let by_address = Packed::new().ipv4([10, 96, 0, 1].into()).proto(6).port(80);
    let keys = [by_address, Packed::new().proto(6).port(30_001)];
    let mut added = 0;
    for op in &transaction.ops {
        let elements = match op {
            Op::AddElements { elements, .. } => {
                added += elements.len();
                elements
            }
            Op::DeleteElements { elements, .. } => elements,
            other => panic!("{other:?}"),
        };
        for element in elements {
            let key = element.key.as_bytes();
            assert!(keys.iter().any(|own| key.starts_with(own.as_bytes())), "{element:?}");
        }
    }
    assert_eq!(added, 10, "five slots, in two frontends");
    assert_eq!(node.slots().into_values().collect::<Vec<_>>(), [11, 3, 10]);

    let back = (0..10).filter(|_| !node.load(&Loads::default()).is_empty()).count();
    assert!(back > 0, "it goes back when the connections are gone");
    let mut even = Loads::default();
    for at in [1, 2, 3] {
        even.set(cluster(1), address(at), 20);
    }
    for _ in 0..200 {
        node.load(&even);
    }
    assert!(node.load(&even).is_empty());

    node.commit([service(1, Balance::Random, "", false)]);
    assert_eq!(node.planner.steered().count(), 0);
    assert_eq!(node.slots().into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn a_weight_of_zero_ends_no_connection() {
    let mut node = Node::new();
    let udp = |weights: &str| {
        let Event::Service(Update::Applied(mut one)) = service(1, Balance::Random, weights, false)
        else {
            unreachable!("a Service")
        };
        one.ports[0].protocol = Protocol::Udp;
        Event::Service(Update::Applied(one))
    };
    let Event::Slice(Update::Applied(mut endpoints)) = slice(1, &[1, 2]) else {
        unreachable!("a slice")
    };
    endpoints.ports[0].protocol = Protocol::Udp;
    node.commit([udp(""), Event::Slice(Update::Applied(endpoints.clone()))]);
    node.writer.apply(udp("10.244.1.1=0"));
    let change = node.writer.take_change();
    let delta = node.planner.update(node.writer.snapshot(), &change);
    assert!(!delta.transaction.is_empty());
    assert_eq!(delta.stale, [], "its connections may end by themselves");
    endpoints.endpoints = endpoints.endpoints[1..].into();
    node.writer.apply(Event::Slice(Update::Applied(endpoints)));
    let change = node.writer.take_change();
    let delta = node.planner.update(node.writer.snapshot(), &change);
    let gone: Vec<_> = delta.stale.iter().map(|stale| stale.endpoint).collect();
    assert_eq!(
        gone,
        [Some(address(1)), Some(address(1))],
        "both frontends let go of it when it is gone"
    );
}
