//! Tunnels: which there are, what hangs on them, and that one pass over any kernel state reaches the plan.

use link::{Address, Forwarding, Link, LinkStats, MacAddr, Neighbour, RouteKey, TunnelKind};
use model::{Block, Encapsulation, Lent, NodeSelector, ObjectKey, Pool};

use super::*;

const MODES: [Encapsulation; 5] = [
    Encapsulation::Never,
    Encapsulation::Vxlan,
    Encapsulation::VxlanCrossSubnet,
    Encapsulation::Ipip,
    Encapsulation::IpipCrossSubnet,
];

fn pool(name: &str, cidr: &str, encapsulation: Encapsulation) -> Pool {
    Pool {
        key: ObjectKey::new("", name),
        cidr: cidr.parse().unwrap(),
        block_len: 26,
        encapsulation,
        nat_outgoing: true,
        nodes: NodeSelector::all(),
        disabled: false,
        on_request: false,
        reserved: Vec::new(),
    }
}

/// Nodes 1 and 2 on one subnet, node 3 behind a router.
fn nodes() -> [NodeFacts; 3] {
    let mut far = numbered(3);
    far.internal_ips = vec!["172.31.0.3".parse().unwrap(), "fd00:172:31::3".parse().unwrap()];
    [numbered(1), numbered(2), far]
}

fn here() -> HostFacts {
    let ways = ["172.31.0.3", "fd00:172:31::3"].map(|ip| (ip.parse().unwrap(), 2));
    HostFacts { ways: ways.into(), ..host() }
}

fn plan(mode: Encapsulation) -> (FabricPlan, Vec<model::Report>) {
    let nodes = nodes();
    let pools = [pool("four", "10.244.0.0/16", mode), pool("six", "fd00:10:244::/48", mode)];
    super::super::compile(&Cluster::new(&nodes, &pools, []), &here(), &Settings::default())
}

fn with_tunnels(plan: &FabricPlan) -> Vec<String> {
    let index = |id| match id {
        TunnelId::Vxlan4 => 11,
        TunnelId::Vxlan6 => 12,
        TunnelId::Ipip => 13,
    };
    let links = plan.tunnels.iter().map(|tunnel| (tunnel.id, index(tunnel.id))).collect();
    plan.routes_with(&links).routes().map(ToString::to_string).collect()
}

fn link_local(n: u8) -> IpAddr {
    let mac = vtep_mac(&NodeName::new(&format!("node-{n}")), 4096);
    super::super::tunnel::tunnel_gateway("fd00::/64".parse().unwrap(), mac)
}

#[test]
fn vxlan_everywhere_is_a_tunnel_per_family() {
    let (plan, reports) = plan(Encapsulation::Vxlan);
    assert_eq!(reports, []);
    assert_eq!(
        with_tunnels(&plan),
        [
            "blackhole 10.244.1.0/24 proto 250 metric 1048576",
            "10.244.2.0/24 via 10.244.2.0 dev if11 proto 250 onlink",
            "10.244.3.0/24 via 10.244.3.0 dev if11 proto 250 onlink",
            "blackhole fd00:10:244:1::/64 proto 250 metric 1048576",
            &format!("fd00:10:244:2::/64 via {} dev if12 proto 250", link_local(2)),
            &format!("fd00:10:244:3::/64 via {} dev if12 proto 250", link_local(3)),
        ]
    );
    let made: Vec<String> = device_changes(&plan, &[]).iter().map(ToString::to_string).collect();
    let mac = vtep_mac(&NodeName::new("node-1"), 4096);
    assert_eq!(
        made,
        [
            format!(
                "ip link add vxlan.fairway address {mac} mtu 1450 type vxlan id 4096 dstport 4789 local 172.30.1.1 nolearning"
            ),
            format!(
                "ip link set vxlan.fairway up mtu 1450 address {mac} alias \"fairway:tunnel\" addrgenmode none"
            ),
            format!(
                "ip link add vxlan6.fairway address {mac} mtu 1430 type vxlan id 4096 dstport 4789 local fd00:172:30::1:1 nolearning"
            ),
            format!(
                "ip link set vxlan6.fairway up mtu 1430 address {mac} alias \"fairway:tunnel\" addrgenmode none"
            ),
        ]
    );
    let entries = entry_changes(&plan.tunnels[0], 11, &Observed::default());
    let (two, three) =
        (vtep_mac(&NodeName::new("node-2"), 4096), vtep_mac(&NodeName::new("node-3"), 4096));
    let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
    let mut fdb = [
        format!("bridge fdb replace {two} dev if11 dst 172.30.1.2"),
        format!("bridge fdb replace {three} dev if11 dst 172.31.0.3"),
    ];
    fdb.sort_by_key(|line| line.split(' ').nth(3).map(str::to_owned));
    let neighbours = [
        format!("ip neigh replace 10.244.2.0 dev if11 lladdr {two} nud permanent"),
        format!("ip neigh replace 10.244.3.0 dev if11 lladdr {three} nud permanent"),
    ];
    let mut expected = vec!["ip addr replace 10.244.1.0/32 dev if11 noprefixroute".to_owned()];
    expected.extend(fdb);
    expected.extend(neighbours);
    assert_eq!(entries, expected);
    // Both families have to pass, and IPv6's outer header is the longer one.
    assert_eq!(plan.mtu, 1430);
}

