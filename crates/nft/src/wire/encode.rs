//! A transaction as one netlink batch.

use super::attr::{Open, Writer};
use super::expr_codec::{anonymous_name, data, encode as encode_expr, encode_verdict};
use super::number::{self, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use super::{message_type, userdata};
use crate::expr::{AnonymousSet, Expr, SetRef};
use crate::lower::{RuleError, lower};
use crate::{
    Data, Element, ElementExtra, Hook, HookKind, HookPoint, Name, Op, Packed, Policy, Rule,
    SetData, SetSpec, Transaction, Verdict,
};

/// An attribute's length has 16 bits; a chunk of elements is closed before it could pass them.
pub(crate) const ELEMENTS_CHUNK: usize = 60_000;

/// The bytes to send, and which message belongs to which operation.
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Sequence number of the batch's begin.
    pub(crate) begin: u32,
    /// For every message between begin and end, in order from sequence `begin + 1`.
    pub(crate) messages: Vec<Sent>,
}

/// What a message says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    /// The operation, by its place in the transaction.
    pub(crate) op: usize,
    /// Where the message begins in the batch.
    pub(crate) offset: usize,
    /// The first of the operation's elements it carries.
    pub(crate) first_element: usize,
}

/// Encodes a transaction.
///
/// # Errors
/// The operation with a rule that cannot be said, and why.
pub(crate) fn encode(
    transaction: &Transaction,
    begin: u32,
    owned: bool,
) -> Result<Batch, (usize, RuleError)> {
    let mut batch = Encoder {
        w: Writer { bytes: Vec::with_capacity(transaction.len() * 72 + 4096) },
        transaction,
        begin,
        table_flags: if owned { number::TABLE_OWNER } else { 0 },
        messages: Vec::new(),
        op: 0,
        first_element: 0,
        set_id: 0,
    };
    batch.frame(number::BATCH_BEGIN, begin);
    for (index, op) in transaction.ops.iter().enumerate() {
        batch.op = index;
        batch.first_element = 0;
        batch.op(op).map_err(|error| (index, error))?;
    }
    // One acknowledgement, of the last message, tells that all were taken.
    if let Some(last) = batch.messages.last() {
        let flags = &mut batch.w.bytes[last.offset + 6..last.offset + 8];
        let acknowledged = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
        flags.copy_from_slice(&acknowledged.to_ne_bytes());
    }
    let end = begin.wrapping_add(batch.messages.len() as u32 + 1);
    batch.frame(number::BATCH_END, end);
    Ok(Batch { bytes: batch.w.bytes, begin, messages: batch.messages })
}

struct Encoder<'a> {
    w: Writer,
    transaction: &'a Transaction,
    begin: u32,
    table_flags: u32,
    messages: Vec<Sent>,
    op: usize,
    first_element: usize,
    set_id: u32,
}

