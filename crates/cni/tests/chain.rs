//! Plugins in a chain, with real packets: host ports, bandwidth, source checks; and what is left when
//! everything else is gone.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cni::Environment;
use link::Namespace;
use serde_json::{Value, json};
use world::{Node, World, inside, ping, ready};

const VERSION: &str = "1.1.0";

/// bridge, portmap, bandwidth, as a runtime would have them.
fn plugins(node: &Node, runtime: &Value) -> Vec<Value> {
    let ipam = json!({ "type": "host-local", "dataDir": node.data_dir, "ranges": [
        [{ "subnet": "10.88.0.0/24" }], [{ "subnet": "fd00:88::/64" }],
    ]});
    let mut plugins = vec![
        json!({ "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": true, "ipam": ipam }),
        json!({ "type": "portmap", "snat": true }),
        json!({ "type": "bandwidth" }),
    ];
    for plugin in &mut plugins {
        plugin["name"] = json!("chain");
        plugin["cniVersion"] = json!(VERSION);
        plugin["runtimeConfig"] = runtime.clone();
    }
    plugins
}

fn call(
    node: &Node,
    command: &str,
    env: &Environment,
    plugins: &[Value],
    last: Option<&Value>,
) -> Result<Value, (u64, String)> {
    let mut result = last.cloned().unwrap_or(Value::Null);
    let order: Vec<&Value> =
        if command == "DEL" { plugins.iter().rev().collect() } else { plugins.iter().collect() };
    for plugin in order {
        let mut conf = plugin.clone();
        if !result.is_null() {
            conf["prevResult"] = result.clone();
        }
        let kind = plugin["type"].as_str().unwrap().to_owned();
        let env = Environment { command: command.to_owned(), program: kind, ..env.clone() };
        let said = node.call(&env, &conf)?;
        if command == "ADD" {
            result = said;
        }
    }
    Ok(result)
}

fn mapping(host: u16, pod: u16, protocol: &str) -> Value {
    json!({ "hostPort": host, "containerPort": pod, "protocol": protocol })
}

/// Answers every connection with its name, for ever.
fn serve(namespace: &Namespace, at: &str, name: &'static str) {
    let listener = namespace.run(|| TcpListener::bind(at).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop((&stream).write_all(name.as_bytes()));
        }
    });
}

fn serve_udp(namespace: &Namespace, at: &str, name: &'static str) {
    let socket = namespace.run(|| UdpSocket::bind(at).unwrap()).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(name.as_bytes(), peer));
        }
    });
}

fn dial(from: &Namespace, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let said = from.run(|| {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut text = String::new();
        (&stream).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    });
    said.unwrap().unwrap_or_else(|error| format!("{error}"))
}

fn ask(socket: &UdpSocket, to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(b"?", to).unwrap();
    match socket.recv(&mut buffer) {
        Ok(length) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Err(error) => error.to_string(),
    }
}

fn links(node: &Node) -> Vec<String> {
    let mut names: Vec<String> =
        node.netlink().links().unwrap().into_iter().map(|link| link.name).collect();
    names.sort();
    names
}

