//! IP in IP, in a machine whose kernel has it: three nodes on two subnets, an agent each. Pods reach each other through the tunnel,
//! directly, and across subnets only; the tables are the seed's, but for our names.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod cluster_of_nodes;
mod in_a_kernel;
mod world;

use std::time::Duration;

use cluster_of_nodes::{Cluster, eventually};
use serde_json::{Value, json};

const SOME: Duration = Duration::from_secs(5);
/// How much one TCP connection carries: some hundred full packets.
const BYTES: usize = 512 * 1024;

/// Bytes the tunnel of a node sent and received. Not packets: what waits together goes as one.
fn counted(cluster: &Cluster, n: u8) -> (u64, u64) {
    let text = cluster.on(n, "ip -j -s link show ipip.fairway");
    let links: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let bytes = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().unwrap();
    (bytes("tx"), bytes("rx"))
}

#[test]
fn pods_reach_each_other_in_ip_in_ip() {
    if !in_a_kernel::inside("pods_reach_each_other_in_ip_in_ip") {
        return;
    }
    let Some(cluster) = Cluster::start(&[1, 2, 3], agent::Ipam::NodeCidr) else { return };
    let mode = |ipip: &str| {
        let spec = json!({"cidr": "10.244.0.0/16", "ipipMode": ipip, "natOutgoing": true});
        cluster.pool_with("four", spec);
    };
    mode("Always");
    cluster.run_agents();
    for n in 1..=3 {
        cluster.pod(n, "a");
    }
    let (near, far) = ("10.244.2.2", "10.244.3.2");
    let routes = || cluster.on(1, "ip route");
    let reaches = |to: &str| {
        eventually(&format!("IP in IP to {to}"), SOME, || cluster.asks("1a", to).is_some());
    };

    // All in the tunnel, as the seed has it: gateway is the node, `onlink`, our protocol number.
    [near, far].into_iter().for_each(reaches);
    let table = routes();
    for line in [
        "10.244.2.0/24 via 172.30.1.2 dev ipip.fairway proto 250 onlink",
        "10.244.3.0/24 via 172.31.1.3 dev ipip.fairway proto 250 onlink",
        "blackhole 10.244.1.0/24 proto 250",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    println!("$ ip route    # node-1, IP in IP\n{table}");
    println!("$ ip route    # node-3\n{}", cluster.on(3, "ip route"));
    let link = cluster.on(1, "ip -d link show ipip.fairway");
    println!("$ ip -d link show ipip.fairway    # node-1\n{link}");
    for part in ["mtu 1480", "ipip remote any local 172.30.1.1", "alias fairway:tunnel"] {
        assert!(link.contains(part), "{part}: {link}");
    }
    let neighbours = cluster.in_pod("1a", "ip neigh");
    println!("$ ip neigh    # pod of node-1\n{neighbours}");
    assert!(neighbours.contains("169.254.1.1 dev eth0 lladdr ee:ee:ee:ee:ee:ee PERMANENT"));

    // What pods send goes through the tunnel and nowhere else, both ends see the pods' own addresses.
    let before = counted(&cluster, 1);
    let pinged = cluster.in_pod("1a", &format!("ping -c 3 -W 5 {far}"));
    println!("$ ping -c 3 {far}    # pod of node-1\n{pinged}");
    assert!(pinged.contains("3 packets transmitted, 3 packets received"), "{pinged}");
    assert_eq!(cluster.carries("1a", "3a", far, BYTES), Some(BYTES), "TCP through the tunnel");
    let after = counted(&cluster, 1);
    assert!(after.0 >= before.0 + 3 * 84 + BYTES as u64, "sent {before:?} {after:?}");
    assert!(after.1 > before.1 + 3 * 84, "received {before:?} {after:?}");
    for to in [near, far] {
        assert_eq!(cluster.asks("1a", to).as_deref(), Some("10.244.1.2"));
    }
    // A node that talks to a pod does it from its end of the tunnel; pods to the outside are masqueraded.
    assert_eq!(cluster.asks("1", far).as_deref(), Some("10.244.1.0"));
    assert_eq!(cluster.asks("1a", "192.0.2.1").as_deref(), Some("172.30.1.1"));
    // The largest packet passes whole, one byte more is refused to its sender.
    cluster.pod(1, "b");
    assert!(cluster.in_pod("1b", "ip link show eth0").contains("mtu 1480"));
    eventually("the largest packet", SOME, || cluster.passes("1b", far, 1480 - 28));
    assert!(!cluster.passes("1b", far, 1480 - 27));

    // What somebody breaks comes back.
    for damage in ["ip link del ipip.fairway", "ip route del 10.244.3.0/24"] {
        cluster.on(1, damage);
        eventually(&format!("repair after `{damage}`"), SOME, || cluster.asks("1a", far).is_some());
    }

    // Across subnets only: the near node directly.
    mode("CrossSubnet");
    eventually("direct to the near one", SOME, || {
        routes().contains("10.244.2.0/24 via 172.30.1.2 dev eth0 proto 250")
    });
    assert!(routes().contains("10.244.3.0/24 via 172.31.1.3 dev ipip.fairway proto 250 onlink"));
    println!("$ ip route    # node-1, across subnets only\n{}", routes());
    let before = counted(&cluster, 1);
    assert_eq!(cluster.carries("1a", "2a", near, BYTES), Some(BYTES));
    assert_eq!(counted(&cluster, 1), before, "nothing of it in the tunnel");
    reaches(far);

    // Never: the near one directly, the far one not at all.
    mode("Never");
    eventually("no way into the tunnel", SOME, || !routes().contains("ipip.fairway proto 250"));
    println!("$ ip route    # node-1, direct\n{}", routes());
    assert_eq!(cluster.carries("1a", "2a", near, BYTES), Some(BYTES));
    assert_eq!(cluster.asks("1a", far), None);

    let mtu = |mtu: &str| cluster.in_pod("1a", "ip link show eth0").contains(mtu);
    eventually("pods that run send whole packets", SOME, || mtu("mtu 1500"));

    // And VXLAN in its place.
    cluster.pool_with(
        "four",
        json!({"cidr": "10.244.0.0/16", "ipipMode": "Never", "vxlanMode": "Always", "natOutgoing": true}),
    );
    eventually("VXLAN", SOME, || cluster.asks("1a", far).is_some());
    assert!(routes().contains("10.244.3.0/24 via 10.244.3.0 dev vxlan.fairway proto 250 onlink"));
    eventually("and shorter ones again", SOME, || mtu("mtu 1450"));
}
