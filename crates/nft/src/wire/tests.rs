//! Arbitrary bytes never panic a parser, and what is written is read back.

use proptest::prelude::*;

use super::attr::{Attributes, Messages, Writer, refusal};
use super::decode::{self, ElementReader};
use super::{expr_codec, userdata};
use crate::expr::{CmpOp, Expr, Reg, SetRef, Yields};
use crate::{Field, Name, Selector, SetData, SetFlags, SetSpec, Verdict};

fn parse_everything(bytes: &[u8]) {
    for message in Messages(bytes) {
        let _refusal = refusal(&message);
        parse_attributes(message.payload);
    }
    parse_attributes(bytes);
}

fn parse_attributes(bytes: &[u8]) {
    let attributes = Attributes(bytes);
    drop(decode::table(attributes));
    drop(decode::chain(attributes));
    drop(decode::rule(attributes));
    drop(decode::set(attributes));
    drop(decode::verdict(bytes));
    drop(expr_codec::decode(bytes));
    drop(userdata::read_set(bytes));
    drop(userdata::read_comment(bytes));
    for interval in [false, true] {
        let mut spec = SetSpec::new(Name::listed("s"), [Field::Ipv4Addr]);
        spec.flags = SetFlags { interval, ..SetFlags::default() };
        let mut reader = ElementReader::new(&spec);
        reader.read(attributes);
        drop(reader.finish());
    }
}

/// Attributes nested a few levels, some of them cut short: nearer to the real thing than plain noise.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let leaf =
        (0_u16..20, proptest::collection::vec(any::<u8>(), 0..24)).prop_map(|(kind, payload)| {
            let mut w = Writer::default();
            w.bytes(kind, &payload);
            w.bytes
        });
    leaf.prop_recursive(4, 32, 6, |inner| {
        (0_u16..20, proptest::collection::vec(inner, 0..6)).prop_map(|(kind, parts)| {
            let mut w = Writer::default();
            let nest = w.nest(kind);
            parts.iter().for_each(|part| w.bytes.extend_from_slice(part));
            w.end_nest(nest);
            w.bytes
        })
    })
}

fn reg() -> impl Strategy<Value = Reg> {
    (0_u8..16).prop_map(Reg)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..16)
}

