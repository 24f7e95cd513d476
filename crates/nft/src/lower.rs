//! Statements to kernel expressions: registers as `nft` gives them out, and the matches `nft` puts in between
//! (`ip daddr` in an inet table means "and it is IPv4").

use crate::expr::{AnonymousSet, CmpOp, Expr, Reg, SetRef, Yields, key};
use crate::selector::padded_len;
use crate::{
    Direction, Family, Field, IpFamily, MarkPlace, MarkValue, Match, MatchOp, NatFlags, NatKind,
    NatTarget, Packed, RejectWith, Right, Rule, Selector, Statement, UpdateOp, Verdict, VerdictMap,
};

/// Why a rule cannot be said to the kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A match, map key or update without a selector.
    #[error("a statement without anything to look at")]
    NoSelector,
    /// A concatenation where one selector is needed (only sets and maps take more).
    #[error("a concatenation of {selectors} compared with something that is no set")]
    Concatenation {
        /// How many selectors there are.
        selectors: usize,
    },
    /// A value of another length than its selector.
    #[error("a value of {found} bytes compared with {selector:?}, which has {expected}")]
    Length {
        /// The selector.
        selector: Selector,
        /// Its padded length in bytes.
        expected: usize,
        /// The value's.
        found: usize,
    },
    /// An operator this comparison does not have.
    #[error("{op:?} does not fit {right:?}")]
    Operator {
        /// The operator.
        op: MatchOp,
        /// The right side.
        right: Box<Right>,
    },
    /// A concatenation that does not fit the 64 bytes of registers.
    #[error("a key of {bytes} bytes does not fit the kernel's 64 bytes of registers")]
    Registers {
        /// Bytes needed.
        bytes: usize,
    },
    /// Expressions listed from the kernel that this crate cannot say back.
    #[error("a rule of foreign expressions ({what}) cannot be sent")]
    Opaque {
        /// What they are.
        what: String,
    },
    /// A jhash with seed 0, or a numgen or jhash with modulus 0.
    #[error("{selector:?}: modulus and seed must not be 0")]
    Zero {
        /// The selector.
        selector: Selector,
    },
}

/// The expressions of a rule in a table of this family.
pub(crate) fn lower(family: Family, rule: &Rule) -> Result<Vec<Expr>, RuleError> {
    let network = match family {
        Family::Ip => Some(IPV4),
        Family::Ip6 => Some(IPV6),
        Family::Inet | Family::Bridge | Family::Netdev => None,
    };
    let mut lowering = Lowering { family, network, transport: None, out: Vec::new() };
    for statement in &rule.statements {
        lowering.statement(statement)?;
    }
    Ok(lowering.out)
}

pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FIRST: Reg = Reg(0);

struct Lowering {
    family: Family,
    /// The network protocol the packet is known to have at this point.
    network: Option<u8>,
    /// The transport protocol likewise.
    transport: Option<u8>,
    out: Vec<Expr>,
}

