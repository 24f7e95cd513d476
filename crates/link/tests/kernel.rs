//! Against the running kernel, in namespaces made here and removed at the end.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, reason = "a test")]

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use link::kernel::{Netlink, Watch, WatchGroups};
use link::namespace::CommandInNamespace;
use link::{
    Address, Bridge, BridgePort, Change, Forwarding, LinkEnd, LinkSettings, MacAddr, Namespace,
    Neighbour, Route, RoutePlan, Tunnel, TunnelKind, Veth, diff_routes, sysctl,
};
use std::os::fd::AsFd;

/// A namespace that is gone after the test, whatever happens.
struct Scratch {
    name: String,
    namespace: Namespace,
}

impl Scratch {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let required = std::env::var_os("CI").or(std::env::var_os("FAIRWAY_REQUIRE_ALL"));
            assert!(required.is_none(), "network namespaces need root");
            println!("SKIP: network namespaces need root");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fwtest-link-{}-{number}", std::process::id());
        let namespace = Namespace::create(&name).unwrap();
        Some(Self { name, namespace })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let gone = Namespace::delete(&self.name);
        if !std::thread::panicking() {
            assert!(gone.unwrap());
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn namespaces_come_are_found_and_go() {
    let Some(scratch) = Scratch::new() else { return };
    let name = scratch.name.clone();
    assert!(matches!(
        Namespace::create(&name),
        Err(link::namespace::NamespaceError::Exists { .. })
    ));
    assert_eq!(Namespace::list(&name).unwrap(), std::slice::from_ref(&name));
    let here = Namespace::current().unwrap();
    let there = Namespace::open(&name).unwrap();
    assert_ne!(here.id().unwrap(), there.id().unwrap());
    let inside = there.run(|| Namespace::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(inside, there.id().unwrap());
    assert_eq!(Namespace::current().unwrap().id().unwrap(), here.id().unwrap());

    let mut command = std::process::Command::new("readlink");
    command.arg("/proc/self/ns/net").in_namespace(&there).unwrap();
    let told = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert_eq!(told.trim(), format!("net:[{}]", inside.1));

    // `ip netns` sees the same names.
    let seen = std::process::Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(String::from_utf8(seen.stdout).unwrap().contains(&name));

    drop(scratch);
    assert!(!Namespace::delete(&name).unwrap());
    assert!(matches!(
        Namespace::open(&name),
        Err(link::namespace::NamespaceError::NotFound { .. })
    ));
}

#[test]
fn a_file_that_is_no_namespace_is_told_apart() {
    let file = std::env::temp_dir().join(format!("fwtest-link-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let error = Namespace::open_path(&file).unwrap_err();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(error, link::namespace::NamespaceError::NotANamespace { .. }), "{error}");
    for bad in ["", "..", "a/b", "x y"] {
        assert!(Namespace::create(bad).is_err());
    }
}

#[test]
fn a_pair_across_namespaces_in_one_batch() {
    let (Some(one), Some(two)) = (Scratch::new(), Scratch::new()) else { return };
    let mut near = Netlink::in_namespace(&one.namespace).unwrap();
    let mut far = Netlink::in_namespace(&two.namespace).unwrap();
    let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let veth = Veth::new(LinkEnd::named("near0").mac(a), LinkEnd::named("far0").mac(b))
        .mtu(1400)
        .peer_in(two.namespace.as_fd());
    near.apply(&[
        Change::AddVeth(veth.clone()),
        Change::SetLink(
            "near0".into(),
            LinkSettings {
                up: Some(true),
                alias: Some("fairway:test".to_owned()),
                ipv6_link_local: Some(false),
                ..LinkSettings::default()
            },
        ),
    ])
    .unwrap();
    let near0 = near.link("near0").unwrap().unwrap();
    let far0 = far.link("far0").unwrap().unwrap();
    assert_eq!((near0.mac, near0.mtu, near0.up), (Some(a), 1400, true));
    assert_eq!((far0.mac, far0.mtu, far0.up), (Some(b), 1400, false));
    assert_eq!(near0.alias.as_deref(), Some("fairway:test"));
    assert_eq!(near0.kind.as_deref(), Some("veth"));
    assert_eq!(near0.peer, Some(far0.index));
    assert!(near0.peer_namespace.is_some());
    assert!(near.link("far0").unwrap().is_none());

    // Addresses are usable at once, IPv6 too.
    let address = |net: &str, device| Address::new(device, net.parse().unwrap());
    near.apply(&[
        Change::AddAddress(address("10.9.0.1/24", near0.index)),
        Change::AddAddress(address("fd09::1/64", near0.index)),
    ])
    .unwrap();
    far.apply(&[
        Change::SetLink("far0".into(), LinkSettings::up()),
        Change::AddAddress(address("10.9.0.2/24", far0.index)),
        Change::AddAddress(address("fd09::2/64", far0.index)),
    ])
    .unwrap();
    let listed = far.addresses(Some(far0.index)).unwrap();
    let v6 = listed.iter().find(|a| a.ip() == ip("fd09::2")).unwrap();
    assert!(!v6.tentative && v6.prefix_route && v6.dad == link::Dad::Off);
    let answer = two.namespace.run(|| {
        let listener = std::net::TcpListener::bind("[fd09::2]:0").unwrap();
        let to = listener.local_addr().unwrap();
        let near = Namespace::open(&one.name).unwrap();
        near.run(|| std::net::TcpStream::connect(to).map(drop)).unwrap()
    });
    answer.unwrap().unwrap();

    // A second pair of the name is refused, by name and with the kernel's errno; later changes are made.
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let error = near
        .apply(&[
            Change::AddVeth(veth),
            Change::ReplaceNeighbour(Neighbour::permanent(near0.index, ip("10.9.0.77"), mac)),
        ])
        .unwrap_err();
    assert!(error.is_only(libc::EEXIST), "{error}");
    assert_eq!(error.refusals()[0].at, 0);
    assert!(error.to_string().contains("ip link add near0"), "{error}");
    let neighbours = near.neighbours(Some(near0.index)).unwrap();
    assert!(neighbours.contains(&Neighbour::permanent(near0.index, ip("10.9.0.77"), mac)));

    near.apply(&[Change::DeleteLink("near0".into())]).unwrap();
    assert!(far.link("far0").unwrap().is_none());
    let gone = near.apply(&[Change::DeleteLink("near0".into())]).unwrap_err();
    assert!(gone.refusals()[0].is_missing());
}

#[test]
fn refusals_carry_the_kernels_sentence() {
    let Some(scratch) = Scratch::new() else { return };
    let mut netlink = Netlink::in_namespace(&scratch.namespace).unwrap();
    netlink.apply(&[Change::SetLink("lo".into(), LinkSettings::up())]).unwrap();
    let route = Route::to("10.1.0.0/16".parse().unwrap()).via(ip("10.2.0.1"));
    let error = netlink.apply(&[Change::AddRoute(route)]).unwrap_err();
    assert_eq!(error.refusals()[0].errno, libc::ENETUNREACH);
    assert_eq!(error.refusals()[0].text.as_deref(), Some("Nexthop has invalid gateway"));
}

#[test]
fn a_route_plan_converges_and_rests() {
    let Some(scratch) = Scratch::new() else { return };
    let mut netlink = Netlink::in_namespace(&scratch.namespace).unwrap();
    let veth = Veth::new(LinkEnd::named("a"), LinkEnd::named("b"));
    netlink
        .apply(&[
            Change::AddVeth(veth),
            Change::SetLink("a".into(), LinkSettings::up()),
            Change::SetLink("b".into(), LinkSettings::up()),
        ])
        .unwrap();
    let a = netlink.link("a").unwrap().unwrap().index;
    let net = |text: &str| text.parse().unwrap();
    netlink
        .apply(&[
            Change::AddAddress(Address::new(a, net("172.30.1.1/16"))),
            Change::AddAddress(Address::new(a, net("fd00:172:30::11/64"))),
            // Somebody else's route, which stays.
            Change::AddRoute(Route::to(net("192.0.2.0/24")).on(a).protocol(4)),
        ])
        .unwrap();
    let mut plan = RoutePlan::new(250)
        .with(Route::blackhole(net("10.244.1.0/24")).metric(1 << 20))
        .with(Route::blackhole(net("fd00:10:244:1::/64")).metric(1 << 20))
        .with(Route::to(net("10.244.1.7/32")).on(a))
        .with(Route::to(net("fd00:10:244:1::7/128")).on(a))
        .with(Route::to(net("fd00:10:244:9::/64")).via(ip("fd00:172:30::12")))
        .with(Route::to(net("0.0.0.0/0")).via(ip("169.254.1.1")).on(a).onlink())
        .with(Route::to(net("::/0")).via(ip("fe80::1")).on(a));
    for n in 2..250u8 {
        plan.insert(Route::to(net(&format!("10.244.{n}.0/24"))).via(ip("172.30.1.2")).on(a));
    }
    let changes = diff_routes(&plan, &netlink.routes(250).unwrap());
    assert_eq!(changes.len(), plan.len());
    netlink.apply(&changes).unwrap();
    let listed = netlink.routes(250).unwrap();
    assert_eq!(diff_routes(&plan, &listed).len(), 0, "{:?}", diff_routes(&plan, &listed));

    // Strangers of our number go, one changes, the rest is left alone.
    netlink.apply(&[Change::AddRoute(Route::to(net("10.99.0.0/16")).on(a).protocol(250))]).unwrap();
    let moved = Route::to(net("10.244.2.0/24")).via(ip("172.30.1.3")).on(a).protocol(250);
    netlink.apply(&[Change::ReplaceRoute(moved)]).unwrap();
    let changes = diff_routes(&plan, &netlink.routes(250).unwrap());
    assert_eq!(changes.len(), 2, "{changes:?}");
    netlink.apply(&changes).unwrap();
    assert_eq!(diff_routes(&plan, &netlink.routes(250).unwrap()).len(), 0);

    let empty = RoutePlan::new(250);
    let changes = diff_routes(&empty, &netlink.routes(250).unwrap());
    netlink.apply(&changes).unwrap();
    assert_eq!(netlink.routes(250).unwrap(), []);
    let theirs = netlink.every_route().unwrap();
    assert!(theirs.iter().any(|route| route.destination == net("192.0.2.0/24")));
}

#[test]
fn a_bridge_takes_ports_and_flags() {
    let Some(scratch) = Scratch::new() else { return };
    let mut netlink = Netlink::in_namespace(&scratch.namespace).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 0xbb]);
    let bridge =
        Bridge { name: "br0".to_owned(), mac: Some(mac), mtu: None, multicast_snooping: false };
    netlink.apply(&[Change::AddBridge(bridge)]).unwrap();
    let br0 = netlink.link("br0").unwrap().unwrap();
    assert_eq!(br0.mac, Some(mac));
    netlink
        .apply(&[
            Change::AddVeth(
                Veth::new(LinkEnd::named("p0"), LinkEnd::named("q0")).master(br0.index),
            ),
            Change::SetBridgePort(
                "p0".into(),
                BridgePort { hairpin: Some(true), ..BridgePort::default() },
            ),
            Change::SetLink("p0".into(), LinkSettings::up()),
        ])
        .unwrap();
    let p0 = netlink.link("p0").unwrap().unwrap();
    assert_eq!(p0.master, Some(br0.index));
    let told = scratch.namespace.run(|| {
        std::fs::read_to_string("/proc/sys/net/ipv4/conf/p0/forwarding").is_ok().then(|| {
            let shown = std::process::Command::new("bridge")
                .args(["-d", "link", "show", "dev", "p0"])
                .in_namespace(&scratch.namespace)
                .unwrap()
                .output()
                .unwrap();
            String::from_utf8(shown.stdout).unwrap()
        })
    });
    assert!(told.unwrap().unwrap().contains("hairpin on"));
    netlink
        .apply(&[Change::SetLink(
            "p0".into(),
            LinkSettings { master: Some(0), ..LinkSettings::default() },
        )])
        .unwrap();
    assert_eq!(netlink.link("p0").unwrap().unwrap().master, None);
}

#[test]
fn sysctls_are_those_of_the_namespace_and_written_once() {
    let Some(scratch) = Scratch::new() else { return };
    let name = "net.ipv4.conf.lo.rp_filter";
    let outside = sysctl::read(name).unwrap();
    let wanted = if outside == "2" { "1" } else { "2" };
    let wrote = scratch
        .namespace
        .run(|| (sysctl::ensure(name, wanted).unwrap(), sysctl::ensure(name, wanted).unwrap()));
    assert_eq!(wrote.unwrap(), (true, false));
    assert_eq!(sysctl::read(name).unwrap(), outside);
}

#[test]
fn a_watch_hears_of_routes_and_links() {
    let Some(scratch) = Scratch::new() else { return };
    let groups = WatchGroups { links: true, routes: true, ..WatchGroups::default() };
    let mut watch = Watch::in_namespace(&scratch.namespace, groups).unwrap();
    assert!(!watch.drain().unwrap().any());
    let mut netlink = Netlink::in_namespace(&scratch.namespace).unwrap();
    netlink.apply(&[Change::SetLink("lo".into(), LinkSettings::up())]).unwrap();
    assert!(watch.drain().unwrap().links);
    let route = Route::blackhole("192.0.2.0/24".parse().unwrap()).protocol(250);
    netlink.apply(&[Change::AddRoute(route)]).unwrap();
    let heard = watch.drain().unwrap();
    assert!(heard.routes && !heard.lost && !heard.addresses);
}

#[test]
fn a_vxlan_link_is_told_as_it_was_asked_for_and_its_table_too() {
    let (Some(one), Some(two)) = (Scratch::new(), Scratch::new()) else { return };
    let mut near = Netlink::in_namespace(&one.namespace).unwrap();
    let mut far = Netlink::in_namespace(&two.namespace).unwrap();
    let veth =
        Veth::new(LinkEnd::named("eth0"), LinkEnd::named("eth0")).peer_in(two.namespace.as_fd());
    near.apply(&[Change::AddVeth(veth)]).unwrap();
    let mac = |n| MacAddr([2, 0, 0, 0, 7, n]);
    for (netlink, n, peer) in [(&mut near, 1u8, 2u8), (&mut far, 2, 1)] {
        let eth0 = netlink.link("eth0").unwrap().unwrap().index;
        let local = ip(&format!("fd09::{n}"));
        let kind = TunnelKind::Vxlan { vni: 4097, port: 4790, local };
        let tunnel = Tunnel { name: "vx".to_owned(), kind, mac: Some(mac(n)), mtu: 1430 };
        netlink
            .apply(&[
                Change::SetLink(eth0.into(), LinkSettings::up()),
                Change::AddAddress(Address::new(eth0, format!("{local}/64").parse().unwrap())),
                Change::AddTunnel(tunnel),
                Change::SetLink("vx".into(), LinkSettings::up()),
            ])
            .unwrap();
        let vx = netlink.link("vx").unwrap().unwrap();
        assert_eq!((vx.tunnel, vx.mac, vx.mtu), (Some(kind), Some(mac(n)), 1430));
        let there = ip(&format!("10.9.0.{peer}"));
        let entry =
            Forwarding { device: vx.index, mac: mac(peer), to: ip(&format!("fd09::{peer}")) };
        let groups = WatchGroups { neighbours: true, ..WatchGroups::default() };
        let here = if n == 1 { &one } else { &two };
        let mut watch = Watch::in_namespace(&here.namespace, groups).unwrap();
        watch.only_neighbours_of(vec![vx.index]);
        netlink
            .apply(&[
                Change::AddAddress(Address::new(
                    vx.index,
                    format!("10.9.0.{n}/32").parse().unwrap(),
                )),
                Change::ReplaceForwarding(entry),
                Change::ReplaceForwarding(entry),
                Change::ReplaceNeighbour(Neighbour::permanent(vx.index, there, mac(peer))),
                Change::AddRoute(Route::to(there.into()).via(there).on(vx.index).onlink()),
            ])
            .unwrap();
        assert_eq!(netlink.forwarding(vx.index).unwrap(), [entry]);
        assert!(watch.drain().unwrap().neighbours);
        watch.only_neighbours_of(vec![9999]);
        netlink
            .apply(&[Change::DeleteForwarding(entry), Change::ReplaceForwarding(entry)])
            .unwrap();
        assert!(!watch.drain().unwrap().neighbours);
        let reach = netlink.reach(there).unwrap().unwrap();
        assert_eq!((reach.device, reach.via, reach.local), (vx.index, Some(there), false));
        assert!(netlink.reach(local).unwrap().unwrap().local);
        assert_eq!(netlink.reach(ip("192.0.2.1")).unwrap(), None);
    }
    // A packet through it.
    let heard = two.namespace.run(|| {
        let listener = std::net::TcpListener::bind("10.9.0.2:0").unwrap();
        let to = listener.local_addr().unwrap();
        one.namespace.run(|| std::net::TcpStream::connect(to).map(drop)).unwrap()
    });
    heard.unwrap().unwrap();
}

#[test]
fn a_link_is_held_to_a_rate_both_ways() {
    let Some(scratch) = Scratch::new() else { return };
    let mut netlink = Netlink::in_namespace(&scratch.namespace).unwrap();
    let veth = Veth::new(LinkEnd::named("near0"), LinkEnd::named("far0"));
    netlink.apply(&[Change::AddVeth(veth), Change::AddIfb(LinkEnd::named("ifb9"), None)]).unwrap();
    let near = netlink.link("near0").unwrap().unwrap().index;
    let ifb = netlink.link("ifb9").unwrap().unwrap();
    assert_eq!(ifb.kind.as_deref(), Some("ifb"));
    let bucket = |device| link::TokenBucket { device, rate: 1_000_000, burst: 100_000 };
    assert_eq!(netlink.token_bucket(near).unwrap(), None);
    netlink
        .apply(&[
            Change::Shape(bucket(near)),
            Change::Shape(bucket(ifb.index)),
            Change::OpenIngress(near),
            Change::Redirect(link::Redirect { from: near, to: ifb.index }),
        ])
        .unwrap();
    assert_eq!(netlink.token_bucket(near).unwrap(), Some(bucket(near)));
    assert_eq!(netlink.token_bucket(ifb.index).unwrap(), Some(bucket(ifb.index)));
    let shown = |args: &[&str]| {
        let mut command = std::process::Command::new("tc");
        let output = command.args(args).in_namespace(&scratch.namespace).unwrap().output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let qdisc = shown(&["qdisc", "show", "dev", "near0"]);
    assert!(qdisc.contains("qdisc tbf 1: root"), "{qdisc}");
    assert!(qdisc.contains("rate 8Mbit burst 100000b lat 25ms"), "{qdisc}");
    let filter = shown(&["filter", "show", "dev", "near0", "ingress"]);
    assert!(filter.contains("mirred (Egress Redirect to device ifb9)"), "{filter}");
}

#[test]
fn a_removed_link_is_gone_when_the_call_returns() {
    let Some(scratch) = Scratch::new() else { return };
    let gone = || {
        let mut netlink = Netlink::open().unwrap();
        for _ in 0..20 {
            let veth = Veth::new(LinkEnd::named("near0"), LinkEnd::named("far0"));
            netlink.apply(&[Change::AddVeth(veth)]).unwrap();
            let near = netlink.link("near0").unwrap().unwrap();
            netlink.remove_link(&near).unwrap();
            assert!(netlink.link("near0").unwrap().is_none());
            assert!(netlink.link("far0").unwrap().is_none());
            let again = netlink.remove_link(&near).unwrap_err();
            assert!(again.refusals()[0].is_missing(), "{again}");
        }
    };
    scratch.namespace.run(gone).unwrap();
}