#[test]
fn across_subnets_only_the_far_node_is_behind_a_tunnel() {
    for (mode, far, mtu) in [
        (
            Encapsulation::VxlanCrossSubnet,
            "10.244.3.0/24 via 10.244.3.0 dev if11 proto 250 onlink",
            1430,
        ),
        (
            Encapsulation::IpipCrossSubnet,
            "10.244.3.0/24 via 172.31.0.3 dev if13 proto 250 onlink",
            1430,
        ),
    ] {
        let (plan, reports) = plan(mode);
        assert_eq!(reports, []);
        let routes = with_tunnels(&plan);
        assert!(
            routes.contains(&"10.244.2.0/24 via 172.30.1.2 dev if2 proto 250".to_owned()),
            "{routes:?}"
        );
        assert!(routes.contains(&far.to_owned()), "{routes:?}");
        assert_eq!(plan.mtu, mtu, "IPv6 goes in VXLAN either way");
    }
    // As they are, there is no way to a node behind a router.
    let (plan, reports) = plan(Encapsulation::Never);
    assert_eq!(plan.tunnels, []);
    assert_eq!(plan.mtu, 1500);
    let expected = ["NotDirectlyReachable"; 2];
    assert_eq!(reports.iter().map(|report| report.reason).collect::<Vec<_>>(), expected);
}

#[test]
fn a_node_has_the_tunnel_others_send_to_it_through() {
    let nodes = [numbered(1), numbered(2)];
    let pools = [pool("mine", "10.244.1.0/24", Encapsulation::Vxlan)];
    let (plan, _) =
        super::super::compile(&Cluster::new(&nodes, &pools, []), &host(), &Settings::default());
    assert_eq!(plan.tunnels.len(), 1);
    assert_eq!(plan.tunnels[0].peers, []);
    assert_eq!(plan.tunnels[0].addresses, ["10.244.1.0".parse::<IpAddr>().unwrap()]);
    assert!(
        with_tunnels(&plan).contains(&"10.244.2.0/24 via 172.30.1.2 dev if2 proto 250".to_owned())
    );
}

#[test]
fn without_the_module_one_report_and_the_rest_goes_on() {
    let nodes = nodes();
    let pools = [pool("four", "10.244.0.0/16", Encapsulation::Ipip)];
    let host = HostFacts { has_ipip: false, ..here() };
    let (plan, reports) =
        super::super::compile(&Cluster::new(&nodes, &pools, []), &host, &Settings::default());
    assert_eq!(plan.tunnels, []);
    assert_eq!(reports.iter().filter(|report| report.reason == "NoIPIP").count(), 2);
    assert!(
        with_tunnels(&plan)
            .contains(&"fd00:10:244:2::/64 via fd00:172:30::1:2 dev if2 proto 250".to_owned())
    );
}