impl Lowering {
    fn statement(&mut self, statement: &Statement) -> Result<(), RuleError> {
        match statement {
            Statement::Match(matching) => self.matching(matching)?,
            Statement::Vmap { key, map } => {
                self.load_key(key)?;
                let set = match map {
                    VerdictMap::Named(name) => SetRef::Named(name.clone()),
                    VerdictMap::Inline(elements) => {
                        let elements =
                            elements.iter().map(|(key, verdict)| (*key, Some(verdict.clone())));
                        SetRef::Anonymous(anonymous(key, true, elements.collect())?)
                    }
                };
                self.out.push(Expr::Lookup {
                    sreg: FIRST,
                    set,
                    yields: Yields::Verdict,
                    invert: false,
                });
            }
            Statement::Nat { kind, family, to, flags } => self.nat(*kind, *family, to, *flags)?,
            Statement::Masquerade(flags) => {
                self.out.push(Expr::Masquerade { flags: nat_flags(*flags) })
            }
            Statement::SetMark { place, value } => self.set_mark(*place, *value),
            Statement::Reject(with) => self.reject(*with),
            Statement::Verdict(verdict) => self.out.push(Expr::Verdict(verdict.clone())),
            Statement::Counter => self.out.push(Expr::Counter),
            Statement::Update { op, set, key, timeout } => {
                self.load_key(key)?;
                let op = match op {
                    UpdateOp::Add => 0,
                    UpdateOp::Update => 1,
                    UpdateOp::Delete => 2,
                };
                let timeout_ms = timeout.map_or(0, |timeout| timeout.as_millis() as u64);
                self.out.push(Expr::Dynset { op, set: set.clone(), sreg: FIRST, timeout_ms });
            }
            Statement::Notrack => self.out.push(Expr::Notrack),
            Statement::Log(log) => {
                self.out.push(Expr::Log { prefix: log.prefix.clone(), group: log.group });
            }
            Statement::Opaque(opaque) => {
                return Err(RuleError::Opaque { what: opaque.what.clone() });
            }
        }
        Ok(())
    }

    fn matching(&mut self, matching: &Match) -> Result<(), RuleError> {
        let Match { left, op, right } = matching;
        let invert = match op {
            MatchOp::Eq => false,
            MatchOp::Ne => true,
            MatchOp::Lt | MatchOp::Le | MatchOp::Gt | MatchOp::Ge => {
                let ordered = matches!(right, Right::Value(_))
                    && !left.iter().any(|it| it.field().is_host_order());
                if !ordered {
                    return Err(RuleError::Operator { op: *op, right: Box::new(right.clone()) });
                }
                false
            }
        };
        let lookup = |set| Expr::Lookup { sreg: FIRST, set, yields: Yields::Nothing, invert };
        match right {
            Right::Set(name) => {
                self.load_key(left)?;
                self.out.push(lookup(SetRef::Named(name.clone())));
                return Ok(());
            }
            Right::OneOf(values) => {
                let set =
                    anonymous(left, false, values.iter().map(|value| (*value, None)).collect())?;
                self.load_key(left)?;
                self.out.push(lookup(SetRef::Anonymous(set)));
                return Ok(());
            }
            _ => {}
        }
        let [selector] = left.as_slice() else {
            return Err(if left.is_empty() {
                RuleError::NoSelector
            } else {
                RuleError::Concatenation { selectors: left.len() }
            });
        };
        let trimmed = |value: &Packed| wire_value(selector, value);
        let field = selector.field();
        let equality = if invert { CmpOp::Ne } else { CmpOp::Eq };
        let compare = |op, value| Expr::Cmp { sreg: FIRST, op, value };
        let and = |mask: Vec<u8>| {
            let xor = vec![0; mask.len()];
            Expr::Bitwise { sreg: FIRST, dreg: FIRST, mask, xor }
        };
        match right {
            Right::Value(value) => {
                let value = trimmed(value)?;
                self.load_key(left)?;
                if *op == MatchOp::Eq {
                    self.learn(selector, &value);
                }
                let op = match op {
                    MatchOp::Eq => CmpOp::Eq,
                    MatchOp::Ne => CmpOp::Ne,
                    MatchOp::Lt => CmpOp::Lt,
                    MatchOp::Le => CmpOp::Le,
                    MatchOp::Gt => CmpOp::Gt,
                    MatchOp::Ge => CmpOp::Ge,
                };
                self.out.push(compare(op, value));
            }
            Right::Prefix { address, length } => {
                let address = trimmed(address)?;
                let bits = usize::from(*length).min(address.len() * 8);
                let mut mask = vec![0_u8; address.len()];
                for bit in 0..bits {
                    mask[bit / 8] |= 0x80 >> (bit % 8);
                }
                let network = address.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect();
                self.load_key(left)?;
                self.out.extend([and(mask), compare(equality, network)]);
            }
            Right::NamePrefix(prefix) => {
                // The kernel compares as many bytes as it is given; 15 and the closing NUL would be a whole name.
                let usable = field == Field::IfName && (1..16).contains(&prefix.len());
                if !usable || !matches!(op, MatchOp::Eq | MatchOp::Ne) {
                    return Err(RuleError::Operator { op: *op, right: Box::new(right.clone()) });
                }
                self.load_key(left)?;
                self.out.push(compare(equality, prefix.as_bytes().to_vec()));
            }
            Right::Range(from, to) => {
                let (from, to) = (trimmed(from)?, trimmed(to)?);
                if field.is_host_order() {
                    return Err(RuleError::Operator { op: *op, right: Box::new(right.clone()) });
                }
                self.load_key(left)?;
                if invert {
                    self.out.push(Expr::Range { sreg: FIRST, negate: true, from, to });
                } else {
                    self.out.extend([compare(CmpOp::Ge, from), compare(CmpOp::Le, to)]);
                }
            }
            Right::Masked { .. } | Right::AnyBit(_) if field.len() != 4 && field.len() != 1 => {
                return Err(RuleError::Length {
                    selector: selector.clone(),
                    expected: field.len(),
                    found: 4,
                });
            }
            Right::Masked { mask, value } => {
                self.load_key(left)?;
                self.out.extend([and(bits(field, *mask)), compare(equality, bits(field, *value))]);
            }
            Right::AnyBit(mask) if *op == MatchOp::Eq => {
                self.load_key(left)?;
                self.out.extend([and(bits(field, *mask)), compare(CmpOp::Ne, bits(field, 0))]);
            }
            _ => return Err(RuleError::Operator { op: *op, right: Box::new(right.clone()) }),
        }
        Ok(())
    }

