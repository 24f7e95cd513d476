use serde_json::{Value, json};

use super::*;
use crate::controllers::fixtures::{Simple, lines, node, notes, ops, t0, view, with};

fn config(range: &str, node_prefix: u8) -> Config {
    Config {
        cluster_cidrs: vec![ClusterCidr { range: range.parse().unwrap(), node_prefix }],
        ..Config::default()
    }
}

fn free(range: &str, node_prefix: u8, taken: &[&str]) -> Option<String> {
    let taken: Vec<IpNet> = taken.iter().map(|cidr| cidr.parse().unwrap()).collect();
    let cluster = ClusterCidr { range: range.parse().unwrap(), node_prefix };
    first_free(&cluster, &taken).map(|cidr| cidr.to_string())
}

#[test]
fn the_first_part_that_overlaps_nothing() {
    for (range, prefix, taken, expect) in [
        ("10.244.0.0/16", 24, vec![], Some("10.244.0.0/24")),
        ("10.244.0.0/16", 24, vec!["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24")),
        ("10.244.0.0/16", 24, vec!["10.244.0.0/23"], Some("10.244.2.0/24")),
        ("10.244.0.0/16", 24, vec!["10.244.0.128/25"], Some("10.244.1.0/24")),
        ("10.244.0.0/16", 24, vec!["10.0.0.0/8"], None),
        ("10.244.0.0/24", 24, vec![], Some("10.244.0.0/24")),
        ("10.244.0.0/24", 24, vec!["10.244.0.0/24"], None),
        ("10.244.0.0/24", 16, vec![], None),
        ("10.244.7.9/16", 24, vec![], Some("10.244.0.0/24")),
        ("fd00:10:244::/56", 64, vec!["fd00:10:244::/64"], Some("fd00:10:244:1::/64")),
        ("0.0.0.0/0", 1, vec!["0.0.0.0/1"], Some("128.0.0.0/1")),
        ("::/0", 128, vec![], Some("::/128")),
    ] {
        assert_eq!(free(range, prefix, &taken).as_deref(), expect, "{range} {taken:?}");
    }
}

#[test]
fn as_many_nodes_as_parts_each_its_own_then_an_event() {
    let config = config("10.0.0.0/22", 24);
    let mut view = view(&[]);
    for n in 0..5 {
        crate::controllers::fixtures::put(&mut view, NODES, node(&format!("n{n}")));
    }
    let mut api = Simple::default();
    for n in 0..4 {
        let outcome = reconcile(&view, &ObjectRef::new(NODES, "", &format!("n{n}")), &config);
        let change = api.apply(&view, ops(&outcome)[0], t0()).unwrap();
        view.apply(&change);
    }
    let mut cidrs: Vec<String> =
        view.all(&NODES).flat_map(|node| pod_cidrs(node)).map(|c| c.to_string()).collect();
    cidrs.sort();
    assert_eq!(cidrs, ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
    let outcome = reconcile(&view, &ObjectRef::new(NODES, "", "n4"), &config);
    assert_eq!(notes(&outcome), ["CIDRNotAvailable: Node n4 status is now: CIDRNotAvailable"]);
    assert_eq!(lines(&outcome), Vec::<String>::new());
}

#[test]
fn a_node_keeps_what_it_has() {
    let patch: Value = json!({ "spec": { "podCIDR": "192.168.0.0/24" } });
    let view = view(&[(NODES, with(node("n1"), patch))]);
    let outcome = reconcile(&view, &ObjectRef::new(NODES, "", "n1"), &Config::default());
    assert_eq!(outcome, Outcome::default());
}
