//! The chains that are always there: dispatch, the two sides, what is refused or dropped, masquerade.

use model::Family;
use nft::{
    Chain, Hook, HookKind, HookPoint, MarkPlace, MarkValue, Match, MatchOp, Name, NatFlags, Packed,
    RejectWith, Right, Selector, Statement,
};

use super::chains::{CountChain, set_mark, sources};
use super::name;
use super::sets::{SetId, daddr, dialled, saddr};
use crate::frontend::{At, Side};
use crate::{Config, NodePortAddresses};

/// `RTN_LOCAL`: what `fib daddr type local` compares with.
const RTN_LOCAL: u32 = 2;
/// `IP_CT_NEW` as a bit of `ct state` (`NF_CT_STATE_BIT`).
const CT_NEW: u32 = 8;
/// `IPS_DST_NAT`.
const CT_STATUS_DNAT: u32 = 32;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// The chain that tells the sides of a frontend apart.
pub(crate) fn two_sides(at: At) -> Name {
    name(match at {
        At::Address => "two-sides",
        At::Port => "node-two-sides",
    })
}

/// Pods reach every endpoint and keep their address, as if they had gone out to a load balancer and come back by the
/// nearest node. The node itself does too, but its address may be the frontend's own, so it is masqueraded. Everybody
/// else gets this node's endpoints, or, where there is none, ends in the filter hooks.
fn telling_sides(at: At, config: &Config) -> Chain {
    let itself = || Statement::equals(Selector::FibSaddrType, Packed::new().index(RTN_LOCAL));
    let to = |family, side| {
        // Ports are the same in both families: what a rule looks up must be of the packet's.
        let number = if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        let of_family = (at == At::Port)
            .then(|| Statement::equals(Selector::MetaNfproto, Packed::new().proto(number)));
        let inner = SetId::Inner(at, side, family).name();
        of_family.into_iter().chain([Statement::vmap(dialled(at, family), inner)])
    };
    let mut chain = Chain::new(two_sides(at));
    for family in Family::BOTH {
        let pods = sources(config, MatchOp::Eq);
        // By link, one match is for both families.
        let pods = pods.get(usize::from(family == Family::V6)).or_else(|| pods.first()).cloned();
        chain = chain.rule(pods.into_iter().chain(to(family, Side::Inside)));
    }
    chain = chain.rule([itself(), set_mark(config.mark)]);
    for family in Family::BOTH {
        chain = chain.rule([itself()].into_iter().chain(to(family, Side::Inside)));
    }
    for family in Family::BOTH {
        chain = chain.rule(to(family, Side::Outside));
    }
    chain
}

/// What a node port answers on: addresses of this node, by default all but loopback.
fn to_this_node(family: Family, config: &Config) -> Vec<Statement> {
    let local = Statement::equals(Selector::FibDaddrType, Packed::new().index(RTN_LOCAL));
    let mut matches = vec![local];
    if config.node_port_addresses != NodePortAddresses::All {
        let chosen = SetId::NodeAddresses(family).name();
        matches.push(Statement::in_set([daddr(family)], chosen));
    }
    let right = match family {
        Family::V4 if config.localhost_node_ports => None,
        Family::V4 => Some(loopback()),
        Family::V6 => Some(Right::Value(Packed::new().ipv6(std::net::Ipv6Addr::LOCALHOST))),
    };
    match right {
        Some(right) => matches.push(Statement::Match(Match {
            left: vec![daddr(family)],
            op: MatchOp::Ne,
            right,
        })),
        // The family must be said all the same.
        None => matches
            .push(Statement::equals(Selector::MetaNfproto, Packed::new().proto(NFPROTO_IPV4))),
    }
    matches
}

fn loopback() -> Right {
    Right::Prefix { address: Packed::new().ipv4([127, 0, 0, 0].into()), length: 8 }
}

/// With loopback addresses allowed on every link, what comes from outside with one must end here: programs that listen on
/// loopback trust it (CVE-2020-8558). Before connection tracking, where answers to our own still have the address they
/// were sent to.
fn guard_loopback() -> Chain {
    let foreign = || {
        Statement::Match(Match {
            left: vec![Selector::MetaIifname],
            op: MatchOp::Ne,
            right: Right::Value(Packed::new().ifname("lo")),
        })
    };
    let is =
        |left| Statement::Match(Match { left: vec![left], op: MatchOp::Eq, right: loopback() });
    let hook = Hook::new(HookKind::Filter, HookPoint::Prerouting, -300);
    Chain::base(name("guard-loopback"), hook)
        .rule([is(Selector::IpDaddr), foreign(), Statement::drop()])
        .rule([is(Selector::IpSaddr), foreign(), Statement::drop()])
}