impl Encoder<'_> {
    fn frame(&mut self, kind: u16, sequence: u32) {
        let open = self.w.message(kind, NLM_F_REQUEST, sequence, 0, number::SUBSYS_NFTABLES);
        self.w.end_message(open);
    }

    fn open(&mut self, message: u16, flags: u16) -> Open {
        let sent =
            Sent { op: self.op, offset: self.w.bytes.len(), first_element: self.first_element };
        self.messages.push(sent);
        let sequence = self.begin.wrapping_add(self.messages.len() as u32);
        let family = self.transaction.family.number();
        let open =
            self.w.message(message_type(message), NLM_F_REQUEST | flags, sequence, family, 0);
        self.w.string(1, self.transaction.table.as_str());
        open
    }

    fn named(&mut self, message: u16, flags: u16, attribute: u16, name: &Name) {
        let open = self.open(message, flags);
        self.w.string(attribute, name.as_str());
        self.w.end_message(open);
    }

    fn op(&mut self, op: &Op) -> Result<(), RuleError> {
        match op {
            Op::AddTable { comment, dormant } => {
                let open = self.open(number::NEWTABLE, NLM_F_CREATE);
                self.w.u32(2, u32::from(*dormant) | self.table_flags);
                if let Some(comment) = comment {
                    self.w.bytes(6, &userdata::comment(comment));
                }
                self.w.end_message(open);
            }
            Op::DeleteTable => {
                let open = self.open(number::DELTABLE, 0);
                self.w.end_message(open);
            }
            Op::AddChain { name, hook, comment } => {
                self.chain(name, hook.as_ref(), comment.as_deref())
            }
            Op::DeleteChain { name } => self.named(number::DELCHAIN, 0, 3, name),
            Op::FlushChain { chain } => self.named(number::DELRULE, 0, 2, chain),
            Op::AddRule { chain, rule } => self.rule(chain, rule)?,
            Op::AddSet(spec) => self.set(spec),
            Op::DeleteSet { name } => self.named(number::DELSET, 0, 2, name),
            Op::FlushSet { set } => self.named(number::DELSETELEM, 0, 2, set),
            Op::AddElements { set, elements } => {
                self.elements(number::NEWSETELEM, NLM_F_CREATE, set, elements)
            }
            Op::DeleteElements { set, elements } => {
                self.elements(number::DELSETELEM, 0, set, elements)
            }
        }
        Ok(())
    }

    fn chain(&mut self, name: &Name, hook: Option<&Hook>, comment: Option<&str>) {
        let open = self.open(number::NEWCHAIN, NLM_F_CREATE);
        self.w.string(3, name.as_str());
        if let Some(hook) = hook {
            let nest = self.w.nest(4);
            self.w.u32(1, hook_number(hook.point));
            self.w.u32(2, hook.priority.cast_unsigned());
            self.w.end_nest(nest);
            self.w.u32(5, if hook.policy == Policy::Accept { 1 } else { 0 });
            self.w.string(7, kind_name(hook.kind));
        }
        if let Some(comment) = comment {
            self.w.bytes(12, &userdata::comment(comment));
        }
        self.w.end_message(open);
    }

    fn rule(&mut self, chain: &Name, rule: &Rule) -> Result<(), RuleError> {
        let exprs = lower(self.transaction.family, rule)?;
        let mut ids = Vec::new();
        for expr in &exprs {
            if let Expr::Lookup { set: SetRef::Anonymous(set), .. } = expr {
                self.set_id += 1;
                ids.push(self.set_id);
                self.anonymous(set, self.set_id);
            }
        }
        let open = self.open(number::NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
        self.w.string(2, chain.as_str());
        let nest = self.w.nest(4);
        let mut ids = ids.into_iter();
        for expr in &exprs {
            let anonymous = matches!(expr, Expr::Lookup { set: SetRef::Anonymous(_), .. });
            encode_expr(&mut self.w, expr, if anonymous { ids.next() } else { None });
        }
        self.w.end_nest(nest);
        if let Some(comment) = &rule.comment {
            self.w.bytes(7, &userdata::comment(comment));
        }
        self.w.end_message(open);
        Ok(())
    }

    fn anonymous(&mut self, set: &AnonymousSet, id: u32) {
        let open = self.open(number::NEWSET, NLM_F_CREATE);
        self.w.string(2, anonymous_name(set.is_vmap));
        let map = if set.is_vmap { number::SET_MAP } else { 0 };
        self.w.u32(3, number::SET_ANONYMOUS | number::SET_CONSTANT | map);
        self.w.u32(4, set.key_type);
        self.w.u32(5, set.key_len as u32);
        if set.is_vmap {
            self.w.u32(6, number::DATA_VERDICT);
            self.w.u32(7, 0);
        }
        self.w.u32(10, id);
        let desc = self.w.nest(9);
        self.w.u32(1, set.elements.len() as u32);
        self.w.end_nest(desc);
        self.w.bytes(13, &userdata::anonymous(set.host_order, set.is_vmap));
        self.w.end_message(open);

        let mut next = 0;
        while next < set.elements.len() {
            let open = self.open(number::NEWSETELEM, NLM_F_CREATE);
            self.w.string(2, anonymous_name(set.is_vmap));
            self.w.u32(4, id);
            let list = self.w.nest(3);
            while next < set.elements.len() && self.w.length_since(list) < ELEMENTS_CHUNK {
                let (key, verdict) = &set.elements[next];
                let element = self.w.nest(1);
                data(&mut self.w, 1, &key.as_bytes()[..set.key_len.min(key.len())]);
                if let Some(verdict) = verdict {
                    self.verdict(verdict);
                }
                self.w.end_nest(element);
                next += 1;
            }
            self.w.end_nest(list);
            self.w.end_message(open);
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        let nest = self.w.nest(2);
        encode_verdict(&mut self.w, verdict);
        self.w.end_nest(nest);
    }

    fn set(&mut self, spec: &SetSpec) {
        let open = self.open(number::NEWSET, NLM_F_CREATE);
        self.w.string(2, spec.name.as_str());
        self.w.u32(3, set_flags(spec));
        self.w.u32(4, concatenated(spec.key_fields().map(crate::Field::type_id)));
        self.w.u32(5, wire_key_len(spec) as u32);
        match &spec.data {
            SetData::None => {}
            SetData::Value(_) => {
                self.w.u32(6, concatenated(spec.data_fields().map(crate::Field::type_id)));
                self.w.u32(7, wire_data_len(spec) as u32);
            }
            SetData::Verdict => {
                self.w.u32(6, number::DATA_VERDICT);
                self.w.u32(7, 0);
            }
        }
        self.set_id += 1;
        self.w.u32(10, self.set_id);
        let ranges = spec.is_concatenation() && spec.flags.interval;
        if spec.size.is_some() || ranges {
            let desc = self.w.nest(9);
            if let Some(size) = spec.size {
                self.w.u32(1, size);
            }
            if ranges {
                let list = self.w.nest(2);
                for field in spec.key_fields() {
                    let nest = self.w.nest(1);
                    self.w.u32(1, field.len() as u32);
                    self.w.end_nest(nest);
                }
                self.w.end_nest(list);
            }
            self.w.end_nest(desc);
        }
        if let Some(timeout) = spec.timeout {
            self.w.u64(11, timeout.as_millis() as u64);
        }
        self.w.bytes(13, &userdata::set(spec));
        self.w.end_message(open);
    }

    fn elements(&mut self, message: u16, flags: u16, spec: &SetSpec, elements: &[Element]) {
        let (key_len, data_len) = (wire_key_len(spec), wire_data_len(spec));
        let deleting = message == number::DELSETELEM;
        let mut next = 0;
        while next < elements.len() {
            self.first_element = next;
            let open = self.open(message, flags);
            self.w.string(2, spec.name.as_str());
            let list = self.w.nest(3);
            while next < elements.len() && self.w.length_since(list) < ELEMENTS_CHUNK {
                self.element(spec, &elements[next], key_len, data_len, deleting);
                next += 1;
            }
            self.w.end_nest(list);
            self.w.end_message(open);
        }
    }

    fn element(
        &mut self,
        spec: &SetSpec,
        element: &Element,
        key_len: usize,
        data_len: usize,
        deleting: bool,
    ) {
        let nest = self.w.nest(1);
        let key = element.key.as_bytes();
        data(&mut self.w, 1, &key[..trimmed(key, key_len)]);
        let ranges = spec.flags.interval;
        if ranges && spec.is_concatenation() {
            let end = element.end().unwrap_or(&element.key).as_bytes();
            data(&mut self.w, 10, end);
        }
        if !deleting {
            match &element.data {
                Data::None => {}
                Data::Value(value) => {
                    let value = value.as_bytes();
                    data(&mut self.w, 2, &value[..trimmed(value, data_len)]);
                }
                Data::Verdict(verdict) => self.verdict(verdict),
            }
            if let Some(extra) = element.extra.as_deref() {
                self.extra(extra);
            }
        }
        self.w.end_nest(nest);
        if ranges && !spec.is_concatenation() {
            let last = element.end().unwrap_or(&element.key).as_bytes();
            if let Some(after) = successor(&last[..trimmed(last, key_len)]) {
                let nest = self.w.nest(1);
                self.w.u32(3, number::ELEM_INTERVAL_END);
                data(&mut self.w, 1, &after);
                self.w.end_nest(nest);
            }
        }
    }

    fn extra(&mut self, extra: &ElementExtra) {
        if let Some(timeout) = extra.timeout {
            self.w.u64(4, timeout.as_millis() as u64);
        }
        if let Some(comment) = &extra.comment {
            self.w.bytes(6, &userdata::comment(comment));
        }
    }
}

/// An element that is only a key.
pub(crate) fn encode_key(w: &mut Writer, key: &Packed, key_len: usize) {
    let nest = w.nest(1);
    let key = key.as_bytes();
    data(w, 1, &key[..trimmed(key, key_len)]);
    w.end_nest(nest);
}

/// A key that differs in length from its set's is sent as it is: the kernel says what is wrong with it.
fn trimmed(bytes: &[u8], wire: usize) -> usize {
    if bytes.len() == wire.next_multiple_of(4) { wire } else { bytes.len() }
}

/// The next number, big-endian; `None` after the last.
fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut next = bytes.to_vec();
    for byte in next.iter_mut().rev() {
        let (value, overflow) = byte.overflowing_add(1);
        *byte = value;
        if !overflow {
            return Some(next);
        }
    }
    None
}