#[test]
fn a_lent_part_is_a_longer_route_and_pools_decide_over_nat() {
    let mut nodes = [numbered(1), numbered(2), numbered(4)];
    nodes[2].pod_cidrs = vec!["10.244.2.8/29".parse().unwrap()];
    let part = Lent { cidr: "10.244.2.8/29".parse().unwrap(), node: NodeName::new("node-4") };
    let block = Block {
        key: ObjectKey::new("", "10-244-2-0-24"),
        cidr: "10.244.2.0/24".parse().unwrap(),
        node: NodeName::new("node-2"),
        lent: vec![part],
        asking: Vec::new(),
        version: None,
    };
    let mut quiet = pool("quiet", "10.244.2.0/24", Encapsulation::Never);
    quiet.nat_outgoing = false;
    let pools = [pool("all", "10.244.0.0/16", Encapsulation::Never), quiet];
    let (plan, reports) = super::super::compile(
        &Cluster::new(&nodes, &pools, [&block]),
        &host(),
        &Settings::default(),
    );
    assert_eq!(reports, []);
    let routes = with_tunnels(&plan);
    assert!(routes.contains(&"10.244.2.0/24 via 172.30.1.2 dev if2 proto 250".to_owned()));
    assert!(routes.contains(&"10.244.2.8/29 via 172.30.1.4 dev if2 proto 250".to_owned()));
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert_eq!(plan.no_nat_cidrs, [net("10.244.2.0/24")]);
    assert_eq!(plan.pool_cidrs, [net("10.244.0.0/16")]);
    // Nobody lent it: then it is a mistake.
    let (_, reports) = compile(&nodes, &host());
    assert_eq!(reasons(&reports), [("node-4".to_owned(), "PodCIDROverlap")]);
}

/// A kernel, as far as the plan can see it.
#[derive(Debug, Default)]
struct Kernel {
    next: u32,
    links: Vec<Link>,
    entries: BTreeMap<u32, Observed>,
    routes: BTreeMap<RouteKey, Route>,
}

impl Kernel {
    fn apply(&mut self, changes: &[Change<'static>]) {
        for change in changes {
            match change {
                Change::AddTunnel(tunnel) => {
                    assert!(!self.links.iter().any(|link| link.name == tunnel.name), "{tunnel}");
                    self.next += 1;
                    self.links.push(link_of(100 + self.next, &tunnel.name, Some(tunnel.kind)));
                }
                Change::SetLink(link::LinkRef::Name(name), settings) => {
                    let link = self.links.iter_mut().find(|link| link.name == *name).unwrap();
                    link.up = settings.up.unwrap_or(link.up);
                    link.mtu = settings.mtu.unwrap_or(link.mtu);
                    link.mac = settings.mac.or(link.mac);
                    link.alias = settings.alias.clone().or(link.alias.take());
                }
                Change::DeleteLink(link::LinkRef::Index(index)) => {
                    self.links.retain(|link| link.index != *index);
                    self.entries.remove(index);
                    self.routes.retain(|_, route| route.device != Some(*index));
                }
                Change::ReplaceAddress(address) => {
                    self.entries.entry(address.device).or_default().addresses.push(address.clone());
                }
                Change::DeleteAddress(address) => {
                    self.entries
                        .entry(address.device)
                        .or_default()
                        .addresses
                        .retain(|a| a != address);
                }
                Change::ReplaceNeighbour(new) => {
                    let list = &mut self.entries.entry(new.device).or_default().neighbours;
                    list.retain(|old| old.address != new.address);
                    list.push(new.clone());
                }
                Change::DeleteNeighbour(old) => {
                    self.entries.entry(old.device).or_default().neighbours.retain(|n| n != old);
                }
                Change::ReplaceForwarding(new) => {
                    self.entries.entry(new.device).or_default().forwarding.push(*new);
                }
                Change::DeleteForwarding(old) => {
                    self.entries.entry(old.device).or_default().forwarding.retain(|f| f != old);
                }
                Change::ReplaceRoute(route) => drop(self.routes.insert(route.key(), route.clone())),
                Change::DeleteRoute(route) => drop(self.routes.remove(&route.key())),
                other => panic!("{other}"),
            }
        }
    }

    /// One pass, as the agent makes it; how many changes it took.
    fn sync(&mut self, plan: &FabricPlan) -> usize {
        let mut count = 0;
        let mut make = |kernel: &mut Self, changes: Vec<Change<'static>>| {
            count += changes.len();
            kernel.apply(&changes);
        };
        make(self, device_changes(plan, &self.links));
        let tunnels = tunnel_links(plan, &self.links);
        assert_eq!(tunnels.len(), plan.tunnels.len());
        for tunnel in &plan.tunnels {
            let device = tunnels[&tunnel.id];
            let observed = self.entries.get(&device).cloned().unwrap_or_default();
            make(self, entry_changes(tunnel, device, &observed));
        }
        let listed: Vec<Route> = self.routes.values().cloned().collect();
        make(self, super::super::diff(plan, &tunnels, &listed));
        let gone: Vec<_> = retired(plan, &self.links)
            .into_iter()
            .map(|link| Change::DeleteLink(link.into()))
            .collect();
        make(self, gone);
        count
    }
}