#[test]
fn host_ports_reach_the_pod_from_everywhere() {
    if !ready() {
        return;
    }
    let mut world = World::new(2);
    let (pod, env) = world.pod_env("web");
    let (second, second_env) = world.pod_env("second");
    let (node, outside) = (&world.nodes[0], &world.nodes[1].namespace);
    let before = links(node);
    serve(&pod, "[::]:80", "web");
    serve(&pod, "[::]:81", "other port");
    serve_udp(&pod, "0.0.0.0:53", "web udp");
    // One port number: TCP, UDP, and another TCP on one address of the node only.
    let runtime = json!({ "portMappings": [
        mapping(8080, 80, "tcp"), mapping(8080, 53, "udp"),
        { "hostPort": 8081, "containerPort": 81, "protocol": "TCP", "hostIP": "172.30.1.1" },
        { "hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1" },
    ]});
    let list = plugins(node, &runtime);
    let result = call(node, "ADD", &env, &list, None).unwrap();
    assert_eq!(dial(outside, "172.30.1.1:8080"), "web");
    assert_eq!(dial(outside, "[fd00:172:30::1:1]:8080"), "web");
    assert_eq!(dial(outside, "172.30.1.1:8081"), "other port");
    let asker = outside.run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    assert_eq!(ask(&asker, "172.30.1.1:8080"), "web udp");
    // From the node: by its address, by loopback; from the pod itself.
    assert_eq!(dial(&node.namespace, "172.30.1.1:8080"), "web");
    assert_eq!(dial(&node.namespace, "127.0.0.1:8080"), "web");
    assert_eq!(dial(&node.namespace, "127.0.0.1:8081"), "web");
    assert_eq!(dial(&pod, "172.30.1.1:8080"), "web");
    assert_eq!(call(node, "CHECK", &env, &list, Some(&result)), Ok(result.clone()));

    // The same port for another pod is refused, and nothing of that pod is left by DEL.
    let (code, message) = call(node, "ADD", &second_env, &list, None).unwrap_err();
    assert_eq!(code, 104, "{message}");
    assert!(message.contains("*/tcp/8080"), "{message}");
    call(node, "DEL", &second_env, &list, None).unwrap();

    // A foreign flush: CHECK tells, the agent's repair brings all back.
    inside(&node.namespace, &["nft", "flush", "ruleset"]);
    assert_ne!(dial(outside, "172.30.1.1:8080"), "web");
    let (code, message) = call(node, "CHECK", &env, &list, Some(&result)).unwrap_err();
    assert_eq!(code, 102);
    assert!(message.contains("no table inet fairway-cni"), "{message}");
    assert!(node.namespace.run(|| cni::rules::restore(None)).unwrap().unwrap());
    assert!(
        !node.namespace.run(|| cni::rules::restore(None)).unwrap().unwrap(),
        "nothing is left to do"
    );
    assert_eq!(dial(outside, "172.30.1.1:8080"), "web");
    assert_eq!(ask(&asker, "172.30.1.1:8080"), "web udp");

    // The pod goes, another takes its ports: a UDP client that goes on is answered by the new one.
    call(node, "DEL", &env, &list, Some(&result)).unwrap();
    serve_udp(&second, "0.0.0.0:53", "second udp");
    let result = call(node, "ADD", &second_env, &list, None).unwrap();
    assert_eq!(ask(&asker, "172.30.1.1:8080"), "second udp");
    call(node, "DEL", &second_env, &list, Some(&result)).unwrap();
    let bridge_too: std::collections::BTreeSet<_> =
        before.iter().cloned().chain(["cni0".to_owned()]).collect();
    assert_eq!(links(node), bridge_too.into_iter().collect::<Vec<_>>());
    let rules =
        String::from_utf8(inside(&node.namespace, &["nft", "list", "ruleset"]).stdout).unwrap();
    assert_eq!(rules, "");
}

