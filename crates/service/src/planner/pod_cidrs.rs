//! The addresses that are pods, as ranges that do not touch.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Family, Snapshot};
use nft::Packed;

use crate::element::Value;
use crate::frontend::packed_address;
use crate::program::SetId;

/// The pod CIDRs of all nodes and of the configuration, first address → last. They are merged first: the kernel refuses
/// a set whose ranges overlap, and one node with a wrong CIDR must not cost the others theirs.
pub(super) fn ranges(snapshot: &Snapshot, configured: &[IpNet]) -> BTreeMap<IpAddr, IpAddr> {
    let mut v4: Vec<Ipv4Net> = Vec::new();
    let mut v6: Vec<Ipv6Net> = Vec::new();
    let of_nodes = snapshot.nodes().flat_map(|node| &node.pod_cidrs);
    for cidr in of_nodes.chain(configured) {
        match cidr.trunc() {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    let v4 = Ipv4Net::aggregate(&v4);
    let v6 = Ipv6Net::aggregate(&v6);
    let v4 = v4.iter().map(|net| (IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())));
    let v6 = v6.iter().map(|net| (IpAddr::V6(net.network()), IpAddr::V6(net.broadcast())));
    v4.chain(v6).collect()
}

/// One range as an element.
pub(super) fn element(start: IpAddr, end: IpAddr) -> ((SetId, Packed), Value) {
    ((SetId::PodCidrs(Family::of(start)), packed_address(start)), Value::RangeTo(end))
}
