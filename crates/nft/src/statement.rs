//! Statements: the typed parts a rule is made of.

use std::net::IpAddr;
use std::time::Duration;

use crate::{Name, Packed, Selector, Verdict};

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// How a match compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatchOp {
    /// `==`, or membership.
    Eq,
    /// `!=`, or no membership.
    Ne,
    /// `<`.
    Lt,
    /// `<=`.
    Le,
    /// `>`.
    Gt,
    /// `>=`.
    Ge,
}

/// What a match compares with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Right {
    /// A value of one component.
    Value(Packed),
    /// A CIDR, for one address component.
    Prefix {
        /// The network address.
        address: Packed,
        /// How many leading bits count.
        length: u8,
    },
    /// `"veth*"`: names of links that begin so; with [`MatchOp::Eq`] or [`MatchOp::Ne`].
    NamePrefix(Box<str>),
    /// A closed range, for one component; with [`MatchOp::Eq`] or [`MatchOp::Ne`].
    Range(Packed, Packed),
    /// `left & mask == value`, for one host-order component such as a mark.
    Masked {
        /// The bits that count.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// Any of these bits is set, as `ct state established,related` and `ct status dnat` mean; only with [`MatchOp::Eq`].
    AnyBit(u32),
    /// An anonymous set `{ a, b }`; one element per key, no ranges.
    OneOf(Vec<Packed>),
    /// A named set `@name`.
    Set(Name),
}

/// The common case of [`Statement::Match`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Match {
    /// What is compared; more than one is a concatenation (sets only).
    pub left: Vec<Selector>,
    /// How.
    pub op: MatchOp,
    /// With what.
    pub right: Right,
}

/// The map of a `vmap` statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VerdictMap {
    /// `vmap @name`.
    Named(Name),
    /// `vmap { key : verdict, … }`.
    Inline(Vec<(Packed, Verdict)>),
}

/// Which end a NAT statement rewrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatKind {
    /// `dnat`.
    Dnat,
    /// `snat`.
    Snat,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NatTarget {
    /// `KEY map @map`: a key that is not in the map ends the rule without a translation.
    Map {
        /// The key.
        key: Vec<Selector>,
        /// The map.
        map: Name,
        /// Whether the map's data are `address . port`; otherwise an address alone.
        with_port: bool,
    },
    /// A fixed address, with a port or without.
    Fixed(IpAddr, Option<u16>),
}

/// Flags of `dnat`, `snat` and `masquerade`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NatFlags {
    /// `random`.
    pub random: bool,
    /// `fully-random`.
    pub fully_random: bool,
    /// `persistent`.
    pub persistent: bool,
}

/// Which mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkPlace {
    /// `meta mark`: the packet's.
    Packet,
    /// `ct mark`: the connection's.
    Connection,
}

/// What a mark becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MarkValue {
    /// This value.
    Fixed(u32),
    /// Its old value with these bits set.
    Or(u32),
    /// Its old value with only these bits kept.
    And(u32),
    /// Its old value with these bits flipped.
    Xor(u32),
    /// The other mark's value (`meta mark set ct mark`).
    Copy,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectWith {
    /// ICMP or ICMPv6 port unreachable: the plain `reject`.
    PortUnreachable,
    /// `icmpx admin-prohibited`.
    AdminProhibited,
    /// `icmpx no-route`.
    NoRoute,
    /// `icmpx host-unreachable`.
    HostUnreachable,
    /// `tcp reset`; implies the match `meta l4proto tcp`.
    TcpReset,
}

/// What a rule does to a dynamic set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpdateOp {
    /// `add @set { … }`: an existing element keeps its age.
    Add,
    /// `update @set { … }`: an existing element starts its timeout again.
    Update,
    /// `delete @set { … }`.
    Delete,
}

/// Where a `log` statement writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LogInto {
    /// Text before each record.
    pub prefix: Option<String>,
    /// The nfnetlink_log group; the kernel log when `None`.
    pub group: Option<u16>,
}

/// Kernel expressions this crate has no statement for, as listed: kept, printed as a comment, equal to nothing of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// What it is, in the kernel's words (`limit`, `quota`, …), for people.
    pub what: String,
    /// The raw attributes.
    pub attributes: Vec<u8>,
}

