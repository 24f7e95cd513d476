//! Kernel expressions back to statements. The result is checked by lowering it again: a rule that does not come out
//! exactly as it went in stays opaque, so that equality of listed rules is exact.

use std::net::IpAddr;

use crate::expr::{CmpOp, Expr, Reg, SetRef, Yields, key};
use crate::lower::{lower, simple_load};
use crate::wire::userdata::every_plain_selector;
use crate::{
    Family, Field, IpFamily, LogInto, MarkPlace, MarkValue, Match, MatchOp, Name, NatFlags,
    NatKind, NatTarget, Opaque, Packed, RejectWith, Right, Rule, Selector, Statement, UpdateOp,
    VerdictMap,
};

/// The rule these expressions are. `key_len` tells the padded key length of a named set.
pub(crate) fn raise(
    family: Family,
    exprs: &[Expr],
    comment: Option<String>,
    raw: &[u8],
    key_len: impl Fn(&Name) -> Option<usize>,
) -> Rule {
    let mut raising =
        Raising { family, key_len, regs: [const { None }; 16], transport: None, out: Vec::new() };
    let known = exprs.iter().enumerate().try_for_each(|(at, expr)| raising.expr(expr, at, exprs));
    let says = |rule: &Rule| lower(family, rule).is_ok_and(|lowered| lowered == exprs);
    let mut rule = Rule { statements: raising.out, comment: comment.clone() };
    if known.is_some() && says(&rule) {
        // `ip daddr` already says "it is IPv4": leave out what is implied, as `nft list` does.
        while let Some(shorter) = without_implied(&rule, says) {
            rule = shorter;
        }
        return rule;
    }
    let what = exprs.iter().map(name_of).collect::<Vec<_>>().join(" ");
    Rule { statements: vec![Statement::Opaque(Opaque { what, attributes: raw.to_vec() })], comment }
}

/// The rule with one implied match left out, if one can be.
fn without_implied(rule: &Rule, says: impl Fn(&Rule) -> bool) -> Option<Rule> {
    let implied = |at: &usize| implied(&rule.statements[*at]);
    (0..rule.statements.len()).filter(implied).find_map(|at| {
        let mut shorter = rule.clone();
        shorter.statements.remove(at);
        says(&shorter).then_some(shorter)
    })
}

fn implied(statement: &Statement) -> bool {
    let Statement::Match(Match { left, op: MatchOp::Eq, right: Right::Value(_) }) = statement
    else {
        return false;
    };
    matches!(left.as_slice(), [Selector::MetaNfproto | Selector::MetaL4proto])
}

fn name_of(expr: &Expr) -> String {
    match expr {
        Expr::Unknown { name, .. } => name.clone(),
        known => {
            let debug = format!("{known:?}");
            debug.split([' ', '(', '{']).next().unwrap_or_default().to_ascii_lowercase()
        }
    }
}

/// What a register holds.
#[derive(Debug, Clone)]
enum Held {
    Selector(Selector),
    Masked(Selector, Vec<u8>, Vec<u8>),
    Immediate(Vec<u8>),
    Mapped(Vec<Selector>, Name),
}

struct Raising<F> {
    family: Family,
    key_len: F,
    regs: [Option<Held>; 16],
    transport: Option<u8>,
    out: Vec<Statement>,
}

