//! Kernel expressions as typed values: what a rule is to nf_tables, and the form in which rules are compared.

use crate::{Name, Packed, Verdict};

/// A register by its first 32-bit word, 0–15; the verdict register is not one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reg(pub(crate) u8);

impl Reg {
    /// As the kernel writes it: `NFT_REG_1`… where a 16-byte register begins, `NFT_REG32_01`… elsewhere.
    pub(crate) const fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 as u32 / 4 } else { 8 + self.0 as u32 }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

/// A comparison, numbered as the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CmpOp {
    Eq = 0,
    Ne = 1,
    Lt = 2,
    Le = 3,
    Gt = 4,
    Ge = 5,
}

/// A set a rule refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetRef {
    Named(Name),
    Anonymous(AnonymousSet),
}

/// A set that lives and dies with its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnonymousSet {
    /// `nft`'s type number of the (concatenated) key.
    pub(crate) key_type: u32,
    /// Length of a key on the wire.
    pub(crate) key_len: usize,
    /// Whether keys are in host byte order.
    pub(crate) host_order: bool,
    pub(crate) is_vmap: bool,
    /// Sorted by key.
    pub(crate) elements: Vec<(Packed, Option<Verdict>)>,
}

/// What a lookup yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Yields {
    /// Membership.
    Nothing,
    /// A datum in a register.
    Value(Reg),
    /// A verdict.
    Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    Payload {
        dreg: Reg,
        base: u32,
        offset: u32,
        len: u32,
    },
    Meta {
        dreg: Reg,
        key: u32,
    },
    MetaSet {
        sreg: Reg,
        key: u32,
    },
    Ct {
        dreg: Reg,
        key: u32,
        direction: Option<u8>,
    },
    CtSet {
        sreg: Reg,
        key: u32,
    },
    Fib {
        dreg: Reg,
        result: u32,
        flags: u32,
    },
    Numgen {
        dreg: Reg,
        modulus: u32,
        kind: u32,
        offset: u32,
    },
    Jhash {
        sreg: Reg,
        dreg: Reg,
        len: u32,
        modulus: u32,
        seed: u32,
        offset: u32,
    },
    Cmp {
        sreg: Reg,
        op: CmpOp,
        value: Vec<u8>,
    },
    Range {
        sreg: Reg,
        negate: bool,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Lookup {
        sreg: Reg,
        set: SetRef,
        yields: Yields,
        invert: bool,
    },
    Immediate {
        dreg: Reg,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    Nat {
        kind: u32,
        family: u32,
        address: Option<Reg>,
        port: Option<Reg>,
        flags: u32,
    },
    Masquerade {
        flags: u32,
    },
    Reject {
        kind: u32,
        code: u8,
    },
    Counter,
    Dynset {
        op: u32,
        set: Name,
        sreg: Reg,
        timeout_ms: u64,
    },
    Notrack,
    Log {
        prefix: Option<String>,
        group: Option<u16>,
    },
    /// Something this crate has no words for.
    Unknown {
        name: String,
        data: Vec<u8>,
    },
}

/// Numbers of keys in the kernel's headers.
pub(crate) mod key {
    pub(crate) const NETWORK: u32 = 1;
    pub(crate) const TRANSPORT: u32 = 2;

    pub(crate) const META_MARK: u32 = 3;
    pub(crate) const META_IIFNAME: u32 = 6;
    pub(crate) const META_OIFNAME: u32 = 7;
    pub(crate) const META_NFPROTO: u32 = 15;
    pub(crate) const META_L4PROTO: u32 = 16;

    pub(crate) const CT_STATE: u32 = 0;
    pub(crate) const CT_DIRECTION: u32 = 1;
    pub(crate) const CT_STATUS: u32 = 2;
    pub(crate) const CT_MARK: u32 = 3;
    pub(crate) const CT_PROTOCOL: u32 = 10;
    pub(crate) const CT_PROTO_SRC: u32 = 11;
    pub(crate) const CT_PROTO_DST: u32 = 12;
    pub(crate) const CT_SRC_IP: u32 = 19;
    pub(crate) const CT_DST_IP: u32 = 20;
    pub(crate) const CT_SRC_IP6: u32 = 21;
    pub(crate) const CT_DST_IP6: u32 = 22;

    pub(crate) const FIB_SADDR: u32 = 1;
    pub(crate) const FIB_DADDR: u32 = 2;
    pub(crate) const FIB_RESULT_ADDRTYPE: u32 = 3;

    pub(crate) const NUMGEN_INC: u32 = 0;
    pub(crate) const NUMGEN_RANDOM: u32 = 1;

    pub(crate) const REJECT_ICMP: u32 = 0;
    pub(crate) const REJECT_TCP_RESET: u32 = 1;
    pub(crate) const REJECT_ICMPX: u32 = 2;

    pub(crate) const NAT_RANDOM: u32 = 0x4;
    pub(crate) const NAT_PERSISTENT: u32 = 0x8;
    pub(crate) const NAT_FULLY_RANDOM: u32 = 0x10;
}
