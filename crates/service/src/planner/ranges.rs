//! The few sets of ranges: whose addresses are pods, cluster addresses, or this node's for node ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{Family, NodeFacts, Snapshot};
use nft::Packed;

use crate::element::Value;
use crate::frontend::packed_address;
use crate::program::SetId;
use crate::{Config, NodePortAddresses};

/// Set and first address → last address.
pub(super) type Ranges = BTreeMap<(SetId, IpAddr), IpAddr>;

/// All of them. Each set's ranges are merged first: the kernel refuses ranges that overlap, and one object with a wrong
/// CIDR must not cost the others theirs.
pub(super) fn all(snapshot: &Snapshot, config: &Config, node: Option<&NodeFacts>) -> Ranges {
    let mut ranges = Ranges::new();
    let of_nodes = snapshot.nodes().flat_map(|node| &node.pod_cidrs);
    add(&mut ranges, SetId::PodCidrs, of_nodes.chain(&config.pod_cidrs));
    add(&mut ranges, SetId::NodePodCidrs, node.into_iter().flat_map(|node| &node.pod_cidrs));
    let ready = snapshot.service_cidrs().filter(|cidr| cidr.ready).flat_map(|cidr| &cidr.cidrs);
    add(&mut ranges, SetId::ServiceCidrs, ready.chain(&config.service_cidrs));
    let mut addresses: Vec<IpNet> = match &config.node_port_addresses {
        NodePortAddresses::All => Vec::new(),
        NodePortAddresses::Primary => {
            let primary = |family| node?.internal_ip(family).map(IpNet::from);
            Family::BOTH.into_iter().filter_map(primary).collect()
        }
        NodePortAddresses::Ranges(listed) => listed.clone(),
    };
    if config.localhost_node_ports && config.node_port_addresses != NodePortAddresses::All {
        addresses.push(IpNet::V4(Ipv4Net::new_assert([127, 0, 0, 0].into(), 8)));
    }
    add(&mut ranges, SetId::NodeAddresses, &addresses);
    ranges
}

fn add<'a>(into: &mut Ranges, set: fn(Family) -> SetId, nets: impl IntoIterator<Item = &'a IpNet>) {
    for (first, last) in merged(nets) {
        into.insert((set(Family::of(first)), first), last);
    }
}

/// First and last addresses of ranges that do not touch.
pub(crate) fn merged<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Vec<(IpAddr, IpAddr)> {
    let mut v4: Vec<Ipv4Net> = Vec::new();
    let mut v6: Vec<Ipv6Net> = Vec::new();
    for net in nets {
        match net.trunc() {
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
pub(super) fn element((set, first): (SetId, IpAddr), last: IpAddr) -> ((SetId, Packed), Value) {
    ((set, packed_address(first)), Value::RangeTo(last))
}
