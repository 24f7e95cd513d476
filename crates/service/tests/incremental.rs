//! Incremental equals full: whatever happens to the cluster, in whatever order, the transactions of [`Planner::update`]
//! leave in the kernel (its double) exactly what a restarted planner would compile from the same facts.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use model::{
    AddressType, ClusterIps, Conditions, EndpointSlice, Event, External, Hints,
    LoadBalancerIngress, NodeFacts, NodeName, ObjectKey, Protocol, Service, ServiceCidr,
    ServicePort, ServiceType, SliceEndpoint, SlicePort, SnapshotWriter, TrafficDistribution,
    TrafficPolicy, Update,
};
use nft::{Double, Family, Kernel as _, Name};
use proptest::prelude::*;
use service::{Config, LocalTraffic, NodePortAddresses, Planner};

/// How a Service is seen from outside, and by which policies.
#[derive(Clone, Debug)]
struct Outside {
    kind: u8,
    internal_local: bool,
    external_local: bool,
    /// Which of two external addresses, ingress addresses (one of mode Proxy) and source ranges it has.
    external: u8,
    ingress: u8,
    ranges: u8,
    checked: bool,
    idle: bool,
}

fn outside() -> impl Strategy<Value = Outside> {
    let policies = (0..3u8, any::<bool>(), any::<bool>());
    let addresses = (0..4u8, 0..8u8, 0..8u8);
    (policies, addresses, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        |((kind, internal_local, external_local), (external, ingress, ranges), checked, idle)| {
            Outside {
                kind,
                internal_local,
                external_local,
                external,
                ingress,
                ranges,
                checked,
                idle,
            }
        },
    )
}

impl Outside {
    fn external(&self) -> Option<Box<External>> {
        let chosen = |bits: u8, all: &[&str]| -> Vec<String> {
            let bit = |at: &usize| bits & (1 << at) != 0;
            (0..all.len()).filter(bit).map(|at| all[at].to_owned()).collect()
        };
        let addresses = chosen(self.external, &["203.0.113.1", "2001:db8::1"]);
        let ingress = chosen(self.ingress, &["203.0.113.1", "203.0.113.2", "2001:db8::2"]);
        let ranges = chosen(self.ranges, &["172.30.0.0/16", "172.30.1.0/24", "2001:db8:1::/48"]);
        let external = External {
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ingress: ingress
                .iter()
                .map(|it| LoadBalancerIngress {
                    address: it.parse().unwrap(),
                    proxied: self.checked && it.ends_with(".2"),
                })
                .collect(),
            source_ranges: ranges.iter().map(|it| it.parse().unwrap()).collect(),
            health_check_node_port: if self.checked { 30_900 } else { 0 },
        };
        (external != External::default()).then(|| Box::new(external))
    }
}

fn policy(local: bool) -> TrafficPolicy {
    if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Service {
        number: u8,
        address: u8,
        created: u8,
        node_port: Option<u8>,
        affinity: Option<u8>,
        udp: bool,
        dual: bool,
        outside: Outside,
    },
    NoService(u8),
    Slice {
        number: u8,
        part: u8,
        v6: bool,
        endpoints: Vec<(u8, bool, bool, u8)>,
    },
    NoSlice {
        number: u8,
        part: u8,
    },
    Node {
        number: u8,
        cidr: u8,
    },
    NoNode(u8),
    ServiceCidr {
        number: u8,
        ready: bool,
    },
    NoServiceCidr(u8),
    /// Take what happened so far to the kernel.
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..12u8, any::<bool>(), any::<bool>(), 0..4u8), 0..7);
    prop_oneof![
        3 => (0..4u8, 0..3u8, 0..3u8, prop::option::of(0..2u8), prop::option::of(0..2u8), any::<bool>(), any::<bool>(), outside())
            .prop_map(|(number, address, created, node_port, affinity, udp, dual, outside)| Step::Service {
                number, address, created, node_port, affinity, udp, dual, outside
            }),
        1 => (0..4u8).prop_map(Step::NoService),
        4 => (0..4u8, 0..2u8, any::<bool>(), endpoints)
            .prop_map(|(number, part, v6, endpoints)| Step::Slice { number, part, v6, endpoints }),
        1 => (0..4u8, 0..2u8).prop_map(|(number, part)| Step::NoSlice { number, part }),
        1 => (0..2u8, 0..3u8).prop_map(|(number, cidr)| Step::Node { number, cidr }),
        1 => (0..2u8).prop_map(Step::NoNode),
        1 => (0..2u8, any::<bool>()).prop_map(|(number, ready)| Step::ServiceCidr { number, ready }),
        1 => (0..2u8).prop_map(Step::NoServiceCidr),
        4 => Just(Step::Commit),
    ]
}

