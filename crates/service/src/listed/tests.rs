use std::fmt::Write as _;

use model::{NodeName, SnapshotWriter};
use nft::Table;

use super::*;
use crate::{Config, Planner};

/// The table of one Service, and what is read from it: a line per list.
fn read_back(service: serde_json::Value, addresses: &[&str]) -> String {
    let mut writer = SnapshotWriter::default();
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
    let slice = serde_json::json!({
        "metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "endpoints": addresses.iter().map(|a| serde_json::json!({"addresses": [a]})).collect::<Vec<_>>(),
    });
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice =
        serde_json::from_value(slice).unwrap();
    let service = model::Parsed::<model::Service>::try_from(&service).unwrap().value;
    let slice = model::Parsed::<model::EndpointSlice>::try_from(&slice).unwrap().value;
    writer.apply(model::Event::Service(model::Update::Applied(service)));
    writer.apply(model::Event::Slice(model::Update::Applied(slice)));
    let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
    print(&planner.full(writer.snapshot(), None).table)
}

fn print(table: &Table) -> String {
    let mut text = String::new();
    for (frontend, reached) in read(table) {
        for list in reached.lists {
            let slots: Vec<_> = list.slots.iter().map(|slot| slot.endpoint.to_string()).collect();
            let (slots, clients) = (slots.join(","), list.clients.join(","));
            let (choice, seconds) = (list.choice, list.affinity_seconds);
            writeln!(
                text,
                "{frontend} [{clients}] {choice:?} {seconds:?} {:?} {slots}",
                list.masquerade
            )
            .unwrap();
        }
        if let Some(unserved) = reached.unserved {
            writeln!(text, "{frontend} {unserved:?}").unwrap();
        }
    }
    text
}

fn service(more: serde_json::Value) -> serde_json::Value {
    let mut service = serde_json::json!({
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}]},
    });
    for (key, value) in more.as_object().unwrap() {
        service["spec"][key] = value.clone();
    }
    service
}

#[test]
fn a_plain_service() {
    let text = read_back(service(serde_json::json!({})), &["10.244.0.2", "10.244.1.2"]);
    assert_eq!(
        text,
        "10.96.0.7:80/TCP [] Random None When([\"ip saddr != @pod-cidrs4\"]) 10.244.0.2:8080,10.244.1.2:8080\n"
    );
}

#[test]
fn a_node_port_is_another_frontend() {
    let more = serde_json::json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let text = read_back(service(more), &["10.244.0.2"]);
    assert!(text.contains("\nnode port 30080/TCP (IPv4) [] "), "{text}");
    assert!(text.ends_with("None Always 10.244.0.2:8080\n"), "{text}");
}

#[test]
fn affinity_has_its_time_and_the_sets_of_clients() {
    let more = serde_json::json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
    let text = read_back(service(more), &["10.244.0.2", "10.244.1.2"]);
    assert!(text.contains("[] Random Some(600) "), "{text}");
    assert!(text.ends_with("10.244.0.2:8080,10.244.1.2:8080\n"), "{text}");
}

#[test]
fn no_endpoint_is_a_refusal() {
    assert_eq!(read_back(service(serde_json::json!({})), &[]), "10.96.0.7:80/TCP Refused\n");
}

#[test]
fn a_foreign_table_has_nothing_to_say() {
    let name = nft::Name::new("other").unwrap();
    assert_eq!(print(&Table::new(nft::Family::Inet, name)), "");
}

/// The same with annotations and endpoints on named nodes.
fn read_back_of(service: serde_json::Value, endpoints: &[(&str, &str)]) -> String {
    let mut writer = SnapshotWriter::default();
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(address, node)| serde_json::json!({"addresses": [address], "nodeName": node}))
        .collect();
    let slice = serde_json::json!({
        "metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
    });
    let slice: k8s_openapi::api::discovery::v1::EndpointSlice =
        serde_json::from_value(slice).unwrap();
    let service = model::Parsed::<model::Service>::try_from(&service).unwrap().value;
    let slice = model::Parsed::<model::EndpointSlice>::try_from(&slice).unwrap().value;
    writer.apply(model::Event::Service(model::Update::Applied(service)));
    writer.apply(model::Event::Slice(model::Update::Applied(slice)));
    let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
    print(&planner.full(writer.snapshot(), None).table)
}

#[test]
fn a_frontend_with_two_sides_has_two_lists() {
    let more = serde_json::json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "externalIPs": ["192.0.2.7"], "ports": [{"port": 80}]});
    let text =
        read_back_of(service(more.clone()), &[("10.244.0.2", "node-1"), ("10.244.1.2", "node-2")]);
    let of_address: Vec<&str> = text.lines().filter(|line| line.starts_with("192.0.2.7")).collect();
    println!("{text}");
    let outside = of_address.last().unwrap();
    assert!(outside.contains(" [] ") && outside.ends_with("Never 10.244.0.2:8080"), "{text}");
    let inside = of_address.first().unwrap();
    assert!(
        inside.contains("pod-cidrs4") && inside.ends_with("10.244.0.2:8080,10.244.1.2:8080"),
        "{text}"
    );

    // A node port's sides are told apart by rules that name the family.
    let more_port = serde_json::json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 30080}]});
    let of_port =
        read_back_of(service(more_port), &[("10.244.0.2", "node-1"), ("10.244.1.2", "node-2")]);
    let of_port: Vec<&str> = of_port.lines().filter(|line| line.starts_with("node port")).collect();
    assert_eq!(of_port.len(), 3, "{of_port:?}");
    assert!(of_port[1].contains("[fib saddr type local] Random None Always"), "{of_port:?}");
    assert!(
        of_port[2].contains("[] ") && of_port[2].ends_with("Never 10.244.0.2:8080"),
        "{of_port:?}"
    );

    // No endpoint of this node: outsiders hear nothing.
    let text = read_back_of(service(more), &[("10.244.1.2", "node-2")]);
    assert!(text.contains("192.0.2.7:80/TCP Dropped"), "{text}");
}

#[test]
fn every_way_to_choose_is_read_back() {
    let of = |balance: &str, weights: &str| {
        let mut service = service(serde_json::json!({}));
        service["metadata"]["annotations"] =
            serde_json::json!({"fairway.dev/balance": balance, "fairway.dev/weights": weights});
        read_back_of(service, &[("10.244.0.2", "node-1"), ("10.244.1.2", "node-2")])
    };
    assert!(of("round-robin", "").contains(" RoundRobin "), "{}", of("round-robin", ""));
    assert!(of("source-hash", "").contains(" SourceHash "), "{}", of("source-hash", ""));
    let maglev = of("maglev", "");
    assert!(maglev.contains("Hash "), "{maglev}");
    assert!(maglev.matches(":8080").count() > 50, "{maglev}");
}
