//! Kernel messages to values: tables, chains, rules, set declarations and, streaming, elements.

use std::time::Duration;

use super::attr::{Attributes, text, u32_be, u64_be};
use super::encode::{concatenated, wire_key_len};
use super::{expr_codec, number, userdata};
use crate::elements::Elements;
use crate::expr::Expr;
use crate::{
    Data, Element, Field, Hook, HookKind, HookPoint, Name, Packed, Policy, SetData, SetField,
    SetFlags, SetSpec, Verdict,
};

/// A table's message.
pub(crate) struct TableMessage {
    pub(crate) name: Name,
    pub(crate) dormant: bool,
    pub(crate) comment: Option<String>,
}

pub(crate) fn table(attributes: Attributes<'_>) -> Option<TableMessage> {
    let mut message = TableMessage { name: Name::listed(""), dormant: false, comment: None };
    for (kind, payload) in attributes {
        match kind {
            1 => message.name = Name::listed(text(payload)?),
            2 => message.dormant = u32_be(payload)? & 1 != 0,
            6 => message.comment = userdata::read_comment(payload),
            _ => {}
        }
    }
    Some(message)
}

/// A chain's message.
pub(crate) struct ChainMessage {
    pub(crate) table: Name,
    pub(crate) name: Name,
    pub(crate) hook: Option<Hook>,
    pub(crate) comment: Option<String>,
}

pub(crate) fn chain(attributes: Attributes<'_>) -> Option<ChainMessage> {
    let mut message =
        ChainMessage { table: Name::listed(""), name: Name::listed(""), hook: None, comment: None };
    let (mut place, mut policy, mut kind_of) = (None, Policy::Accept, HookKind::Filter);
    for (kind, payload) in attributes {
        match kind {
            1 => message.table = Name::listed(text(payload)?),
            3 => message.name = Name::listed(text(payload)?),
            4 => {
                let (mut number, mut priority) = (0, 0);
                for (kind, payload) in Attributes(payload) {
                    match kind {
                        1 => number = u32_be(payload)?,
                        2 => priority = u32_be(payload)?.cast_signed(),
                        _ => {}
                    }
                }
                place = Some((number, priority));
            }
            5 if u32_be(payload)? == 0 => policy = Policy::Drop,
            7 => {
                kind_of = match text(payload)? {
                    "nat" => HookKind::Nat,
                    "route" => HookKind::Route,
                    _ => HookKind::Filter,
                }
            }
            12 => message.comment = userdata::read_comment(payload),
            _ => {}
        }
    }
    if let Some((number, priority)) = place {
        let point = match number {
            0 => HookPoint::Prerouting,
            1 => HookPoint::Input,
            2 => HookPoint::Forward,
            3 => HookPoint::Output,
            _ => HookPoint::Postrouting,
        };
        message.hook = Some(Hook { kind: kind_of, point, priority, policy });
    }
    Some(message)
}

/// A rule's message, its expressions still referring to anonymous sets by the kernel's names.
pub(crate) struct RuleMessage {
    pub(crate) table: Name,
    pub(crate) chain: Name,
    pub(crate) exprs: Vec<Expr>,
    /// The expressions as they came.
    pub(crate) raw: Vec<u8>,
    pub(crate) comment: Option<String>,
}

pub(crate) fn rule(attributes: Attributes<'_>) -> Option<RuleMessage> {
    let mut message = RuleMessage {
        table: Name::listed(""),
        chain: Name::listed(""),
        exprs: Vec::new(),
        raw: Vec::new(),
        comment: None,
    };
    for (kind, payload) in attributes {
        match kind {
            1 => message.table = Name::listed(text(payload)?),
            2 => message.chain = Name::listed(text(payload)?),
            4 => {
                message.raw = payload.to_vec();
                message.exprs =
                    Attributes(payload).map(|(_, element)| expr_codec::decode(element)).collect();
            }
            7 => message.comment = userdata::read_comment(payload),
            _ => {}
        }
    }
    Some(message)
}