fn service_key(number: u8) -> ObjectKey {
    ObjectKey::new("default", &format!("service-{number}"))
}

fn slice_key(number: u8, part: u8) -> ObjectKey {
    ObjectKey::new("default", &format!("service-{number}-{part}"))
}

fn event(step: &Step) -> Option<Event> {
    Some(match step {
        Step::Service { number, address, created, node_port, affinity, udp, dual, outside } => {
            let protocol = if *udp { Protocol::Udp } else { Protocol::Tcp };
            let port = |name: &str, port, at: u16| ServicePort {
                name: name.into(),
                protocol,
                port,
                node_port: node_port.and_then(|node_port| {
                    std::num::NonZeroU16::new(30_000 + u16::from(node_port) + at)
                }),
            };
            Event::Service(Update::Applied(Service {
                key: service_key(*number),
                uid: None,
                created: (*created).into(),
                kind: match outside.kind {
                    0 => ServiceType::ClusterIp,
                    1 => ServiceType::NodePort,
                    _ => ServiceType::LoadBalancer,
                },
                cluster_ips: ClusterIps {
                    v4: Some([10, 96, 0, *address].into()),
                    v6: dual.then(|| {
                        std::net::Ipv6Addr::new(0xfd00, 10, 0x96, 0, 0, 0, 0, (*address).into())
                    }),
                },
                headless: false,
                foreign_proxy: outside.idle,
                affinity_seconds: affinity
                    .and_then(|affinity| std::num::NonZeroU32::new(10 + u32::from(affinity))),
                internal_policy: policy(outside.internal_local),
                external_policy: policy(outside.external_local),
                distribution: TrafficDistribution::Any,
                balance: model::Balance::Random,
                weights: Box::default(),
                ports: [port("a", 80, 0), port("b", 81, 1)].into(),
                external: outside.external(),
                external_name: None,
            }))
        }
        Step::NoService(number) => Event::Service(Update::Deleted(service_key(*number))),
        Step::Slice { number, part, v6, endpoints } => {
            Event::Slice(Update::Applied(EndpointSlice {
                key: slice_key(*number, *part),
                uid: None,
                service: service_key(*number),
                address_type: if *v6 { AddressType::V6 } else { AddressType::V4 },
                ports: [("a", 8080), ("b", 8081)]
                    .map(|(name, port)| {
                        [Protocol::Tcp, Protocol::Udp].map(|protocol| SlicePort {
                            name: name.into(),
                            protocol,
                            port,
                        })
                    })
                    .into_iter()
                    .flatten()
                    .collect(),
                endpoints: endpoints
                    .iter()
                    .map(|(at, ready, named, hint)| SliceEndpoint {
                        address: if *v6 {
                            std::net::Ipv6Addr::new(
                                0xfd00,
                                10,
                                0x244,
                                (at % 3).into(),
                                0,
                                0,
                                0,
                                (*at).into(),
                            )
                            .into()
                        } else {
                            std::net::Ipv4Addr::new(10, 244, at % 3, *at).into()
                        },
                        conditions: Conditions {
                            ready: *ready,
                            serving: true,
                            terminating: !ready && at % 2 == 0,
                        },
                        node: named.then(|| NodeName::new(&format!("node-{}", at % 3))),
                        zone: None,
                        hostname: None,
                        hints: (*hint > 0).then(|| {
                            let node = NodeName::new(&format!("node-{}", at % 3));
                            Box::new(Hints {
                                zones: [["west", "east"][usize::from(hint % 2)].into()].into(),
                                nodes: (*hint == 3).then_some(node).into_iter().collect(),
                            })
                        }),
                    })
                    .collect(),
            }))
        }
        Step::NoSlice { number, part } => Event::Slice(Update::Deleted(slice_key(*number, *part))),
        Step::Node { number, cidr } => Event::Node(Update::Applied(NodeFacts {
            name: NodeName::new(&format!("node-{number}")),
            uid: None,
            internal_ips: vec![
                format!("172.30.{cidr}.1").parse().expect("an address"),
                format!("fd00:172:30::{cidr}").parse().expect("an address"),
            ],
            pod_cidrs: vec![
                format!("10.244.{cidr}.0/24").parse().expect("a CIDR"),
                format!("fd00:10:244:{cidr}::/64").parse().expect("a CIDR"),
            ],
            labels: model::Labels::default(),
            zone: Some(["west", "east"][usize::from(cidr % 2)].into()),
            leaving: false,
        })),
        Step::NoNode(number) => {
            Event::Node(Update::Deleted(ObjectKey::new("", &format!("node-{number}"))))
        }
        Step::ServiceCidr { number, ready } => Event::ServiceCidr(Update::Applied(ServiceCidr {
            key: cidr_key(*number),
            cidrs: ["10.96.0.0/16", "fd00:10:96::/112", "10.96.0.0/24"][usize::from(*number)..]
                .iter()
                .map(|cidr| cidr.parse().expect("a CIDR"))
                .collect(),
            ready: *ready,
        })),
        Step::NoServiceCidr(number) => Event::ServiceCidr(Update::Deleted(cidr_key(*number))),
        Step::Commit => return None,
    })
}

