//! Pod CIDRs: a part of each cluster range for every node.
//!
//! What is taken is read from the nodes themselves, so nothing has to be remembered across a
//! restart and a deleted node's part is free at once.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::config::{ClusterCidr, Config};
use super::engine::{Controller, Wakes};
use super::object::{is_deleting, list_at, member_at, name, str_at};
use super::view::{Change, View};
use super::write::{NODES, Note, ObjectRef, Op, Outcome, Write};

/// Queues the nodes a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    if change.target.resource != NODES {
        return;
    }
    if change.new.is_some() {
        out.push(Controller::NodeCidr, change.target.clone());
    } else {
        // Its part may be what a waiting node needs.
        for node in view.all(&NODES).filter(|node| pod_cidrs(node).is_empty()) {
            out.push(Controller::NodeCidr, ObjectRef::of(NODES, node));
        }
    }
}

fn pod_cidrs(node: &Value) -> Vec<IpNet> {
    let many: Vec<IpNet> = list_at(node, &["spec", "podCIDRs"])
        .iter()
        .filter_map(|cidr| cidr.as_str()?.parse().ok())
        .collect();
    if many.is_empty() {
        str_at(node, &["spec", "podCIDR"]).parse().into_iter().collect()
    } else {
        many
    }
}

/// Gives one node its pod CIDRs if it has none.
pub(crate) fn reconcile(view: &View, target: &ObjectRef, config: &Config) -> Outcome {
    let mut out = Outcome::default();
    let Some(node) = view.get(target) else { return out };
    if !pod_cidrs(node).is_empty() || is_deleting(node) || config.cluster_cidrs.is_empty() {
        return out;
    }
    let taken: Vec<IpNet> = view.all(&NODES).flat_map(|node| pod_cidrs(node)).collect();
    let chosen: Option<Vec<IpNet>> =
        config.cluster_cidrs.iter().map(|cluster| first_free(cluster, &taken)).collect();
    let Some(chosen) = chosen else {
        out.writes.push(Write::note(Note {
            regarding: Value::clone(node),
            api_version: "v1",
            kind: "Node",
            warning: false,
            reason: "CIDRNotAvailable",
            message: format!("Node {} status is now: CIDRNotAvailable", name(node)),
            component: "cidrAllocator",
        }));
        return out;
    };
    let mut object = Value::clone(node);
    let spec = member_at(&mut object, &["spec"]);
    spec.insert("podCIDR".into(), chosen[0].to_string().into());
    spec.insert(
        "podCIDRs".into(),
        Value::Array(chosen.iter().map(|cidr| cidr.to_string().into()).collect()),
    );
    out.push(Op::Update { resource: NODES, object });
    out
}

/// The first part of a range that overlaps nothing taken.
fn first_free(cluster: &ClusterCidr, taken: &[IpNet]) -> Option<IpNet> {
    let range = cluster.range;
    let bits = cluster.node_prefix.checked_sub(range.prefix_len())?;
    let same: HashSet<IpNet> = taken.iter().copied().collect();
    // Parts of other sizes (from an older configuration) are few; equal ones are found by hash.
    let odd: Vec<&IpNet> =
        taken.iter().filter(|cidr| cidr.prefix_len() != cluster.node_prefix).collect();
    let count = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
    (0..count).filter_map(|index| part(range, cluster.node_prefix, index)).find(|candidate| {
        !same.contains(candidate)
            && !odd.iter().any(|other| other.contains(candidate) || candidate.contains(*other))
    })
}

/// Part number `index` of a range.
fn part(range: IpNet, prefix: u8, index: u128) -> Option<IpNet> {
    match range.network() {
        IpAddr::V4(base) => {
            let offset =
                u32::try_from(index).ok()?.checked_shl(32_u32.checked_sub(prefix.into())?)?;
            let address = Ipv4Addr::from(u32::from(base).checked_add(offset)?);
            Ipv4Net::new(address, prefix).ok().map(IpNet::V4)
        }
        IpAddr::V6(base) => {
            let offset = index.checked_shl(128_u32.checked_sub(prefix.into())?)?;
            let address = Ipv6Addr::from(u128::from(base).checked_add(offset)?);
            Ipv6Net::new(address, prefix).ok().map(IpNet::V6)
        }
    }
}

#[cfg(test)]
mod tests;
