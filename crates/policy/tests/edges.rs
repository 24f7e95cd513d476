//! What stands beside the truth table, over real packets: the node's own traffic, translated addresses, addresses nobody has,
//! a pod that reaches itself by a detour, policies of the administrator, and addresses that change hands.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod scene;
mod world;

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use model::{Event, Update};
use scene::{Scene, pod};
use serde_json::json;
use world::{CLIENT, NODE, World, address};

fn dial(world: &World, from: usize, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let dial = || TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok();
    world.at(from).run(dial).unwrap()
}

fn nft(world: &World, script: &str) {
    let run = || Command::new("nft").arg(script).status().unwrap().success();
    assert!(world.node.run(run).unwrap(), "{script}");
}

#[test]
fn the_node_reaches_its_pods_and_a_translated_packet_is_judged_by_its_real_ends() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let nobody = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    scene.policy("nobody", "x", nobody);
    // A probe of the kubelet, and what a pod says to its node.
    assert!(dial(&world, NODE, &format!("{}:80", address(0, false))));
    assert!(dial(&world, NODE, &format!("[{}]:80", address(0, true))));
    assert!(!dial(&world, 3, &format!("{}:80", address(0, false))));

    // A cluster address and a port of the node, as Services translate them.
    nft(
        &world,
        "add table ip detour; add chain ip detour pre { type nat hook prerouting priority -100 ; }",
    );
    nft(
        &world,
        &format!(
            "add rule ip detour pre ip daddr 10.96.0.9 tcp dport 8080 dnat to {}:80",
            address(0, false)
        ),
    );
    nft(
        &world,
        &format!(
            "add rule ip detour pre ip daddr 172.30.1.1 tcp dport 30080 dnat to {}:80",
            address(0, false)
        ),
    );
    let from = json!([{"podSelector": {"matchLabels": {"app": "ya"}}, "namespaceSelector": {}},
        {"ipBlock": {"cidr": "172.30.0.2/32"}}]);
    let chosen = json!({"podSelector": {"matchLabels": {"app": "xa"}},
        "ingress": [{"from": from, "ports": [{"port": 80}]}]});
    scene.policy("chosen", "x", chosen);
    assert!(dial(&world, 3, "10.96.0.9:8080"), "ya is the real peer, and 80 the real port");
    assert!(!dial(&world, 4, "10.96.0.9:8080"), "yb is not");
    let route = ["route", "add", "10.96.0.9", "via", "172.30.1.1"];
    let add = || Command::new("ip").args(route).status().unwrap().success();
    assert!(world.client.run(add).unwrap());
    assert!(dial(&world, CLIENT, "172.30.1.1:30080"), "the client's own address is judged");
    let other = json!({"podSelector": {"matchLabels": {"app": "xa"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": "172.30.1.0/24"}}]}]});
    scene.policy("chosen", "x", other);
    assert!(!dial(&world, CLIENT, "172.30.1.1:30080"), "the node's address is not the client's");

    // A pod that reaches itself by a cluster address.
    nft(&world, "add chain ip detour post { type nat hook postrouting priority 100 ; }");
    nft(&world, "add rule ip detour post ip saddr 10.244.1.10 ip daddr 10.244.1.10 masquerade");
    assert!(dial(&world, 0, "10.96.0.9:8080"), "nothing keeps a pod from itself");
}

#[test]
fn an_address_nobody_has_is_closed_until_a_pod_has_it() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    assert_eq!(scene.reach(&[0, 3]), "xa>ya ya>xa");
    // Wired, and unknown: not a packet in or out, not even to the node.
    scene.writer.apply(Event::Pod(Update::Deleted(pod(0, None).key)));
    scene.follow();
    assert_eq!(scene.reach(&[0, 3]), "");
    assert!(!dial(&world, 0, "172.30.1.1:22"));
    // Its address belongs to a pod that is isolated; what was said of the old one is forgotten.
    let label = json!({"podSelector": {"matchLabels": {"app": "zc"}}, "policyTypes": ["Ingress"]});
    scene.policy("nobody", "z", label);
    scene.writer.apply(Event::Pod(Update::Applied(pod(8, Some(0)))));
    scene.follow();
    assert_eq!(scene.reach(&[0, 3]), "xa>ya", "zc has the address of xa now");
    // Two say they have it: the one that was given it last by the plugin does.
    scene.writer.apply(Event::Pod(Update::Applied(pod(0, None))));
    scene.writer.take_change();
    let addresses = [address(0, false), address(0, true)].into_iter().collect();
    let claim = policy::Claim { pod: pod(0, None).key, uid: None, addresses };
    assert!(scene.planner.claim(scene.writer.snapshot(), claim));
    let change = model::Change { pods: [pod(0, None).key].into(), ..Default::default() };
    let delta = scene.planner.update(scene.writer.snapshot(), &change);
    world.commit(&delta.transaction);
    assert_eq!(scene.reach(&[0, 3]), "xa>ya ya>xa");
}

#[test]
fn the_administrators_tiers_come_before_and_after_those_of_the_namespace() {
    let Some(world) = World::or_skip() else { return };
    let mut scene = Scene::new(&world);
    let parties = [0, 3, 6, CLIENT];
    let subject = |namespace: &str| json!({"namespaces": {"matchLabels": {"name": namespace}}});
    let everyone = json!([{"namespaces": {}}]);
    // The baseline denies what nobody else decides.
    let baseline = json!({"tier": "Baseline", "priority": 5, "subject": subject("x"),
        "ingress": [{"action": "Deny", "from": everyone}]});
    assert_eq!(scene.cluster("base", baseline), [""; 0]);
    assert_eq!(
        scene.reach(&parties),
        "client>xa client>ya client>za xa>client xa>ya xa>za ya>client ya>za za>client za>ya",
        "no pod reaches xa; the client is no pod"
    );
    // A NetworkPolicy overrides it, for the pods it isolates.
    let some = json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"name": "y"}}}]}]});
    scene.policy("some", "x", some);
    let to_x = |scene: &Scene<'_>| {
        let all = scene.reach(&parties);
        all.split(' ').filter(|one| one.ends_with(">xa")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(to_x(&scene), "ya>xa");
    // The administrator accepts z, denies y, and nobody can change that; what passes goes on to the namespace.
    let admin = json!({"tier": "Admin", "priority": 10, "subject": subject("x"), "ingress": [
        {"action": "Accept", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "za"}}}}],
         "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 70, "end": 90}}}}]},
        {"action": "Deny", "from": [{"namespaces": {"matchLabels": {"name": "y"}}}]}]});
    assert_eq!(scene.cluster("admin", admin), [""; 0]);
    assert_eq!(to_x(&scene), "za>xa");
    let pass = json!({"tier": "Admin", "priority": 1, "subject": subject("x"), "ingress": [
        {"action": "Pass", "from": everyone, "protocols": [{"destinationNamedPort": "serve"}]}]});
    scene.cluster("pass", pass);
    let tcp = |from| dial(&world, from, &format!("{}:80", address(0, false)));
    assert!(tcp(3) && !tcp(6), "on the named port (TCP 80) the namespace decides again");
    // Other programs list the whole ruleset: nft must print all of this.
    nft(&world, "list table inet fairway");
    // Networks and nodes, and what is not understood fails closed.
    let out = json!({"tier": "Admin", "priority": 2, "subject": subject("z"), "egress": [
        {"action": "Deny", "to": [{"networks": ["172.30.0.2/32", "fd00:172:30::2/128"]}]}]});
    scene.cluster("out", out);
    assert!(!scene.reach(&[6, CLIENT]).contains("za>client"));
    let bad = json!({"tier": "Admin", "priority": 3, "subject": subject("y"), "egress": [
        {"action": "Accept", "to": [{"domainNames": ["example.com."]}]},
        {"action": "Deny", "to": [{"networks": ["nonsense"]}]}]});
    assert_eq!(scene.cluster("bad", bad), ["NotSupported", "BadCIDR"]);
    assert_eq!(scene.reach(&[3, 6]), "za>ya", "y may send nothing, and everybody else is unharmed");
}
