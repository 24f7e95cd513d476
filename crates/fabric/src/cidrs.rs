//! Which node owns which pod CIDR.
//!
//! Nodes are taken in order of their names, so that all nodes of a cluster decide alike: of two
//! overlapping CIDRs the first name's counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Kind, NodeFacts, ObjectKey, ObjectRef, Report, Severity};

/// A pod CIDR that counts, and its node.
pub(crate) struct Owned<'a> {
    pub(crate) node: &'a NodeFacts,
    pub(crate) cidr: IpNet,
}

/// The pod CIDRs that count, and what is wrong with the others. Those of `lent` may lie inside another's: the longer
/// prefix is the better route.
pub(crate) fn accept<'a>(
    nodes: &[&'a NodeFacts],
    lent: &BTreeSet<IpNet>,
) -> (Vec<Owned<'a>>, Vec<Report>) {
    let addresses: BTreeMap<IpAddr, &NodeFacts> = nodes
        .iter()
        .rev()
        .flat_map(|&node| node.internal_ips.iter().map(move |ip| (*ip, node)))
        .collect();
    let mut accepted: Vec<Owned<'a>> = Vec::new();
    // By first address. They do not overlap, so a range's neighbours in this order are all it can meet.
    let mut whole: BTreeMap<IpAddr, Owned<'a>> = BTreeMap::new();
    let mut parts: BTreeMap<IpAddr, Owned<'a>> = BTreeMap::new();
    let mut reports = Vec::new();
    for &node in nodes {
        for cidr in node.pod_cidrs.iter().map(IpNet::trunc) {
            if let Some(why) = unusable(cidr) {
                let message = format!("pod CIDR {cidr} {why}");
                let hint = "set spec.podCIDRs to a unicast range set apart for pods";
                reports.push(report(node, Severity::Error, "BadPodCIDR", message, hint));
                continue;
            }
            // A route over a node's own address would cut that node off.
            if let Some((ip, other)) = addresses.range(cidr.network()..=cidr.broadcast()).next() {
                let message =
                    format!("pod CIDR {cidr} contains the address {ip} of node {}", other.name);
                let hint = "pods and nodes need ranges of their own";
                reports.push(report(node, Severity::Error, "PodCIDRContainsNode", message, hint));
                continue;
            }
            let among = if lent.contains(&cidr) { &mut parts } else { &mut whole };
            if let Some(first) = met(among, cidr) {
                if std::ptr::eq(first.node, node) && first.cidr == cidr {
                    continue;
                }
                let (other, name) = (first.cidr, &first.node.name);
                let message =
                    format!("pod CIDR {cidr} overlaps {other} of node {name}, which counts");
                let hint = "give every node a range of its own";
                reports.push(report(node, Severity::Error, "PodCIDROverlap", message, hint));
                continue;
            }
            among.insert(cidr.network(), Owned { node, cidr });
            accepted.push(Owned { node, cidr });
        }
    }
    (accepted, reports)
}

fn met<'m, 'a>(ranges: &'m BTreeMap<IpAddr, Owned<'a>>, cidr: IpNet) -> Option<&'m Owned<'a>> {
    let before = ranges.range(..=cidr.network()).next_back().map(|(_, owned)| owned);
    let inside = || ranges.range(cidr.network()..=cidr.broadcast()).next().map(|(_, owned)| owned);
    before.filter(|owned| owned.cidr.contains(&cidr)).or_else(inside)
}

/// Why no pod can live there.
fn unusable(cidr: IpNet) -> Option<&'static str> {
    let first = cidr.network();
    if cidr.prefix_len() == 0 {
        return Some("is the whole address space");
    }
    // host-local needs two host bits; and a single address looks like a pod's own route.
    if cidr.max_prefix_len() - cidr.prefix_len() < 2 {
        return Some("is too small for a pod");
    }
    let link_local = match first {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if first.is_loopback() {
        Some("is loopback")
    } else if first.is_multicast() {
        Some("is multicast")
    } else if link_local {
        Some("is link-local")
    } else if first.is_unspecified() {
        Some("begins at the unspecified address")
    } else {
        None
    }
}

pub(crate) fn report(
    node: &NodeFacts,
    severity: Severity,
    reason: &'static str,
    message: String,
    hint: &'static str,
) -> Report {
    let key = ObjectKey::new("", node.name.as_str());
    let object = ObjectRef { kind: Kind::Node, key, uid: node.uid };
    Report { object, severity, reason, message, hint: hint.into() }
}
