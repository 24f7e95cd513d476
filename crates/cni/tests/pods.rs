//! Pods attached by the plugin to real nodes, and real packets between them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod world;

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cni::attachment::{NODE_MAC, ROUTE_PROTOCOL};
use link::kernel::Netlink;
use link::{Change, LinkSettings, Route};
use serde_json::{Value, json};
use world::{World, inside, ping, ready, tcp};

fn text(output: std::process::Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pod_is_what_was_promised() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let pod = world.pod(0, "one");
    let node = &world.nodes[0];
    assert_eq!(
        pod.addresses(),
        ["10.244.1.2", "fd00:10:244:1::2"].map(|ip| ip.parse::<IpAddr>().unwrap())
    );
    let end = node.netlink().link(pod.node_link().as_str()).unwrap().unwrap();
    assert_eq!(end.alias.as_deref(), Some("fairway:default/one"));
    assert_eq!((end.mac, end.mtu, end.up, end.carrier), (Some(NODE_MAC), 1450, true, true));
    // No address on the node's end, not even a link-local one.
    assert_eq!(node.netlink().addresses(Some(end.index)).unwrap(), []);

    let mut inner = Netlink::in_namespace(&pod.namespace).unwrap();
    let eth0 = inner.link("eth0").unwrap().unwrap();
    assert_eq!(pod.result["interfaces"][1]["mac"], eth0.mac.unwrap().to_string());
    assert_eq!(eth0.mtu, 1450);
    assert!(inner.link("lo").unwrap().unwrap().up);
    let shown = text(inside(&pod.namespace, &["ip", "-4", "addr", "show", "eth0"]));
    assert!(shown.contains("inet 10.244.1.2/32 scope global eth0"), "{shown}");
    let shown = text(inside(&pod.namespace, &["ip", "route"]));
    assert!(shown.contains("default via 169.254.1.1 dev eth0 proto 250 onlink"), "{shown}");
    let shown = text(inside(&pod.namespace, &["ip", "neigh", "show", "nud", "permanent"]));
    assert!(shown.contains("169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"), "{shown}");
    assert!(shown.contains("fe80::1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"), "{shown}");
    let shown = text(inside(&node.namespace, &["ip", "route"]));
    let route = format!("10.244.1.2 dev {} proto 250 scope link", pod.node_link());
    assert!(shown.contains(&route), "{shown}");
    let shown = text(inside(&node.namespace, &["ip", "neigh", "show", "nud", "permanent"]));
    let entry = format!("10.244.1.2 dev {} lladdr {}", pod.node_link(), eth0.mac.unwrap());
    assert!(shown.contains(&entry), "{shown}");

    // The first packets pass at once: node to pod and pod to node, both families.
    for address in pod.addresses() {
        assert!(ping(&node.namespace, address), "node -> {address}");
    }
    for address in ["172.30.1.1", "fd00:172:30::1:1"] {
        assert!(ping(&pod.namespace, address.parse().unwrap()), "pod -> {address}");
    }
}

#[test]
fn pods_of_one_node_talk() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let one = world.pod(0, "one");
    let two = world.pod(0, "two");
    for address in two.addresses() {
        assert!(ping(&one.namespace, address), "{address}");
        let seen = tcp(&one.namespace, &two.namespace, address);
        assert!(one.addresses().contains(&seen), "{seen}");
    }
    // A pod that speaks with another's address is not heard; with its own it is.
    let three = world.pod(0, "three");
    let stolen = three.addresses()[0];
    let mut thief = Netlink::in_namespace(&one.namespace).unwrap();
    let eth0 = thief.link("eth0").unwrap().unwrap().index;
    let address = link::Address::new(eth0, ipnet::IpNet::from(stolen));
    thief.apply(&[Change::AddAddress(address)]).unwrap();
    let target = two.addresses()[0];
    let ear = two.namespace.run(|| UdpSocket::bind((target, 0)).unwrap()).unwrap();
    ear.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let heard = |source: IpAddr| {
        let mouth = one.namespace.run(|| UdpSocket::bind((source, 0)).unwrap()).unwrap();
        mouth.send_to(b"x", ear.local_addr().unwrap()).unwrap();
        ear.recv(&mut [0; 8]).is_ok()
    };
    assert!(heard(one.addresses()[0]));
    assert!(!heard(stolen));
}

