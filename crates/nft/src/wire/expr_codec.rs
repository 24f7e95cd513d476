//! Kernel expressions to attributes and back. What does not decode exactly becomes [`Expr::Unknown`].

use super::attr::{Attributes, Open, Writer, text, u16_be, u32_be, u64_be};
use super::decode::verdict;
use crate::expr::{CmpOp, Expr, Reg, SetRef, Yields};
use crate::{Name, Verdict};

/// Writes one element of `NFTA_RULE_EXPRESSIONS`; `set_id` is the id of the anonymous set it looks up in, if it does.
pub(crate) fn encode(w: &mut Writer, expr: &Expr, set_id: Option<u32>) {
    let element = w.nest(1);
    let name = match expr {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::MetaSet { .. } => "meta",
        Expr::Ct { .. } | Expr::CtSet { .. } => "ct",
        Expr::Fib { .. } => "fib",
        Expr::Numgen { .. } => "numgen",
        Expr::Jhash { .. } => "hash",
        Expr::Cmp { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Lookup { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Reject { .. } => "reject",
        Expr::Counter => "counter",
        Expr::Dynset { .. } => "dynset",
        Expr::Notrack => "notrack",
        Expr::Log { .. } => "log",
        Expr::Unknown { name, .. } => name,
    };
    w.string(1, name);
    let data = w.nest(2);
    encode_data(w, expr, set_id);
    w.end_nest(data);
    w.end_nest(element);
}

fn encode_data(w: &mut Writer, expr: &Expr, set_id: Option<u32>) {
    match expr {
        Expr::Payload { dreg, base, offset, len } => {
            w.u32(1, dreg.number());
            w.u32(2, *base);
            w.u32(3, *offset);
            w.u32(4, *len);
        }
        Expr::Meta { dreg, key } => {
            w.u32(2, *key);
            w.u32(1, dreg.number());
        }
        Expr::MetaSet { sreg, key } => {
            w.u32(2, *key);
            w.u32(3, sreg.number());
        }
        Expr::Ct { dreg, key, direction } => {
            w.u32(2, *key);
            w.u32(1, dreg.number());
            if let Some(direction) = direction {
                w.u8(3, *direction);
            }
        }
        Expr::CtSet { sreg, key } => {
            w.u32(2, *key);
            w.u32(4, sreg.number());
        }
        Expr::Fib { dreg, result, flags } => {
            w.u32(1, dreg.number());
            w.u32(2, *result);
            w.u32(3, *flags);
        }
        Expr::Numgen { dreg, modulus, kind, offset } => {
            w.u32(1, dreg.number());
            w.u32(2, *modulus);
            w.u32(3, *kind);
            w.u32(4, *offset);
        }
        Expr::Jhash { sreg, dreg, len, modulus, seed, offset } => {
            w.u32(1, sreg.number());
            w.u32(2, dreg.number());
            w.u32(3, *len);
            w.u32(4, *modulus);
            w.u32(5, *seed);
            w.u32(6, *offset);
            w.u32(7, 0);
        }
        Expr::Cmp { sreg, op, value } => {
            w.u32(1, sreg.number());
            w.u32(2, *op as u32);
            data(w, 3, value);
        }
        Expr::Range { sreg, negate, from, to } => {
            w.u32(1, sreg.number());
            w.u32(2, (*negate).into());
            data(w, 3, from);
            data(w, 4, to);
        }
        Expr::Bitwise { sreg, dreg, mask, xor } => {
            w.u32(1, sreg.number());
            w.u32(2, dreg.number());
            w.u32(3, mask.len() as u32);
            w.u32(6, 0);
            data(w, 4, mask);
            data(w, 5, xor);
        }
        Expr::Lookup { sreg, set, yields, invert } => {
            w.u32(2, sreg.number());
            match yields {
                Yields::Nothing => {}
                Yields::Value(dreg) => w.u32(3, dreg.number()),
                Yields::Verdict => w.u32(3, 0),
            }
            match set {
                SetRef::Named(name) => w.string(1, name.as_str()),
                SetRef::Anonymous(set) => {
                    w.string(1, anonymous_name(set.is_vmap));
                    w.u32(4, set_id.expect("invariant: an anonymous set was given an id"));
                }
            }
            if *invert {
                w.u32(5, 1);
            }
        }
        Expr::Immediate { dreg, value } => {
            w.u32(1, dreg.number());
            data(w, 2, value);
        }
        Expr::Verdict(verdict) => {
            w.u32(1, 0);
            let nest = w.nest(2);
            encode_verdict(w, verdict);
            w.end_nest(nest);
        }
        Expr::Nat { kind, family, address, port, flags } => {
            w.u32(1, *kind);
            w.u32(2, *family);
            if let Some(address) = address {
                w.u32(3, address.number());
            }
            if let Some(port) = port {
                w.u32(5, port.number());
            }
            if *flags != 0 {
                w.u32(7, *flags);
            }
        }
        Expr::Masquerade { flags } => {
            if *flags != 0 {
                w.u32(1, *flags);
            }
        }
        Expr::Reject { kind, code } => {
            w.u32(1, *kind);
            w.u8(2, *code);
        }
        Expr::Counter | Expr::Notrack => {}
        Expr::Dynset { op, set, sreg, timeout_ms } => {
            w.u32(4, sreg.number());
            w.u32(3, *op);
            w.string(1, set.as_str());
            if *timeout_ms != 0 {
                w.u64(6, *timeout_ms);
            }
        }
        Expr::Log { prefix, group } => {
            if let Some(prefix) = prefix {
                w.string(2, prefix);
            }
            if let Some(group) = group {
                w.u16(1, *group);
            }
        }
        Expr::Unknown { data, .. } => w.bytes.extend_from_slice(data),
    }
}

/// The name the kernel numbers anonymous sets from.
pub(crate) const fn anonymous_name(is_vmap: bool) -> &'static str {
    if is_vmap { "__map%d" } else { "__set%d" }
}

/// Writes `NFTA_DATA_VALUE` in an attribute of this kind.
pub(crate) fn data(w: &mut Writer, kind: u16, value: &[u8]) {
    let nest: Open = w.nest(kind);
    w.bytes(1, value);
    w.end_nest(nest);
}

/// Writes `NFTA_DATA_VERDICT`.
pub(crate) fn encode_verdict(w: &mut Writer, verdict: &Verdict) {
    let nest = w.nest(2);
    let code: i32 = match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
        Verdict::Continue => -1,
        Verdict::Jump(_) => -3,
        Verdict::Goto(_) => -4,
        Verdict::Return => -5,
    };
    w.u32(1, code.cast_unsigned());
    if let Some(chain) = verdict.chain() {
        w.string(2, chain.as_str());
    }
    w.end_nest(nest);
}