    fn nat(
        &mut self,
        kind: NatKind,
        family: IpFamily,
        to: &NatTarget,
        flags: NatFlags,
    ) -> Result<(), RuleError> {
        let (family, words) = match family {
            IpFamily::V4 => (IPV4, 1),
            IpFamily::V6 => (IPV6, 4),
        };
        let port = match to {
            NatTarget::Map { key, map, with_port } => {
                self.load_key(key)?;
                let set = SetRef::Named(map.clone());
                self.out.push(Expr::Lookup {
                    sreg: FIRST,
                    set,
                    yields: Yields::Value(FIRST),
                    invert: false,
                });
                with_port.then_some(Reg(words))
            }
            NatTarget::Fixed(address, port) => {
                let value = match address {
                    std::net::IpAddr::V4(address) => address.octets().to_vec(),
                    std::net::IpAddr::V6(address) => address.octets().to_vec(),
                };
                self.out.push(Expr::Immediate { dreg: FIRST, value });
                port.map(|port| {
                    self.out
                        .push(Expr::Immediate { dreg: Reg(4), value: port.to_be_bytes().to_vec() });
                    Reg(4)
                })
            }
        };
        let kind = match kind {
            NatKind::Snat => 0,
            NatKind::Dnat => 1,
        };
        let flags = nat_flags(flags);
        self.out.push(Expr::Nat { kind, family: family.into(), address: Some(FIRST), port, flags });
        Ok(())
    }

    fn set_mark(&mut self, place: MarkPlace, value: MarkValue) {
        let load = |place| match place {
            MarkPlace::Packet => Expr::Meta { dreg: FIRST, key: key::META_MARK },
            MarkPlace::Connection => Expr::Ct { dreg: FIRST, key: key::CT_MARK, direction: None },
        };
        let other = match place {
            MarkPlace::Packet => MarkPlace::Connection,
            MarkPlace::Connection => MarkPlace::Packet,
        };
        let bitwise = |mask: u32, xor: u32| Expr::Bitwise {
            sreg: FIRST,
            dreg: FIRST,
            mask: mask.to_ne_bytes().to_vec(),
            xor: xor.to_ne_bytes().to_vec(),
        };
        match value {
            MarkValue::Fixed(mark) => {
                self.out.push(Expr::Immediate { dreg: FIRST, value: mark.to_ne_bytes().to_vec() });
            }
            MarkValue::Or(bits) => self.out.extend([load(place), bitwise(!bits, bits)]),
            MarkValue::And(bits) => self.out.extend([load(place), bitwise(bits, 0)]),
            MarkValue::Xor(bits) => self.out.extend([load(place), bitwise(u32::MAX, bits)]),
            MarkValue::Copy => self.out.push(load(other)),
        }
        self.out.push(match place {
            MarkPlace::Packet => Expr::MetaSet { sreg: FIRST, key: key::META_MARK },
            MarkPlace::Connection => Expr::CtSet { sreg: FIRST, key: key::CT_MARK },
        });
    }