#[test]
fn del_leaves_nothing_and_may_be_repeated() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let links_before = world.nodes[0].netlink().links().unwrap().len();
    let pod = world.pod(0, "one");
    let (namespace, env) = world.pod_env("never");
    let node = &world.nodes[0];
    assert_eq!(node.reserved().len(), 2);
    let mut config = node.config("1.1.0");
    config["prevResult"] = pod.result.clone();
    for _ in 0..2 {
        assert_eq!(node.call(&pod.with_command("DEL"), &config), Ok(Value::Null));
        assert_eq!(node.reserved(), Vec::<String>::new());
        assert_eq!(node.netlink().links().unwrap().len(), links_before);
        assert_eq!(node.netlink().routes(ROUTE_PROTOCOL).unwrap(), []);
        let mut inner = Netlink::in_namespace(&pod.namespace).unwrap();
        assert!(inner.link("eth0").unwrap().is_none());
    }
    // Never added, no namespace, no directory: still fine.
    drop(namespace);
    let gone = cni::Environment {
        command: "DEL".to_owned(),
        netns: "/run/netns/fwtest-no-such".to_owned(),
        ..env
    };
    assert_eq!(node.call(&gone, &config), Ok(Value::Null));
    std::fs::remove_dir_all(&node.data_dir).unwrap();
    assert_eq!(node.call(&gone, &config), Ok(Value::Null));
}

#[test]
fn a_pod_whose_namespace_died_is_deleted_completely() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let pod = world.pod(0, "one");
    let node = &world.nodes[0];
    let (env, name) = (pod.with_command("DEL"), pod.node_link());
    assert!(
        link::Namespace::delete(pod.namespace.path().file_name().unwrap().to_str().unwrap())
            .unwrap()
    );
    drop(pod);
    assert_eq!(node.call(&env, &node.config("1.0.0")), Ok(Value::Null));
    assert_eq!(node.reserved(), Vec::<String>::new());
    assert!(node.netlink().link(name.as_str()).unwrap().is_none());
}

#[test]
fn a_repeated_add_gives_the_same() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let pod = world.pod(0, "one");
    let node = &world.nodes[0];
    let again = node.call(&pod.env, &node.config("1.1.0")).unwrap();
    assert_eq!(again, pod.result);
    assert_eq!(node.reserved().len(), 2);
    assert!(ping(&node.namespace, pod.addresses()[0]));
}

#[test]
fn a_taken_interface_is_refused_and_nothing_is_kept() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (namespace, env) = world.pod_env("one");
    let mut inner = Netlink::in_namespace(&namespace).unwrap();
    let veth = link::Veth::new(link::LinkEnd::named("eth0"), link::LinkEnd::named("x"));
    inner.apply(&[Change::AddVeth(veth)]).unwrap();
    let node = &world.nodes[0];
    let links_before = node.netlink().links().unwrap().len();
    let (code, message) = node.call(&env, &node.config("1.0.0")).unwrap_err();
    assert_eq!(code, 100, "{message}");
    assert!(message.contains("eth0"), "{message}");
    assert_eq!(node.reserved(), Vec::<String>::new());
    assert_eq!(node.netlink().links().unwrap().len(), links_before);
    assert!(inner.link("eth0").unwrap().is_some());
}