#[test]
fn a_firewall_lets_in_whom_its_policy_says() {
    if !ready() {
        return;
    }
    let mut world = World::new(2);
    let (web, web_env) = world.pod_env("web");
    let (peer, peer_env) = world.pod_env("peer");
    let (far, far_env) = world.pod_env("far");
    let (node, outside) = (&world.nodes[0], &world.nodes[1].namespace);
    serve(&web, "[::]:80", "web");
    let list = |policy: &str, number: u8, runtime: Value| {
        let mut list = plugins(node, &runtime);
        list[0]["bridge"] = json!(format!("cni{number}"));
        list[0]["ipam"]["ranges"] = json!([
            [{ "subnet": format!("10.88.{number}.0/24") }], [{ "subnet": format!("fd00:88:{number}::/64") }],
        ]);
        list.push(json!({ "type": "firewall", "ingressPolicy": policy, "name": "chain", "cniVersion": VERSION }));
        for plugin in &mut list {
            plugin["name"] = json!(format!("chain{number}"));
        }
        list
    };
    let published = json!({ "portMappings": [mapping(8080, 80, "tcp")] });
    let address = |result: &Value| {
        let ip = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        format!("{ip}:80")
    };
    let far_list = list("open", 9, json!({}));
    call(node, "ADD", &far_env, &far_list, None).unwrap();
    let way = ["ip", "route", "add", "10.88.0.0/16", "via", "172.30.1.1"];
    assert!(inside(outside, &way).status.success());
    let mut seen = Vec::new();
    for policy in ["open", "same-bridge", "isolated"] {
        let (list, peer_list) = (list(policy, 1, published.clone()), list(policy, 1, json!({})));
        let made = call(node, "ADD", &web_env, &list, None).unwrap();
        let neighbour = call(node, "ADD", &peer_env, &peer_list, None).unwrap();
        let to = address(&made);
        let asked = [&peer, &far, outside, &node.namespace].map(|from| dial(from, &to) == "web");
        // A host port is published, whatever the policy; and the pod itself goes where it wants.
        assert_eq!(dial(outside, "172.30.1.1:8080"), "web", "{policy}");
        serve_once(outside);
        assert_eq!(dial(&web, "172.30.1.2:90"), "outside", "{policy}");
        assert_eq!(call(node, "CHECK", &web_env, &list, Some(&made)), Ok(made.clone()), "{policy}");
        if policy == "isolated" {
            let port = made["interfaces"][1]["name"].as_str().unwrap();
            let open = ["ip", "link", "set", port, "type", "bridge_slave", "isolated", "off"];
            assert!(inside(&node.namespace, &open).status.success());
            let (code, message) = call(node, "CHECK", &web_env, &list, Some(&made)).unwrap_err();
            assert!(code == 102 && message.contains("is not isolated"), "{message}");
        }
        call(node, "DEL", &peer_env, &peer_list, Some(&neighbour)).unwrap();
        call(node, "DEL", &web_env, &list, Some(&made)).unwrap();
        seen.push((policy, asked));
    }
    // Who: a pod of the same bridge, one of another, somebody outside, the node.
    assert_eq!(
        seen,
        [
            ("open", [true, true, true, true]),
            ("same-bridge", [true, false, false, true]),
            ("isolated", [false, false, false, true]),
        ]
    );
    call(node, "DEL", &far_env, &far_list, None).unwrap();
    let rules = inside(&node.namespace, &["nft", "list", "ruleset"]).stdout;
    assert_eq!(String::from_utf8(rules).unwrap(), "");
}

/// Answers one connection at port 90.
fn serve_once(namespace: &Namespace) {
    let listener = namespace.run(|| TcpListener::bind("172.30.1.2:90").unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(stream.write_all(b"outside"));
    });
}

#[test]
fn a_port_of_a_pod_that_died_is_free() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (dead, dead_env) = world.pod_env("dead");
    let (pod, env) = world.pod_env("web");
    let node = &world.nodes[0];
    let list = plugins(node, &json!({ "portMappings": [mapping(8080, 80, "tcp")] }));
    call(node, "ADD", &dead_env, &list, None).unwrap();
    assert!(Namespace::delete(dead.path().file_name().unwrap().to_str().unwrap()).unwrap());
    drop(dead);
    serve(&pod, "0.0.0.0:80", "web");
    call(node, "ADD", &env, &list, None).unwrap();
    assert_eq!(dial(&node.namespace, "172.30.1.1:8080"), "web");
    call(node, "DEL", &dead_env, &list, None).unwrap();
    assert_eq!(
        dial(&node.namespace, "172.30.1.1:8080"),
        "web",
        "the dead pod's DEL takes nothing away"
    );
    call(node, "DEL", &env, &list, None).unwrap();
}