impl<F: Fn(&Name) -> Option<usize>> Raising<F> {
    fn expr(&mut self, expr: &Expr, at: usize, all: &[Expr]) -> Option<()> {
        match expr {
            Expr::Payload { dreg, .. }
            | Expr::Meta { dreg, .. }
            | Expr::Ct { dreg, .. }
            | Expr::Fib { dreg, .. } => {
                let selector = self.selector(expr, *dreg)?;
                self.hold(*dreg, Held::Selector(selector));
            }
            Expr::Numgen { dreg, modulus, kind, offset } => {
                let (modulus, offset) = (*modulus, *offset);
                let selector = match *kind {
                    key::NUMGEN_RANDOM => Selector::NumgenRandom { modulus, offset },
                    key::NUMGEN_INC => Selector::NumgenInc { modulus, offset },
                    _ => return None,
                };
                self.hold(*dreg, Held::Selector(selector));
            }
            Expr::Jhash { sreg, dreg, len, modulus, seed, offset } => {
                let over = self.key(*sreg, *len as usize)?;
                let (modulus, seed, offset) = (*modulus, *seed, *offset);
                self.hold(*dreg, Held::Selector(Selector::Jhash { over, modulus, seed, offset }));
            }
            Expr::Bitwise { sreg, dreg, mask, xor } => {
                let Held::Selector(selector) = self.held(*sreg)? else { return None };
                self.hold(*dreg, Held::Masked(selector, mask.clone(), xor.clone()));
            }
            Expr::Immediate { dreg, value } => self.hold(*dreg, Held::Immediate(value.clone())),
            Expr::Cmp { sreg, op, value } => {
                self.compare(*sreg, *op, value, at.checked_sub(1).map(|at| &all[at]))?
            }
            Expr::Range { sreg, negate, from, to } => {
                let Held::Selector(selector) = self.held(*sreg)? else { return None };
                let op = if *negate { MatchOp::Ne } else { MatchOp::Eq };
                self.matching(vec![selector], op, Right::Range(packed(from)?, packed(to)?));
            }
            Expr::Lookup { sreg, set, yields, invert } => {
                self.lookup(*sreg, set, *yields, *invert)?
            }
            Expr::Verdict(verdict) => self.out.push(Statement::Verdict(verdict.clone())),
            Expr::Nat { kind, family, address, port, flags } => {
                self.nat(*kind, *family, (*address)?, *port, *flags)?;
            }
            Expr::Masquerade { flags } => self.out.push(Statement::Masquerade(nat_flags(*flags)?)),
            Expr::Reject { kind, code } => {
                let with = self.reject(*kind, *code)?;
                self.out.push(Statement::Reject(with));
            }
            Expr::Counter => self.out.push(Statement::Counter),
            Expr::Notrack => self.out.push(Statement::Notrack),
            Expr::Dynset { op, set, sreg, timeout_ms } => {
                let op = match op {
                    0 => UpdateOp::Add,
                    1 => UpdateOp::Update,
                    2 => UpdateOp::Delete,
                    _ => return None,
                };
                let key = self.key(*sreg, (self.key_len)(set)?)?;
                let timeout =
                    (*timeout_ms != 0).then(|| std::time::Duration::from_millis(*timeout_ms));
                self.out.push(Statement::Update { op, set: set.clone(), key, timeout });
            }
            Expr::Log { prefix, group } => {
                self.out.push(Statement::Log(LogInto { prefix: prefix.clone(), group: *group }));
            }
            Expr::MetaSet { sreg, key: key::META_MARK } => {
                self.set_mark(MarkPlace::Packet, *sreg)?
            }
            Expr::CtSet { sreg, key: key::CT_MARK } => {
                self.set_mark(MarkPlace::Connection, *sreg)?
            }
            Expr::MetaSet { .. } | Expr::CtSet { .. } | Expr::Unknown { .. } => return None,
        }
        Some(())
    }

    fn held(&self, reg: Reg) -> Option<Held> {
        self.regs[usize::from(reg.0)].clone()
    }

    fn hold(&mut self, reg: Reg, held: Held) {
        self.regs[usize::from(reg.0)] = Some(held);
    }

    /// The selectors loaded side by side from a register on, `length` bytes of them.
    fn key(&self, reg: Reg, length: usize) -> Option<Vec<Selector>> {
        let (mut word, mut bytes, mut selectors) = (usize::from(reg.0), 0, Vec::new());
        while bytes < length {
            let Some(Held::Selector(selector)) = self.regs.get(word)? else { return None };
            bytes += selector.field().padded_len();
            word += selector.field().padded_len() / 4;
            selectors.push(selector.clone());
        }
        Some(selectors)
    }

    fn selector(&self, expr: &Expr, dreg: Reg) -> Option<Selector> {
        let mut candidates =
            every_plain_selector().filter(|it| simple_load(it, dreg).as_ref() == Some(expr));
        let first = candidates.next()?;
        // Ports and ICMP types lie at the same place in several headers: the transport matched before tells.
        let fits = |selector: &Selector| match selector {
            Selector::TcpSport | Selector::TcpDport => self.transport == Some(6),
            Selector::UdpSport | Selector::UdpDport => self.transport == Some(17),
            Selector::SctpSport | Selector::SctpDport => self.transport == Some(132),
            Selector::IcmpType => self.transport == Some(1),
            Selector::Icmpv6Type => self.transport == Some(58),
            _ => false,
        };
        if fits(&first) { Some(first) } else { candidates.find(fits).or(Some(first)) }
    }

