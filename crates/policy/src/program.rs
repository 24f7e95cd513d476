//! The part of table `inet fairway` that judges packets: a constant program, one chain per identity, and their sets.
//!
//! ```text
//! forward ─► replies pass ─► a pod to itself passes
//!         ─► policy-egress:  ip saddr vmap @policy-egress4   ─► the sender's identity    ─ allowed: back ─┐
//!                            a pod's link, an address nobody has? drop                                    │
//!         ─► policy-ingress: ip daddr vmap @policy-ingress4  ─► the receiver's identity  ◄────────────────┘
//!                            a pod's link, an address nobody has? drop
//!         ─► policy-midstream
//! ```
//! A UDP packet that answers a flow which was cut is dropped before that (`severed`).
//!
//! A TCP packet in the middle of a connection nobody knows is not for or from an isolated pod: a connection that was cut must
//! not come back by the first packet of the side that may talk.
//!
//! The hook is the forward one, after destinations were translated and before sources are: both ends are the real ones. What
//! the node sends to its pods and they to it passes, as the API wants it ("traffic to and from the node where a Pod is running
//! is always allowed"); only addresses nobody has are stopped on their way to the node, too.

mod body;
mod sets;
mod severed;

use model::Family;
use nft::{
    Chain, Hook, HookKind, HookPoint, Match, MatchOp, Name, Packed, Right, Selector, Statement,
    Table, UpdateOp,
};

use crate::rule::Direction;

pub(crate) use body::{chain_name, chain_names, chains};
pub use sets::{DeniedFlow, denied_sets, flow_of_key};
pub(crate) use sets::{SetId, packed};
use sets::{daddr, saddr};
pub use severed::{Severed, mend, sever, severed_of_key, severed_sets};

/// The one table this node owns, in family `inet`.
pub const TABLE: &str = "fairway";
/// What every chain and set of this program begins with.
const PREFIX: &str = "policy-";
/// What the host ends of our pods' links begin with.
const POD_LINKS: &str = "fw";
/// `IP_CT_ESTABLISHED` and `IP_CT_RELATED` as bits of `ct state`.
const CT_ESTABLISHED_RELATED: u32 = 2 | 4;
/// After Services: what they refuse is refused.
const PRIORITY: i32 = 10;
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The flag of a packet that opens a connection, or answers one that does.
const TCP_SYN: u32 = 2;

/// Whether a chain or set of the table is this program's.
#[must_use]
pub fn is_ours(name: &Name) -> bool {
    name.as_str().starts_with(PREFIX)
}

pub(crate) fn table_name() -> Name {
    Name::new(TABLE).expect("invariant: the table's name")
}

/// A name of the program's own making.
fn name(text: &str) -> Name {
    Name::new(&format!("{PREFIX}{text}"))
        .expect("invariant: the program's names are letters, digits and dashes")
}

fn equals(left: Selector, op: MatchOp, right: Right) -> Statement {
    Statement::Match(Match { left: vec![left], op, right })
}

/// The address of the pod concerned, as the direction sees it.
fn own(direction: Direction, family: Family) -> Selector {
    match direction {
        Direction::Ingress => daddr(family),
        Direction::Egress => saddr(family),
    }
}

/// The other end's.
fn other(direction: Direction, family: Family) -> Selector {
    match direction {
        Direction::Ingress => saddr(family),
        Direction::Egress => daddr(family),
    }
}

fn replies_pass() -> [Statement; 2] {
    let established = equals(Selector::CtState, MatchOp::Eq, Right::AnyBit(CT_ESTABLISHED_RELATED));
    [established, Statement::accept()]
}

/// Drops what goes over a pod's link with an address no pod of this node has.
fn strangers(mut chain: Chain, direction: Direction) -> Chain {
    let link = match direction {
        Direction::Ingress => Selector::MetaOifname,
        Direction::Egress => Selector::MetaIifname,
    };
    for family in Family::BOTH {
        chain = chain.rule([
            equals(link.clone(), MatchOp::Eq, Right::NamePrefix(POD_LINKS.into())),
            Statement::not_in_set([own(direction, family)], SetId::Pods(family).name()),
            Statement::goto(name("stranger")),
        ]);
    }
    chain
}

/// Drops what is in the middle of a connection that is not tracked, where a pod has rules.
fn midstream() -> Chain {
    let opening = equals(Selector::TcpFlags, MatchOp::Eq, Right::AnyBit(TCP_SYN));
    let mut chain = Chain::new(name("midstream")).rule([opening, Statement::return_()]);
    for family in Family::BOTH {
        for address in [saddr(family), daddr(family)] {
            let isolated = Statement::in_set([address], SetId::Isolated(family).name());
            chain = chain.rule([isolated, Statement::Counter, Statement::drop()]);
        }
    }
    chain
}

/// Notes a packet, so that somebody can say why; each flow once a minute at most.
fn noting(direction: Direction, audit: bool, end: Option<Statement>) -> Chain {
    let word = if audit { "audited" } else { "denied" };
    let mut chain = Chain::new(name(&format!("{word}-{direction}")));
    for family in Family::BOTH {
        let key = vec![saddr(family), daddr(family), Selector::MetaL4proto, Selector::ThDport];
        chain = chain.rule([
            Statement::any_transport(),
            Statement::Update {
                op: UpdateOp::Update,
                set: SetId::Noted { direction, family, audit }.name(),
                key,
                timeout: None,
            },
        ]);
    }
    chain.rule([Statement::Counter].into_iter().chain(end))
}

/// The chains that are always there.
fn fixed() -> Vec<Chain> {
    let forward = Hook::new(HookKind::Filter, HookPoint::Forward, PRIORITY);
    let mut forward = Chain::base(name("forward"), forward).rule(replies_pass());
    for family in Family::BOTH {
        let pair = [saddr(family), daddr(family)];
        forward = forward
            .rule([Statement::in_set(pair, SetId::Itself(family).name()), Statement::accept()]);
    }
    forward = severed::drops(forward);
    let tcp = Statement::equals(Selector::MetaL4proto, Packed::new().proto(TCP));
    forward = forward
        .rule([Statement::jump(name("egress"))])
        .rule([Statement::jump(name("ingress"))])
        .rule([tcp, Statement::jump(name("midstream"))]);
    let input = Hook::new(HookKind::Filter, HookPoint::Input, PRIORITY);
    // Neighbours are found before anybody has an address.
    let neighbours = Statement::equals(Selector::MetaL4proto, Packed::new().proto(ICMPV6));
    let input = Chain::base(name("input"), input)
        .rule(replies_pass())
        .rule([neighbours, Statement::accept()]);
    let mut chains = vec![
        forward,
        midstream(),
        strangers(input, Direction::Egress),
        Chain::new(name("stranger")).rule([Statement::Counter, Statement::drop()]),
    ];
    for direction in Direction::BOTH {
        let mut dispatch = Chain::new(name(direction.as_str()));
        for family in Family::BOTH {
            let identity = SetId::Identity(direction, family).name();
            dispatch = dispatch.rule([Statement::vmap([own(direction, family)], identity)]);
        }
        chains.push(strangers(dispatch, direction));
        chains.push(noting(direction, false, Some(Statement::drop())));
        chains.push(noting(direction, true, None));
    }
    chains
}

/// The table with the chains and sets that are always there, all empty.
pub(crate) fn skeleton() -> Table {
    let mut table = Table::new(nft::Family::Inet, table_name());
    for chain in fixed() {
        table.insert_chain(chain);
    }
    for set in SetId::fixed() {
        table.insert_set(nft::Set::new(set.spec()));
    }
    table
}