fn cidr_key(number: u8) -> ObjectKey {
    ObjectKey::new("", &format!("cidr-{number}"))
}

fn config() -> impl Strategy<Value = Config> {
    let local_traffic = prop_oneof![
        2 => Just(LocalTraffic::ClusterCidrs),
        1 => Just(LocalTraffic::NodeCidrs),
        1 => Just(LocalTraffic::Bridge("cni0".into())),
        1 => Just(LocalTraffic::InterfacePrefix("fw".into())),
    ];
    let ranges = vec!["172.16.0.0/12".parse().unwrap(), "172.30.0.0/16".parse().unwrap()];
    let addresses = prop_oneof![
        2 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Primary),
        1 => Just(NodePortAddresses::Ranges(ranges)),
    ];
    (local_traffic, addresses, any::<bool>(), any::<bool>()).prop_map(
        |(local_traffic, node_port_addresses, masquerade_all, localhost_node_ports)| Config {
            local_traffic,
            node_port_addresses,
            masquerade_all,
            localhost_node_ports,
            service_cidrs: vec!["10.96.0.0/20".parse().unwrap()],
            ..Config::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_full(steps in prop::collection::vec(step(), 1..40), config in config()) {
        let planner = || Planner::new(NodeName::new("node-1"), config.clone());
        let table = Name::new(service::TABLE).expect("a name");
        let mut kernel = Double::new();
        let mut writer = SnapshotWriter::default();
        let mut live = planner();
        let first = live.full(writer.snapshot(), None);
        kernel.commit(&nft::diff(&first.table, None)).expect("the empty program");
        for step in steps.iter().chain([&Step::Commit]) {
            if let Some(event) = event(step) {
                writer.apply(event);
                continue;
            }
            let change = writer.take_change();
            let delta = live.update(writer.snapshot(), &change);
            prop_assert!(!change.is_empty() || delta.transaction.is_empty());
            if let Err(error) = kernel.commit(&delta.transaction) {
                return Err(TestCaseError::fail(format!("{error}\n{}", delta.transaction)));
            }
            let listed = kernel.list(Family::Inet, &table).expect("a listing").expect("the table");
            // A restarted planner knows only the facts and the listing, and wants nothing changed.
            let mut fresh = planner();
            let restarted = fresh.full(writer.snapshot(), Some(&listed));
            let wanted = nft::diff(&restarted.table, Some(&listed));
            prop_assert!(wanted.is_empty(), "after a restart:\n{}", wanted);
            prop_assert!(live.health_checks().eq(fresh.health_checks()));
            prop_assert_eq!(live.insiders(), fresh.insiders());
            prop_assert!(live.update(writer.snapshot(), &change).transaction.is_empty());
        }
        // So does the running one, asked for everything, after all its updates.
        let listed = kernel.list(Family::Inet, &table).expect("a listing").expect("the table");
        let again = live.full(writer.snapshot(), Some(&listed));
        prop_assert_eq!(again.table, planner().full(writer.snapshot(), Some(&listed)).table);
    }
}