    fn matching(&mut self, left: Vec<Selector>, op: MatchOp, right: Right) {
        self.out.push(Statement::Match(Match { left, op, right }));
    }

    fn compare(&mut self, sreg: Reg, op: CmpOp, value: &[u8], before: Option<&Expr>) -> Option<()> {
        let op = match op {
            CmpOp::Eq => MatchOp::Eq,
            CmpOp::Ne => MatchOp::Ne,
            CmpOp::Lt => MatchOp::Lt,
            CmpOp::Le => MatchOp::Le,
            CmpOp::Gt => MatchOp::Gt,
            CmpOp::Ge => MatchOp::Ge,
        };
        match self.held(sreg)? {
            Held::Selector(selector) => {
                if let (MatchOp::Le, Some(Expr::Cmp { op: CmpOp::Ge, sreg: same, .. })) =
                    (op, before)
                    && *same == sreg
                    && let Some(Statement::Match(Match { op: was, right, .. })) =
                        self.out.last_mut()
                    && let Right::Value(from) = right.clone()
                {
                    *was = MatchOp::Eq;
                    *right = Right::Range(from, packed(value)?);
                    return Some(());
                }
                if selector.field() == Field::IfName && value.len() < Field::IfName.len() {
                    let prefix = std::str::from_utf8(value).ok()?;
                    self.matching(vec![selector], op, Right::NamePrefix(prefix.into()));
                    return Some(());
                }
                if selector == Selector::MetaL4proto && op == MatchOp::Eq {
                    self.transport = value.first().copied();
                }
                self.matching(vec![selector], op, Right::Value(packed(value)?));
            }
            Held::Masked(selector, mask, xor) => {
                if xor.iter().any(|byte| *byte != 0) {
                    return None;
                }
                let right = match selector.field() {
                    Field::Ipv4Addr | Field::Ipv6Addr => {
                        Right::Prefix { address: packed(value)?, length: prefix_length(&mask)? }
                    }
                    _ => {
                        let (mask, value) = (host(&mask)?, host(value)?);
                        if op == MatchOp::Ne && value == 0 {
                            self.matching(vec![selector], MatchOp::Eq, Right::AnyBit(mask));
                            return Some(());
                        }
                        Right::Masked { mask, value }
                    }
                };
                self.matching(vec![selector], op, right);
            }
            Held::Immediate(_) | Held::Mapped(..) => return None,
        }
        Some(())
    }

    fn lookup(&mut self, sreg: Reg, set: &SetRef, yields: Yields, invert: bool) -> Option<()> {
        let length = match set {
            SetRef::Named(name) => (self.key_len)(name)?,
            SetRef::Anonymous(set) => set.key_len,
        };
        let key = self.key(sreg, length)?;
        let op = if invert { MatchOp::Ne } else { MatchOp::Eq };
        match (yields, set) {
            (Yields::Nothing, SetRef::Named(name)) => {
                self.matching(key, op, Right::Set(name.clone()))
            }
            (Yields::Nothing, SetRef::Anonymous(set)) => {
                self.matching(
                    key,
                    op,
                    Right::OneOf(set.elements.iter().map(|(key, _)| *key).collect()),
                );
            }
            (Yields::Verdict, SetRef::Named(name)) => {
                self.out.push(Statement::Vmap { key, map: VerdictMap::Named(name.clone()) });
            }
            (Yields::Verdict, SetRef::Anonymous(set)) => {
                let elements =
                    set.elements.iter().map(|(key, verdict)| Some((*key, verdict.clone()?)));
                self.out.push(Statement::Vmap {
                    key,
                    map: VerdictMap::Inline(elements.collect::<Option<_>>()?),
                });
            }
            (Yields::Value(dreg), SetRef::Named(name)) => {
                self.hold(dreg, Held::Mapped(key, name.clone()))
            }
            (Yields::Value(_), SetRef::Anonymous(_)) => return None,
        }
        Some(())
    }

