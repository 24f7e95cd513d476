//! Topology hints: which zones and nodes shall prefer an endpoint.
//!
//! `spec.trafficDistribution` (KEP-4444, KEP-3015) names every ready endpoint's own zone, and its node for
//! `PreferSameNode`. The older annotation `service.kubernetes.io/topology-mode: Auto` (KEP-2433) wins over it and gives
//! each zone a share of the endpoints like its share of the CPUs: endpoints serve their own zone first, then as few as
//! possible are lent to a zone that has less than its least share. Where no fair division exists nobody gets a hint.
//!
//! Pure; what is decided is written into the endpoints before they are packed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::endpointslice::ZONE;
use super::object::{annotation, at, condition_status, is_true, label, str_at};
use super::slice_packing::Group;
use super::view::View;
use super::write::NODES;
use crate::validate::names::quantity;

/// How much more than its fair share an endpoint may get.
const OVERLOAD: f64 = 0.2;

/// Whether the Service asks for zones by CPU share.
pub(crate) fn is_auto(service: &Value) -> bool {
    ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"]
        .iter()
        .find_map(|key| annotation(service, key))
        .is_some_and(|mode| matches!(mode, "Auto" | "auto"))
}

/// What of a node the zones' shares depend on.
pub(crate) fn facts(node: &Value) -> impl PartialEq + use<'_> {
    (
        label(node, ZONE),
        takes_part(node),
        condition_status(node, "Ready") == "True",
        at(node, &["status", "allocatable", "cpu"]),
    )
}

/// Gives the ready endpoints of all groups their hints.
pub(crate) fn give(view: &View, service: &Value, families: &[&'static str], groups: &mut [Group]) {
    if is_auto(service) {
        for family in families {
            by_share(view, groups.iter_mut().filter(|group| group.family == *family));
        }
        return;
    }
    let nodes = match str_at(service, &["spec", "trafficDistribution"]) {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return,
    };
    for endpoint in groups.iter_mut().flat_map(ready) {
        let zone = str_at(endpoint, &["zone"]).to_owned();
        let node = str_at(endpoint, &["nodeName"]).to_owned();
        if !zone.is_empty() {
            endpoint["hints"]["forZones"] = json!([{ "name": zone }]);
        }
        if nodes && !node.is_empty() {
            endpoint["hints"]["forNodes"] = json!([{ "name": node }]);
        }
    }
}

fn ready(group: &mut Group) -> impl Iterator<Item = &mut Value> {
    group
        .endpoints
        .iter_mut()
        .map(|wanted| &mut wanted.endpoint)
        .filter(|endpoint| is_true(endpoint, &["conditions", "ready"]))
}

/// A zone's part of the endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Share {
    /// Fewer would overload them.
    least: usize,
    /// By CPUs, at least `least`.
    fair: f64,
}

fn by_share<'a>(view: &View, groups: impl Iterator<Item = &'a mut Group>) {
    let mut endpoints: Vec<&mut Value> = groups.flat_map(ready).collect();
    if endpoints.iter().any(|endpoint| str_at(endpoint, &["zone"]).is_empty()) {
        return;
    }
    let Some(shares) = shares(&cpus_by_zone(view), endpoints.len()) else { return };
    // The same endpoints get the same hints, whatever order they are found in.
    endpoints.sort_by(|a, b| a["addresses"].to_string().cmp(&b["addresses"].to_string()));
    let mut hints: Vec<String> =
        endpoints.iter().map(|endpoint| str_at(endpoint, &["zone"]).to_owned()).collect();
    while let Some((giver, taker)) = next_loan(&shares, &hints) {
        let Some(at) = hints.iter().rposition(|zone| *zone == giver) else { break };
        hints[at] = taker;
    }
    for (endpoint, zone) in endpoints.into_iter().zip(hints) {
        endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
    }
}

