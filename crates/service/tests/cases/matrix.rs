//! Every combination of traffic policies, states of endpoints, kinds of frontend, sources and families, as one cluster.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::Family;
use service::Config;

use super::case::{Case, NODE_ADDRESSES, NODES, Probe, Source, pod};
use super::oracle::{self, Endpoint, Kind, Policies, State};

const HERE: Source = Source::Pod(5);
const ALSO_HERE: Source = Source::Pod(6);
const THERE: Source = Source::FarPod(5);
const ALSO_THERE: Source = Source::FarPod(6);

/// Sets of endpoints worth telling apart.
const STATES: [&[(Source, State)]; 16] = [
    &[],
    &[(HERE, State::Ready)],
    &[(THERE, State::Ready)],
    &[(HERE, State::Ready), (ALSO_HERE, State::Ready), (THERE, State::Ready)],
    &[(THERE, State::Ready), (ALSO_THERE, State::Ready)],
    &[(HERE, State::Terminating)],
    &[(THERE, State::Terminating)],
    &[(HERE, State::Terminating), (THERE, State::Terminating)],
    &[(HERE, State::Ready), (THERE, State::Terminating)],
    &[(HERE, State::Terminating), (THERE, State::Ready)],
    &[(HERE, State::Terminating), (ALSO_HERE, State::Ready), (THERE, State::Ready)],
    &[(HERE, State::Unready), (THERE, State::Unready)],
    &[(HERE, State::Unready), (THERE, State::Ready)],
    &[(HERE, State::Dead), (THERE, State::Terminating)],
    &[(HERE, State::Dead), (THERE, State::Dead)],
    &[(HERE, State::Unready), (ALSO_HERE, State::Terminating), (THERE, State::Dead)],
];

const SOURCES: [Source; 6] =
    [Source::Pod(9), HERE, Source::FarPod(9), THERE, Source::Node, Source::Outside];

const KINDS: [Kind; 4] = [Kind::Cluster, Kind::ExternalIp, Kind::Balancer, Kind::NodePort];

/// The address of frontend `number`.
fn address(kind: Kind, number: u8, family: Family) -> IpAddr {
    let v6 = |a: u16, b: u16, c: u16| Ipv6Addr::new(a, b, c, 0, 0, 0, 1, number.into()).into();
    match (kind, family) {
        (Kind::Cluster, Family::V4) => Ipv4Addr::new(10, 96, 1, number).into(),
        (Kind::Cluster, Family::V6) => v6(0xfd00, 0x10, 0x96),
        (Kind::ExternalIp, Family::V4) => Ipv4Addr::new(203, 0, 113, number).into(),
        (Kind::ExternalIp, Family::V6) => v6(0x2001, 0xdb8, 0x203),
        (Kind::Balancer, Family::V4) => Ipv4Addr::new(198, 51, 100, number).into(),
        (Kind::Balancer, Family::V6) => v6(0x2001, 0xdb8, 0x198),
        (Kind::NodePort, Family::V4) => NODE_ADDRESSES[0].parse().unwrap(),
        (Kind::NodePort, Family::V6) => NODE_ADDRESSES[1].parse().unwrap(),
    }
}

fn dialled(kind: Kind, number: u8, family: Family) -> SocketAddr {
    let port = if kind == Kind::NodePort { 30_000 + u16::from(number) } else { 80 };
    SocketAddr::new(address(kind, number, family), port)
}

/// All of it.
pub(crate) fn case() -> Case {
    let mut case = Case {
        name: "matrix".to_owned(),
        config: Config::default(),
        objects: NODES.to_owned(),
        probes: Vec::new(),
    };
    let mut number = 0;
    for internal_local in [false, true] {
        for external_local in [false, true] {
            for states in STATES {
                number += 1;
                let policies = Policies { internal_local, external_local };
                describe(&mut case.objects, number, policies, states);
                for family in Family::BOTH {
                    probe(&mut case.probes, number, policies, states, family);
                }
            }
        }
    }
    case
}

fn probe(
    into: &mut Vec<Probe>,
    number: u8,
    policies: Policies,
    states: &[(Source, State)],
    family: Family,
) {
    let endpoint = |(source, state): &(Source, State)| {
        let ip = match source {
            Source::Pod(which) => pod(1, *which, family),
            Source::FarPod(which) => pod(2, *which, family),
            Source::Node | Source::Outside => panic!("no endpoint"),
        };
        Endpoint { address: SocketAddr::new(ip, 8080), source: *source, state: *state }
    };
    let endpoints: Vec<Endpoint> = states.iter().map(endpoint).collect();
    for kind in KINDS {
        for from in SOURCES {
            // A pod elsewhere finds cluster addresses on its own node; it comes here only by way of the others.
            if kind == Kind::Cluster && from == THERE {
                continue;
            }
            into.push(Probe {
                from,
                to: dialled(kind, number, family),
                protocol: 6,
                expect: oracle::expected(policies, kind, from, &endpoints),
            });
        }
    }
}

fn describe(into: &mut String, number: u8, policies: Policies, states: &[(Source, State)]) {
    let policy = |local| if local { "Local" } else { "Cluster" };
    let at = |kind, family| address(kind, number, family);
    writeln!(
        into,
        "---\nkind: Service\nmetadata: {{namespace: matrix, name: s{number}, creationTimestamp: \
         \"2026-01-01T00:00:00Z\"}}\nspec:\n  type: LoadBalancer\n  clusterIPs: ['{}', '{}']\n  \
         externalIPs: ['{}', '{}']\n  internalTrafficPolicy: {}\n  externalTrafficPolicy: {}\n  \
         ports: [{{port: 80, nodePort: {}}}]\nstatus: {{loadBalancer: {{ingress: [{{ip: '{}'}}, \
         {{ip: '{}', ipMode: VIP}}]}}}}",
        at(Kind::Cluster, Family::V4),
        at(Kind::Cluster, Family::V6),
        at(Kind::ExternalIp, Family::V4),
        at(Kind::ExternalIp, Family::V6),
        policy(policies.internal_local),
        policy(policies.external_local),
        30_000 + u16::from(number),
        at(Kind::Balancer, Family::V4),
        at(Kind::Balancer, Family::V6),
    )
    .unwrap();
    for (family, kind) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        writeln!(
            into,
            "---\nkind: EndpointSlice\nmetadata: {{namespace: matrix, name: s{number}-{kind}, labels: \
             {{kubernetes.io/service-name: s{number}}}}}\naddressType: {kind}\nports: [{{port: 8080}}]\n\
             endpoints:{}",
            if states.is_empty() { " []" } else { "" }
        )
        .unwrap();
        for (source, state) in states {
            let (node, which) = match source {
                Source::Pod(which) => (1, *which),
                Source::FarPod(which) => (2, *which),
                Source::Node | Source::Outside => panic!("no endpoint"),
            };
            let (ready, serving, terminating) = match state {
                State::Ready => (true, true, false),
                State::Terminating => (false, true, true),
                State::Unready => (false, false, false),
                State::Dead => (false, false, true),
            };
            writeln!(
                into,
                "- {{addresses: ['{}'], nodeName: node-{node}, conditions: {{ready: {ready}, serving: \
                 {serving}, terminating: {terminating}}}}}",
                pod(node, which, family)
            )
            .unwrap();
        }
    }
}
