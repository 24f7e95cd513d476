//! Lists, relists, merges, and what a Service costs in memory.

use std::net::IpAddr;

use super::*;
use crate::{
    AddressType, ClusterIps, Conditions, ServicePort, ServiceType, SliceEndpoint, SlicePort,
    TrafficDistribution, TrafficPolicy,
};

const READY: Conditions = Conditions { ready: true, serving: true, terminating: false };
const GONE: Conditions = Conditions { ready: false, serving: false, terminating: true };

fn service(name: &str, created: i64) -> Service {
    Service {
        key: ObjectKey::new("default", name),
        uid: None,
        created,
        kind: ServiceType::ClusterIp,
        cluster_ips: ClusterIps { v4: Some("10.96.0.1".parse().expect("address")), v6: None },
        headless: false,
        foreign_proxy: false,
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        distribution: TrafficDistribution::Any,
        balance: crate::Balance::Random,
        weights: Box::default(),
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }]
        .into(),
        external: None,
        external_name: None,
    }
}

fn slice(name: &str, service: &str, endpoints: &[(&str, Conditions)]) -> EndpointSlice {
    EndpointSlice {
        key: ObjectKey::new("default", name),
        uid: None,
        service: ObjectKey::new("default", service),
        address_type: AddressType::V4,
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints
            .iter()
            .map(|(address, conditions)| SliceEndpoint {
                address: address.parse::<IpAddr>().expect("address"),
                conditions: *conditions,
                node: Some(NodeName::new("node-1")),
                zone: None,
                hints: None,
                hostname: None,
            })
            .collect(),
    }
}

fn keys(change: &Change) -> Vec<String> {
    change.services.iter().map(ToString::to_string).collect()
}

fn addresses(snapshot: &Snapshot, service: &str) -> Vec<(String, bool)> {
    let endpoints =
        snapshot.endpoints(&ObjectKey::new("default", service), "", Protocol::Tcp, Family::V4);
    endpoints
        .iter()
        .map(|endpoint| (endpoint.address.to_string(), endpoint.conditions.ready))
        .collect()
}

#[test]
fn a_relist_drops_what_it_does_not_name_and_touches_nothing_else() {
    let mut writer = SnapshotWriter::default();
    for event in [
        Update::Begin,
        Update::Listed(service("a", 1)),
        Update::Listed(service("b", 1)),
        Update::Listed(service("c", 1)),
        Update::End,
    ] {
        writer.apply(Event::Service(event));
    }
    assert_eq!(keys(&writer.take_change()), ["default/a", "default/b", "default/c"]);
    writer.apply(Event::Service(Update::Begin));
    writer.apply(Event::Service(Update::Listed(service("a", 1))));
    writer.apply(Event::Service(Update::Unreadable(ObjectKey::new("default", "c"))));
    assert!(!writer.has_change(), "half a list proves nothing");
    writer.apply(Event::Service(Update::End));
    assert_eq!(keys(&writer.take_change()), ["default/b"]);
    assert!(
        writer.snapshot().service(&ObjectKey::new("default", "c")).is_some(),
        "unreadable keeps its last good form"
    );
}

#[test]
fn complete_only_after_every_kind_was_listed() {
    let mut writer = SnapshotWriter::default();
    assert_eq!(writer.pending(), ["services", "endpointslices", "nodes"]);
    writer.apply(Event::Service(Update::Begin));
    writer.apply(Event::Service(Update::End));
    writer.apply(Event::Node(Update::Begin));
    writer.apply(Event::Node(Update::End));
    assert_eq!(writer.pending(), ["endpointslices"]);
    writer.apply(Event::Slice(Update::Begin));
    writer.apply(Event::Slice(Update::End));
    assert!(writer.is_complete());
}

#[test]
fn an_equal_object_is_no_change() {
    let mut writer = SnapshotWriter::default();
    assert!(writer.apply(Event::Service(Update::Applied(service("a", 1)))));
    assert!(writer.apply(Event::Slice(Update::Applied(slice("a-1", "a", &[("10.0.0.1", READY)])))));
    let revision = writer.snapshot().revision();
    writer.take_change();
    assert!(!writer.apply(Event::Service(Update::Applied(service("a", 1)))));
    assert!(!writer.apply(Event::Slice(Update::Applied(slice(
        "a-1",
        "a",
        &[("10.0.0.1", READY)]
    )))));
    assert!(!writer.has_change());
    assert_eq!(writer.snapshot().revision(), revision);
}