    fn reject(&mut self, with: RejectWith) {
        let (kind, code) = match (with, self.family) {
            (RejectWith::TcpReset, _) => {
                self.need_transport(TCP);
                (key::REJECT_TCP_RESET, 0)
            }
            (RejectWith::PortUnreachable, Family::Ip) => (key::REJECT_ICMP, 3),
            (RejectWith::AdminProhibited, Family::Ip) => (key::REJECT_ICMP, 13),
            (RejectWith::NoRoute, Family::Ip) => (key::REJECT_ICMP, 0),
            (RejectWith::HostUnreachable, Family::Ip) => (key::REJECT_ICMP, 1),
            (RejectWith::PortUnreachable, Family::Ip6) => (key::REJECT_ICMP, 4),
            (RejectWith::AdminProhibited, Family::Ip6) => (key::REJECT_ICMP, 1),
            (RejectWith::NoRoute, Family::Ip6) => (key::REJECT_ICMP, 0),
            (RejectWith::HostUnreachable, Family::Ip6) => (key::REJECT_ICMP, 3),
            (RejectWith::NoRoute, _) => (key::REJECT_ICMPX, 0),
            (RejectWith::PortUnreachable, _) => (key::REJECT_ICMPX, 1),
            (RejectWith::HostUnreachable, _) => (key::REJECT_ICMPX, 2),
            (RejectWith::AdminProhibited, _) => (key::REJECT_ICMPX, 3),
        };
        self.out.push(Expr::Reject { kind, code });
    }

    /// Loads a concatenation into consecutive registers from the first on.
    fn load_key(&mut self, selectors: &[Selector]) -> Result<(), RuleError> {
        if selectors.is_empty() {
            return Err(RuleError::NoSelector);
        }
        let bytes = padded_len(selectors);
        for selector in selectors {
            self.need(selector);
        }
        // What a hash is made over lies behind the key, at a full register as nft has it.
        let scratch = bytes.next_multiple_of(16).max(16);
        let mut at = 0;
        for selector in selectors {
            let hashed =
                if let Selector::Jhash { over, .. } = selector { padded_len(over) } else { 0 };
            if bytes > 64 || (hashed > 0 && scratch + hashed > 64) {
                return Err(RuleError::Registers { bytes: bytes.max(scratch + hashed) });
            }
            self.load(selector, Reg((at / 4) as u8), Reg((scratch / 4) as u8))?;
            at += selector.field().padded_len();
        }
        Ok(())
    }

