//! The user data `nft` keeps beside sets, rules, chains and tables: comments, byte orders and `typeof`.
//!
//! The kernel stores it unread; the format is libnftnl's one-byte type, one-byte length, value, in host byte order.

use crate::{Direction, Field, Selector, SetData, SetField, SetSpec};

const SET_KEY_BYTEORDER: u8 = 0;
const SET_DATA_BYTEORDER: u8 = 1;
const SET_KEY_TYPEOF: u8 = 3;
const SET_DATA_TYPEOF: u8 = 4;
const SET_DATA_INTERVAL: u8 = 6;
const SET_COMMENT: u8 = 7;

const BYTEORDER_NONE: u32 = 0;
const BYTEORDER_HOST: u32 = 1;
const BYTEORDER_NETWORK: u32 = 2;

// `enum expr_types` of nft.
const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CT: u32 = 12;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;
const EXPR_FIB: u32 = 26;

/// Longest comment the one-byte length can hold beside its terminating NUL; `nft` itself stops at 128 bytes.
pub(crate) const COMMENT_MAX: usize = 127;

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // A longer value cannot be said; the typeof of five components stays well below.
    let length = value.len().min(255);
    out.push(kind);
    out.push(length as u8);
    out.extend_from_slice(&value[..length]);
}

fn put_u32(out: &mut Vec<u8>, kind: u8, value: u32) {
    put(out, kind, &value.to_ne_bytes());
}

/// Type–length–value triples; ends at the first malformed one.
struct Triples<'a>(&'a [u8]);

impl<'a> Iterator for Triples<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, &length) = (self.0.first()?, self.0.get(1)?);
        let value = self.0.get(2..2 + usize::from(length))?;
        self.0 = &self.0[2 + usize::from(length)..];
        Some((kind, value))
    }
}