/// Attributes by number, each at most once.
struct Fields<'a>([Option<&'a [u8]>; 12]);

impl<'a> Fields<'a> {
    /// `None` when there is an attribute this crate would not write, so that nothing is silently dropped.
    fn read(data: &'a [u8], known: &[u16]) -> Option<Self> {
        let mut fields = Self([None; 12]);
        for (kind, payload) in Attributes(data) {
            if !known.contains(&kind) {
                return None;
            }
            fields.0[usize::from(kind)] = Some(payload);
        }
        Some(fields)
    }

    fn has(&self, kind: usize) -> bool {
        self.0[kind].is_some()
    }

    fn u32(&self, kind: usize) -> Option<u32> {
        u32_be(self.0[kind]?)
    }

    fn u32_or(&self, kind: usize, default: u32) -> Option<u32> {
        self.0[kind].map_or(Some(default), u32_be)
    }

    fn reg(&self, kind: usize) -> Option<Reg> {
        Reg::from_number(self.u32(kind)?)
    }

    fn value(&self, kind: usize) -> Option<Vec<u8>> {
        data_value(self.0[kind]?).map(<[u8]>::to_vec)
    }

    fn name(&self, kind: usize) -> Option<Name> {
        Some(Name::listed(text(self.0[kind]?)?))
    }
}

/// Reads `NFTA_DATA_VALUE`.
pub(crate) fn data_value(nest: &[u8]) -> Option<&[u8]> {
    Attributes(nest).find(|(kind, _)| *kind == 1).map(|(_, value)| value)
}

/// Reads one element of `NFTA_RULE_EXPRESSIONS`.
pub(crate) fn decode(element: &[u8]) -> Expr {
    let (mut name, mut data) = ("", &[][..]);
    for (kind, payload) in Attributes(element) {
        match kind {
            1 => name = text(payload).unwrap_or(""),
            2 => data = payload,
            _ => {}
        }
    }
    decode_known(name, data)
        .unwrap_or_else(|| Expr::Unknown { name: name.to_owned(), data: data.to_vec() })
}