#[test]
fn check_sees_every_single_loss() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let pod = world.pod(0, "one");
    let node = &world.nodes[0];
    let mut config = node.config("1.1.0");
    let (code, _) = node.call(&pod.with_command("CHECK"), &config).unwrap_err();
    assert_eq!(code, 7, "prevResult is needed");
    config["prevResult"] = pod.result.clone();
    let check = || node.call(&pod.with_command("CHECK"), &config);
    assert_eq!(check(), Ok(Value::Null));

    let name = pod.node_link();
    let in_pod = |command: &str| (&pod.namespace, command.to_owned());
    let on_node = |command: String| (&node.namespace, command);
    let breakages = [
        (in_pod("ip addr del 10.244.1.2/32 dev eth0"), "missing address 10.244.1.2/32"),
        (in_pod("ip addr del fd00:10:244:1::2/128 dev eth0"), "missing address fd00:10:244:1::2"),
        (in_pod("ip route del default"), "missing route 0.0.0.0/0"),
        (in_pod("ip -6 route del default"), "missing route ::/0"),
        (in_pod("ip neigh del 169.254.1.1 dev eth0"), "missing neighbour 169.254.1.1"),
        (in_pod("ip link set eth0 address 02:00:00:00:00:99"), "has address 02:00:00:00:00:99"),
        (in_pod("ip link set eth0 down"), "link eth0 is down"),
        (in_pod("ip link set eth0 down name eth9"), "no interface eth0"),
        (on_node("ip route del 10.244.1.2".to_owned()), "node: missing route 10.244.1.2"),
        (on_node(format!("ip neigh del 10.244.1.2 dev {name}")), "node: missing neighbour"),
        (on_node(format!("ip link set {name} alias mine")), "no link"),
        (on_node(format!("ip link set {name} down")), "is down"),
    ];
    for ((namespace, command), difference) in breakages {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(inside(namespace, &words).status.success(), "{command}");
        let (code, message) = check().expect_err(&command);
        assert_eq!(code, 102);
        assert!(message.contains(difference), "{command}: {message}");
        // Another ADD mends it (after what hides the link from it is undone).
        if command.contains("alias") {
            inside(&node.namespace, &["ip", "link", "set", &name, "alias", "fairway:x"]);
        }
        assert_eq!(node.call(&pod.env, &node.config("1.1.0")).unwrap(), pod.result, "{command}");
        assert_eq!(check(), Ok(Value::Null), "{command}");
    }
    std::fs::remove_file(node.data_dir.join("fairway/10.244.1.2")).unwrap();
    let (_, message) = check().unwrap_err();
    assert!(message.contains("10.244.1.2 is not reserved"), "{message}");
}

#[test]
fn gc_removes_what_the_runtime_forgot_and_nothing_else() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let kept = world.pod(0, "kept");
    let forgotten = world.pod(0, "forgotten");
    let other = world.pod(0, "other");
    let node = &world.nodes[0];
    // A pod of another network of the same type, and a reservation whose namespace is long gone.
    let mut second = node.config("1.1.0");
    second["name"] = json!("second");
    second["ipam"]["ranges"] = json!([[{ "subnet": "10.9.0.0/24" }]]);
    let env = cni::Environment { ifname: "net1".to_owned(), ..other.env.clone() };
    let second_result = node.call(&env, &second).unwrap();
    std::fs::write(node.data_dir.join("fairway/10.244.1.200"), "ghost\r\neth0").unwrap();

    let mut config = node.config("1.1.0");
    let attachment =
        |pod: &world::Pod| json!({ "containerID": pod.env.container_id, "ifname": pod.env.ifname });
    config["cni.dev/valid-attachments"] = json!([attachment(&kept), attachment(&other)]);
    let gc = cni::Environment { command: "GC".to_owned(), ..cni::Environment::default() };
    assert_eq!(node.call(&gc, &config), Ok(Value::Null));
    let mut netlink = node.netlink();
    assert!(netlink.link(kept.node_link().as_str()).unwrap().is_some());
    assert!(netlink.link(other.node_link().as_str()).unwrap().is_some());
    assert!(netlink.link(forgotten.node_link().as_str()).unwrap().is_none());
    let of_second = second_result["interfaces"][0]["name"].as_str().unwrap();
    assert!(netlink.link(of_second).unwrap().is_some());
    let mut expected: Vec<String> =
        [&kept, &other].iter().flat_map(|pod| pod.addresses()).map(|ip| ip.to_string()).collect();
    expected.sort();
    assert_eq!(node.reserved(), expected);
    assert!(ping(&node.namespace, kept.addresses()[0]));
}

#[test]
fn status_tells_when_an_add_would_fail() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (_one, env) = world.pod_env("one");
    let node = &world.nodes[0];
    let mut config = node.config("1.1.0");
    config["ipam"]["ranges"] = json!([[{ "subnet": "10.9.0.0/30" }]]);
    let status = cni::Environment { command: "STATUS".to_owned(), ..cni::Environment::default() };
    assert_eq!(node.call(&status, &config), Ok(Value::Null));
    node.call(&env, &config).unwrap();
    let (code, message) = node.call(&status, &config).unwrap_err();
    assert_eq!(code, 50);
    assert!(message.contains("no address is left"), "{message}");
    let other = cni::Environment { container_id: "other".to_owned(), ..env.clone() };
    let (code, _) = node.call(&other, &config).unwrap_err();
    assert_eq!(code, 11);
}