fn find(bytes: &[u8], kind: u8) -> Option<&[u8]> {
    Triples(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn find_u32(bytes: &[u8], kind: u8) -> Option<u32> {
    Some(u32::from_ne_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// A comment: kind 0 for tables, chains, rules and elements alike.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 3);
    put_comment(&mut out, 0, text);
    out
}

fn put_comment(out: &mut Vec<u8>, kind: u8, text: &str) {
    let mut end = text.len().min(COMMENT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut value = text.as_bytes()[..end].to_vec();
    value.push(0);
    put(out, kind, &value);
}

/// Reads a comment.
pub(crate) fn read_comment(bytes: &[u8]) -> Option<String> {
    read_comment_at(bytes, 0)
}

fn read_comment_at(bytes: &[u8], kind: u8) -> Option<String> {
    let value = find(bytes, kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

/// The user data of an anonymous set.
pub(crate) fn anonymous(host_order: bool, is_vmap: bool) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(
        &mut out,
        SET_KEY_BYTEORDER,
        if host_order { BYTEORDER_HOST } else { BYTEORDER_NETWORK },
    );
    if is_vmap {
        put_u32(&mut out, SET_DATA_BYTEORDER, BYTEORDER_NONE);
    }
    out
}

/// The user data of a named set.
pub(crate) fn set(spec: &SetSpec) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, SET_KEY_BYTEORDER, byteorder(&spec.key));
    match &spec.data {
        SetData::None => {}
        SetData::Value(fields) => put_u32(&mut out, SET_DATA_BYTEORDER, byteorder(fields)),
        SetData::Verdict => put_u32(&mut out, SET_DATA_BYTEORDER, BYTEORDER_NONE),
    }
    if spec.is_typeof() {
        put(&mut out, SET_KEY_TYPEOF, &typeof_(&spec.key));
        if let SetData::Value(fields) = &spec.data {
            put(&mut out, SET_DATA_TYPEOF, &typeof_(fields));
        }
    }
    if spec.data != SetData::None {
        put_u32(&mut out, SET_DATA_INTERVAL, 0);
    }
    if let Some(comment) = &spec.comment {
        put_comment(&mut out, SET_COMMENT, comment);
    }
    out
}

fn byteorder(fields: &[SetField]) -> u32 {
    match fields {
        [one] if one.field().is_host_order() => BYTEORDER_HOST,
        [_] => BYTEORDER_NETWORK,
        _ => BYTEORDER_NONE,
    }
}

fn typeof_(fields: &[SetField]) -> Vec<u8> {
    let selectors: Vec<&Selector> = fields
        .iter()
        .filter_map(
            |field| if let SetField::Typeof(selector) = field { Some(selector) } else { None },
        )
        .collect();
    if let [one] = selectors.as_slice() {
        return expression(one);
    }
    let mut parts = Vec::new();
    for (index, selector) in selectors.iter().enumerate() {
        put(&mut parts, index as u8, &expression(selector));
    }
    wrap(EXPR_CONCAT, &parts)
}

fn wrap(kind: u32, parts: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, 0, kind);
    put(&mut out, 1, parts);
    out
}

fn expression(selector: &Selector) -> Vec<u8> {
    let (kind, numbers) = describe(selector);
    let mut parts = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        put_u32(&mut parts, index as u8, *number);
    }
    wrap(kind, &parts)
}

/// `nft`'s kind of expression and the numbers it stores for one: for a header field, `enum proto_desc_id` and the
/// field's place in the header's template; for others the kernel's key.
fn describe(selector: &Selector) -> (u32, Vec<u32>) {
    let direction = |direction: &Direction| u32::from(*direction == Direction::Reply);
    let ct = |key: u32, at: &Direction| (EXPR_CT, vec![key, direction(at)]);
    match selector {
        Selector::IpSaddr => (EXPR_PAYLOAD, vec![12, 11]),
        Selector::IpDaddr => (EXPR_PAYLOAD, vec![12, 12]),
        Selector::Ip6Saddr => (EXPR_PAYLOAD, vec![13, 8]),
        Selector::Ip6Daddr => (EXPR_PAYLOAD, vec![13, 9]),
        Selector::ThSport => (EXPR_PAYLOAD, vec![11, 1]),
        Selector::ThDport => (EXPR_PAYLOAD, vec![11, 2]),
        Selector::TcpSport => (EXPR_PAYLOAD, vec![8, 1]),
        Selector::TcpDport => (EXPR_PAYLOAD, vec![8, 2]),
        Selector::TcpFlags => (EXPR_PAYLOAD, vec![8, 7]),
        Selector::UdpSport => (EXPR_PAYLOAD, vec![6, 1]),
        Selector::UdpDport => (EXPR_PAYLOAD, vec![6, 2]),
        Selector::SctpSport => (EXPR_PAYLOAD, vec![10, 1]),
        Selector::SctpDport => (EXPR_PAYLOAD, vec![10, 2]),
        Selector::IcmpType => (EXPR_PAYLOAD, vec![4, 1]),
        Selector::Icmpv6Type => (EXPR_PAYLOAD, vec![14, 1]),
        Selector::MetaL4proto => (EXPR_META, vec![16]),
        Selector::MetaNfproto => (EXPR_META, vec![15]),
        Selector::MetaMark => (EXPR_META, vec![3]),
        Selector::MetaIifname => (EXPR_META, vec![6]),
        Selector::MetaOifname => (EXPR_META, vec![7]),
        Selector::CtState => (EXPR_CT, vec![0, u32::MAX]),
        Selector::CtStatus => (EXPR_CT, vec![2, u32::MAX]),
        Selector::CtMark => (EXPR_CT, vec![3, u32::MAX]),
        Selector::CtDirection => (EXPR_CT, vec![1, u32::MAX]),
        Selector::CtIpSaddr(at) => ct(19, at),
        Selector::CtIpDaddr(at) => ct(20, at),
        Selector::CtIp6Saddr(at) => ct(21, at),
        Selector::CtIp6Daddr(at) => ct(22, at),
        Selector::CtProtocol(at) => ct(10, at),
        Selector::CtProtoSrc(at) => ct(11, at),
        Selector::CtProtoDst(at) => ct(12, at),
        Selector::FibDaddrType => (EXPR_FIB, vec![3, 2]),
        Selector::FibSaddrType => (EXPR_FIB, vec![3, 1]),
        Selector::NumgenInc { modulus, offset } => (EXPR_NUMGEN, vec![0, *modulus, *offset]),
        Selector::NumgenRandom { modulus, offset } => (EXPR_NUMGEN, vec![1, *modulus, *offset]),
        Selector::Jhash { .. } => {
            unreachable!("invariant: a declaration with a jhash is no typeof")
        }
    }
}

fn recognise(bytes: &[u8]) -> Option<Selector> {
    let kind = find_u32(bytes, 0)?;
    let parts = find(bytes, 1)?;
    let number = |index| find_u32(parts, index);
    if kind == EXPR_NUMGEN {
        let (modulus, offset) = (number(1)?, number(2)?);
        return Some(match number(0)? {
            0 => Selector::NumgenInc { modulus, offset },
            1 => Selector::NumgenRandom { modulus, offset },
            _ => return None,
        });
    }
    let numbers: Vec<u32> = (0..3).map_while(number).collect();
    every_plain_selector().find(|selector| {
        let (found, expected) = describe(selector);
        found == kind && expected == numbers
    })
}

/// All selectors that have no parameters but a direction.
pub(crate) fn every_plain_selector() -> impl Iterator<Item = Selector> {
    use Direction::{Original, Reply};
    let plain = [
        Selector::IpSaddr,
        Selector::IpDaddr,
        Selector::Ip6Saddr,
        Selector::Ip6Daddr,
        Selector::ThSport,
        Selector::ThDport,
        Selector::TcpSport,
        Selector::TcpDport,
        Selector::TcpFlags,
        Selector::UdpSport,
        Selector::UdpDport,
        Selector::SctpSport,
        Selector::SctpDport,
        Selector::IcmpType,
        Selector::Icmpv6Type,
        Selector::MetaL4proto,
        Selector::MetaNfproto,
        Selector::MetaMark,
        Selector::MetaIifname,
        Selector::MetaOifname,
        Selector::CtState,
        Selector::CtStatus,
        Selector::CtMark,
        Selector::CtDirection,
        Selector::FibDaddrType,
        Selector::FibSaddrType,
    ];
    let directed = [
        Selector::CtIpSaddr,
        Selector::CtIpDaddr,
        Selector::CtIp6Saddr,
        Selector::CtIp6Daddr,
        Selector::CtProtocol,
        Selector::CtProtoSrc,
        Selector::CtProtoDst,
    ];
    let directed = directed.into_iter().flat_map(|make| [make(Original), make(Reply)]);
    plain.into_iter().chain(directed)
}

/// What a set's user data say about it.
pub(crate) struct SetUserdata {
    pub(crate) key: Option<Vec<Selector>>,
    pub(crate) data: Option<Vec<Selector>>,
    pub(crate) comment: Option<String>,
}

/// Reads the user data of a named set.
pub(crate) fn read_set(bytes: &[u8]) -> SetUserdata {
    SetUserdata {
        key: find(bytes, SET_KEY_TYPEOF).and_then(read_typeof),
        data: find(bytes, SET_DATA_TYPEOF).and_then(read_typeof),
        comment: read_comment_at(bytes, SET_COMMENT),
    }
}

fn read_typeof(bytes: &[u8]) -> Option<Vec<Selector>> {
    if find_u32(bytes, 0)? != EXPR_CONCAT {
        return Some(vec![recognise(bytes)?]);
    }
    let selectors: Option<Vec<_>> =
        Triples(find(bytes, 1)?).map(|(_, part)| recognise(part)).collect();
    selectors.filter(|selectors| !selectors.is_empty())
}

/// The components of a key by `nft`'s type number of it and its length on the wire.
pub(crate) fn fields_of_type(mut type_id: u32, length: usize) -> Vec<Field> {
    let mut ids = Vec::new();
    while type_id != 0 {
        ids.push(type_id & 0x3f);
        type_id >>= 6;
    }
    ids.reverse();
    match ids.as_slice() {
        [] => vec![Field::Foreign { type_id: 0, length: length.min(255) as u8 }],
        [one] => vec![Field::from_type_id(*one, length.min(255) as u8)],
        // A component of unknown type takes what the known ones leave.
        many => {
            let known: usize = many.iter().map(|id| Field::from_type_id(*id, 4).padded_len()).sum();
            let spare = (4 + length.saturating_sub(known)).min(252) as u8;
            let unknown = |field: &Field| matches!(field, Field::Foreign { .. });
            let mut fields: Vec<_> = many.iter().map(|id| Field::from_type_id(*id, 4)).collect();
            if let Some(Field::Foreign { length, .. }) =
                fields.iter_mut().find(|field| unknown(field))
            {
                *length = spare;
            }
            fields
        }
    }
}
