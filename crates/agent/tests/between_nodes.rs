//! Three nodes on two subnets, an agent each, one API: pods reach each other directly, in VXLAN, and across subnets only;
//! the way is switched under traffic; what others break is repaired; nodes come, go and lose their link.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod cluster_of_nodes;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_of_nodes::{Cluster, Pinger, eventually};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn pods_reach_each_other_in_every_mode_and_a_switch_loses_nothing_else() {
    let Some(cluster) = Cluster::start(&[1, 2, 3], agent::Ipam::NodeCidr) else { return };
    cluster.pool("four", "10.244.0.0/16", "Never");
    cluster.pool("six", "fd00:10:244::/48", "Never");
    cluster.run_agents();
    for n in 1..=3 {
        cluster.pod(n, "a");
    }
    let to = |n: u8| [format!("10.244.{n}.2"), format!("fd00:10:244:{n}::2")];
    let (near, far) = (to(2), to(3));

    // Direct: nodes of one subnet. The one behind the router is not reached, and the log says why.
    for address in &near {
        eventually(&format!("direct to {address}"), 5 * SECOND, || {
            cluster.asks("1a", address).is_some()
        });
    }
    assert_eq!(cluster.asks("1a", &far[0]), None);
    let routes = cluster.on(1, "ip route");
    assert!(routes.contains("10.244.2.0/24 via 172.30.1.2 dev eth0 proto 250"), "{routes}");
    assert!(routes.contains("blackhole 10.244.1.0/24 proto 250"), "{routes}");
    println!("$ ip route    # node-1, direct\n{routes}");

    // VXLAN everywhere, switched under traffic in both families.
    let pingers: Vec<Pinger> = near.iter().map(|to| cluster.ping("1a", to)).collect();
    cluster.pool("four", "10.244.0.0/16", "Always");
    cluster.pool("six", "fd00:10:244::/48", "Always");
    for address in near.iter().chain(&far) {
        eventually(&format!("VXLAN to {address}"), 10 * SECOND, || {
            cluster.asks("1a", address).is_some()
        });
    }
    let tunnelled = || {
        cluster
            .on(1, "ip route")
            .contains("10.244.2.0/24 via 10.244.2.0 dev vxlan.fairway proto 250 onlink")
            && cluster.on(1, "ip -6 route").contains("fd00:10:244:2::/64 via fe80::")
    };
    eventually("routes into the tunnels", 5 * SECOND, tunnelled);
    println!("$ ip route    # node-1, VXLAN\n{}", cluster.on(1, "ip route"));
    println!("$ ip -d link show vxlan.fairway\n{}", cluster.on(1, "ip -d link show vxlan.fairway"));
    println!(
        "$ bridge fdb show dev vxlan.fairway\n{}",
        cluster.on(1, "bridge fdb show dev vxlan.fairway")
    );
    std::thread::sleep(SECOND / 2);
    for pinger in pingers {
        let (sent, lost) = pinger.stop();
        println!("direct → VXLAN: {lost} of {sent} pings lost, one every 5 ms");
        assert!(sent > 50 && lost <= 40, "{lost} of {sent}");
    }
    // Neither end sees another address than the pods' own, whoever they talk to.
    for address in near.iter().chain(&far) {
        let seen = cluster.asks("1a", address).unwrap();
        assert!(seen == "10.244.1.2" || seen == "fd00:10:244:1::2", "{seen}");
    }
    assert_eq!(
        cluster.asks("1a", "172.31.1.3").as_deref(),
        Some("10.244.1.2"),
        "pods and nodes without NAT"
    );
    assert_eq!(cluster.asks("1a", "192.0.2.1").as_deref(), Some("172.30.1.1"), "NAT to outside");
    // The node itself talks to pods from its end of the tunnel, so that answers come back through it.
    assert_eq!(cluster.asks("1", &far[0]).as_deref(), Some("10.244.1.0"));
    // Pods that run have followed: both ends, or one would drop what the other sends.
    for pod in ["1a", "2a", "3a"] {
        eventually(&format!("{pod} sends shorter packets"), 5 * SECOND, || {
            cluster.in_pod(pod, "ip link show eth0").contains("mtu 1430")
        });
    }
    assert_eq!(cluster.on(1, "ip -o link show type veth").matches("mtu 1430").count(), 1);
    // The largest packet of a pod made now passes whole; one byte more is refused to its sender.
    cluster.pod(1, "b");
    let link = cluster.in_pod("1b", "ip link show eth0");
    assert!(link.contains("mtu 1430"), "{link}");
    for address in [&far[0], &near[0]] {
        eventually("the largest packet passes", 5 * SECOND, || {
            cluster.passes("1b", address, 1430 - 28)
        });
        assert!(!cluster.passes("1b", address, 1430 - 27), "{address}");
    }
    eventually("and in IPv6", 5 * SECOND, || cluster.passes("1b", &far[1], 1430 - 48));

    // What somebody breaks comes back.
    for damage in [
        "ip route del 10.244.2.0/24",
        "ip link set vxlan.fairway down",
        "bridge fdb flush dev vxlan.fairway",
        "ip neigh del 10.244.2.0 dev vxlan.fairway",
        "ip link del vxlan.fairway",
        "ip addr flush dev vxlan.fairway",
        "ip route del blackhole 10.244.1.0/24",
    ] {
        cluster.on(1, damage);
        let whole = || {
            cluster.asks("1a", &near[0]).is_some()
                && cluster.on(1, "ip route").contains("blackhole 10.244.1.0/24")
                && cluster.on(1, "ip -4 addr show dev vxlan.fairway").contains("10.244.1.0/32")
        };
        let took = eventually(&format!("repair after `{damage}`"), 5 * SECOND, whole);
        println!("repaired {took:?} after `{damage}`");
    }

    // Across subnets only: the near node directly again, the far one still in the tunnel.
    let pinger = (cluster.ping("1a", &near[0]), cluster.ping("1a", &far[0]));
    cluster.pool("four", "10.244.0.0/16", "CrossSubnet");
    eventually("direct to the near one", 5 * SECOND, || {
        cluster.on(1, "ip route").contains("10.244.2.0/24 via 172.30.1.2 dev eth0 proto 250")
    });
    let routes = cluster.on(1, "ip route");
    assert!(
        routes.contains("10.244.3.0/24 via 10.244.3.0 dev vxlan.fairway proto 250 onlink"),
        "{routes}"
    );
    println!("$ ip route    # node-1, across subnets only\n{routes}");
    std::thread::sleep(SECOND / 2);
    for (what, pinger) in [("near", pinger.0), ("far", pinger.1)] {
        let (sent, lost) = pinger.stop();
        println!("VXLAN → across subnets only, {what} node: {lost} of {sent} pings lost");
        assert!(sent > 50 && lost <= 20, "{lost} of {sent}");
    }

    // A restart changes nothing.
    let before = cluster.on(1, "ip route; ip -6 route; bridge fdb show; ip -o link");
    let pinger = cluster.ping("1a", &far[0]);
    cluster.restart_agent(1);
    let (sent, lost) = pinger.stop();
    assert_eq!(lost, 0, "of {sent}");
    assert_eq!(cluster.on(1, "ip route; ip -6 route; bridge fdb show; ip -o link"), before);

    // A link that goes down takes its routes along; they are back when it is.
    cluster.on(2, "ip link set eth0 down");
    assert_eq!(cluster.asks("1a", &near[0]), None);
    cluster.on(2, "ip link set eth0 up; ip route replace default via 172.30.1.254; ip addr replace fd00:172:30::2/64 dev eth0 nodad");
    eventually("the link is back", 5 * SECOND, || cluster.asks("2a", "10.244.1.2").is_some());

    // The node's address changes.
    cluster.on(2, "ip addr del 172.30.1.2/24 dev eth0; ip addr add 172.30.1.22/24 dev eth0; ip route replace default via 172.30.1.254");
    cluster.node(2, "172.30.1.22");
    eventually("the new address", 5 * SECOND, || {
        cluster.on(1, "ip route").contains("10.244.2.0/24 via 172.30.1.22")
            && cluster.asks("1a", &near[0]).is_some()
    });

    // A node goes: so does the way to it.
    cluster.delete_node(3);
    eventually("nothing of node-3 is left", 5 * SECOND, || {
        let routes = cluster.on(1, "ip route; ip -6 route");
        let table = cluster.on(1, "bridge fdb show dev vxlan6.fairway");
        !routes.contains("10.244.3.")
            && !routes.contains("fd00:10:244:3:")
            && !table.contains("fd00:172:31::3")
    });
}

