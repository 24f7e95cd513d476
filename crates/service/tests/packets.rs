//! Real packets through the real kernel: a client, a node and two pods in namespaces of their own.
//!
//! Every transaction goes to the kernel and to the double; afterwards both list the same table.

mod objects;
mod world;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use world::{World, ask_tcp, ask_udp};

const NODE: &str = r#"
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
"#;

fn service(name: &str, extra: &str) -> String {
    format!(
        "---\nkind: Service\nmetadata: {{namespace: default, name: {name}}}\nspec:\n  type: NodePort\n  \
         clusterIPs: [10.96.0.10, 'fd00:10:96::a']\n  ports: [{{name: tcp, port: 80, nodePort: 30080}}, \
         {{name: udp, port: 81, nodePort: 30081, protocol: UDP}}]\n{extra}\n"
    )
}

/// Slices of both families with these pods (5, 6).
fn slices(name: &str, pods: &[u8]) -> String {
    let list = |prefix: &str| -> String {
        pods.iter()
            .map(|pod| format!("- {{addresses: ['{prefix}{pod}'], nodeName: node-1}}\n"))
            .collect()
    };
    let one = |family: &str, prefix: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{namespace: default, name: {name}-{family}, labels: \
             {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\nports: [{{name: tcp, port: 8080}}, \
             {{name: udp, port: 8081, protocol: UDP}}]\nendpoints: {}\n{}",
            if pods.is_empty() { "[]" } else { "" },
            list(prefix)
        )
    };
    format!("{}\n{}", one("IPv4", "10.244.1."), one("IPv6", "fd00:10:244:1::"))
}

#[test]
fn services_answer_from_pods_nodes_and_outside_in_both_families() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}{}", service("web", ""), slices("web", &[6])));
    // A pod keeps its address; the node's own and the outside's traffic comes back through the node.
    for (from, to, peer) in [
        (&world.pods[0], "10.96.0.10:80", "10.244.1.5"),
        (&world.pods[0], "[fd00:10:96::a]:80", "fd00:10:244:1::5"),
        (&world.client, "172.30.1.1:30080", "!172.30.0.2"),
        (&world.client, "[fd00:172:30::101]:30080", "!fd00:172:30::2"),
        (&world.node, "10.96.0.10:80", "!10.96.0.10"),
        (&world.node, "172.30.1.1:30080", "!10.244.1.6"),
        (&world.client, "10.96.0.10:80", "!172.30.0.2"),
    ] {
        let (who, seen) = ask_tcp(from, to).unwrap_or_else(|error| panic!("TCP to {to}: {error}"));
        assert_eq!(who, "pod-6", "TCP to {to}");
        match peer.strip_prefix('!') {
            Some(not) => assert_ne!(seen, not, "TCP to {to} is masqueraded"),
            None => assert_eq!(seen, peer, "TCP to {to} is not masqueraded"),
        }
    }
    for (from, to) in [
        (&world.pods[0], "10.96.0.10:81"),
        (&world.pods[0], "[fd00:10:96::a]:81"),
        (&world.client, "172.30.1.1:30081"),
        (&world.client, "[fd00:172:30::101]:30081"),
    ] {
        let (who, _) = ask_udp(from, to, 0).unwrap_or_else(|error| panic!("UDP to {to}: {error}"));
        assert_eq!(who, "pod-6", "UDP to {to}");
    }
    // Loopback is not a node address.
    assert_eq!(
        ask_tcp(&world.node, "127.0.0.1:30080").expect_err("loopback").kind(),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}{}", service("web", ""), slices("web", &[5])));
    for to in ["10.96.0.10:80", "[fd00:10:96::a]:80"] {
        let (who, seen) =
            ask_tcp(&world.pods[0], to).unwrap_or_else(|error| panic!("hairpin to {to}: {error}"));
        assert_eq!(who, "pod-5");
        assert!(!seen.ends_with(".5") && !seen.ends_with("::5"), "masqueraded, not {seen}");
    }
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}{}", service("web", ""), slices("web", &[])));
    for (from, to) in [
        (&world.pods[0], "10.96.0.10:80"),
        (&world.pods[0], "[fd00:10:96::a]:80"),
        (&world.node, "10.96.0.10:80"),
        (&world.client, "172.30.1.1:30080"),
        (&world.client, "[fd00:172:30::101]:30080"),
    ] {
        let start = std::time::Instant::now();
        let error = ask_tcp(from, to).expect_err("nobody is there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
        assert!(start.elapsed() < Duration::from_millis(500), "{to} took {:?}", start.elapsed());
    }
    world.set(&slices("web", &[6]));
    assert_eq!(ask_tcp(&world.pods[0], "10.96.0.10:80").expect("an endpoint").0, "pod-6");
}

#[test]
fn connections_spread_evenly() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}{}", service("web", ""), slices("web", &[5, 6])));
    let mut counts = BTreeMap::new();
    for _ in 0..600 {
        *counts
            .entry(ask_tcp(&world.client, "172.30.1.1:30080").expect("an answer").0)
            .or_insert(0) += 1;
    }
    // Six standard deviations of a fair coin over 600 throws are 73.
    assert!(
        counts.values().all(|count| (227..=373).contains(count)) && counts.len() == 2,
        "{counts:?}"
    );
}