/// One part of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Statement {
    /// Goes on only when the comparison holds.
    Match(Match),
    /// `KEY vmap MAP`: decides as the element says; goes on when there is none.
    Vmap {
        /// The key.
        key: Vec<Selector>,
        /// The map.
        map: VerdictMap,
    },
    /// `dnat ip to …`, `snat ip6 to …`. The `nft` grammar wants a match on the transport before a port is set.
    Nat {
        /// Destination or source.
        kind: NatKind,
        /// Of which family the new address is.
        family: IpFamily,
        /// The new address.
        to: NatTarget,
        /// Flags.
        flags: NatFlags,
    },
    /// `masquerade`.
    Masquerade(NatFlags),
    /// `meta mark set …`, `ct mark set …`.
    SetMark {
        /// Which mark.
        place: MarkPlace,
        /// Its new value.
        value: MarkValue,
    },
    /// `reject with …`.
    Reject(RejectWith),
    /// A verdict.
    Verdict(Verdict),
    /// `counter`; its numbers are no part of the value.
    Counter,
    /// `update @set { KEY timeout T }`.
    Update {
        /// How.
        op: UpdateOp,
        /// The dynamic set.
        set: Name,
        /// The key.
        key: Vec<Selector>,
        /// The element's timeout; the set's own when `None`.
        timeout: Option<Duration>,
    },
    /// `notrack`.
    Notrack,
    /// `log`.
    Log(LogInto),
    /// Something listed that is not ours.
    Opaque(Opaque),
}

impl Statement {
    /// `LEFT == value`.
    #[must_use]
    pub fn equals(left: Selector, value: Packed) -> Self {
        Self::Match(Match { left: vec![left], op: MatchOp::Eq, right: Right::Value(value) })
    }

    /// `LEFT @set`.
    #[must_use]
    pub fn in_set(left: impl IntoIterator<Item = Selector>, set: Name) -> Self {
        Self::Match(Match {
            left: left.into_iter().collect(),
            op: MatchOp::Eq,
            right: Right::Set(set),
        })
    }

    /// `LEFT != @set`.
    #[must_use]
    pub fn not_in_set(left: impl IntoIterator<Item = Selector>, set: Name) -> Self {
        Self::Match(Match {
            left: left.into_iter().collect(),
            op: MatchOp::Ne,
            right: Right::Set(set),
        })
    }

    /// `LEFT { a, b }`.
    #[must_use]
    pub fn one_of(left: Selector, values: impl IntoIterator<Item = Packed>) -> Self {
        let right = Right::OneOf(values.into_iter().collect());
        Self::Match(Match { left: vec![left], op: MatchOp::Eq, right })
    }

    /// `meta l4proto { tcp, udp, sctp }`, which `nft` wants before a NAT statement that sets a port.
    #[must_use]
    pub fn any_transport() -> Self {
        Self::one_of(Selector::MetaL4proto, [6, 17, 132].map(|number| Packed::new().proto(number)))
    }

    /// `KEY vmap @map`.
    #[must_use]
    pub fn vmap(key: impl IntoIterator<Item = Selector>, map: Name) -> Self {
        Self::Vmap { key: key.into_iter().collect(), map: VerdictMap::Named(map) }
    }

    /// `dnat FAMILY to KEY map @map`, the map's data being `address . port`.
    #[must_use]
    pub fn dnat(family: IpFamily, key: impl IntoIterator<Item = Selector>, map: Name) -> Self {
        let to = NatTarget::Map { key: key.into_iter().collect(), map, with_port: true };
        Self::Nat { kind: NatKind::Dnat, family, to, flags: NatFlags::default() }
    }

    /// `jump chain`.
    #[must_use]
    pub fn jump(chain: Name) -> Self {
        Self::Verdict(Verdict::Jump(chain))
    }

    /// `goto chain`.
    #[must_use]
    pub fn goto(chain: Name) -> Self {
        Self::Verdict(Verdict::Goto(chain))
    }

    /// `accept`.
    #[must_use]
    pub fn accept() -> Self {
        Self::Verdict(Verdict::Accept)
    }

    /// `drop`.
    #[must_use]
    pub fn drop() -> Self {
        Self::Verdict(Verdict::Drop)
    }

    /// `return`.
    #[must_use]
    pub fn return_() -> Self {
        Self::Verdict(Verdict::Return)
    }
}