    fn load(&mut self, selector: &Selector, dreg: Reg, scratch: Reg) -> Result<(), RuleError> {
        let expr = match selector {
            Selector::NumgenRandom { modulus: 0, .. }
            | Selector::NumgenInc { modulus: 0, .. }
            | Selector::Jhash { modulus: 0, .. }
            | Selector::Jhash { seed: 0, .. } => {
                return Err(RuleError::Zero { selector: selector.clone() });
            }
            Selector::NumgenRandom { modulus, offset } => {
                Expr::Numgen { dreg, modulus: *modulus, kind: key::NUMGEN_RANDOM, offset: *offset }
            }
            Selector::NumgenInc { modulus, offset } => {
                Expr::Numgen { dreg, modulus: *modulus, kind: key::NUMGEN_INC, offset: *offset }
            }
            Selector::Jhash { over, modulus, seed, offset } => {
                if over.is_empty() || over.iter().any(|it| matches!(it, Selector::Jhash { .. })) {
                    return Err(RuleError::NoSelector);
                }
                let mut at = scratch.0;
                for selector in over {
                    self.load(selector, Reg(at), scratch)?;
                    at += (selector.field().padded_len() / 4) as u8;
                }
                let len =
                    if let [one] = over.as_slice() { one.field().len() } else { padded_len(over) };
                let (len, modulus, seed, offset) = (len as u32, *modulus, *seed, *offset);
                Expr::Jhash { sreg: scratch, dreg, len, modulus, seed, offset }
            }
            plain => simple_load(plain, dreg).expect("invariant: every other selector is one load"),
        };
        self.out.push(expr);
        Ok(())
    }

    /// The matches a selector implies, unless the packet is known to satisfy them.
    fn need(&mut self, selector: &Selector) {
        match selector {
            Selector::IpSaddr | Selector::IpDaddr => self.need_network(IPV4),
            Selector::Ip6Saddr | Selector::Ip6Daddr => self.need_network(IPV6),
            Selector::TcpSport | Selector::TcpDport | Selector::TcpFlags => {
                self.need_transport(TCP)
            }
            Selector::UdpSport | Selector::UdpDport => self.need_transport(UDP),
            Selector::SctpSport | Selector::SctpDport => self.need_transport(SCTP),
            Selector::IcmpType => {
                self.need_network(IPV4);
                self.need_transport(ICMP);
            }
            Selector::Icmpv6Type => {
                self.need_network(IPV6);
                self.need_transport(ICMPV6);
            }
            Selector::Jhash { over, .. } => over.iter().for_each(|selector| self.need(selector)),
            _ => {}
        }
    }

    fn need_network(&mut self, protocol: u8) {
        if self.network != Some(protocol) {
            self.network = Some(protocol);
            self.out.push(Expr::Meta { dreg: FIRST, key: key::META_NFPROTO });
            self.out.push(Expr::Cmp { sreg: FIRST, op: CmpOp::Eq, value: vec![protocol] });
        }
    }

    fn need_transport(&mut self, protocol: u8) {
        if self.transport != Some(protocol) {
            self.transport = Some(protocol);
            self.out.push(Expr::Meta { dreg: FIRST, key: key::META_L4PROTO });
            self.out.push(Expr::Cmp { sreg: FIRST, op: CmpOp::Eq, value: vec![protocol] });
        }
    }

    fn learn(&mut self, selector: &Selector, value: &[u8]) {
        match selector {
            Selector::MetaNfproto => self.network = Some(value[0]),
            Selector::MetaL4proto => self.transport = Some(value[0]),
            _ => {}
        }
    }
}

