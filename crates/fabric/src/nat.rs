//! NAT for pods that leave the cluster: the part of table `inet fairway` this capability owns.
//!
//! Sets `pod-cidrs4`, `pool-cidrs4`, `no-nat-cidrs4` (ranges), `node-ips4`, the same for IPv6, chain `nat-outgoing`. From a
//! pod to anything that is neither pod nor node the source becomes the node's, unless its pool says otherwise; pods and
//! nodes see each other's true addresses.

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
    for (v4, field, saddr, daddr, family) in [
        (true, Field::Ipv4Addr, Selector::IpSaddr, Selector::IpDaddr, 4),
        (false, Field::Ipv6Addr, Selector::Ip6Saddr, Selector::Ip6Daddr, 6),
    ] {
        let mut ranges = |name: &str, cidrs: &[IpNet]| {
            let name = Name::new(&format!("{name}{family}"))?;
            let flags = SetFlags { interval: true, ..SetFlags::default() };
            let mut set = Set::new(SetSpec::new(name.clone(), [field]).with_flags(flags));
            for cidr in cidrs.iter().filter(|cidr| cidr.addr().is_ipv4() == v4) {
                set.elements.insert(&range(*cidr))?;
            }
            table.insert_set(set);
            Ok::<_, NatError>(name)
        };
        let pods = ranges("pod-cidrs", &plan.pod_cidrs)?;
        let pools = ranges("pool-cidrs", &plan.pool_cidrs)?;
        let keeping = ranges("no-nat-cidrs", &plan.no_nat_cidrs)?;
        let nodes = Name::new(&format!("node-ips{family}"))?;
        let mut node_ips = Set::new(SetSpec::new(nodes.clone(), [field]));
        for ip in plan.node_ips.iter().filter(|ip| ip.is_ipv4() == v4) {
            node_ips.elements.insert(&Element::key(packed(*ip)))?;
        }
        table.insert_set(node_ips);
        let is = |left: &Selector, op, set: &Name| {
            let right = Right::Set(set.clone());
            Statement::Match(Match { left: vec![left.clone()], op, right })
        };
        let masquerade =
            || Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() });
        chain = chain.rule([
            is(&saddr, MatchOp::Eq, &pods),
            is(&saddr, MatchOp::Ne, &keeping),
            is(&daddr, MatchOp::Ne, &pods),
            is(&daddr, MatchOp::Ne, &pools),
            is(&daddr, MatchOp::Ne, &nodes),
            masquerade(),
        ]);
        // What this node sends to a Service has the address of the way to the Service; translated into a tunnel it needs
        // the tunnel's, or the answer would come back outside of it.
        for tunnel in &plan.tunnels {
            let out = Match {
                left: vec![Selector::MetaOifname],
                op: MatchOp::Eq,
                right: Right::Value(Packed::new().ifname(&tunnel.link.name)),
            };
            let own = is(&saddr, MatchOp::Eq, &nodes);
            chain = chain.rule([Statement::Match(out), own, masquerade()]);
        }
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