#[test]
fn a_reboot_with_the_api_down_brings_routes_and_tunnels_back() {
    let Some(cluster) = Cluster::start(&[1, 3], agent::Ipam::NodeCidr) else { return };
    cluster.pool("four", "10.244.0.0/16", "CrossSubnet");
    cluster.run_agents();
    cluster.pod(3, "a");
    eventually("a way", 5 * SECOND, || cluster.asks("1", "10.244.3.2").is_some());
    eventually("the facts are on disk", 60 * SECOND, || {
        let facts = cluster.facts(1);
        facts.contains("vxlan-cross-subnet") && facts.contains("node-3")
    });
    cluster.stop_api();
    cluster.stop_agent(1);
    cluster.forget_everything(1);
    assert_eq!(cluster.asks("1", "10.244.3.2"), None);
    cluster.run_agent(1);
    let took = eventually("back without the API", 20 * SECOND, || {
        cluster.asks("1", "10.244.3.2").is_some()
    });
    println!("routes and tunnel back {took:?} after the start, the API down");
    assert!(cluster.conflist(1).contains("10.244.1.0/24"));
}

#[test]
fn nodes_take_blocks_of_pools_share_the_last_ones_and_give_them_back() {
    let Some(cluster) = Cluster::start(&[1, 2, 3], agent::Ipam::Pools) else { return };
    // Two blocks of 16 for three nodes; and another pool on request.
    cluster.pool_with("small", json!({"cidr": "10.50.0.0/27", "blockSize": 28, "vxlanMode": "CrossSubnet", "natOutgoing": true}));
    cluster.pool_with(
        "six",
        json!({"cidr": "fd00:10:50::/48", "vxlanMode": "CrossSubnet", "natOutgoing": true}),
    );
    cluster.run_agents();
    let blocks = || -> Vec<Value> {
        let listed = cluster.get("/apis/fairway.dev/v1/addressblocks").unwrap();
        listed["items"].as_array().unwrap().clone()
    };
    let four = || -> Vec<Value> {
        blocks()
            .into_iter()
            .filter(|block| block["spec"]["cidr"].as_str().unwrap().starts_with("10.50."))
            .collect()
    };
    eventually("both blocks are taken", 5 * SECOND, || four().len() == 2);
    for block in blocks() {
        println!(
            "{} {} {}",
            block["metadata"]["name"], block["spec"]["cidr"], block["spec"]["node"]
        );
    }

    // Every node gets addresses, also the one that came too late: it is lent a part.
    let mut seen = BTreeSet::new();
    for n in 1..=3 {
        for pod in ["a", "b"] {
            for ip in cluster.pod(n, pod) {
                println!("node-{n} pod {pod}: {ip}");
                assert!(seen.insert(ip.clone()), "{ip} twice");
            }
        }
    }
    let lent = four()
        .iter()
        .filter_map(|block| block["spec"]["lent"].as_array().map(Vec::len))
        .sum::<usize>();
    assert_eq!(lent, 1, "{:?}", four());
    // And all reach all, by the longest route.
    let addresses: Vec<String> = seen.iter().filter(|ip| ip.contains('.')).cloned().collect();
    for from in ["1a", "2a", "3a"] {
        for to in &addresses {
            eventually(&format!("{from} reaches {to}"), 5 * SECOND, || {
                cluster.asks(from, to).is_some()
            });
        }
    }
    println!("$ ip route    # node-1\n{}", cluster.on(1, "ip route"));

    // A fixed address, of a pool nobody gets addresses of unasked.
    cluster.pool_with(
        "special",
        json!({"cidr": "10.60.0.0/24", "assignmentMode": "Manual", "natOutgoing": true}),
    );
    cluster.post("/api/v1/namespaces/default/pods", &json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "fixed", "annotations": {"fairway.dev/addresses": "10.60.0.77", "fairway.dev/pools": "special,six"}},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "httpd"}]}}));
    eventually("the wish has arrived", 5 * SECOND, || {
        cluster.list(1).contains("10.60.0.64/26") && cluster.list(1).contains("default/fixed")
    });
    assert!(cluster.pod(1, "fixed").contains(&"10.60.0.77".to_owned()));
    eventually("the fixed address is reached", 5 * SECOND, || {
        cluster.asks("2a", "10.60.0.77").is_some()
    });

    // Many at once on one node, while its block is small: it grows, and no address is given twice.
    cluster
        .pool_with("more", json!({"cidr": "10.70.0.0/16", "blockSize": 28, "natOutgoing": true}));
    let given = cluster.burst(2, 100);
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (200, 200), "one of each family, each once");
    assert!(given.iter().all(|ip| !seen.contains(ip)));
    let grown = blocks().iter().filter(|block| block["spec"]["node"] == "node-2").count();
    println!("node-2 holds {grown} blocks after 100 ADDs at once");

    // All gone: the blocks go back, but for one a family.
    cluster.burst_ends(2, 100);
    for pod in ["a", "b"] {
        assert_eq!(cluster.cni(2, pod, "DEL").0, 0);
    }
    let held = || blocks().iter().filter(|block| block["spec"]["node"] == "node-2").count();
    eventually("blocks are given back", 30 * SECOND, || held() <= 3);

    // A leaked reservation and an unreserved address are found at the next start.
    let dir = cluster.ipam_dir(1);
    let leaked = dir.join("10.50.0.200");
    std::fs::write(&leaked, "gone\r\neth0").unwrap();
    let old = std::time::SystemTime::now() - 600 * SECOND;
    std::fs::File::options().write(true).open(&leaked).unwrap().set_modified(old).unwrap();
    let fixed = dir.join("10.60.0.77");
    std::fs::remove_file(&fixed).unwrap();
    cluster.restart_agent(1);
    eventually("the leaked one is free, the other reserved", 5 * SECOND, || {
        !leaked.exists() && fixed.exists()
    });

    // The API is down: pods come and go as long as the blocks have room.
    cluster.stop_api();
    cluster.stop_agent(1);
    let (code, answer) = cluster.cni(1, "a", "DEL");
    assert_eq!(code, 0, "{answer}");
    let again = cluster.pod(1, "c");
    assert!(again[0].starts_with("10."), "{again:?}");
    cluster.run_agent(1);
    assert_eq!(cluster.pod(1, "d").len(), 2);
}
