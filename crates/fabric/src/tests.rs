//! Plans of small clusters, and laws over any cluster.

mod tunnels;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use link::{Change, Route};
use model::{NodeFacts, NodeName};
use proptest::prelude::*;

use super::*;

fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> NodeFacts {
    NodeFacts {
        name: NodeName::new(name),
        uid: None,
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        labels: model::Labels::default(),
        zone: None,
        leaving: false,
    }
}

fn numbered(n: u8) -> NodeFacts {
    node(
        &format!("node-{n}"),
        &[&format!("172.30.1.{n}"), &format!("fd00:172:30::1:{n}")],
        &[&format!("10.244.{n}.0/24"), &format!("fd00:10:244:{n}::/64")],
    )
}

fn host() -> HostFacts {
    let address = |network: &str| LocalAddress { device: 2, network: network.parse().unwrap() };
    HostFacts {
        name: NodeName::new("node-1"),
        addresses: vec![address("172.30.1.1/16"), address("fd00:172:30::1:1/64")],
        mtus: [(2, 1500)].into(),
        ways: BTreeMap::new(),
        has_ipip: true,
    }
}

fn compile<'a>(
    nodes: impl IntoIterator<Item = &'a NodeFacts>,
    host: &HostFacts,
) -> (FabricPlan, Vec<model::Report>) {
    super::compile(&Cluster::new(nodes, [], []), host, &Settings::default())
}

fn diff(plan: &FabricPlan, listed: &[Route]) -> Vec<Change<'static>> {
    super::diff(plan, &BTreeMap::new(), listed)
}

fn routes(plan: &FabricPlan) -> Vec<String> {
    plan.routes.routes().map(ToString::to_string).collect()
}

fn reasons(reports: &[model::Report]) -> Vec<(String, &'static str)> {
    reports.iter().map(|r| (r.object.key.name().to_owned(), r.reason)).collect()
}

#[test]
fn a_nodes_address_on_the_loopback_link_does_not_make_its_pods_mtu() {
    let mut host = host();
    let lo = |network: &str| LocalAddress { device: 1, network: network.parse().unwrap() };
    host.addresses = vec![lo("172.30.1.1/32"), lo("fd00:172:30::1:1/128")];
    for (mtus, expected) in [(vec![(1, 65_536), (2, 9000)], 9000), (vec![(1, 65_536)], 1500)] {
        host.mtus = mtus.into_iter().collect();
        assert_eq!(compile(&[numbered(1)], &host).0.mtu, expected);
    }
}

#[test]
fn three_nodes_on_one_subnet() {
    let nodes = [numbered(3), numbered(1), numbered(2)];
    let (plan, reports) = compile(&nodes, &host());
    assert_eq!(reports, []);
    assert_eq!(
        routes(&plan),
        [
            "blackhole 10.244.1.0/24 proto 250 metric 1048576",
            "10.244.2.0/24 via 172.30.1.2 dev if2 proto 250",
            "10.244.3.0/24 via 172.30.1.3 dev if2 proto 250",
            "blackhole fd00:10:244:1::/64 proto 250 metric 1048576",
            "fd00:10:244:2::/64 via fd00:172:30::1:2 dev if2 proto 250",
            "fd00:10:244:3::/64 via fd00:172:30::1:3 dev if2 proto 250",
        ]
    );
    let own = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|c| c.parse::<IpNet>().unwrap());
    assert_eq!(plan.own_pod_cidrs, own);
    assert_eq!((plan.pod_cidrs.len(), plan.node_ips.len()), (6, 6));
}

#[test]
fn bad_nodes_are_reported_and_block_nobody() {
    let nodes = [
        numbered(1),
        numbered(2),
        // Overlaps node-2, which comes first.
        node("node-3", &["172.30.1.3"], &["10.244.2.128/25", "10.244.3.0/24"]),
        // Elsewhere; without an address; an address of ours; ranges no pod can live in.
        node("node-4", &["192.0.2.4"], &["10.244.4.0/24"]),
        node("node-5", &["172.30.1.5"], &["fd00:10:244:5::/64"]),
        node("node-6", &["172.30.1.1"], &["10.244.6.0/24"]),
        node(
            "node-7",
            &["172.30.1.7"],
            &["0.0.0.0/0", "127.0.0.0/24", "224.0.0.0/24", "10.9.9.9/32"],
        ),
        node("node-8", &["172.30.1.8"], &["172.30.0.0/16"]),
        node("node-9", &["172.30.1.9"], &["10.244.9.0/24"]),
        node("node-a", &[], &[]),
    ];
    let (plan, reports) = compile(&nodes, &host());
    let expected = [
        ("node-3", "PodCIDROverlap"),
        ("node-7", "BadPodCIDR"),
        ("node-7", "BadPodCIDR"),
        ("node-7", "BadPodCIDR"),
        ("node-7", "BadPodCIDR"),
        ("node-8", "PodCIDRContainsNode"),
        ("node-4", "NotDirectlyReachable"),
        ("node-5", "NoNodeAddress"),
        ("node-6", "DuplicateNodeAddress"),
    ];
    let expected: Vec<_> = expected.map(|(name, reason)| (name.to_owned(), reason)).to_vec();
    assert_eq!(reasons(&reports), expected);
    let text = routes(&plan).join("\n");
    for cidr in ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "10.244.9.0/24"] {
        assert!(text.contains(cidr), "{cidr} missing in\n{text}");
    }
    assert!(!text.contains("10.244.4.0") && !text.contains("172.30.0.0/16"), "{text}");
    assert!(reports[0].to_string().contains("overlaps 10.244.2.0/24 of node node-2"));
}

