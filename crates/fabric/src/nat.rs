//! NAT for pods that leave the cluster: the part of table `inet fairway` this capability owns.
//!
//! Sets `pod-cidrs4`, `pod-cidrs6` (ranges), `node-ips4`, `node-ips6`, chain `nat-outgoing`. From a pod
//! to anything that is neither pod nor node the source becomes the node's; pods and nodes see each
//! other's true addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use nft::{
    Chain, Element, ElementError, Family, Field, Hook, HookKind, HookPoint, Match, MatchOp, Name,
    NameError, NatFlags, Packed, Right, Selector, Set, SetFlags, SetSpec, Statement, Table,
};

use crate::FabricPlan;

/// The chain of [`nat_table`].
pub const NAT_CHAIN: &str = "nat-outgoing";
/// Priority `srcnat`.
const SRCNAT: i32 = 100;

/// A table that cannot be written: a defect of this module, kept as data for the agent's report.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// A name `nft` does not take.
    #[error("object name: {0}")]
    Name(#[from] NameError),
    /// An element its set does not take.
    #[error("set element: {0}")]
    Element(#[from] ElementError),
}

/// Chains and sets of table `inet fairway` for this plan; the agent merges them with those of other
/// capabilities.
///
/// # Errors
/// [`NatError`].
pub fn nat_table(plan: &FabricPlan) -> Result<Table, NatError> {
    let mut table = Table::new(Family::Inet, Name::new("fairway")?);
    let srcnat = Hook::new(HookKind::Nat, HookPoint::Postrouting, SRCNAT);
    let mut chain = Chain::base(Name::new(NAT_CHAIN)?, srcnat);
    let families = [
        (true, Field::Ipv4Addr, Selector::IpSaddr, Selector::IpDaddr, "pod-cidrs4", "node-ips4"),
        (false, Field::Ipv6Addr, Selector::Ip6Saddr, Selector::Ip6Daddr, "pod-cidrs6", "node-ips6"),
    ];
    for (v4, field, saddr, daddr, pods, nodes) in families {
        let (pods, nodes) = (Name::new(pods)?, Name::new(nodes)?);
        let ranges = SetFlags { interval: true, ..SetFlags::default() };
        let mut pod_cidrs = Set::new(SetSpec::new(pods.clone(), [field]).with_flags(ranges));
        for cidr in plan.pod_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == v4) {
            pod_cidrs.elements.insert(&range(*cidr))?;
        }
        let mut node_ips = Set::new(SetSpec::new(nodes.clone(), [field]));
        for ip in plan.node_ips.iter().filter(|ip| ip.is_ipv4() == v4) {
            node_ips.elements.insert(&Element::key(packed(*ip)))?;
        }
        table.insert_set(pod_cidrs);
        table.insert_set(node_ips);
        let is = |left: &Selector, op, set: &Name| {
            let right = Right::Set(set.clone());
            Statement::Match(Match { left: vec![left.clone()], op, right })
        };
        chain = chain.rule([
            is(&saddr, MatchOp::Eq, &pods),
            is(&daddr, MatchOp::Ne, &pods),
            is(&daddr, MatchOp::Ne, &nodes),
            Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() }),
        ]);
    }
    table.insert_chain(chain);
    Ok(table)
}

fn packed(ip: IpAddr) -> Packed {
    match ip {
        IpAddr::V4(ip) => Packed::new().ipv4(ip),
        IpAddr::V6(ip) => Packed::new().ipv6(ip),
    }
}

fn range(cidr: IpNet) -> Element {
    Element::key(packed(cidr.network())).to(packed(cidr.broadcast()))
}