#[test]
fn slices_merge_by_address_whatever_their_order() {
    let first = slice("a-1", "a", &[("10.0.0.2", READY), ("10.0.0.1", GONE)]);
    let second = slice("a-2", "a", &[("10.0.0.1", READY), ("10.0.0.3", GONE)]);
    for order in [[&first, &second], [&second, &first]] {
        let mut writer = SnapshotWriter::default();
        for one in order {
            writer.apply(Event::Slice(Update::Applied(one.clone())));
        }
        let expected = [("10.0.0.1:8080", true), ("10.0.0.2:8080", true), ("10.0.0.3:8080", false)];
        assert_eq!(
            addresses(writer.snapshot(), "a"),
            expected.map(|(text, ready)| (text.to_owned(), ready))
        );
    }
}

#[test]
fn a_slice_that_changes_its_service_touches_both() {
    let mut writer = SnapshotWriter::default();
    writer.apply(Event::Slice(Update::Applied(slice("s", "a", &[("10.0.0.1", READY)]))));
    writer.take_change();
    writer.apply(Event::Slice(Update::Applied(slice("s", "b", &[("10.0.0.1", READY)]))));
    assert_eq!(keys(&writer.take_change()), ["default/a", "default/b"]);
    assert!(addresses(writer.snapshot(), "a").is_empty());
    assert_eq!(addresses(writer.snapshot(), "b").len(), 1);
    writer.apply(Event::Slice(Update::Deleted(ObjectKey::new("default", "s"))));
    assert_eq!(keys(&writer.take_change()), ["default/b"]);
    assert_eq!(writer.snapshot().slice_count(), 0);
}

#[test]
fn a_service_with_five_endpoints_stays_under_a_kibibyte() {
    // What the allocator is asked for: structs in the maps (at 8/7 load and one control byte), boxed slices, key texts.
    let service_bytes = size_of::<(ServiceKey, Service)>() * 8 / 7 + 1 + size_of::<ServicePort>();
    let slice_bytes = size_of::<(ServiceKey, Vec<EndpointSlice>)>() * 8 / 7
        + 1
        + size_of::<EndpointSlice>()
        + size_of::<SlicePort>()
        + 5 * size_of::<SliceEndpoint>();
    let index_bytes = size_of::<(SliceKey, ServiceKey)>() * 8 / 7 + 1;
    let texts = 2 * (16 + 48);
    let total = service_bytes + slice_bytes + index_bytes + texts;
    assert!(total < 1024, "{total} bytes");
}

#[test]
fn a_drained_node_changes_the_facts_and_no_plan() {
    let node = |leaving| NodeFacts {
        name: NodeName::new("node-1"),
        uid: None,
        internal_ips: Vec::new(),
        pod_cidrs: Vec::new(),
        labels: crate::Labels::default(),
        zone: None,
        leaving,
    };
    let mut writer = SnapshotWriter::default();
    writer.apply(Event::Node(Update::Applied(node(false))));
    writer.take_change();
    assert!(!writer.apply(Event::Node(Update::Applied(node(true)))));
    assert!(!writer.has_change());
    assert!(writer.snapshot().node("node-1").is_some_and(|node| node.leaving));
}

#[test]
fn facts_survive_writing_and_reading() {
    let service = service("a", 1);
    let text = serde_json::to_string(&service).expect("writes");
    assert_eq!(serde_json::from_str::<Service>(&text).expect("reads"), service);
    let slice = slice("a-1", "a", &[("10.0.0.1", READY)]);
    let text = serde_json::to_string(&slice).expect("writes");
    assert_eq!(serde_json::from_str::<EndpointSlice>(&text).expect("reads"), slice);
}

#[test]
fn service_cidrs_are_listed_and_dropped_like_the_rest_but_nobody_waits_for_them() {
    let cidr = |name: &str| ServiceCidr {
        key: ObjectKey::new("", name),
        cidrs: ["10.96.0.0/16".parse().expect("a CIDR")].into(),
        ready: true,
    };
    let mut writer = SnapshotWriter::default();
    for event in [
        Event::ServiceCidr(Update::Begin),
        Event::ServiceCidr(Update::Listed(cidr("a"))),
        Event::ServiceCidr(Update::Listed(cidr("b"))),
        Event::ServiceCidr(Update::End),
    ] {
        writer.apply(event);
    }
    assert!(writer.take_change().service_cidrs);
    assert!(!writer.apply(Event::ServiceCidr(Update::Applied(cidr("a")))));
    assert!(!writer.has_change());
    writer.apply(Event::ServiceCidr(Update::Begin));
    writer.apply(Event::ServiceCidr(Update::Listed(cidr("b"))));
    writer.apply(Event::ServiceCidr(Update::End));
    assert!(writer.take_change().service_cidrs);
    let names: Vec<_> = writer.snapshot().service_cidrs().map(|it| it.key.to_string()).collect();
    assert_eq!(names, ["b"]);
    assert!(!writer.pending().contains(&"servicecidrs"));
}
