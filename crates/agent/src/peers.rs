//! The other nodes as this one reaches them: what `fairway node list` shows.

use std::net::IpAddr;

use fabric::{Cluster, Path};
use ipnet::IpNet;
use link::kernel::Netlink;
use model::{NodeName, Snapshot};
use serde::Serialize;

use crate::between::Between;
use crate::desired::host_facts;
use crate::ipam::Wishes;

/// A range of another node, or of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The node.
    pub node: String,
    /// Its address packets go to; none when it is not reached.
    pub address: Option<IpAddr>,
    /// The range of its pods.
    pub range: Option<IpNet>,
    /// `here`, `direct`, `vxlan`, `ipip`, or `none`.
    pub mode: &'static str,
    /// The link packets leave by.
    pub device: Option<String>,
    /// Bytes a pod's packet may have on that way.
    pub mtu: Option<u32>,
    /// What to ask to see that the way works: the other end of the tunnel, else the node itself.
    pub probe: Option<IpAddr>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// All nodes, as the agent of `node` would reach them. Reads the addresses and links of this network namespace.
///
/// # Errors
/// When they cannot be read.
pub fn peers(
    node: &str,
    settings: &fabric::Settings,
    snapshot: &Snapshot,
) -> anyhow::Result<Vec<Peer>> {
    let mut kernel = Netlink::open()?;
    let facts = Between::of(snapshot, Wishes::default(), true);
    let host = host_facts(&mut kernel, NodeName::new(node), &facts.nodes)?;
    let links = kernel.links()?;
    let cluster = Cluster::new(&facts.nodes, &facts.pools, &facts.blocks);
    let (plan, reports) = fabric::compile(&cluster, &host, settings);
    let mut all = Vec::new();
    for other in &facts.nodes {
        let before = all.len();
        for peer in plan.peers.iter().filter(|peer| peer.node == other.name) {
            let (mode, device) = match peer.path {
                Path::Direct(device) => {
                    let link = links.iter().find(|link| link.index == device);
                    ("direct", link.map(|link| link.name.clone()))
                }
                Path::Tunnel(id) => {
                    let mode = if id == fabric::TunnelId::Ipip { "ipip" } else { "vxlan" };
                    (mode, Some(id.link_name().to_owned()))
                }
            };
            let tunnelled = matches!(peer.path, Path::Tunnel(_));
            // A node's end of the tunnel has the first address of its first range of the family.
            let first = plan.peers.iter().find(|it| {
                it.node == peer.node && it.cidr.addr().is_ipv4() == peer.cidr.addr().is_ipv4()
            });
            let end = first.map(|it| it.cidr.network()).filter(|_| tunnelled);
            all.push(Peer {
                node: other.name.as_str().to_owned(),
                address: Some(peer.address),
                range: Some(peer.cidr),
                mode,
                device,
                mtu: Some(peer.mtu),
                probe: end.or(Some(peer.address)),
                problem: None,
            });
        }
        if other.name.as_str() == node {
            for range in &plan.own_pod_cidrs {
                all.push(Peer {
                    node: node.to_owned(),
                    address: other.internal_ips.first().copied(),
                    range: Some(*range),
                    mode: "here",
                    device: None,
                    mtu: Some(plan.mtu),
                    probe: None,
                    problem: None,
                });
            }
        }
        for report in
            reports.iter().filter(|report| report.object.key.name() == other.name.as_str())
        {
            all.push(Peer {
                node: other.name.as_str().to_owned(),
                address: other.internal_ips.first().copied(),
                range: None,
                mode: "none",
                device: None,
                mtu: None,
                probe: None,
                problem: Some(format!("{}; {}", report.message, report.hint)),
            });
        }
        if all.len() == before {
            all.push(Peer {
                node: other.name.as_str().to_owned(),
                address: other.internal_ips.first().copied(),
                range: None,
                mode: "none",
                device: None,
                mtu: None,
                probe: None,
                problem: Some("the node has no range for pods yet".to_owned()),
            });
        }
    }
    Ok(all)
}