/// The next endpoint to lend: from the zone most above its share (one without nodes gives all) to the zone most below.
fn next_loan(shares: &BTreeMap<String, Share>, hints: &[String]) -> Option<(String, String)> {
    let mut counts: BTreeMap<&str, usize> = shares.keys().map(|zone| (zone.as_str(), 0)).collect();
    for zone in hints {
        *counts.entry(zone).or_default() += 1;
    }
    let above = |zone: &str, count: usize| {
        let fair = shares.get(zone).map_or(0.0, |share| share.fair);
        f64::from(u32::try_from(count).unwrap_or(u32::MAX)) - fair
    };
    let stranger = counts.iter().find(|(zone, count)| **count > 0 && !shares.contains_key(**zone));
    let lacking = |zone: &str, count: usize| shares.get(zone).is_some_and(|s| count < s.least);
    let taker = counts
        .iter()
        .filter(|(zone, count)| {
            shares.contains_key(**zone) && (stranger.is_some() || lacking(zone, **count))
        })
        .min_by(|a, b| above(a.0, *a.1).total_cmp(&above(b.0, *b.1)))?;
    let giver = stranger.or_else(|| {
        counts
            .iter()
            .filter(|(zone, count)| shares.get(**zone).is_some_and(|s| **count > s.least))
            .max_by(|a, b| above(a.0, *a.1).total_cmp(&above(b.0, *b.1)))
    })?;
    Some(((*giver.0).to_owned(), (*taker.0).to_owned()))
}

/// The shares of `count` endpoints, or nothing when they cannot be divided without overloading some.
fn shares(cpus: &BTreeMap<String, f64>, count: usize) -> Option<BTreeMap<String, Share>> {
    let total: f64 = cpus.values().sum();
    if cpus.len() < 2 || cpus.len() > count || total <= 0.0 {
        return None;
    }
    let count_of = f64::from(u32::try_from(count).ok()?);
    let mut shares = BTreeMap::new();
    let mut promised = 0;
    for (zone, cpu) in cpus {
        let fair = cpu / total * count_of;
        let least = (1..=count).find(|n| {
            f64::from(u32::try_from(*n).unwrap_or(u32::MAX)) * (1.0 + OVERLOAD) >= fair
        })?;
        promised += least;
        let least_of = f64::from(u32::try_from(least).ok()?);
        shares.insert(zone.clone(), Share { least, fair: fair.max(least_of) });
    }
    (promised <= count).then_some(shares)
}

/// CPUs of the ready nodes by zone; nothing when a node does not say its zone or its CPUs.
fn cpus_by_zone(view: &View) -> BTreeMap<String, f64> {
    let mut cpus: BTreeMap<String, f64> = BTreeMap::new();
    for node in view.all(&NODES) {
        if !takes_part(node) || condition_status(node, "Ready") != "True" {
            continue;
        }
        let cpu = match at(node, &["status", "allocatable", "cpu"]) {
            Some(Value::String(text)) => quantity(text),
            Some(number) => number.as_f64(),
            None => None,
        };
        match (label(node, ZONE).filter(|zone| !zone.is_empty()), cpu.filter(|cpu| *cpu > 0.0)) {
            (Some(zone), Some(cpu)) => *cpus.entry(zone.to_owned()).or_default() += cpu,
            _ => return BTreeMap::new(),
        }
    }
    cpus
}