/// The chains that are always there.
pub(super) fn fixed(config: &Config) -> Vec<Chain> {
    let mut dispatch = Chain::new(name("dispatch"));
    for family in Family::BOTH {
        // `loadBalancerSourceRanges`: the ranges are looked through only for the few frontends that have some.
        let key = || dialled(At::Address, family);
        let filtered = Statement::in_set(key(), SetId::Filtered(family).name());
        let whole = key().into_iter().chain([saddr(family)]);
        let stranger = Statement::not_in_set(whole, SetId::Admitted(family).name());
        dispatch = dispatch.rule([filtered, stranger, Statement::drop()]);
    }
    for family in Family::BOTH {
        for chain in CountChain::common() {
            let of_count = SetId::Common(family, chain.count).name();
            let known = Statement::in_set(dialled(At::Address, family), of_count);
            dispatch = dispatch.rule([known, Statement::goto(chain.name())]);
        }
    }
    let mut unserved = Chain::new(name("no-endpoint"));
    for at in At::ALL {
        for family in Family::BOTH {
            // A node port counts on this node's addresses only.
            let here = || match at {
                At::Address => Vec::new(),
                At::Port => to_this_node(family, config),
            };
            let key = || dialled(at, family);
            let rule = |statement| here().into_iter().chain([statement]);
            dispatch =
                dispatch.rule(rule(Statement::vmap(key(), SetId::Dispatch(at, family).name())));
            let none = Statement::in_set(key(), SetId::NoEndpoint(at, family).name());
            unserved = unserved.rule(rule(none).chain([Statement::goto(name("refuse"))]));
            let none_here = Statement::in_set(key(), SetId::NoLocalEndpoint(at, family).name());
            unserved = unserved.rule(rule(none_here).chain([Statement::drop()]));
        }
    }
    for family in Family::BOTH {
        // What is still on its way to a cluster address here is served by nobody.
        let nobodys = Statement::in_set([daddr(family)], SetId::ServiceCidrs(family).name());
        unserved = unserved.rule([nobodys, Statement::goto(name("refuse"))]);
    }
    let nat = |text, point| {
        Chain::base(name(text), Hook::new(HookKind::Nat, point, -100))
            .rule([Statement::jump(name("dispatch"))])
    };
    let filter = |text, point| {
        let new =
            Match { left: vec![Selector::CtState], op: MatchOp::Eq, right: Right::AnyBit(CT_NEW) };
        Chain::base(name(text), Hook::new(HookKind::Filter, point, 0))
            .rule([Statement::Match(new), Statement::jump(name("no-endpoint"))])
    };
    let guard = config.localhost_node_ports.then(guard_loopback);
    let always = [
        dispatch,
        telling_sides(At::Address, config),
        telling_sides(At::Port, config),
        unserved,
        refusal_itself(),
        nat("nat-prerouting", HookPoint::Prerouting),
        nat("nat-output", HookPoint::Output),
        filter("filter-input", HookPoint::Input),
        filter("filter-forward", HookPoint::Forward),
        filter("filter-output", HookPoint::Output),
        postrouting(config.mark),
    ];
    let common = CountChain::common().flat_map(|chain| chain.chains(config));
    always.into_iter().chain(guard).chain(common).collect()
}

/// A TCP client is reset, others get port unreachable. For TCP an ICMP error that arrives while `connect` still holds the
/// socket is only a hint (`tcp_v4_err` in the kernel), and the client then waits a second for its first retransmission.
fn refusal_itself() -> Chain {
    let tcp = Statement::equals(Selector::MetaL4proto, Packed::new().proto(6));
    Chain::new(name("refuse"))
        .rule([tcp, Statement::Reject(RejectWith::TcpReset)])
        .rule([Statement::Reject(RejectWith::PortUnreachable)])
}

fn postrouting(mark: u32) -> Chain {
    let marked = Match {
        left: vec![Selector::MetaMark],
        op: MatchOp::Eq,
        right: Right::Masked { mask: mark, value: mark },
    };
    let clear = Statement::SetMark { place: MarkPlace::Packet, value: MarkValue::And(!mark) };
    let away = Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() });
    let mut chain =
        Chain::base(name("nat-postrouting"), Hook::new(HookKind::Nat, HookPoint::Postrouting, 100))
            .rule([Statement::Match(marked), clear, away]);
    for family in Family::BOTH {
        let translated = Match {
            left: vec![Selector::CtStatus],
            op: MatchOp::Eq,
            right: Right::AnyBit(CT_STATUS_DNAT),
        };
        let itself =
            Statement::in_set([saddr(family), daddr(family)], SetId::Hairpin(family).name());
        chain = chain.rule([
            Statement::Match(translated),
            itself,
            Statement::Masquerade(NatFlags { fully_random: true, ..NatFlags::default() }),
        ]);
    }
    chain
}