fn link_of(index: u32, name: &str, tunnel: Option<TunnelKind>) -> Link {
    Link {
        index,
        name: name.to_owned(),
        alias: None,
        kind: tunnel.map(|kind| kind.driver().to_owned()),
        mac: None,
        mtu: 1500,
        up: false,
        carrier: false,
        promiscuous: false,
        all_multicast: false,
        tx_queue_len: 0,
        master: None,
        peer: None,
        peer_namespace: None,
        isolated: false,
        tunnel,
        stats: LinkStats::default(),
    }
}

type Written = (Vec<String>, Vec<Vec<String>>, Vec<String>);

/// What is there, without the numbers links were given.
fn written(kernel: &Kernel, plan: &FabricPlan) -> Written {
    let names: BTreeMap<u32, &str> =
        kernel.links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let mut links: Vec<String> = kernel
        .links
        .iter()
        .map(|link| {
            format!("{} {:?} {} {:?} {}", link.name, link.tunnel, link.mtu, link.mac, link.up)
        })
        .collect();
    links.sort();
    let tunnels = tunnel_links(plan, &kernel.links);
    let entries = plan.tunnels.iter().map(|tunnel| {
        let observed = kernel.entries.get(&tunnels[&tunnel.id]).cloned().unwrap_or_default();
        let mut lines: Vec<String> = observed
            .addresses
            .iter()
            .map(|a| a.network.to_string())
            .chain(observed.neighbours.iter().map(|n| format!("{} {:?}", n.address, n.mac)))
            .chain(observed.forwarding.iter().map(|f| format!("{} {}", f.mac, f.to)))
            .collect();
        lines.sort();
        lines
    });
    let routes = kernel.routes.values().map(|route| {
        let device = route.device.map(|index| names.get(&index).copied().unwrap_or("eth0"));
        format!("{} {:?} {device:?}", route.destination, route.via)
    });
    (links, entries.collect(), routes.collect())
}

fn any_cluster() -> impl Strategy<Value = (Vec<NodeFacts>, Vec<Pool>)> {
    let node = (2u8..6, any::<bool>(), any::<bool>(), 1u8..6).prop_map(|(n, far, v6, cidr)| {
        let mut facts = numbered(n);
        facts.pod_cidrs = vec![
            format!("10.244.{cidr}.0/24").parse().unwrap(),
            format!("fd00:10:244:{cidr}::/64").parse().unwrap(),
        ];
        if far {
            facts.internal_ips = vec![IpAddr::from([172, 31, 0, n])];
        }
        if v6 {
            facts.internal_ips.push(format!("fd00:172:31::{n}").parse().unwrap());
        }
        facts
    });
    let nodes = proptest::collection::vec(node, 0..5).prop_map(|mut nodes| {
        nodes.push(numbered(1));
        nodes
    });
    let pools = proptest::collection::vec((0u8..6, 0usize..5), 0..4).prop_map(|all| {
        let one = |(n, mode): (u8, usize)| match n {
            0 => pool("all", "10.244.0.0/16", MODES[mode]),
            n => pool(&format!("p{n}"), &format!("10.244.{n}.0/24"), MODES[mode]),
        };
        all.into_iter().map(one).collect()
    });
    (nodes, pools)
}

