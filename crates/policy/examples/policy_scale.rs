//! What policy costs in a large cluster, in a network namespace of its own (root): the plan and its commit from nothing, and what
//! one pod's and one policy's change ask of the kernel. `cargo run --release -p fairway-policy --example policy_scale -- PODS POLICIES`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement fails by panicking and says what it saw"
)]

use std::time::{Duration, Instant};

use link::Namespace;
use model::{Event, NodeName, Parsed, SnapshotWriter, Update};
use nft::Kernel as _;
use nft::kernel::Netlink;
use policy::Planner;
use serde_json::{Value, json};

/// Pods of the node whose plan it is.
const LOCAL: usize = 110;
const NAMESPACES: usize = 50;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(number: usize, tier: &str) -> model::Pod {
    // The node's own pods are spread over all namespaces.
    let here = number < LOCAL;
    let node = if here { 0 } else { number / LOCAL };
    let object: k8s_openapi::api::core::v1::Pod = read(json!({
        "metadata": {"namespace": format!("ns-{}", number % NAMESPACES), "name": format!("pod-{number}"),
            "labels": {"app": format!("app-{}", number % 200), "tier": tier}},
        "spec": {"nodeName": format!("node-{node}"), "containers": []},
        "status": {"phase": "Running", "podIPs": [
            {"ip": format!("10.{}.{}.{}", 64 + (number >> 16), number >> 8 & 255, number & 255)},
            {"ip": format!("fd00:10::{number:x}")}]}
    }));
    Parsed::<model::Pod>::try_from(&object).unwrap().value
}

fn policy(number: usize, port: u16) -> model::NetworkPolicy {
    let peer = json!({"namespaceSelector": {"matchLabels": {"team": format!("{}", number % 10)}},
        "podSelector": {"matchLabels": {"app": format!("app-{}", number * 7 % 200)}}});
    let object: k8s_openapi::api::networking::v1::NetworkPolicy = read(json!({
        "metadata": {"namespace": format!("ns-{}", number % NAMESPACES), "name": format!("policy-{number}")},
        "spec": {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In",
                "values": (0..20).map(|n| format!("app-{}", (number + n * 50) % 200)).collect::<Vec<_>>()}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [peer, {"podSelector": {}}], "ports": [{"port": port}]},
                        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": [format!("10.{}.0.0/16", number % 250)]}}]}],
            "egress": [{"to": [{"namespaceSelector": {}}]}]}
    }));
    Parsed::<model::NetworkPolicy>::try_from(&object).unwrap().value
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let pods = arguments.next().unwrap_or(10_000);
    let policies = arguments.next().unwrap_or(500);
    let name = format!("fwscale-{}", std::process::id());
    let namespace = Namespace::create(&name).unwrap();
    let outcome = namespace.run(|| std::panic::catch_unwind(|| measure(pods, policies)));
    Namespace::delete(&name).unwrap();
    outcome.unwrap().unwrap();
}

fn measure(pods: usize, policies: usize) {
    let mut writer = SnapshotWriter::default();
    for number in 0..NAMESPACES {
        let object: k8s_openapi::api::core::v1::Namespace = read(json!({"metadata": {
            "name": format!("ns-{number}"), "labels": {"team": format!("{}", number % 10)}}}));
        let value = Parsed::<model::Namespace>::try_from(&object).unwrap().value;
        writer.apply(Event::Namespace(Update::Applied(value)));
    }
    for number in 0..pods {
        writer.apply(Event::Pod(Update::Applied(pod(number, "blue"))));
    }
    for number in 0..policies {
        writer.apply(Event::NetworkPolicy(Update::Applied(policy(number, 80))));
    }
    writer.take_change();
    let mut kernel = Netlink::open().unwrap();
    let mut planner = Planner::new(NodeName::new("node-0"));
    let started = Instant::now();
    let table = planner.full(writer.snapshot()).table;
    let planned = started.elapsed();
    let transaction = nft::diff(&table, None);
    let compared = started.elapsed();
    kernel.commit(&transaction).unwrap();
    let (identities, sets) = planner.counts();
    println!(
        "{pods} pods ({LOCAL} here), {policies} policies: {identities} identities, {sets} sets of peers, {} operations",
        transaction.len()
    );
    println!(
        "from nothing: {:?} (plan {planned:?}, transaction {:?}, kernel {:?})",
        started.elapsed(),
        compared - planned,
        started.elapsed() - compared
    );
    let mut step = |what: &str, events: Vec<Event>| {
        let mut took: Vec<(Duration, Duration, usize)> = Vec::new();
        for event in events {
            let started = Instant::now();
            writer.apply(event);
            let change = writer.take_change();
            let delta = planner.update(writer.snapshot(), &change);
            let planned = started.elapsed();
            let operations = delta.transaction.len();
            if operations > 0 {
                kernel.commit(&delta.transaction).unwrap();
            }
            took.push((started.elapsed(), planned, operations));
        }
        took.sort();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!(
            "{what}: p50 {:?} (plan {:?}, {} operations), p99 {:?}",
            p50.0, p50.1, p50.2, p99.0
        );
    };
    let relabel = |from: usize| {
        (0..200).map(move |n| {
            let mut pod = pod(from + n / 2, if n % 2 == 0 { "red" } else { "blue" });
            let app = format!("app-{}", if n % 2 == 0 { 7 } else { (from + n / 2) % 200 });
            pod.labels = [("app", app.as_str()), ("tier", "x")].into_iter().collect();
            Event::Pod(Update::Applied(pod))
        })
    };
    step("a pod elsewhere changes its labels", relabel(pods / 2).collect());
    step("a pod here changes its labels", relabel(0).collect());
    let change = (0..100).map(|n| Event::NetworkPolicy(Update::Applied(policy(n, 81))));
    step("a policy changes its port", change.collect());
}