fn expr() -> impl Strategy<Value = Expr> {
    let op = prop_oneof![
        Just(CmpOp::Eq),
        Just(CmpOp::Ne),
        Just(CmpOp::Lt),
        Just(CmpOp::Le),
        Just(CmpOp::Gt),
        Just(CmpOp::Ge)
    ];
    let name = || "[a-z]{1,20}".prop_map(|text| Name::listed(&text));
    prop_oneof![
        (reg(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(dreg, base, offset, len)| Expr::Payload { dreg, base, offset, len }),
        (reg(), any::<u32>()).prop_map(|(dreg, key)| Expr::Meta { dreg, key }),
        (reg(), any::<u32>()).prop_map(|(sreg, key)| Expr::MetaSet { sreg, key }),
        (reg(), any::<u32>(), any::<Option<u8>>()).prop_map(|(dreg, key, direction)| Expr::Ct {
            dreg,
            key,
            direction
        }),
        (reg(), any::<u32>()).prop_map(|(sreg, key)| Expr::CtSet { sreg, key }),
        (reg(), any::<u32>(), any::<u32>()).prop_map(|(dreg, result, flags)| Expr::Fib {
            dreg,
            result,
            flags
        }),
        (reg(), any::<u32>(), any::<u32>(), any::<u32>())
            .prop_map(|(dreg, modulus, kind, offset)| Expr::Numgen { dreg, modulus, kind, offset }),
        (reg(), reg(), any::<[u32; 4]>()).prop_map(|(sreg, dreg, [len, modulus, seed, offset])| {
            Expr::Jhash { sreg, dreg, len, modulus, seed, offset }
        }),
        (reg(), op, value()).prop_map(|(sreg, op, value)| Expr::Cmp { sreg, op, value }),
        (reg(), any::<bool>(), value(), value()).prop_map(|(sreg, negate, from, to)| Expr::Range {
            sreg,
            negate,
            from,
            to
        }),
        (reg(), reg(), value()).prop_map(|(sreg, dreg, mask)| {
            let xor = mask.iter().map(|byte| !byte).collect();
            Expr::Bitwise { sreg, dreg, mask, xor }
        }),
        (reg(), name(), reg(), any::<bool>()).prop_map(|(sreg, set, dreg, invert)| Expr::Lookup {
            sreg,
            set: SetRef::Named(set),
            yields: if invert { Yields::Nothing } else { Yields::Value(dreg) },
            invert,
        }),
        (reg(), name()).prop_map(|(sreg, set)| Expr::Lookup {
            sreg,
            set: SetRef::Named(set),
            yields: Yields::Verdict,
            invert: false,
        }),
        (reg(), value()).prop_map(|(dreg, value)| Expr::Immediate { dreg, value }),
        name().prop_map(|chain| Expr::Verdict(Verdict::Goto(chain))),
        Just(Expr::Verdict(Verdict::Drop)),
        (0_u32..2, any::<u32>(), any::<bool>(), reg(), 0_u32..8).prop_map(
            |(kind, family, port, reg, flags)| {
                Expr::Nat {
                    kind,
                    family,
                    address: Some(reg),
                    port: port.then_some(reg),
                    flags: flags << 2,
                }
            }
        ),
        any::<u32>().prop_map(|flags| Expr::Masquerade { flags }),
        (any::<u32>(), any::<u8>()).prop_map(|(kind, code)| Expr::Reject { kind, code }),
        Just(Expr::Counter),
        Just(Expr::Notrack),
        (0_u32..3, name(), reg(), any::<u64>())
            .prop_map(|(op, set, sreg, timeout_ms)| Expr::Dynset { op, set, sreg, timeout_ms }),
        (any::<Option<u16>>(), proptest::option::of("[a-z ]{0,20}"))
            .prop_map(|(group, prefix)| Expr::Log { prefix, group }),
        Just(Expr::Unknown { name: "quota".into(), data: vec![8, 0, 1, 0, 1, 2, 3, 4] }),
    ]
}

proptest! {
    #[test]
    fn noise_never_panics(bytes: Vec<u8>) {
        parse_everything(&bytes);
    }

    #[test]
    fn broken_attributes_never_panic(bytes in attributes(), cut in any::<prop::sample::Index>(), flip: u8) {
        let at = cut.index(bytes.len().max(1));
        parse_everything(&bytes);
        parse_everything(&bytes[..at.min(bytes.len())]);
        let mut flipped = bytes;
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= flip;
        }
        parse_everything(&flipped);
    }

    #[test]
    fn an_expression_is_read_as_it_was_written(expr in expr()) {
        let mut w = Writer::default();
        expr_codec::encode(&mut w, &expr, None);
        let (_, element) = Attributes(&w.bytes).next().unwrap();
        prop_assert_eq!(expr_codec::decode(element), expr);
    }
}

#[test]
fn every_selector_survives_the_typeof_of_a_set() {
    let numbers = [
        Selector::NumgenRandom { modulus: 5, offset: 0 },
        Selector::NumgenInc { modulus: 7, offset: 3 },
    ];
    for selector in userdata::every_plain_selector().chain(numbers) {
        let pair = [Selector::IpDaddr, selector.clone()];
        for key in [vec![selector.clone()], pair.to_vec()] {
            let spec = SetSpec::new(Name::listed("s"), key.clone())
                .with_data(SetData::value([selector.clone()]));
            let told = userdata::read_set(&userdata::set(&spec));
            assert_eq!(told.key, Some(key));
            assert_eq!(told.data, Some(vec![selector.clone()]));
        }
    }
}