#[test]
fn runtime_wishes_are_granted() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (namespace, env) = world.pod_env("one");
    let node = &world.nodes[0];
    let mut config = node.config("0.3.1");
    config["runtimeConfig"] = json!({ "ips": ["10.244.1.77"], "mac": "02:11:22:33:44:55" });
    config["dns"] = json!({ "nameservers": ["10.96.0.10"] });
    let result = node.call(&env, &config).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.244.1.77/32");
    assert_eq!(result["ips"][0]["version"], "4");
    assert_eq!(result["dns"]["nameservers"][0], "10.96.0.10");
    let mut inner = Netlink::in_namespace(&namespace).unwrap();
    let eth0 = inner.link("eth0").unwrap().unwrap();
    assert_eq!(eth0.mac.unwrap().to_string(), "02:11:22:33:44:55");
}

#[test]
fn a_hundred_adds_at_once() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let pods: Vec<_> = (0..100).map(|n| world.pod_env(&format!("p{n}"))).collect();
    let node = &world.nodes[0];
    let results: Vec<Value> = std::thread::scope(|scope| {
        let add = |env| scope.spawn(move || node.call(env, &node.config("1.1.0")).unwrap());
        let threads: Vec<_> = pods.iter().map(|(_, env)| add(env)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut distinct = HashSet::new();
    for result in &results {
        for ip in result["ips"].as_array().unwrap() {
            assert!(distinct.insert(ip["address"].as_str().unwrap().to_owned()));
        }
    }
    assert_eq!(distinct.len(), 200);
    assert_eq!(node.netlink().routes(ROUTE_PROTOCOL).unwrap().len(), 200);
    let last: IpAddr = "10.244.1.101".parse().unwrap();
    assert!(ping(&node.namespace, last));
    let del =
        |env: &cni::Environment| cni::Environment { command: "DEL".to_owned(), ..env.clone() };
    std::thread::scope(|scope| {
        for (_, env) in &pods {
            scope.spawn(move || node.call(&del(env), &node.config("1.1.0")).unwrap());
        }
    });
    assert_eq!(node.reserved(), Vec::<String>::new());
    assert_eq!(node.netlink().routes(ROUTE_PROTOCOL).unwrap(), []);
}

#[test]
fn ipv6_switched_off_in_the_pod_is_switched_on() {
    if !ready() {
        return;
    }
    let mut world = World::new(1);
    let (namespace, env) = world.pod_env("one");
    for scope in ["all", "default"] {
        let name = format!("net/ipv6/conf/{scope}/disable_ipv6");
        namespace.run(|| link::sysctl::ensure(&name, "1").unwrap()).unwrap();
    }
    let node = &world.nodes[0];
    let result = node.call(&env, &node.config("1.1.0")).unwrap();
    let address = result["ips"][1]["address"].as_str().unwrap().split_once('/').unwrap().0;
    assert!(ping(&node.namespace, address.parse().unwrap()));
}

#[test]
fn pods_reach_other_nodes_by_routes() {
    if !ready() {
        return;
    }
    let mut world = World::new(2);
    let one = world.pod(0, "one");
    let two = world.pod(1, "two");
    for (here, there) in [(0, 1), (1, 0)] {
        let other = world.nodes[there].number;
        let node = &world.nodes[here];
        let to = |net: String, via: String| {
            let route = Route::to(net.parse().unwrap()).via(via.parse().unwrap());
            Change::ReplaceRoute(route.on(node.uplink).protocol(ROUTE_PROTOCOL))
        };
        let v4 = to(format!("10.244.{other}.0/24"), format!("172.30.1.{other}"));
        let v6 = to(format!("fd00:10:244:{other}::/64"), format!("fd00:172:30::1:{other}"));
        let up = Change::SetLink(node.uplink.into(), LinkSettings::up());
        node.netlink().apply(&[up, v4, v6]).unwrap();
    }
    for address in two.addresses() {
        assert!(ping(&one.namespace, address), "{address}");
        assert!(one.addresses().contains(&tcp(&one.namespace, &two.namespace, address)));
    }
    assert!(ping(&one.namespace, "172.30.1.2".parse().unwrap()));
    assert!(ping(&world.nodes[1].namespace, one.addresses()[1]));
}
