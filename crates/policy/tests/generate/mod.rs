//! Policies, labels and ports at will, as API objects; what fails shrinks to few and plain ones.

#![allow(dead_code, reason = "each test program uses a part of it")]

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// A change of the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A policy of this number comes, or becomes this.
    Policy(u8, Box<Value>),
    NoPolicy(u8),
    /// A pod gets the labels of these values.
    Label(u8, &'static str),
    /// A namespace does.
    LabelNamespace(u8, &'static str),
    /// A pod comes, or comes back with another port behind its name.
    Pod(u8, u16),
    NoPod(u8),
}

pub(crate) const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// Three pods in each of three namespaces.
pub(crate) const PODS: u8 = 9;

pub(crate) fn namespace(number: u8, team: &str) -> Value {
    let name = NAMESPACES[usize::from(number)];
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name,
        "labels": {"kubernetes.io/metadata.name": name, "team": team}}})
}

pub(crate) fn address(number: u8, v6: bool) -> String {
    let (node, last) = (number % 2 + 1, number + 10);
    if v6 { format!("fd00:10:244:{node}::{last}") } else { format!("10.244.{node}.{last}") }
}

/// Pods run on two nodes in turn.
pub(crate) fn pod(number: u8, tier: &str, named: u16) -> Value {
    let namespace = NAMESPACES[usize::from(number / 3)];
    let name = ["a", "b", "c"][usize::from(number % 3)];
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name, "tier": tier}},
        "spec": {"nodeName": format!("node-{}", number % 2 + 1), "containers": [{"name": "c",
            "ports": [{"name": "serve", "containerPort": named},
                      {"name": "serve-udp", "containerPort": 81, "protocol": "UDP"}]}]},
        "status": {"phase": "Running",
            "podIPs": [{"ip": address(number, false)}, {"ip": address(number, true)}]}})
}

fn label() -> impl Strategy<Value = Value> {
    let pod = select(vec!["a", "b", "c"]).prop_map(|it| json!({"matchLabels": {"pod": it}}));
    let tier = select(vec!["red", "blue"]).prop_map(|it| json!({"matchLabels": {"tier": it}}));
    let expression = (
        select(vec!["In", "NotIn"]),
        select(vec!["pod", "tier", "none"]),
        prop::collection::vec(select(vec!["a", "b", "red"]), 1..3),
    );
    let expression = expression.prop_map(|(operator, key, values)| {
        json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
    });
    let bare = (select(vec!["Exists", "DoesNotExist"]), select(vec!["pod", "none"])).prop_map(
        |(operator, key)| json!({"matchExpressions": [{"key": key, "operator": operator}]}),
    );
    prop_oneof![Just(json!({})), pod, tier, expression, bare]
}

fn namespaces() -> impl Strategy<Value = Value> {
    let name = select(NAMESPACES.to_vec())
        .prop_map(|it| json!({"matchLabels": {"kubernetes.io/metadata.name": it}}));
    let team = select(vec!["red", "blue"]).prop_map(|it| json!({"matchLabels": {"team": it}}));
    let not = select(vec!["red", "blue"]).prop_map(
        |it| json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": [it]}]}),
    );
    prop_oneof![Just(json!({})), name, team, not]
}

fn block() -> impl Strategy<Value = Value> {
    let v4 = prop::collection::vec(
        select(vec!["10.244.1.0/24", "10.244.2.11/32", "10.244.1.8/29", "192.0.2.7/32"]),
        0..3,
    );
    let v4 = (select(vec!["10.244.0.0/16", "0.0.0.0/0", "10.244.1.10/32", "192.0.2.0/24"]), v4);
    let v6 =
        prop::collection::vec(select(vec!["fd00:10:244:1::/64", "fd00:10:244:2::11/128"]), 0..2);
    let v6 = (select(vec!["fd00:10:244::/48", "::/0", "fd00:10:244:1::10/128"]), v6);
    let block = prop_oneof![v4, v6];
    block.prop_map(|(cidr, except)| json!({"ipBlock": {"cidr": cidr, "except": except}}))
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        label().prop_map(|pods| json!({"podSelector": pods})),
        namespaces().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (label(), namespaces()).prop_map(
            |(pods, namespaces)| json!({"podSelector": pods, "namespaceSelector": namespaces})
        ),
        block(),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || select(vec!["TCP", "UDP", "SCTP"]);
    prop_oneof![
        (protocol(), 80..83i32).prop_map(|(protocol, port)| json!({"protocol": protocol, "port": port})),
        (protocol(), 79..82i32, 0..3i32).prop_map(
            |(protocol, port, more)| json!({"protocol": protocol, "port": port, "endPort": port + more})),
        protocol().prop_map(|protocol| json!({"protocol": protocol})),
        (protocol(), select(vec!["serve", "serve-udp", "nothing"]))
            .prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}

fn rules(side: &'static str) -> impl Strategy<Value = Value> {
    let rule = (
        prop::option::of(prop::collection::vec(peer(), 0..3)),
        prop::option::of(prop::collection::vec(port(), 0..3)),
    );
    let rule = rule.prop_map(move |(peers, ports)| {
        let mut rule = json!({});
        if let Some(peers) = peers {
            rule[side] = json!(peers);
        }
        if let Some(ports) = ports {
            rule["ports"] = json!(ports);
        }
        rule
    });
    prop::collection::vec(rule, 0..3).prop_map(|rules| json!(rules))
}

pub(crate) fn policy() -> impl Strategy<Value = Value> {
    let types = select(vec![
        json!(null),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]);
    let parts = (
        select(NAMESPACES.to_vec()),
        label(),
        types,
        prop::option::of(rules("from")),
        prop::option::of(rules("to")),
    );
    parts.prop_map(|(namespace, pods, types, ingress, egress)| {
        let mut spec = json!({"podSelector": pods});
        for (field, value) in
            [("policyTypes", Some(types)), ("ingress", ingress), ("egress", egress)]
        {
            if let Some(value) = value.filter(|value| !value.is_null()) {
                spec[field] = value;
            }
        }
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": "p"}, "spec": spec})
    })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let tier = || select(vec!["red", "blue"]);
    prop_oneof![
        4 => (0..5u8, policy()).prop_map(|(number, policy)| Step::Policy(number, Box::new(policy))),
        1 => (0..5u8).prop_map(Step::NoPolicy),
        2 => (0..PODS, tier()).prop_map(|(number, tier)| Step::Label(number, tier)),
        1 => (0..3u8, tier()).prop_map(|(number, team)| Step::LabelNamespace(number, team)),
        1 => (0..PODS, 80..83u16).prop_map(|(number, port)| Step::Pod(number, port)),
        1 => (0..PODS).prop_map(Step::NoPod),
    ]
}