/// A set's message.
pub(crate) struct SetMessage {
    pub(crate) table: Name,
    pub(crate) spec: SetSpec,
    pub(crate) anonymous: bool,
    /// Key length on the wire.
    pub(crate) key_len: usize,
    pub(crate) key_type: u32,
    /// How many elements there are, where the kernel says (`NFTA_SET_COUNT`).
    pub(crate) count: Option<u32>,
    /// A set this crate cannot hold: objects as data, keys or data of more than 40 bytes.
    pub(crate) foreign: bool,
}

pub(crate) fn set(attributes: Attributes<'_>) -> Option<SetMessage> {
    let (mut table, mut name) = (Name::listed(""), Name::listed(""));
    let (mut flags, mut key_type, mut key_len, mut data_type, mut data_len) =
        (0, 0, 0_usize, 0, 0_usize);
    let (mut size, mut timeout, mut user) = (None, None, &[][..]);
    let (mut foreign, mut count) = (false, None);
    for (kind, payload) in attributes {
        match kind {
            1 => table = Name::listed(text(payload)?),
            2 => name = Name::listed(text(payload)?),
            3 => flags = u32_be(payload)?,
            4 => key_type = u32_be(payload)?,
            5 => key_len = u32_be(payload)? as usize,
            6 => data_type = u32_be(payload)?,
            7 => data_len = u32_be(payload)? as usize,
            9 => {
                size = Attributes(payload)
                    .find(|(kind, _)| *kind == 1)
                    .and_then(|(_, size)| u32_be(size))
            }
            11 => timeout = Some(Duration::from_millis(u64_be(payload)?)),
            13 => user = payload,
            20 => count = u32_be(payload),
            // Garbage collection interval, object type, expressions per element.
            12 | 15 | 17 | 18 => foreign = true,
            _ => {}
        }
    }
    let told = userdata::read_set(user);
    let matches_type = |selectors: &Vec<crate::Selector>, type_id, length: usize| {
        let fields = selectors.iter().map(crate::Selector::field);
        concatenated(fields.clone().map(Field::type_id)) == type_id
            && fields.map(Field::padded_len).sum::<usize>() == length.next_multiple_of(4)
    };
    let fields = |told: Option<Vec<crate::Selector>>, type_id, length| -> Vec<SetField> {
        match told.filter(|selectors| matches_type(selectors, type_id, length)) {
            Some(selectors) => selectors.into_iter().map(SetField::Typeof).collect(),
            None => {
                userdata::fields_of_type(type_id, length).into_iter().map(SetField::Type).collect()
            }
        }
    };
    let data = if flags & number::SET_MAP == 0 {
        SetData::None
    } else if data_type == number::DATA_VERDICT {
        SetData::Verdict
    } else {
        SetData::Value(fields(told.data, data_type, data_len))
    };
    let spec = SetSpec {
        name,
        key: fields(told.key, key_type, key_len),
        data,
        flags: SetFlags {
            interval: flags & number::SET_INTERVAL != 0,
            dynamic: flags & number::SET_EVAL != 0,
            timeout: flags & number::SET_TIMEOUT != 0,
            constant: flags & number::SET_CONSTANT != 0,
        },
        timeout,
        size: size.filter(|size| *size != 0),
        comment: told.comment,
    };
    foreign |= flags & number::SET_OBJECT != 0
        || spec.key_len() > Packed::MAX
        || spec.data_len() > Packed::MAX
        || wire_key_len(&spec) != key_len;
    Some(SetMessage {
        table,
        spec,
        anonymous: flags & number::SET_ANONYMOUS != 0,
        key_len,
        key_type,
        foreign,
        count,
    })
}

