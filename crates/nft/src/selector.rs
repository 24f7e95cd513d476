//! What a rule can look at: header fields, metadata, connection tracking, the routing table, numbers.

use crate::Field;

/// A direction of a tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// As the first packet went.
    Original,
    /// The way back.
    Reply,
}

/// An expression that yields a value to compare, look up or store; `nft`'s words in the variant's docs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// `ip saddr`.
    IpSaddr,
    /// `ip daddr`.
    IpDaddr,
    /// `ip6 saddr`.
    Ip6Saddr,
    /// `ip6 daddr`.
    Ip6Daddr,
    /// `th sport`: the source port of whatever transport it is.
    ThSport,
    /// `th dport`.
    ThDport,
    /// `tcp sport`.
    TcpSport,
    /// `tcp dport`.
    TcpDport,
    /// `tcp flags`.
    TcpFlags,
    /// `udp sport`.
    UdpSport,
    /// `udp dport`.
    UdpDport,
    /// `sctp sport`.
    SctpSport,
    /// `sctp dport`.
    SctpDport,
    /// `icmp type`.
    IcmpType,
    /// `icmpv6 type`.
    Icmpv6Type,
    /// `meta l4proto`.
    MetaL4proto,
    /// `meta nfproto`.
    MetaNfproto,
    /// `meta mark`.
    MetaMark,
    /// `iifname`.
    MetaIifname,
    /// `oifname`.
    MetaOifname,
    /// `ct state`.
    CtState,
    /// `ct status`.
    CtStatus,
    /// `ct mark`.
    CtMark,
    /// `ct direction`.
    CtDirection,
    /// `ct original ip saddr`, `ct reply ip saddr`.
    CtIpSaddr(Direction),
    /// `ct original ip daddr`, `ct reply ip daddr`.
    CtIpDaddr(Direction),
    /// `ct original ip6 saddr`, `ct reply ip6 saddr`.
    CtIp6Saddr(Direction),
    /// `ct original ip6 daddr`, `ct reply ip6 daddr`.
    CtIp6Daddr(Direction),
    /// `ct original protocol`. `nft` 1.0.6 refuses it inside a concatenation.
    CtProtocol(Direction),
    /// `ct original proto-src`. `nft` 1.0.6 refuses it inside a concatenation.
    CtProtoSrc(Direction),
    /// `ct original proto-dst`. `nft` 1.0.6 refuses it inside a concatenation.
    CtProtoDst(Direction),
    /// `fib daddr type`.
    FibDaddrType,
    /// `fib saddr type`.
    FibSaddrType,
    /// `numgen random mod N offset O`: a fresh random number for every packet that comes here.
    NumgenRandom {
        /// Numbers `offset .. offset + modulus`; at least 1.
        modulus: u32,
        /// The first number.
        offset: u32,
    },
    /// `numgen inc mod N offset O`: one after the other.
    NumgenInc {
        /// Numbers `offset .. offset + modulus`; at least 1.
        modulus: u32,
        /// The first number.
        offset: u32,
    },
    /// `jhash A . B mod N seed S offset O`.
    Jhash {
        /// What is hashed.
        over: Vec<Selector>,
        /// Numbers `offset .. offset + modulus`; at least 1.
        modulus: u32,
        /// The hash seed; never 0 (the kernel would draw one of its own).
        seed: u32,
        /// The first number.
        offset: u32,
    },
}

impl Selector {
    /// The type of the value.
    #[must_use]
    pub fn field(&self) -> Field {
        match self {
            Self::IpSaddr | Self::IpDaddr | Self::CtIpSaddr(_) | Self::CtIpDaddr(_) => {
                Field::Ipv4Addr
            }
            Self::Ip6Saddr | Self::Ip6Daddr | Self::CtIp6Saddr(_) | Self::CtIp6Daddr(_) => {
                Field::Ipv6Addr
            }
            Self::ThSport
            | Self::ThDport
            | Self::TcpSport
            | Self::TcpDport
            | Self::UdpSport
            | Self::UdpDport
            | Self::SctpSport
            | Self::SctpDport
            | Self::CtProtoSrc(_)
            | Self::CtProtoDst(_) => Field::InetService,
            Self::TcpFlags => Field::TcpFlag,
            Self::IcmpType => Field::IcmpType,
            Self::Icmpv6Type => Field::Icmpv6Type,
            Self::MetaL4proto | Self::CtProtocol(_) => Field::InetProto,
            Self::MetaNfproto => Field::NfProto,
            Self::MetaMark | Self::CtMark => Field::Mark,
            Self::MetaIifname | Self::MetaOifname => Field::IfName,
            Self::CtState => Field::CtState,
            Self::CtStatus => Field::CtStatus,
            Self::CtDirection => Field::CtDir,
            Self::FibDaddrType | Self::FibSaddrType => Field::FibAddrType,
            Self::NumgenRandom { .. } | Self::NumgenInc { .. } | Self::Jhash { .. } => {
                Field::Integer
            }
        }
    }
}

/// Length of a concatenation of these in registers, in bytes.
pub(crate) fn padded_len(selectors: &[Selector]) -> usize {
    selectors.iter().map(|selector| selector.field().padded_len()).sum()
}