proptest! {
    #[test]
    fn from_any_state_one_pass_reaches_the_plan_and_the_second_is_empty(
        steps in proptest::collection::vec((any_cluster(), 0usize..5, 4096u32..4098, any::<bool>()), 1..5),
        damage: u8,
    ) {
        let mut kernel = Kernel::default();
        kernel.links.push(link_of(2, "eth0", None));
        let mut last = None;
        for ((nodes, pools), mode, vni, has_ipip) in &steps {
            let settings = Settings { encapsulation: MODES[*mode], vxlan_vni: *vni, ..Settings::default() };
            let host = HostFacts { has_ipip: *has_ipip, ..here() };
            let (plan, _) = super::super::compile(&Cluster::new(nodes, pools, []), &host, &settings);
            prop_assert!(nat_table(&plan).is_ok());
            kernel.sync(&plan);
            prop_assert_eq!(kernel.sync(&plan), 0, "a second pass has nothing to do");
            last = Some(plan);
        }
        let plan = last.unwrap();
        // Somebody edits what is ours.
        if let Some((index, entries)) = kernel.entries.iter_mut().next() {
            let (index, stranger) = (*index, MacAddr([2; 6]));
            if damage & 1 > 0 { entries.forwarding.clear(); }
            if damage & 2 > 0 { entries.neighbours.pop(); }
            if damage & 4 > 0 { entries.addresses.clear(); }
            if damage & 8 > 0 {
                entries.forwarding.push(Forwarding { device: index, mac: stranger, to: "10.0.0.9".parse().unwrap() });
                entries.neighbours.push(Neighbour::permanent(index, "10.0.0.9".parse().unwrap(), stranger));
                entries.addresses.push(Address::new(index, "10.0.0.9/32".parse().unwrap()));
            }
        }
        if damage & 16 > 0 { kernel.routes.pop_first(); }
        if damage & 32 > 0 && let Some(link) = kernel.links.get_mut(1) { link.up = false; }
        kernel.sync(&plan);
        prop_assert_eq!(kernel.sync(&plan), 0);
        // The same as if there had been nothing before.
        let mut fresh = Kernel::default();
        fresh.links.push(link_of(2, "eth0", None));
        fresh.sync(&plan);
        prop_assert_eq!(written(&kernel, &plan), written(&fresh, &plan));
    }

    #[test]
    fn two_nodes_agree_on_the_tunnel_between_them(
        (mut nodes, pools) in any_cluster(), mode in 0usize..5,
    ) {
        let mut seen = std::collections::BTreeSet::new();
        nodes.retain(|node| node.internal_ips.len() > 1 && seen.insert(node.name.clone()));
        let settings = Settings { encapsulation: MODES[mode], ..Settings::default() };
        let (mine, _) = super::super::compile(&Cluster::new(&nodes, &pools, []), &here(), &settings);
        for peer in mine.peers.iter().filter(|peer| matches!(peer.path, Path::Tunnel(_))) {
            let theirs = nodes.iter().find(|node| node.name == peer.node).unwrap();
            let there = HostFacts {
                name: peer.node.clone(),
                addresses: theirs.internal_ips.iter().map(|ip| {
                    let len = if ip.is_ipv4() { 24 } else { 64 };
                    LocalAddress { device: 2, network: IpNet::new(*ip, len).unwrap() }
                }).collect(),
                ..host()
            };
            let (plan, _) = super::super::compile(&Cluster::new(&nodes, &pools, []), &there, &settings);
            let Path::Tunnel(id) = peer.path else { unreachable!() };
            let end = plan.tunnels.iter().find(|tunnel| tunnel.id == id);
            prop_assert!(end.is_some(), "{} has no {id:?} for {}", peer.node, peer.cidr);
        }
    }
}