/// A key's length on the wire: a single component is not padded.
pub(crate) fn wire_key_len(spec: &SetSpec) -> usize {
    match spec.key.as_slice() {
        [one] => one.field().len(),
        _ => spec.key_len(),
    }
}

/// A datum's length on the wire.
pub(crate) fn wire_data_len(spec: &SetSpec) -> usize {
    match &spec.data {
        SetData::Value(fields) => match fields.as_slice() {
            [one] => one.field().len(),
            _ => spec.data_len(),
        },
        SetData::None | SetData::Verdict => 0,
    }
}

/// `nft`'s number for a concatenation: six bits per component.
pub(crate) fn concatenated(ids: impl Iterator<Item = u32>) -> u32 {
    ids.fold(0, |all, id| all << 6 | (id & 0x3f))
}

pub(crate) fn set_flags(spec: &SetSpec) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(spec.data != SetData::None, number::SET_MAP)
        | bit(spec.flags.interval, number::SET_INTERVAL)
        | bit(spec.flags.interval && spec.is_concatenation(), number::SET_CONCAT)
        | bit(spec.flags.dynamic, number::SET_EVAL)
        | bit(spec.flags.timeout || spec.timeout.is_some(), number::SET_TIMEOUT)
        | bit(spec.flags.constant, number::SET_CONSTANT)
}

pub(crate) const fn hook_number(point: HookPoint) -> u32 {
    match point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

pub(crate) const fn kind_name(kind: HookKind) -> &'static str {
    match kind {
        HookKind::Filter => "filter",
        HookKind::Nat => "nat",
        HookKind::Route => "route",
    }
}