/// Reads `NFTA_DATA_VERDICT`'s content.
pub(crate) fn verdict(nest: &[u8]) -> Option<Verdict> {
    let (mut code, mut chain) = (None, None);
    for (kind, payload) in Attributes(nest) {
        match kind {
            1 => code = Some(u32_be(payload)?.cast_signed()),
            2 => chain = Some(Name::listed(text(payload)?)),
            _ => {}
        }
    }
    Some(match code? {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain?),
        -4 => Verdict::Goto(chain?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// Collects the elements of one set from the messages of its dump.
pub(crate) struct ElementReader {
    elements: Elements,
    /// Single-component ranges come as a start and an end, in any order: paired when all are there.
    bounds: Option<Vec<(Packed, bool, Element)>>,
    key_len: usize,
}

impl ElementReader {
    pub(crate) fn new(spec: &SetSpec) -> Self {
        let ranges = spec.flags.interval && !spec.is_concatenation();
        Self {
            elements: Elements::new(spec),
            bounds: ranges.then(Vec::new),
            key_len: wire_key_len(spec),
        }
    }

    /// Makes room for this many elements.
    pub(crate) fn reserve(&mut self, elements: usize) {
        self.elements.reserve(elements);
    }

    /// Takes the elements of one message.
    pub(crate) fn read(&mut self, attributes: Attributes<'_>) {
        for (kind, list) in attributes {
            if kind == 3 {
                for (_, element) in Attributes(list) {
                    self.element(element);
                }
            }
        }
    }

    fn element(&mut self, attributes: &[u8]) {
        let (mut key, mut end, mut datum) = (None, None, None);
        let (mut flags, mut timeout, mut comment) = (0, None, None);
        for (kind, payload) in Attributes(attributes) {
            match kind {
                1 => key = expr_codec::data_value(payload),
                2 => datum = Some(payload),
                3 => flags = u32_be(payload).unwrap_or(0),
                4 => timeout = u64_be(payload),
                6 => comment = userdata::read_comment(payload),
                10 => end = expr_codec::data_value(payload),
                _ => {}
            }
        }
        let packed = |bytes: &[u8]| (bytes.len() <= Packed::MAX).then(|| Packed::new().raw(bytes));
        // The catch-all element has no key; nothing of ours has one.
        let Some(key) = key.and_then(packed) else { return };
        let data = match datum {
            None => Data::None,
            Some(nest) => match Attributes(nest).next() {
                Some((1, value)) => packed(value).map_or(Data::None, Data::Value),
                Some((2, nest)) => verdict(nest).map_or(Data::None, Data::Verdict),
                _ => Data::None,
            },
        };
        let mut element = Element::new(key, data);
        if let Some(end) = end.and_then(packed) {
            element = element.to(end);
        }
        if let Some(timeout) = timeout {
            element = element.with_timeout(Duration::from_millis(timeout));
        }
        if let Some(comment) = comment {
            element = element.with_comment(&comment);
        }
        match &mut self.bounds {
            Some(bounds) => bounds.push((key, flags & number::ELEM_INTERVAL_END == 0, element)),
            None => self.keep(&element),
        }
    }

    fn keep(&mut self, element: &Element) {
        if let Err(error) = self.elements.insert(element) {
            tracing::debug!(%error, "an element listed in a shape its set does not have");
        }
    }

    /// How many elements were collected so far; of single-component ranges, none.
    pub(crate) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(crate) fn finish(mut self) -> Elements {
        if let Some(mut bounds) = self.bounds.take() {
            // An end sorts before a start of the same key: neighbours touch.
            bounds.sort_by_key(|(key, is_start, _)| (*key, *is_start));
            let mut open: Option<Element> = None;
            for (key, is_start, element) in bounds {
                if let Some(start) = open.take() {
                    let last = predecessor(&key, self.key_len);
                    self.keep(&start.to(last));
                }
                if is_start {
                    open = Some(element);
                }
            }
            if let Some(start) = open {
                let last = Packed::new().raw(&vec![0xff; self.key_len]);
                self.keep(&start.to(last));
            }
        }
        self.elements
    }
}

fn predecessor(key: &Packed, length: usize) -> Packed {
    let mut bytes = key.as_bytes()[..length.min(key.len())].to_vec();
    for byte in bytes.iter_mut().rev() {
        let (value, borrow) = byte.overflowing_sub(1);
        *byte = value;
        if !borrow {
            break;
        }
    }
    Packed::new().raw(&bytes)
}
