//! The types a component of a key or datum can have, with the kernel's lengths and `nft`'s names.

use crate::Selector;

/// The type of one component, as `nft` names it in a `type` set declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `nf_proto`: 2 for IPv4, 10 for IPv6.
    NfProto,
    /// A 32-bit number in host byte order: what `numgen` and `jhash` yield. Only in `typeof` declarations.
    Integer,
    /// `ipv4_addr`.
    Ipv4Addr,
    /// `ipv6_addr`.
    Ipv6Addr,
    /// `inet_proto`: the transport protocol number.
    InetProto,
    /// `inet_service`: a port.
    InetService,
    /// `icmp_type`.
    IcmpType,
    /// `icmpv6_type`.
    Icmpv6Type,
    /// `tcp_flag`.
    TcpFlag,
    /// `mark`, host byte order.
    Mark,
    /// `ct_state`, host byte order.
    CtState,
    /// `ct_dir`.
    CtDir,
    /// `ct_status`, host byte order.
    CtStatus,
    /// `fib_addrtype`, host byte order.
    FibAddrType,
    /// `ifname`: 16 bytes.
    IfName,
    /// A type this crate has no name for, by `nft`'s type number; listed from the kernel, never made here.
    Foreign {
        /// `nft`'s type number.
        type_id: u32,
        /// Its length in bytes.
        length: u8,
    },
}

impl Field {
    /// Length of the value in bytes, without padding.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::NfProto
            | Self::InetProto
            | Self::IcmpType
            | Self::Icmpv6Type
            | Self::TcpFlag
            | Self::CtDir => 1,
            Self::InetService => 2,
            Self::Integer
            | Self::Ipv4Addr
            | Self::Mark
            | Self::CtState
            | Self::CtStatus
            | Self::FibAddrType => 4,
            Self::Ipv6Addr | Self::IfName => 16,
            Self::Foreign { length, .. } => length as usize,
        }
    }

    /// Always false; a component has at least one byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Length in a register or a concatenation: padded to 4 bytes.
    #[must_use]
    pub const fn padded_len(self) -> usize {
        self.len().next_multiple_of(4)
    }

    /// `nft`'s number for the type (`enum datatypes`); the kernel only hands it back.
    #[must_use]
    pub const fn type_id(self) -> u32 {
        match self {
            Self::NfProto => 2,
            Self::Integer => 4,
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::IcmpType => 14,
            Self::TcpFlag => 15,
            Self::Mark => 19,
            Self::CtState => 26,
            Self::CtDir => 27,
            Self::CtStatus => 28,
            Self::Icmpv6Type => 29,
            Self::FibAddrType => 38,
            Self::IfName => 41,
            Self::Foreign { type_id, .. } => type_id,
        }
    }

    /// The type with this number; `length` is used for types without a name here.
    #[must_use]
    pub const fn from_type_id(type_id: u32, length: u8) -> Self {
        match type_id {
            2 => Self::NfProto,
            4 if length == 4 => Self::Integer,
            7 => Self::Ipv4Addr,
            8 => Self::Ipv6Addr,
            12 => Self::InetProto,
            13 => Self::InetService,
            14 => Self::IcmpType,
            15 => Self::TcpFlag,
            19 => Self::Mark,
            26 => Self::CtState,
            27 => Self::CtDir,
            28 => Self::CtStatus,
            29 => Self::Icmpv6Type,
            38 => Self::FibAddrType,
            41 => Self::IfName,
            _ => Self::Foreign { type_id, length },
        }
    }

    /// `nft`'s name of the type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NfProto => "nf_proto",
            Self::Integer => "integer",
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmpv6Type => "icmpv6_type",
            Self::TcpFlag => "tcp_flag",
            Self::Mark => "mark",
            Self::CtState => "ct_state",
            Self::CtDir => "ct_dir",
            Self::CtStatus => "ct_status",
            Self::FibAddrType => "fib_addrtype",
            Self::IfName => "ifname",
            Self::Foreign { .. } => "unknown",
        }
    }

    /// Whether the value is kept in the machine's own byte order (`nft` must be told, or prints it reversed).
    #[must_use]
    pub const fn is_host_order(self) -> bool {
        matches!(
            self,
            Self::Integer
                | Self::Mark
                | Self::CtState
                | Self::CtStatus
                | Self::FibAddrType
                | Self::IfName
        )
    }
}

/// One component of a set declaration: by type (`type ipv4_addr`) or by example (`typeof ip daddr`).
///
/// A set prints as `typeof` when every component of its key and datum is a [`Selector`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SetField {
    /// By type.
    Type(Field),
    /// By the expression that yields it.
    Typeof(Selector),
}

impl SetField {
    /// The type of the component.
    #[must_use]
    pub fn field(&self) -> Field {
        match self {
            Self::Type(field) => *field,
            Self::Typeof(selector) => selector.field(),
        }
    }
}

impl From<Field> for SetField {
    fn from(field: Field) -> Self {
        Self::Type(field)
    }
}

impl From<Selector> for SetField {
    fn from(selector: Selector) -> Self {
        Self::Typeof(selector)
    }
}