#[test]
fn affinity_sticks_and_expires() {
    let Some(mut world) = World::or_skip() else { return };
    let affine =
        "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}";
    world.set(&format!("{NODE}{}{}", service("web", affine), slices("web", &[5, 6])));
    for to in ["172.30.1.1:30080", "10.96.0.10:80", "[fd00:172:30::101]:30080"] {
        let first = ask_tcp(&world.client, to).expect("an answer").0;
        for _ in 0..20 {
            assert_eq!(ask_tcp(&world.client, to).expect("an answer").0, first, "{to} sticks");
        }
        // A fresh choice is the same one half of the time: 12 in a row are one in 4,096.
        let moved = (0..12).any(|_| {
            std::thread::sleep(Duration::from_millis(1300));
            ask_tcp(&world.client, to).expect("an answer").0 != first
        });
        assert!(moved, "{to} never expires");
    }
}

#[test]
fn a_udp_client_follows_its_service() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}{}", service("web", ""), slices("web", &[5])));
    // One source port throughout: connection tracking would keep it where it was.
    for (from, to) in [(&world.client, "172.30.1.1:30081"), (&world.client, "10.96.0.10:81")] {
        assert_eq!(ask_udp(from, to, 4444).expect("an answer").0, "pod-5", "{to}");
    }
    world.set(&slices("web", &[6]));
    for (from, to) in [(&world.client, "172.30.1.1:30081"), (&world.client, "10.96.0.10:81")] {
        assert_eq!(
            ask_udp(from, to, 4444).expect("an answer").0,
            "pod-6",
            "{to} follows the endpoint"
        );
    }
    // None, then one again.
    world.set(&slices("web", &[]));
    assert!(ask_udp(&world.client, "10.96.0.10:81", 4444).is_err(), "nobody is there");
    world.set(&slices("web", &[5]));
    assert_eq!(ask_udp(&world.client, "10.96.0.10:81", 4444).expect("an answer").0, "pod-5");
}

#[test]
fn a_policy_that_becomes_local_moves_udp_clients_outside_and_nobody_else() {
    let Some(mut world) = World::or_skip() else { return };
    let endpoints = |list: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{namespace: default, name: web-4, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: udp, port: 8081, \
             protocol: UDP}}]\nendpoints: [{list}]\n"
        )
    };
    // As far as the cluster knows, pod 6 is on another node.
    let far = "{addresses: [10.244.1.6], nodeName: node-2}";
    world.set(&format!("{NODE}{}{}", service("web", ""), endpoints(far)));
    let to = "172.30.1.1:30081";
    for from in [&world.client, &world.pods[0]] {
        assert_eq!(ask_udp(from, to, 4444).expect("an answer").0, "pod-6");
    }
    let both = format!("{{addresses: [10.244.1.5], nodeName: node-1}}, {far}");
    world.set(&format!(
        "{}{}",
        service("web", "  externalTrafficPolicy: Local").trim_start_matches("---\n"),
        endpoints(&both)
    ));
    let (who, seen) = ask_udp(&world.client, to, 4444).expect("an answer");
    assert_eq!((who.as_str(), seen.as_str()), ("pod-5", "172.30.0.2"), "the node's own, unhidden");
    assert_eq!(
        ask_udp(&world.pods[0], to, 4444).expect("an answer").0,
        "pod-6",
        "a pod's connection goes on"
    );
}

#[test]
fn a_udp_client_stays_with_an_endpoint_that_terminates_until_it_is_gone() {
    let Some(mut world) = World::or_skip() else { return };
    let endpoints = |list: &str| {
        format!(
            "kind: EndpointSlice\nmetadata: {{namespace: default, name: web-4, labels: \
             {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: udp, port: 8081, \
             protocol: UDP}}]\nendpoints: [{list}]\n"
        )
    };
    let one = "{addresses: [10.244.1.5], nodeName: node-1}";
    world.set(&format!("{NODE}{}---\n{}", service("web", ""), endpoints(one)));
    let frontends = ["10.96.0.10:81", "172.30.1.1:30081"];
    for to in frontends {
        assert_eq!(ask_udp(&world.client, to, 4444).expect("an answer").0, "pod-5");
    }
    let other = "{addresses: [10.244.1.6], nodeName: node-1}";
    let going = "{addresses: [10.244.1.5], nodeName: node-1, conditions: {ready: false, serving: true, terminating: true}}";
    world.set(&endpoints(&format!("{going}, {other}")));
    for to in frontends {
        assert_eq!(ask_udp(&world.client, to, 4444).expect("an answer").0, "pod-5", "{to} drains");
        assert_eq!(ask_udp(&world.client, to, 0).expect("an answer").0, "pod-6", "{to}, anew");
    }
    world.set(&endpoints(other));
    for to in frontends {
        assert_eq!(ask_udp(&world.client, to, 4444).expect("an answer").0, "pod-6", "{to} moved");
    }
}
