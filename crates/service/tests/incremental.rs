//! Incremental equals full: whatever happens to the cluster, in whatever order, the transactions of [`Planner::update`]
//! leave in the kernel (its double) exactly what a restarted planner would compile from the same facts.

use model::{
    AddressType, ClusterIps, Conditions, EndpointSlice, Event, NodeFacts, NodeName, ObjectKey,
    Protocol, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort, SnapshotWriter,
    TrafficDistribution, TrafficPolicy, Update,
};
use nft::{Double, Family, Kernel as _, Name};
use proptest::prelude::*;
use service::{Config, Planner};

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
    },
    NoService(u8),
    Slice {
        number: u8,
        part: u8,
        v6: bool,
        endpoints: Vec<(u8, bool, bool)>,
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
    /// Take what happened so far to the kernel.
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((0..12u8, any::<bool>(), any::<bool>()), 0..7);
    prop_oneof![
        3 => (0..4u8, 0..3u8, 0..3u8, prop::option::of(0..2u8), prop::option::of(0..2u8), any::<bool>(), any::<bool>())
            .prop_map(|(number, address, created, node_port, affinity, udp, dual)| Step::Service {
                number, address, created, node_port, affinity, udp, dual
            }),
        1 => (0..4u8).prop_map(Step::NoService),
        4 => (0..4u8, 0..2u8, any::<bool>(), endpoints)
            .prop_map(|(number, part, v6, endpoints)| Step::Slice { number, part, v6, endpoints }),
        1 => (0..4u8, 0..2u8).prop_map(|(number, part)| Step::NoSlice { number, part }),
        1 => (0..2u8, 0..3u8).prop_map(|(number, cidr)| Step::Node { number, cidr }),
        1 => (0..2u8).prop_map(Step::NoNode),
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
        Step::Service { number, address, created, node_port, affinity, udp, dual } => {
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
                kind: if node_port.is_some() {
                    ServiceType::NodePort
                } else {
                    ServiceType::ClusterIp
                },
                cluster_ips: ClusterIps {
                    v4: Some([10, 96, 0, *address].into()),
                    v6: dual.then(|| {
                        std::net::Ipv6Addr::new(0xfd00, 10, 0x96, 0, 0, 0, 0, (*address).into())
                    }),
                },
                headless: false,
                foreign_proxy: false,
                affinity_seconds: affinity
                    .and_then(|affinity| std::num::NonZeroU32::new(10 + u32::from(affinity))),
                internal_policy: TrafficPolicy::Cluster,
                external_policy: TrafficPolicy::Cluster,
                distribution: TrafficDistribution::Any,
                balance: model::Balance::Random,
                weights: Box::default(),
                ports: [port("a", 80, 0), port("b", 81, 1)].into(),
                external: None,
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
                    .map(|(at, ready, named)| SliceEndpoint {
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
                        hints: None,
                    })
                    .collect(),
            }))
        }
        Step::NoSlice { number, part } => Event::Slice(Update::Deleted(slice_key(*number, *part))),
        Step::Node { number, cidr } => Event::Node(Update::Applied(NodeFacts {
            name: NodeName::new(&format!("node-{number}")),
            uid: None,
            internal_ips: Vec::new(),
            pod_cidrs: vec![
                format!("10.244.{cidr}.0/24").parse().expect("a CIDR"),
                format!("fd00:10:244:{cidr}::/64").parse().expect("a CIDR"),
            ],
            zone: None,
            leaving: false,
        })),
        Step::NoNode(number) => {
            Event::Node(Update::Deleted(ObjectKey::new("", &format!("node-{number}"))))
        }
        Step::Commit => return None,
    })
}

fn planner() -> Planner {
    Planner::new(NodeName::new("node-1"), Config::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn incremental_equals_full(steps in prop::collection::vec(step(), 1..40)) {
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
            let restarted = planner().full(writer.snapshot(), Some(&listed));
            let wanted = nft::diff(&restarted.table, Some(&listed));
            prop_assert!(wanted.is_empty(), "after a restart:\n{}", wanted);
            // So does the running one, asked for everything; and a second update has nothing to do.
            let again = live.full(writer.snapshot(), Some(&listed));
            prop_assert_eq!(&again.table, &restarted.table);
            prop_assert!(live.update(writer.snapshot(), &change).transaction.is_empty());
        }
    }
}