/// The one expression that loads a selector; `None` for generated numbers and hashes.
pub(crate) fn simple_load(selector: &Selector, dreg: Reg) -> Option<Expr> {
    let payload = |base, offset, len| Expr::Payload { dreg, base, offset, len };
    let meta = |key| Expr::Meta { dreg, key };
    let ct = |key, direction: Option<&Direction>| {
        let direction = direction.map(|direction| match direction {
            Direction::Original => 0,
            Direction::Reply => 1,
        });
        Expr::Ct { dreg, key, direction }
    };
    Some(match selector {
        Selector::IpSaddr => payload(key::NETWORK, 12, 4),
        Selector::IpDaddr => payload(key::NETWORK, 16, 4),
        Selector::Ip6Saddr => payload(key::NETWORK, 8, 16),
        Selector::Ip6Daddr => payload(key::NETWORK, 24, 16),
        Selector::ThSport | Selector::TcpSport | Selector::UdpSport | Selector::SctpSport => {
            payload(key::TRANSPORT, 0, 2)
        }
        Selector::ThDport | Selector::TcpDport | Selector::UdpDport | Selector::SctpDport => {
            payload(key::TRANSPORT, 2, 2)
        }
        Selector::TcpFlags => payload(key::TRANSPORT, 13, 1),
        Selector::IcmpType | Selector::Icmpv6Type => payload(key::TRANSPORT, 0, 1),
        Selector::MetaL4proto => meta(key::META_L4PROTO),
        Selector::MetaNfproto => meta(key::META_NFPROTO),
        Selector::MetaMark => meta(key::META_MARK),
        Selector::MetaIifname => meta(key::META_IIFNAME),
        Selector::MetaOifname => meta(key::META_OIFNAME),
        Selector::CtState => ct(key::CT_STATE, None),
        Selector::CtStatus => ct(key::CT_STATUS, None),
        Selector::CtMark => ct(key::CT_MARK, None),
        Selector::CtDirection => ct(key::CT_DIRECTION, None),
        Selector::CtIpSaddr(direction) => ct(key::CT_SRC_IP, Some(direction)),
        Selector::CtIpDaddr(direction) => ct(key::CT_DST_IP, Some(direction)),
        Selector::CtIp6Saddr(direction) => ct(key::CT_SRC_IP6, Some(direction)),
        Selector::CtIp6Daddr(direction) => ct(key::CT_DST_IP6, Some(direction)),
        Selector::CtProtocol(direction) => ct(key::CT_PROTOCOL, Some(direction)),
        Selector::CtProtoSrc(direction) => ct(key::CT_PROTO_SRC, Some(direction)),
        Selector::CtProtoDst(direction) => ct(key::CT_PROTO_DST, Some(direction)),
        Selector::FibDaddrType => {
            Expr::Fib { dreg, result: key::FIB_RESULT_ADDRTYPE, flags: key::FIB_DADDR }
        }
        Selector::FibSaddrType => {
            Expr::Fib { dreg, result: key::FIB_RESULT_ADDRTYPE, flags: key::FIB_SADDR }
        }
        Selector::NumgenRandom { .. } | Selector::NumgenInc { .. } | Selector::Jhash { .. } => {
            return None;
        }
    })
}

fn anonymous(
    selectors: &[Selector],
    is_vmap: bool,
    mut elements: Vec<(Packed, Option<Verdict>)>,
) -> Result<AnonymousSet, RuleError> {
    let expected = padded_len(selectors);
    for (key, _) in &elements {
        if key.len() != expected {
            let selector = selectors.first().cloned().ok_or(RuleError::NoSelector)?;
            return Err(RuleError::Length { selector, expected, found: key.len() });
        }
    }
    elements.sort();
    elements.dedup_by_key(|(key, _)| *key);
    let key_type = selectors.iter().fold(0, |all, selector| all << 6 | selector.field().type_id());
    let (key_len, host_order) = match selectors {
        [one] => (one.field().len(), one.field().is_host_order()),
        _ => (expected, false),
    };
    Ok(AnonymousSet { key_type, key_len, host_order, is_vmap, elements })
}

/// A value as the register holds it: a single component is not padded.
fn wire_value(selector: &Selector, value: &Packed) -> Result<Vec<u8>, RuleError> {
    let field = selector.field();
    if value.len() != field.padded_len() {
        let (expected, found) = (field.padded_len(), value.len());
        return Err(RuleError::Length { selector: selector.clone(), expected, found });
    }
    Ok(value.as_bytes()[..field.len()].to_vec())
}

fn bits(field: Field, value: u32) -> Vec<u8> {
    if field.len() == 1 { vec![value as u8] } else { value.to_ne_bytes().to_vec() }
}

fn nat_flags(flags: NatFlags) -> u32 {
    let bit = |on: bool, bit| if on { bit } else { 0 };
    bit(flags.random, key::NAT_RANDOM)
        | bit(flags.fully_random, key::NAT_FULLY_RANDOM)
        | bit(flags.persistent, key::NAT_PERSISTENT)
}