/// Seconds for that many bytes from one namespace to an address in the other.
fn transfer(from: &Namespace, to: &Namespace, address: IpAddr, bytes: usize) -> f64 {
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let at = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = from.run(|| TcpStream::connect(at).unwrap()).unwrap();
    let started = Instant::now();
    stream.write_all(&vec![0; bytes]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    started.elapsed().as_secs_f64()
}

#[test]
fn bandwidth_is_held_in_both_directions() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (slow, slow_env) = world.pod_env("slow");
    let (direct, direct_env) = world.pod_env("direct");
    let node = &world.nodes[0];
    // 8 Mbit/s in, 16 Mbit/s out, and the burst a runtime sends that knows of none.
    let any = i64::from(i32::MAX);
    let bandwidth = json!({ "bandwidth": {
        "ingressRate": 8_000_000, "ingressBurst": any, "egressRate": 16_000_000, "egressBurst": any,
    }});
    let list = plugins(node, &bandwidth);
    let result = call(node, "ADD", &slow_env, &list, None).unwrap();
    let of = |result: &Value| -> IpAddr {
        let text = result["ips"][0]["address"].as_str().unwrap();
        text.split_once('/').unwrap().0.parse().unwrap()
    };
    // The node's own end of the way: the gateway of the bridge.
    let gateway: IpAddr = "10.88.0.1".parse().unwrap();
    let (into, out) = (
        transfer(&node.namespace, &slow, of(&result), 600_000),
        transfer(&slow, &node.namespace, gateway, 1_200_000),
    );
    println!("600 kB in {into:.2} s, 1200 kB out {out:.2} s");
    assert!((0.4..5.0).contains(&into), "{into}");
    assert!((0.4..5.0).contains(&out), "{out}");
    assert_eq!(call(node, "CHECK", &slow_env, &list, Some(&result)), Ok(result.clone()));
    inside(
        &node.namespace,
        &["tc", "qdisc", "del", "dev", result["interfaces"][1]["name"].as_str().unwrap(), "root"],
    );
    let (_, message) = call(node, "CHECK", &slow_env, &list, Some(&result)).unwrap_err();
    assert!(message.contains("is not held to a rate"), "{message}");
    call(node, "DEL", &slow_env, &list, Some(&result)).unwrap();
    assert!(!links(node).iter().any(|name| name.starts_with("bwp")), "{:?}", links(node));

    // The same, by the plugin `fairway` itself.
    let mut config = node.config(VERSION);
    config["runtimeConfig"] = bandwidth;
    let result = node.call(&direct_env, &config).unwrap();
    let into = transfer(&node.namespace, &direct, of(&result), 600_000);
    let out = transfer(&direct, &node.namespace, "172.30.1.1".parse().unwrap(), 1_200_000);
    println!("fairway: 600 kB in {into:.2} s, 1200 kB out {out:.2} s");
    assert!((0.4..5.0).contains(&into) && (0.4..5.0).contains(&out), "{into} {out}");
    let env = Environment { command: "DEL".to_owned(), ..direct_env.clone() };
    assert_eq!(node.call(&env, &config), Ok(Value::Null));
    assert!(!links(node).iter().any(|name| name.starts_with("bwp")), "{:?}", links(node));
}

