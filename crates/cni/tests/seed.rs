//! The walk of the article "the life of a packet": namespaces and a veth pair, a bridge, and the CNI
//! plugins by hand, with what they print there.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};

use cni::Environment;
use serde_json::{Value, json};
use world::{World, inside, ping, ready};

fn sh(namespace: &link::Namespace, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = inside(namespace, &words);
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn name(namespace: &link::Namespace) -> String {
    namespace.path().file_name().unwrap().to_str().unwrap().to_owned()
}

/// Within some tries: `ip link set up` returns before a link can send.
fn reaches(from: &link::Namespace, to: &str) -> bool {
    (0..4).any(|_| ping(from, to.parse().unwrap()))
}

/// Lines with single spaces, without trailing ones.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_pair_of_namespaces_and_a_bridge() {
    if !ready() {
        return;
    }
    let mut world = World::new(0);
    let host = world.namespace("host");
    let (client, server) = (world.namespace("client"), world.namespace("server"));
    sh(&host, "ip link add veth-client type veth peer name veth-server");
    sh(&host, &format!("ip link set veth-client netns {}", name(&client)));
    sh(&host, &format!("ip link set veth-server netns {}", name(&server)));
    assert!(!sh(&host, "ip link list").contains("veth"));
    sh(&client, "ip address add 10.0.0.11/24 dev veth-client");
    sh(&client, "ip link set veth-client up");
    sh(&server, "ip address add 10.0.0.12/24 dev veth-server");
    sh(&server, "ip link set veth-server up");
    assert!(reaches(&client, "10.0.0.12"));

    // The same by a bridge, which is the gateway.
    sh(&host, "ip link add bridge1 type bridge");
    sh(&host, "ip link set bridge1 up");
    sh(&host, "ip addr add 172.30.0.1/24 dev bridge1");
    for (at, namespace) in [(11, &client), (12, &server)] {
        sh(&host, &format!("ip link add c{at} type veth peer name c{at}-br"));
        sh(&host, &format!("ip link set c{at} netns {}", name(namespace)));
        sh(&host, &format!("ip link set c{at}-br master bridge1 up"));
        sh(namespace, &format!("ip link set c{at} up"));
        sh(namespace, &format!("ip addr add 172.30.0.{at}/24 dev c{at}"));
    }
    assert!(reaches(&client, "172.30.0.12"));
    assert!(reaches(&client, "172.30.0.1"));
    sh(&host, "ip addr add 172.17.0.33/16 dev lo");
    sh(&host, "ip link set lo up");
    assert!(!ping(&client, "172.17.0.33".parse().unwrap()));
    sh(&client, "ip route add default via 172.30.0.1");
    assert!(reaches(&client, "172.17.0.33"));
}

/// The article's file, but for where reservations are kept.
fn demo(world: &World) -> Value {
    json!({
        "cniVersion": "0.2.0",
        "name": "demo_br",
        "type": "bridge",
        "bridge": "cni_net0",
        "isGateway": true,
        "ipMasq": true,
        "ipam": {
            "type": "host-local",
            "dataDir": world.nodes[0].data_dir,
            "subnet": "10.0.10.0/24",
            "routes": [
                { "dst": "0.0.0.0/0" },
                { "dst": "1.1.1.1/32", "gw": "10.0.10.1" },
            ],
        },
    })
}

#[test]
fn the_plugins_by_hand() {
    if !ready() {
        return;
    }
    let mut world = World::new(2);
    let (pod, env) = world.pod_env("pause_demo");
    let (other, other_env) = world.pod_env("other");
    let conf = demo(&world);
    let node = &world.nodes[0];
    let by_hand = |env: &Environment, command: &str| Environment {
        command: command.to_owned(),
        ifname: "eth10".to_owned(),
        args: String::new(),
        program: "bridge".to_owned(),
        ..env.clone()
    };
    let result = node.call(&by_hand(&env, "ADD"), &conf).unwrap();
    assert_eq!(
        result,
        json!({
            "cniVersion": "0.2.0",
            "ip4": {
                "ip": "10.0.10.2/24",
                "gateway": "10.0.10.1",
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "1.1.1.1/32", "gw": "10.0.10.1" }],
            },
            "dns": {},
        })
    );
    assert_eq!(
        lines(&sh(&pod, "ip route")),
        [
            "default via 10.0.10.1 dev eth10",
            "1.1.1.1 via 10.0.10.1 dev eth10",
            "10.0.10.0/24 dev eth10 proto kernel scope link src 10.0.10.2",
        ]
    );
    let bridge = sh(&node.namespace, "ip -4 addr show dev cni_net0");
    assert!(bridge.contains("inet 10.0.10.1/24 brd 10.0.10.255 scope global cni_net0"), "{bridge}");
    let eth10 = sh(&pod, "ip -4 addr show dev eth10");
    assert!(eth10.contains("inet 10.0.10.2/24 brd 10.0.10.255 scope global eth10"), "{eth10}");
    let ports = sh(&node.namespace, "ip link show master cni_net0");
    assert_eq!(ports.matches("state UP").count(), 1, "{ports}");

    // A web server in the pod, dialled by the file that says which address was given last.
    let listener = pod.run(|| TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    let server = std::thread::spawn(move || {
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (mut stream, peer) = listener.accept().unwrap();
            drop(stream.read(&mut [0; 1024]));
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\nConnection: close\r\n\r\nWelcome to nginx!")
                .unwrap();
            peers.push(peer.ip());
        }
        peers
    });
    let last = std::fs::read_to_string(node.data_dir.join("demo_br/last_reserved_ip")).unwrap();
    assert_eq!(last, "10.0.10.2");
    assert_eq!(sh(&node.namespace, &format!("curl -s -m 3 {last}")), "Welcome to nginx!");

    // Another pod: the next address, and both talk over the bridge.
    let result = node.call(&by_hand(&other_env, "ADD"), &conf).unwrap();
    assert_eq!(result["ip4"]["ip"], "10.0.10.3/24");
    let last = std::fs::read_to_string(node.data_dir.join("demo_br/last_reserved_ip")).unwrap();
    assert_eq!(last, "10.0.10.3");
    assert_eq!(sh(&other, "curl -s -m 3 10.0.10.2"), "Welcome to nginx!");
    let seen: [IpAddr; 2] = ["10.0.10.1".parse().unwrap(), "10.0.10.3".parse().unwrap()];
    assert_eq!(server.join().unwrap(), seen);

    // ipMasq: the machine beside has no route to pods and answers all the same.
    assert!(ping(&pod, "172.30.1.2".parse().unwrap()));
    let rules = sh(&node.namespace, "nft list table inet fairway-cni");
    assert!(rules.contains("10.0.10.2 comment \"demo_br eth10 pause_demo-0123456789abcdef\" : jump leaving-10.0.10.0/24"), "{rules}");

    for (namespace, env) in [(&pod, &env), (&other, &other_env)] {
        for _ in 0..2 {
            assert_eq!(node.call(&by_hand(env, "DEL"), &conf), Ok(Value::Null));
        }
        assert!(!sh(namespace, "ip link").contains("eth10"));
    }
    assert!(!sh(&node.namespace, "ip link").contains("veth"));
    assert_eq!(sh(&node.namespace, "nft list ruleset"), "");
    let left = std::fs::read_dir(node.data_dir.join("demo_br")).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.parse::<IpAddr>().is_ok()), "{left:?}");
}