#[test]
fn pods_routes_are_left_alone_and_leftovers_removed() {
    let nodes = [numbered(1), numbered(2)];
    let (plan, _) = compile(&nodes, &host());
    let to = |net: &str| Route::to(net.parse().unwrap()).protocol(ROUTE_PROTOCOL);
    let mut listed: Vec<Route> = plan.routes.routes().cloned().collect();
    listed.push(to("10.244.1.7/32").on(9));
    listed.push(to("fd00:10:244:1::7/128").on(9));
    listed.push(to("10.99.0.0/16").on(2).protocol(4));
    assert_eq!(diff(&plan, &listed).len(), 0);
    listed.push(to("10.244.8.0/24").via("172.30.1.8".parse().unwrap()).on(2));
    let text: Vec<String> = diff(&plan, &listed).iter().map(ToString::to_string).collect();
    assert_eq!(text, ["ip route del 10.244.8.0/24 via 172.30.1.8 dev if2 proto 250"]);
}

#[test]
fn the_nat_table_reads_as_promised() {
    let nodes = [numbered(1), numbered(2)];
    let (plan, _) = compile(&nodes, &host());
    let text = nat_table(&plan).unwrap().to_string();
    for expected in [
        "ip saddr @pod-cidrs4 ip saddr != @no-nat-cidrs4 ip daddr != @pod-cidrs4 ip daddr != @pool-cidrs4 ip daddr != @node-ips4 masquerade fully-random",
        "ip6 saddr @pod-cidrs6 ip6 saddr != @no-nat-cidrs6 ip6 daddr != @pod-cidrs6 ip6 daddr != @pool-cidrs6 ip6 daddr != @node-ips6 masquerade fully-random",
        "type nat hook postrouting priority",
        "172.30.1.2",
    ] {
        assert!(text.contains(expected), "{expected} missing in\n{text}");
    }
    // Nobody's cluster: empty sets, the same constant rules.
    let (empty, reports) = compile([], &host());
    assert_eq!(reports, []);
    assert!(nat_table(&empty).unwrap().to_string().contains("@pod-cidrs4"));
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    let ip = prop_oneof![
        (0u8..4).prop_map(|n| IpAddr::from([172, 30, 1, n])),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ];
    let cidr = prop_oneof![
        (0u8..4, 16u8..=32)
            .prop_map(|(n, len)| IpNet::new(IpAddr::from([10, 244, n, 0]), len).unwrap()),
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(ip, len)| IpNet::new(ip.into(), len).unwrap()),
    ];
    let ips = proptest::collection::vec(ip, 0..3);
    let cidrs = proptest::collection::vec(cidr, 0..3);
    (0u8..6, ips, cidrs).prop_map(|(n, internal_ips, pod_cidrs)| NodeFacts {
        name: NodeName::new(&format!("node-{n}")),
        uid: None,
        internal_ips,
        pod_cidrs,
        labels: model::Labels::default(),
        zone: None,
        leaving: false,
    })
}

proptest! {
    #[test]
    fn any_cluster_has_a_plan(nodes in proptest::collection::vec(any_node(), 0..8)) {
        let (plan, _) = compile(&nodes, &host());
        // What counts does not overlap, and no node is routed over.
        for (at, one) in plan.pod_cidrs.iter().enumerate() {
            for other in &plan.pod_cidrs[at + 1..] {
                prop_assert!(!one.contains(other) && !other.contains(one));
            }
            prop_assert!(!nodes.iter().any(|n| n.internal_ips.iter().any(|ip| one.contains(ip))));
        }
        prop_assert!(nat_table(&plan).is_ok());
        // Applied once, the second difference is empty, and pods' routes are in neither.
        let pod = Route::to("10.244.1.7/32".parse().unwrap()).on(9).protocol(ROUTE_PROTOCOL);
        let mut table = vec![pod];
        for change in diff(&plan, &table) {
            match change {
                Change::ReplaceRoute(route) => table.push(route),
                other => prop_assert!(false, "{other}"),
            }
        }
        prop_assert_eq!(diff(&plan, &table).len(), 0);
    }

    #[test]
    fn the_order_of_nodes_does_not_matter(count in 1usize..6, rotate in 0usize..6) {
        let mut nodes: Vec<NodeFacts> = (1..=count).map(|n| numbered(u8::try_from(n).unwrap())).collect();
        nodes.push(node("node-9", &["172.30.1.9"], &["10.244.1.0/25"]));
        let before = compile(&nodes, &host());
        let by = rotate % nodes.len();
        nodes.rotate_left(by);
        prop_assert_eq!(compile(&nodes, &host()), before);
    }
}