#[test]
fn routed_pods_have_host_ports_and_their_own_ipv6_addresses_only() {
    if !ready() {
        return;
    }
    let mut world = World::new(2);
    let (pod, env) = world.pod_env("web");
    let thief = world.pod(0, "thief");
    let (node, outside) = (&world.nodes[0], &world.nodes[1].namespace);
    serve(&pod, "[::]:80", "web");
    let mut config = node.config(VERSION);
    config["runtimeConfig"] = json!({ "portMappings": [mapping(8080, 80, "tcp")] });
    let result = node.call(&env, &config).unwrap();
    assert_eq!(dial(outside, "172.30.1.1:8080"), "web");
    assert_eq!(dial(outside, "[fd00:172:30::1:1]:8080"), "web");
    assert_eq!(dial(&node.namespace, "127.0.0.1:8080"), "web");
    assert_eq!(dial(&pod, "172.30.1.1:8080"), "web");
    config["prevResult"] = result;
    let with = |command: &str| Environment { command: command.to_owned(), ..env.clone() };
    assert_eq!(node.call(&with("CHECK"), &config), Ok(Value::Null));

    // With an address that is not its own a pod is not heard.
    let target: IpAddr = "fd00:10:244:1::3".parse().unwrap();
    inside(
        &thief.namespace,
        &["ip", "-6", "addr", "add", "fd00:10:244:1::77/128", "dev", "eth0", "nodad"],
    );
    inside(
        &node.namespace,
        &["ip", "-6", "route", "add", "fd00:10:244:1::77", "dev", &thief.node_link()],
    );
    let ear = pod.run(|| UdpSocket::bind((target, 0)).unwrap()).unwrap();
    ear.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let heard = |source: &str| {
        let source: IpAddr = source.parse().unwrap();
        let mouth = thief.namespace.run(|| UdpSocket::bind((source, 0)).unwrap()).unwrap();
        mouth.send_to(b"x", ear.local_addr().unwrap()).unwrap();
        ear.recv(&mut [0; 8]).is_ok()
    };
    assert!(heard("fd00:10:244:1::2"));
    assert!(!heard("fd00:10:244:1::77"));
    assert!(ping(&thief.namespace, target));
    assert_eq!(node.call(&with("DEL"), &config), Ok(Value::Null));
    assert_ne!(dial(outside, "172.30.1.1:8080"), "web");
}

#[test]
fn gc_takes_links_rules_and_shapes_of_the_forgotten() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (_kept, kept_env) = world.pod_env("kept");
    let (_lost, lost_env) = world.pod_env("lost");
    let node = &world.nodes[0];
    let list = |port: u16| {
        plugins(
            node,
            &json!({
                "portMappings": [mapping(port, 80, "udp")],
                "bandwidth": { "egressRate": 8_000_000, "egressBurst": 800_000 },
            }),
        )
    };
    call(node, "ADD", &kept_env, &list(8080), None).unwrap();
    call(node, "ADD", &lost_env, &list(8081), None).unwrap();
    assert_eq!(links(node).iter().filter(|name| name.starts_with("bwp")).count(), 2);
    let valid = json!([{ "containerID": kept_env.container_id, "ifname": kept_env.ifname }]);
    for mut plugin in list(0) {
        plugin["cni.dev/valid-attachments"] = valid.clone();
        plugin["runtimeConfig"] = Value::Null;
        let program = plugin["type"].as_str().unwrap().to_owned();
        let env = Environment { command: "GC".to_owned(), program, ..Environment::default() };
        assert_eq!(node.call(&env, &plugin), Ok(Value::Null));
    }
    let left = links(node);
    assert_eq!(left.iter().filter(|name| name.starts_with("bwp")).count(), 1, "{left:?}");
    assert_eq!(left.iter().filter(|name| name.starts_with("veth")).count(), 1, "{left:?}");
    let rules =
        String::from_utf8(inside(&node.namespace, &["nft", "list", "ruleset"]).stdout).unwrap();
    assert!(rules.contains("udp . 8080") && !rules.contains("udp . 8081"), "{rules}");
    assert!(rules.contains("10.88.0.2 comment") && !rules.contains("10.88.0.3 comment"), "{rules}");
    let reserved = std::fs::read_dir(node.data_dir.join("chain")).unwrap();
    let names: Vec<_> = reserved.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        names.contains(&"10.88.0.2".to_owned()) && !names.contains(&"10.88.0.3".to_owned()),
        "{names:?}"
    );
    call(node, "DEL", &kept_env, &list(8080), None).unwrap();
}