fn decode_known(name: &str, data: &[u8]) -> Option<Expr> {
    let read = |known: &[u16]| Fields::read(data, known);
    Some(match name {
        "payload" => {
            let f = read(&[1, 2, 3, 4])?;
            Expr::Payload { dreg: f.reg(1)?, base: f.u32(2)?, offset: f.u32(3)?, len: f.u32(4)? }
        }
        "meta" => {
            let f = read(&[1, 2, 3])?;
            let key = f.u32(2)?;
            if f.has(3) {
                Expr::MetaSet { sreg: f.reg(3)?, key }
            } else {
                Expr::Meta { dreg: f.reg(1)?, key }
            }
        }
        "ct" => {
            let f = read(&[1, 2, 3, 4])?;
            let key = f.u32(2)?;
            let direction = if f.has(3) { Some(*f.0[3]?.first()?) } else { None };
            if f.has(4) {
                Expr::CtSet { sreg: f.reg(4)?, key }
            } else {
                Expr::Ct { dreg: f.reg(1)?, key, direction }
            }
        }
        "fib" => {
            let f = read(&[1, 2, 3])?;
            Expr::Fib { dreg: f.reg(1)?, result: f.u32(2)?, flags: f.u32(3)? }
        }
        "numgen" => {
            let f = read(&[1, 2, 3, 4])?;
            Expr::Numgen {
                dreg: f.reg(1)?,
                modulus: f.u32(2)?,
                kind: f.u32(3)?,
                offset: f.u32_or(4, 0)?,
            }
        }
        "hash" => {
            let f = read(&[1, 2, 3, 4, 5, 6, 7])?;
            if f.u32_or(7, 0)? != 0 {
                return None;
            }
            Expr::Jhash {
                sreg: f.reg(1)?,
                dreg: f.reg(2)?,
                len: f.u32(3)?,
                modulus: f.u32(4)?,
                seed: f.u32_or(5, 0)?,
                offset: f.u32_or(6, 0)?,
            }
        }
        "cmp" => {
            let f = read(&[1, 2, 3])?;
            let op = match f.u32(2)? {
                0 => CmpOp::Eq,
                1 => CmpOp::Ne,
                2 => CmpOp::Lt,
                3 => CmpOp::Le,
                4 => CmpOp::Gt,
                5 => CmpOp::Ge,
                _ => return None,
            };
            Expr::Cmp { sreg: f.reg(1)?, op, value: f.value(3)? }
        }
        "range" => {
            let f = read(&[1, 2, 3, 4])?;
            Expr::Range {
                sreg: f.reg(1)?,
                negate: f.u32(2)? == 1,
                from: f.value(3)?,
                to: f.value(4)?,
            }
        }
        "bitwise" => {
            let f = read(&[1, 2, 3, 4, 5, 6])?;
            if f.u32_or(6, 0)? != 0 {
                return None;
            }
            let (mask, xor) = (f.value(4)?, f.value(5)?);
            if mask.len() != f.u32(3)? as usize || xor.len() != mask.len() {
                return None;
            }
            Expr::Bitwise { sreg: f.reg(1)?, dreg: f.reg(2)?, mask, xor }
        }
        "lookup" => {
            let f = read(&[1, 2, 3, 4, 5])?;
            let yields = match f.0[3] {
                None => Yields::Nothing,
                Some(_) if f.u32(3)? == 0 => Yields::Verdict,
                Some(_) => Yields::Value(f.reg(3)?),
            };
            let invert = f.u32_or(5, 0)? & 1 != 0;
            Expr::Lookup { sreg: f.reg(2)?, set: SetRef::Named(f.name(1)?), yields, invert }
        }
        "immediate" => {
            let f = read(&[1, 2])?;
            if f.u32(1)? == 0 {
                let (_, nest) = Attributes(f.0[2]?).find(|(kind, _)| *kind == 2)?;
                Expr::Verdict(verdict(nest)?)
            } else {
                Expr::Immediate { dreg: f.reg(1)?, value: f.value(2)? }
            }
        }
        "nat" => {
            let f = read(&[1, 2, 3, 4, 5, 6, 7])?;
            let same = |min: usize, max: usize| !f.has(max) || f.u32(min) == f.u32(max);
            if !same(3, 4) || !same(5, 6) {
                return None;
            }
            let reg = |kind| if f.has(kind) { f.reg(kind).map(Some) } else { Some(None) };
            // MAP_IPS and PROTO_SPECIFIED only say which registers are given.
            let flags = f.u32_or(7, 0)? & !3;
            Expr::Nat { kind: f.u32(1)?, family: f.u32(2)?, address: reg(3)?, port: reg(5)?, flags }
        }
        "masq" => Expr::Masquerade { flags: read(&[1])?.u32_or(1, 0)? },
        "reject" => {
            let f = read(&[1, 2])?;
            Expr::Reject {
                kind: f.u32(1)?,
                code: f.0[2].map_or(Some(0), |code| code.first().copied())?,
            }
        }
        "counter" => {
            read(&[1, 2, 3])?;
            Expr::Counter
        }
        "dynset" => {
            let f = read(&[1, 2, 3, 4, 6, 8, 9])?;
            if f.u32_or(9, 0)? != 0 {
                return None;
            }
            let timeout_ms = f.0[6].map_or(Some(0), u64_be)?;
            Expr::Dynset { op: f.u32(3)?, set: f.name(1)?, sreg: f.reg(4)?, timeout_ms }
        }
        "notrack" => {
            read(&[])?;
            Expr::Notrack
        }
        "log" => {
            let f = read(&[1, 2, 3, 4, 5, 6])?;
            // Level "warning" and no snaplen or threshold are what a log without them is listed as.
            if f.u32_or(3, 0)? != 0
                || f.0[4].map_or(Some(0), u16_be)? != 0
                || f.u32_or(5, 4)? != 4
                || f.u32_or(6, 0)? != 0
            {
                return None;
            }
            let group = if f.has(1) { Some(u16_be(f.0[1]?)?) } else { None };
            let prefix = if f.has(2) { Some(text(f.0[2]?)?.to_owned()) } else { None };
            Expr::Log { prefix, group }
        }
        _ => return None,
    })
}