    fn nat(
        &mut self,
        kind: u32,
        family: u32,
        address: Reg,
        port: Option<Reg>,
        flags: u32,
    ) -> Option<()> {
        let kind = match kind {
            0 => NatKind::Snat,
            1 => NatKind::Dnat,
            _ => return None,
        };
        let family = match family {
            2 => IpFamily::V4,
            10 => IpFamily::V6,
            _ => return None,
        };
        let to = match self.held(address)? {
            Held::Mapped(key, map) => NatTarget::Map { key, map, with_port: port.is_some() },
            Held::Immediate(bytes) => {
                let address = match family {
                    IpFamily::V4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
                    IpFamily::V6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
                };
                let port = match port {
                    None => None,
                    Some(reg) => match self.held(reg)? {
                        Held::Immediate(bytes) => Some(u16::from_be_bytes(bytes.try_into().ok()?)),
                        _ => return None,
                    },
                };
                NatTarget::Fixed(address, port)
            }
            _ => return None,
        };
        self.out.push(Statement::Nat { kind, family, to, flags: nat_flags(flags)? });
        Some(())
    }

    fn set_mark(&mut self, place: MarkPlace, sreg: Reg) -> Option<()> {
        let own = match place {
            MarkPlace::Packet => Selector::MetaMark,
            MarkPlace::Connection => Selector::CtMark,
        };
        let value = match self.held(sreg)? {
            Held::Immediate(bytes) => MarkValue::Fixed(host(&bytes)?),
            Held::Selector(Selector::MetaMark | Selector::CtMark) => MarkValue::Copy,
            Held::Masked(selector, mask, xor) if selector == own => {
                let (mask, xor) = (host(&mask)?, host(&xor)?);
                if xor == 0 {
                    MarkValue::And(mask)
                } else if mask == !xor {
                    MarkValue::Or(xor)
                } else if mask == u32::MAX {
                    MarkValue::Xor(xor)
                } else {
                    return None;
                }
            }
            _ => return None,
        };
        self.out.push(Statement::SetMark { place, value });
        Some(())
    }

    fn reject(&self, kind: u32, code: u8) -> Option<RejectWith> {
        Some(match (kind, self.family, code) {
            (key::REJECT_TCP_RESET, _, _) => RejectWith::TcpReset,
            (key::REJECT_ICMP, Family::Ip, 3)
            | (key::REJECT_ICMP, Family::Ip6, 4)
            | (key::REJECT_ICMPX, _, 1) => RejectWith::PortUnreachable,
            (key::REJECT_ICMP, Family::Ip, 13)
            | (key::REJECT_ICMP, Family::Ip6, 1)
            | (key::REJECT_ICMPX, _, 3) => RejectWith::AdminProhibited,
            (key::REJECT_ICMP, Family::Ip, 1)
            | (key::REJECT_ICMP, Family::Ip6, 3)
            | (key::REJECT_ICMPX, _, 2) => RejectWith::HostUnreachable,
            (key::REJECT_ICMP, Family::Ip | Family::Ip6, 0) | (key::REJECT_ICMPX, _, 0) => {
                RejectWith::NoRoute
            }
            _ => return None,
        })
    }
}

fn packed(bytes: &[u8]) -> Option<Packed> {
    (bytes.len() <= Packed::MAX).then(|| Packed::new().raw(bytes))
}

fn host(bytes: &[u8]) -> Option<u32> {
    match bytes {
        [one] => Some((*one).into()),
        four => Some(u32::from_ne_bytes(four.try_into().ok()?)),
    }
}

fn prefix_length(mask: &[u8]) -> Option<u8> {
    let ones = mask.iter().take_while(|byte| **byte == 0xff).count();
    let partial = mask.get(ones).map_or(0, |byte| byte.leading_ones());
    let length = ones as u32 * 8 + partial;
    let exact = (0..mask.len() * 8)
        .all(|bit| (mask[bit / 8] & (0x80 >> (bit % 8)) != 0) == (bit < length as usize));
    exact.then_some(length as u8)
}

fn nat_flags(flags: u32) -> Option<NatFlags> {
    if flags & !(key::NAT_RANDOM | key::NAT_FULLY_RANDOM | key::NAT_PERSISTENT) != 0 {
        return None;
    }
    Some(NatFlags {
        random: flags & key::NAT_RANDOM != 0,
        fully_random: flags & key::NAT_FULLY_RANDOM != 0,
        persistent: flags & key::NAT_PERSISTENT != 0,
    })
}
