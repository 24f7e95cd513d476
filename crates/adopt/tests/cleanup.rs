//! A node is after cleanup what it was before Fairway came: rules, routes, links, files; others' stay.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::fs;
use std::path::Path;

use adopt::cleanup::{self, Allowed, Places};
use adopt::preflight::{self, Api, Verdict};
use world::{World, ready, sh};

fn files(dir: &Path) -> Vec<String> {
    let mut open = vec![dir.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            found.push(path.display().to_string());
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn before_and_after_are_equal() {
    if !ready(&["nft", "ip"]) {
        return;
    }
    let world = World::new();
    let places = Places {
        run_dir: world.dir.join("run"),
        state_dir: world.dir.join("state"),
        cni_conf_dir: world.dir.join("cni"),
    };
    // Others' things, a lab's among them.
    sh(&world.node, "nft add table ip other; nft add chain ip other c '{ type nat hook prerouting priority -100; }'
        ip route add 192.0.2.0/24 via 10.1.0.2 proto 99; ip link add dummyveth type veth peer name dummyveth2; ip link set dummyveth alias theirs");
    fs::create_dir_all(places.run_dir.join("labs/x")).unwrap();
    fs::create_dir_all(places.cni_conf_dir.as_path()).unwrap();
    fs::write(places.cni_conf_dir.join("20-other.conflist"), "{}").unwrap();
    let before = (world.network(), files(&world.dir));

    world.serve();
    sh(&world.node, "ip route add 10.244.9.0/24 via 10.1.0.2 proto 250; ip route add blackhole 10.244.8.0/24 proto 250
        ip link add fwpod type veth peer name fwpodp; ip link set fwpod alias fairway:d/pod-1");
    fs::create_dir_all(places.state_dir.join("ipam/fairway")).unwrap();
    fs::write(places.state_dir.join("ipam/fairway/10.244.0.2"), "x").unwrap();
    fs::write(places.run_dir.join("socket"), "x").unwrap();
    fs::write(places.cni_conf_dir.join("10-fairway.conflist"), "{}").unwrap();

    let find = || world.node.run(|| cleanup::find(&places)).unwrap().unwrap();
    let traces = find();
    assert_eq!(traces.pods(), ["d/pod-1"]);
    let lines = traces.lines().join("\n");
    for what in [
        "table inet fairway",
        "route 10.244.9.0/24",
        "route 10.244.8.0/24",
        "link fwpod",
        "/run/socket",
        "/state/ipam",
        "10-fairway.conflist",
    ] {
        assert!(lines.contains(what), "{what} is missing:\n{lines}");
    }
    assert!(
        !lines.contains("labs") && !lines.contains("other") && !lines.contains("dummyveth"),
        "{lines}"
    );
    let why = cleanup::refusal(&traces, Allowed::default()).unwrap();
    assert!(why.contains("d/pod-1") && why.contains("--pods"), "{why}");
    assert_eq!(cleanup::refusal(&traces, Allowed { pods: true, agent: false }), None);

    world.node.run(|| cleanup::remove(&traces, &places)).unwrap().unwrap();
    assert!(find().is_empty(), "{:?}", find().lines());
    assert_eq!((world.network(), files(&world.dir)), before);
    // Again: nothing to do is no error.
    world.node.run(|| cleanup::remove(&traces, &places)).unwrap().unwrap();
}

#[test]
fn preflight_sees_the_kernel_and_the_neighbours() {
    if !ready(&["nft", "ip"]) {
        return;
    }
    let world = World::new();
    let options = preflight::Options {
        cni_conf_dir: world.dir.clone(),
        health_addr: "127.0.0.1:10256".parse().unwrap(),
        api: Api::Node {
            name: "node-1".into(),
            addresses: vec!["10.1.0.1".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/24".into()],
        },
    };
    let before = world.network();
    let run = || world.node.run(|| preflight::run(&options)).unwrap();
    let checks = run();
    let text = preflight::text(&checks, print::Format::Table).unwrap();
    println!("{text}");
    assert_eq!(preflight::worst(&checks), Verdict::Pass, "{text}");
    assert_eq!(world.network(), before, "the node's own rules are not touched");
    assert!(link::Namespace::list("fwpre-").unwrap().is_empty(), "probing namespaces are removed");

    sh(&world.node, "nft add table ip kube-proxy; nft add table inet fw
        nft add chain inet fw forward '{ type filter hook forward priority 0; policy drop; }'
        nft add table ip marker; nft add chain ip marker c '{ type filter hook prerouting priority 0; }'
        nft add rule ip marker c meta mark set meta mark or 0x4000; ip link add cali1 type veth peer name cali2");
    fs::write(world.dir.join("05-calico.conflist"), "{}").unwrap();
    let listener =
        world.node.run(|| std::net::TcpListener::bind("127.0.0.1:10256")).unwrap().unwrap();
    let checks = run();
    drop(listener);
    let found = |name: &str| {
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert!(check.advice.is_some(), "{check:?}");
        (check.result, check.found.clone())
    };
    assert_eq!(
        found("kube-proxy"),
        (Verdict::Warn, "is not running and left nf_tables table ip kube-proxy".into())
    );
    assert_eq!(found("firewalls"), (Verdict::Warn, "policy drop in inet fw forward".into()));
    assert_eq!(found("mark bit 0x4000"), (Verdict::Warn, "used by ip marker".into()));
    assert_eq!(
        found("other pod networks"),
        (Verdict::Warn, "CNI file 05-calico.conflist, Calico (link cali1)".into())
    );
    assert_eq!(
        found("health port"),
        (Verdict::Fail, "127.0.0.1:10256 is taken by somebody".into())
    );
}