/// Control-plane nodes serve no clients worth counting.
fn takes_part(node: &Value) -> bool {
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"]
        .iter()
        .all(|role| label(node, role).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fixtures::{node, view, with};
    use crate::controllers::slice_packing::Wanted;

    fn zoned(name: &str, zone: &str, cpu: &str) -> Value {
        with(
            node(name),
            json!({ "metadata": { "labels": { ZONE: zone } },
                    "status": { "allocatable": { "cpu": cpu } } }),
        )
    }

    fn group(endpoints: &[(&str, &str, bool)]) -> Group {
        let endpoints = endpoints.iter().enumerate().map(|(index, (zone, node, ready))| {
            let mut endpoint = json!({
                "addresses": [format!("10.0.0.{index}")],
                "conditions": { "ready": ready },
                "nodeName": node,
            });
            if !zone.is_empty() {
                endpoint["zone"] = (*zone).into();
            }
            Wanted { endpoint, since: String::new() }
        });
        Group { family: "IPv4", ports: Vec::new(), endpoints: endpoints.collect() }
    }

    fn hints(service: &Value, nodes: &[Value], endpoints: &[(&str, &str, bool)]) -> Vec<Value> {
        let view = view(&nodes.iter().map(|n| (NODES, n.clone())).collect::<Vec<_>>());
        let mut groups = [group(endpoints)];
        give(&view, service, &["IPv4"], &mut groups);
        groups[0].endpoints.iter().map(|w| w.endpoint["hints"].clone()).collect()
    }

    fn zone(name: &str) -> Value {
        json!({ "forZones": [{ "name": name }] })
    }

    #[test]
    fn a_distribution_names_the_endpoints_own_zone_and_node() {
        let endpoints =
            [("a", "n1", true), ("b", "n2", true), ("", "n3", true), ("a", "n1", false)];
        for same_zone in ["PreferClose", "PreferSameZone"] {
            let service = json!({ "spec": { "trafficDistribution": same_zone } });
            assert_eq!(
                hints(&service, &[], &endpoints),
                [zone("a"), zone("b"), Value::Null, Value::Null],
                "{same_zone}: without a zone, or not ready, there is no hint"
            );
        }
        let service = json!({ "spec": { "trafficDistribution": "PreferSameNode" } });
        assert_eq!(
            hints(&service, &[], &endpoints),
            [
                json!({ "forZones": [{ "name": "a" }], "forNodes": [{ "name": "n1" }] }),
                json!({ "forZones": [{ "name": "b" }], "forNodes": [{ "name": "n2" }] }),
                json!({ "forNodes": [{ "name": "n3" }] }),
                Value::Null,
            ]
        );
        assert_eq!(hints(&json!({ "spec": {} }), &[], &endpoints), vec![Value::Null; 4]);
    }

    fn auto() -> Value {
        json!({
            "metadata": { "annotations": { "service.kubernetes.io/topology-mode": "Auto" } },
            "spec": { "trafficDistribution": "PreferSameNode" },
        })
    }

    #[test]
    fn zones_get_a_share_like_that_of_their_cpus() {
        let nodes = [zoned("n1", "a", "2"), zoned("n2", "b", "2000m")];
        let all_in_a = [("a", "n1", true); 4];
        assert_eq!(
            hints(&auto(), &nodes, &all_in_a),
            [zone("a"), zone("a"), zone("b"), zone("b")],
            "a lends b what b needs, and the annotation wins over the field"
        );
        let even = [("a", "n1", true), ("b", "n2", true), ("a", "n1", true), ("b", "n2", true)];
        assert_eq!(hints(&auto(), &nodes, &even), [zone("a"), zone("b"), zone("a"), zone("b")]);
        let strangers =
            [("a", "n1", true), ("b", "n2", true), ("c", "n9", true), ("c", "n9", true)];
        let given = hints(&auto(), &nodes, &strangers);
        assert_eq!(given, [zone("a"), zone("b"), zone("b"), zone("a")], "nobody lives in c");
    }

    #[test]
    fn where_no_fair_division_exists_there_are_no_hints() {
        let two = [zoned("n1", "a", "2"), zoned("n2", "b", "2")];
        let none = |count| vec![Value::Null; count];
        assert_eq!(hints(&auto(), &two, &[("a", "n1", true)]), none(1), "fewer than zones");
        let three = [("a", "n1", true), ("b", "n2", true), ("a", "n1", true)];
        assert_eq!(hints(&auto(), &two, &three), none(3), "1.5 each: one would be overloaded");
        assert_eq!(hints(&auto(), &two[..1], &three), none(3), "one zone");
        assert_eq!(hints(&auto(), &[two[0].clone(), node("n2")], &three), none(3), "no zone said");
        let unknown = [("a", "n1", true), ("", "n2", true)];
        assert_eq!(hints(&auto(), &two, &unknown), none(2));
    }
}
