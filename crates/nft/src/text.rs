//! The text form: what `nft -f` reads, canonical and deterministic (sorted by name and key).

use std::fmt::{self, Display, Formatter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::elements::{Datum, Record};
use crate::{
    Chain, Data, Direction, Element, Family, Field, Hook, HookKind, HookPoint, IpFamily, MarkPlace,
    MarkValue, Match, MatchOp, NatFlags, NatKind, NatTarget, Op, Policy, RejectWith, Right, Rule,
    Selector, Set, SetData, SetField, SetSpec, Statement, Table, Transaction, UpdateOp, VerdictMap,
};

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        if let Some(comment) = &self.comment {
            writeln!(f, "\tcomment {}", Quoted(comment))?;
        }
        if self.dormant {
            f.write_str("\tflags dormant\n")?;
        }
        let mut gap = self.comment.is_some() || self.dormant;
        for set in self.sets.values() {
            if std::mem::replace(&mut gap, true) {
                f.write_char('\n')?;
            }
            write_set(f, set)?;
        }
        for chain in self.chains.values() {
            if std::mem::replace(&mut gap, true) {
                f.write_char('\n')?;
            }
            write_chain(f, self.family, chain)?;
        }
        f.write_str("}\n")
    }
}

fn write_set(f: &mut Formatter<'_>, set: &Set) -> fmt::Result {
    writeln!(f, "\t{} {} {{", set_word(&set.spec), set.spec.name)?;
    for line in spec_lines(&set.spec) {
        writeln!(f, "\t\t{line}")?;
    }
    // Elements of a dynamic set are the kernel's: they are no part of the program.
    if !set.elements.is_empty() && !set.spec.flags.dynamic {
        f.write_str("\t\telements = {\n")?;
        for record in set.elements.sorted_records() {
            writeln!(f, "\t\t\t{},", ElementText { spec: &set.spec, record })?;
        }
        f.write_str("\t\t}\n")?;
    }
    f.write_str("\t}\n")
}

fn write_chain(f: &mut Formatter<'_>, family: Family, chain: &Chain) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(comment) = &chain.comment {
        writeln!(f, "\t\tcomment {}", Quoted(comment))?;
    }
    if let Some(hook) = &chain.hook {
        writeln!(f, "\t\t{hook}")?;
    }
    for rule in &chain.rules {
        writeln!(f, "\t\t{}", RuleText { family, rule })?;
    }
    f.write_str("\t}\n")
}

fn set_word(spec: &SetSpec) -> &'static str {
    if spec.data == SetData::None { "set" } else { "map" }
}

fn spec_lines(spec: &SetSpec) -> Vec<String> {
    let typeof_ = spec.is_typeof();
    let fields = |fields: &[SetField]| {
        let text = |field: &SetField| match field {
            SetField::Typeof(selector) if typeof_ => selector.to_string(),
            other => other.field().name().to_owned(),
        };
        fields.iter().map(text).collect::<Vec<_>>().join(" . ")
    };
    let mut first = format!("{} {}", if typeof_ { "typeof" } else { "type" }, fields(&spec.key));
    match &spec.data {
        SetData::None => {}
        SetData::Value(data) => first += &format!(" : {}", fields(data)),
        SetData::Verdict => first += " : verdict",
    }
    let mut lines = vec![first];
    if let Some(size) = spec.size {
        lines.push(format!("size {size}"));
    }
    let flags = [
        (spec.flags.constant, "constant"),
        (spec.flags.interval, "interval"),
        (spec.flags.timeout, "timeout"),
        (spec.flags.dynamic, "dynamic"),
    ];
    let flags: Vec<_> = flags.into_iter().filter_map(|(on, word)| on.then_some(word)).collect();
    if !flags.is_empty() {
        lines.push(format!("flags {}", flags.join(",")));
    }
    if let Some(timeout) = spec.timeout {
        lines.push(format!("timeout {}", Time(timeout)));
    }
    if let Some(comment) = &spec.comment {
        lines.push(format!("comment {}", Quoted(comment)));
    }
    lines
}

impl Display for Transaction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            self.write_op(f, op)?;
        }
        Ok(())
    }
}

impl Transaction {
    fn write_op(&self, f: &mut Formatter<'_>, op: &Op) -> fmt::Result {
        let table = format_args!("{} {}", self.family, self.table).to_string();
        match op {
            Op::AddTable { comment, dormant } => {
                write!(f, "add table {table}")?;
                if comment.is_some() || *dormant {
                    f.write_str(" {")?;
                    if let Some(comment) = comment {
                        write!(f, " comment {};", Quoted(comment))?;
                    }
                    if *dormant {
                        f.write_str(" flags dormant;")?;
                    }
                    f.write_str(" }")?;
                }
                f.write_char('\n')
            }
            Op::DeleteTable => writeln!(f, "delete table {table}"),
            Op::AddChain { name, hook, comment } => {
                write!(f, "add chain {table} {name}")?;
                if hook.is_some() || comment.is_some() {
                    f.write_str(" {")?;
                    if let Some(hook) = hook {
                        write!(f, " {hook}")?;
                    }
                    if let Some(comment) = comment {
                        write!(f, " comment {};", Quoted(comment))?;
                    }
                    f.write_str(" }")?;
                }
                f.write_char('\n')
            }
            Op::DeleteChain { name } => writeln!(f, "delete chain {table} {name}"),
            Op::FlushChain { chain } => writeln!(f, "flush chain {table} {chain}"),
            Op::AddRule { chain, rule } => {
                writeln!(f, "add rule {table} {chain} {}", RuleText { family: self.family, rule })
            }
            Op::AddSet(spec) => {
                write!(f, "add {} {table} {} {{", set_word(spec), spec.name)?;
                for line in spec_lines(spec) {
                    write!(f, " {line};")?;
                }
                f.write_str(" }\n")
            }
            Op::DeleteSet { name } => writeln!(f, "delete set {table} {name}"),
            Op::FlushSet { set } => writeln!(f, "flush set {table} {set}"),
            Op::AddElements { set, elements } => {
                write_elements(f, "add", &table, set, elements, false)
            }
            Op::DeleteElements { set, elements } => {
                write_elements(f, "delete", &table, set, elements, true)
            }
        }
    }
}

fn write_elements(
    f: &mut Formatter<'_>,
    verb: &str,
    table: &str,
    spec: &SetSpec,
    elements: &[Element],
    key_only: bool,
) -> fmt::Result {
    write!(f, "{verb} element {table} {} {{", spec.name)?;
    for (index, element) in elements.iter().enumerate() {
        let datum = match &element.data {
            _ if key_only => Datum::None,
            Data::None => Datum::None,
            Data::Value(value) => Datum::Value(value.as_bytes()),
            Data::Verdict(verdict) => Datum::Verdict(verdict),
        };
        let record = Record { key: element.key.as_bytes(), datum, extra: element.extra.as_deref() };
        let separator = if index == 0 { " " } else { ", " };
        if key_only {
            write!(f, "{separator}{}", RangeText { spec, record })?;
        } else {
            write!(f, "{separator}{}", ElementText { spec, record })?;
        }
    }
    f.write_str(" }\n")
}

/// The key of an element, with its range.
struct RangeText<'a> {
    spec: &'a SetSpec,
    record: Record<'a>,
}

impl Display for RangeText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let end = self.record.extra.and_then(|extra| extra.end.as_ref());
        let mut at = 0;
        for (index, field) in self.spec.key_fields().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            let range = at..at + field.len();
            at += field.padded_len();
            let from = self.record.key.get(range.clone()).unwrap_or(&[]);
            let to = end.and_then(|end| end.as_bytes().get(range)).unwrap_or(from);
            write_range(f, field, from, to)?;
        }
        Ok(())
    }
}

fn write_range(f: &mut Formatter<'_>, field: Field, from: &[u8], to: &[u8]) -> fmt::Result {
    write_value(f, field, from)?;
    if from == to {
        return Ok(());
    }
    if matches!(field, Field::Ipv4Addr | Field::Ipv6Addr)
        && let Some(length) = cidr(from, to)
    {
        return write!(f, "/{length}");
    }
    f.write_char('-')?;
    write_value(f, field, to)
}

/// The prefix length when a range is exactly one CIDR.
fn cidr(from: &[u8], to: &[u8]) -> Option<usize> {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] & (0x80 >> (at % 8)) != 0;
    let bits = from.len() * 8;
    let common = (0..bits).take_while(|at| bit(from, *at) == bit(to, *at)).count();
    (common..bits).all(|at| !bit(from, at) && bit(to, at)).then_some(common)
}

/// An element with its datum, timeout and comment.
struct ElementText<'a> {
    spec: &'a SetSpec,
    record: Record<'a>,
}

impl Display for ElementText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", RangeText { spec: self.spec, record: self.record })?;
        if let Some(extra) = self.record.extra {
            if let Some(timeout) = extra.timeout {
                write!(f, " timeout {}", Time(timeout))?;
            }
            if let Some(comment) = &extra.comment {
                write!(f, " comment {}", Quoted(comment))?;
            }
        }
        match self.record.datum {
            Datum::None => Ok(()),
            Datum::Verdict(verdict) => write!(f, " : {verdict}"),
            Datum::Value(bytes) => {
                f.write_str(" : ")?;
                write_values(f, self.spec.data_fields(), bytes)
            }
        }
    }
}

fn write_values(
    f: &mut Formatter<'_>,
    fields: impl Iterator<Item = Field>,
    bytes: &[u8],
) -> fmt::Result {
    let mut at = 0;
    for (index, field) in fields.enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        write_value(f, field, bytes.get(at..at + field.len()).unwrap_or(&[]))?;
        at += field.padded_len();
    }
    Ok(())
}

fn write_value(f: &mut Formatter<'_>, field: Field, bytes: &[u8]) -> fmt::Result {
    let host = || bytes.try_into().map_or(0, u32::from_ne_bytes);
    let one = || bytes.first().copied().unwrap_or(0);
    let named = |f: &mut Formatter<'_>, value: u32, names: &[(u32, &str)]| match names
        .iter()
        .find(|(number, _)| *number == value)
    {
        Some((_, name)) => f.write_str(name),
        None => write!(f, "{value}"),
    };
    match field {
        Field::Ipv4Addr => {
            write!(f, "{}", Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default()))
        }
        Field::Ipv6Addr => {
            write!(f, "{}", Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()))
        }
        Field::InetService => write!(f, "{}", bytes.try_into().map_or(0, u16::from_be_bytes)),
        Field::InetProto => named(f, one().into(), &PROTOCOLS),
        Field::NfProto => named(f, one().into(), &[(2, "ipv4"), (10, "ipv6")]),
        Field::CtDir => named(f, one().into(), &[(0, "original"), (1, "reply")]),
        Field::IcmpType => named(f, one().into(), &ICMP_TYPES),
        Field::Icmpv6Type => named(f, one().into(), &ICMPV6_TYPES),
        Field::Integer => write!(f, "{}", host()),
        Field::Mark => write!(f, "{:#010x}", host()),
        Field::FibAddrType => named(f, host(), &ADDRESS_TYPES),
        Field::CtState => write_bits(f, host(), &STATES),
        Field::CtStatus => write_bits(f, host(), &STATUSES),
        Field::TcpFlag => write_bits(f, one().into(), &TCP_FLAGS),
        Field::IfName => {
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or(&[]);
            write!(f, "{}", Quoted(&String::from_utf8_lossy(text)))
        }
        Field::Foreign { .. } => {
            f.write_str("0x")?;
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        }
    }
}

fn write_bits(f: &mut Formatter<'_>, bits: u32, names: &[(u32, &str)]) -> fmt::Result {
    let known = names.iter().fold(0, |all, (bit, _)| all | bit);
    if bits == 0 || bits & !known != 0 {
        return write!(f, "{bits:#x}");
    }
    let set = names.iter().filter(|(bit, _)| bits & bit != 0);
    for (index, (_, name)) in set.enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        f.write_str(name)?;
    }
    Ok(())
}

const PROTOCOLS: [(u32, &str); 5] =
    [(1, "icmp"), (6, "tcp"), (17, "udp"), (58, "ipv6-icmp"), (132, "sctp")];
const ICMP_TYPES: [(u32, &str); 5] = [
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (8, "echo-request"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
];
const ICMPV6_TYPES: [(u32, &str); 10] = [
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
];
const ADDRESS_TYPES: [(u32, &str); 9] = [
    (0, "unspec"),
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
];
const STATES: [(u32, &str); 5] =
    [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
const STATUSES: [(u32, &str); 7] = [
    (1, "expected"),
    (2, "seen-reply"),
    (4, "assured"),
    (8, "confirmed"),
    (16, "snat"),
    (32, "dnat"),
    (512, "dying"),
];
const TCP_FLAGS: [(u32, &str); 8] = [
    (1, "fin"),
    (2, "syn"),
    (4, "rst"),
    (8, "psh"),
    (16, "ack"),
    (32, "urg"),
    (64, "ecn"),
    (128, "cwr"),
];

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            HookKind::Filter => "filter",
            HookKind::Nat => "nat",
            HookKind::Route => "route",
        };
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        write!(f, "type {kind} hook {} priority ", self.point)?;
        match (self.priority, self.point) {
            (-100, HookPoint::Prerouting) => f.write_str("dstnat")?,
            (100, HookPoint::Postrouting) => f.write_str("srcnat")?,
            (0, _) => f.write_str("filter")?,
            (-150, _) => f.write_str("mangle")?,
            (-300, _) => f.write_str("raw")?,
            (other, _) => write!(f, "{other}")?,
        }
        write!(f, "; policy {policy};")
    }
}

impl Display for HookPoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let directed = |f: &mut Formatter<'_>, direction: &Direction, what: &str| {
            let direction = if *direction == Direction::Original { "original" } else { "reply" };
            write!(f, "ct {direction} {what}")
        };
        let numbers = |f: &mut Formatter<'_>, modulus: &u32, offset: &u32, seed: Option<&u32>| {
            write!(f, " mod {modulus}")?;
            if let Some(seed) = seed {
                write!(f, " seed {seed:#x}")?;
            }
            if *offset == 0 { Ok(()) } else { write!(f, " offset {offset}") }
        };
        match self {
            Self::IpSaddr => f.write_str("ip saddr"),
            Self::IpDaddr => f.write_str("ip daddr"),
            Self::Ip6Saddr => f.write_str("ip6 saddr"),
            Self::Ip6Daddr => f.write_str("ip6 daddr"),
            Self::ThSport => f.write_str("th sport"),
            Self::ThDport => f.write_str("th dport"),
            Self::TcpSport => f.write_str("tcp sport"),
            Self::TcpDport => f.write_str("tcp dport"),
            Self::TcpFlags => f.write_str("tcp flags"),
            Self::UdpSport => f.write_str("udp sport"),
            Self::UdpDport => f.write_str("udp dport"),
            Self::SctpSport => f.write_str("sctp sport"),
            Self::SctpDport => f.write_str("sctp dport"),
            Self::IcmpType => f.write_str("icmp type"),
            Self::Icmpv6Type => f.write_str("icmpv6 type"),
            Self::MetaL4proto => f.write_str("meta l4proto"),
            Self::MetaNfproto => f.write_str("meta nfproto"),
            Self::MetaMark => f.write_str("meta mark"),
            Self::MetaIifname => f.write_str("iifname"),
            Self::MetaOifname => f.write_str("oifname"),
            Self::CtState => f.write_str("ct state"),
            Self::CtStatus => f.write_str("ct status"),
            Self::CtMark => f.write_str("ct mark"),
            Self::CtDirection => f.write_str("ct direction"),
            Self::CtIpSaddr(at) => directed(f, at, "ip saddr"),
            Self::CtIpDaddr(at) => directed(f, at, "ip daddr"),
            Self::CtIp6Saddr(at) => directed(f, at, "ip6 saddr"),
            Self::CtIp6Daddr(at) => directed(f, at, "ip6 daddr"),
            Self::CtProtocol(at) => directed(f, at, "protocol"),
            Self::CtProtoSrc(at) => directed(f, at, "proto-src"),
            Self::CtProtoDst(at) => directed(f, at, "proto-dst"),
            Self::FibDaddrType => f.write_str("fib daddr type"),
            Self::FibSaddrType => f.write_str("fib saddr type"),
            Self::NumgenRandom { modulus, offset } => {
                f.write_str("numgen random")?;
                numbers(f, modulus, offset, None)
            }
            Self::NumgenInc { modulus, offset } => {
                f.write_str("numgen inc")?;
                numbers(f, modulus, offset, None)
            }
            Self::Jhash { over, modulus, seed, offset } => {
                write!(f, "jhash {}", KeyText(over))?;
                numbers(f, modulus, offset, Some(seed))
            }
        }
    }
}

/// A concatenation.
struct KeyText<'a>(&'a [Selector]);

impl Display for KeyText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, selector) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" . ")?;
            }
            write!(f, "{selector}")?;
        }
        Ok(())
    }
}

/// A rule in a table of some family (`reject` depends on it).
pub(crate) struct RuleText<'a> {
    pub(crate) family: Family,
    pub(crate) rule: &'a Rule,
}

impl Display for RuleText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.rule.statements.iter().enumerate() {
            if index > 0 {
                f.write_char(' ')?;
            }
            write_statement(f, self.family, statement)?;
        }
        if let Some(comment) = &self.rule.comment {
            write!(f, " comment {}", Quoted(comment))?;
        }
        Ok(())
    }
}

fn write_statement(f: &mut Formatter<'_>, family: Family, statement: &Statement) -> fmt::Result {
    match statement {
        Statement::Match(matching) => write_match(f, matching),
        Statement::Vmap { key, map: VerdictMap::Named(name) } => {
            write!(f, "{} vmap @{name}", KeyText(key))
        }
        Statement::Vmap { key, map: VerdictMap::Inline(elements) } => {
            write!(f, "{} vmap {{ ", KeyText(key))?;
            let mut elements = elements.clone();
            elements.sort();
            for (index, (value, verdict)) in elements.iter().enumerate() {
                if index > 0 {
                    f.write_str(", ")?;
                }
                write_values(f, key.iter().map(Selector::field), value.as_bytes())?;
                write!(f, " : {verdict}")?;
            }
            f.write_str(" }")
        }
        Statement::Nat { kind, family, to, flags } => {
            let kind = match kind {
                NatKind::Dnat => "dnat",
                NatKind::Snat => "snat",
            };
            let family = match family {
                IpFamily::V4 => "ip",
                IpFamily::V6 => "ip6",
            };
            write!(f, "{kind} {family} to ")?;
            match to {
                NatTarget::Map { key, map, .. } => write!(f, "{} map @{map}", KeyText(key))?,
                NatTarget::Fixed(address, None) => write!(f, "{address}")?,
                NatTarget::Fixed(address, Some(port)) => {
                    write!(f, "{}", std::net::SocketAddr::new(*address, *port))?;
                }
            }
            write!(f, "{}", FlagsText(*flags))
        }
        Statement::Masquerade(flags) => write!(f, "masquerade{}", FlagsText(*flags)),
        Statement::SetMark { place, value } => {
            let word = |place| match place {
                MarkPlace::Packet => "meta mark",
                MarkPlace::Connection => "ct mark",
            };
            let own = word(*place);
            let other = word(match place {
                MarkPlace::Packet => MarkPlace::Connection,
                MarkPlace::Connection => MarkPlace::Packet,
            });
            match value {
                MarkValue::Fixed(mark) => write!(f, "{own} set {mark:#010x}"),
                MarkValue::Or(bits) => write!(f, "{own} set {own} | {bits:#010x}"),
                MarkValue::And(bits) => write!(f, "{own} set {own} & {bits:#010x}"),
                MarkValue::Xor(bits) => write!(f, "{own} set {own} ^ {bits:#010x}"),
                MarkValue::Copy => write!(f, "{own} set {other}"),
            }
        }
        Statement::Reject(with) => write_reject(f, family, *with),
        Statement::Verdict(verdict) => write!(f, "{verdict}"),
        Statement::Counter => f.write_str("counter"),
        Statement::Update { op, set, key, timeout } => {
            let op = match op {
                UpdateOp::Add => "add",
                UpdateOp::Update => "update",
                UpdateOp::Delete => "delete",
            };
            write!(f, "{op} @{set} {{ {}", KeyText(key))?;
            if let Some(timeout) = timeout {
                write!(f, " timeout {}", Time(*timeout))?;
            }
            f.write_str(" }")
        }
        Statement::Notrack => f.write_str("notrack"),
        Statement::Log(log) => {
            f.write_str("log")?;
            if let Some(prefix) = &log.prefix {
                write!(f, " prefix {}", Quoted(prefix))?;
            }
            if let Some(group) = &log.group {
                write!(f, " group {group}")?;
            }
            Ok(())
        }
        Statement::Opaque(opaque) => write!(f, "# not ours: {}", opaque.what),
    }
}

fn write_match(f: &mut Formatter<'_>, matching: &Match) -> fmt::Result {
    let Match { left, op, right } = matching;
    write!(f, "{} ", KeyText(left))?;
    let op = match op {
        MatchOp::Eq => "",
        MatchOp::Ne => "!= ",
        MatchOp::Lt => "< ",
        MatchOp::Le => "<= ",
        MatchOp::Gt => "> ",
        MatchOp::Ge => ">= ",
    };
    let fields = || left.iter().map(Selector::field);
    let first = fields().next().unwrap_or(Field::Integer);
    let bytes = |value: &crate::Packed| value.as_bytes().get(..first.len()).unwrap_or(&[]).to_vec();
    match right {
        Right::Value(value) => {
            f.write_str(op)?;
            // A bare list of flags would mean "any of these"; equality must be said.
            if op.is_empty() && matches!(first, Field::CtState | Field::CtStatus | Field::TcpFlag) {
                f.write_str("== ")?;
            }
            write_values(f, fields(), value.as_bytes())
        }
        Right::Prefix { address, length } => {
            f.write_str(op)?;
            write_value(f, first, &bytes(address))?;
            write!(f, "/{length}")
        }
        Right::NamePrefix(prefix) => write!(f, "{op}{}", Quoted(&format!("{prefix}*"))),
        Right::Range(from, to) => {
            f.write_str(op)?;
            write_value(f, first, &bytes(from))?;
            f.write_char('-')?;
            write_value(f, first, &bytes(to))
        }
        Right::Masked { mask, value } => {
            let op = if op.is_empty() { "== " } else { op };
            write!(f, "& {mask:#010x} {op}{value:#010x}")
        }
        Right::AnyBit(bits) => match first {
            Field::CtState => write_bits(f, *bits, &STATES),
            Field::CtStatus => write_bits(f, *bits, &STATUSES),
            Field::TcpFlag => write_bits(f, *bits, &TCP_FLAGS),
            _ => write!(f, "& {bits:#010x} != 0"),
        },
        Right::OneOf(values) => {
            write!(f, "{op}{{ ")?;
            let mut values = values.clone();
            values.sort();
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    f.write_str(", ")?;
                }
                write_values(f, fields(), value.as_bytes())?;
            }
            f.write_str(" }")
        }
        Right::Set(name) => write!(f, "{op}@{name}"),
    }
}

fn write_reject(f: &mut Formatter<'_>, family: Family, with: RejectWith) -> fmt::Result {
    let icmp = match family {
        Family::Ip => "icmp",
        Family::Ip6 => "icmpv6",
        _ => "icmpx",
    };
    let code = match (with, family) {
        (RejectWith::TcpReset, _) => return f.write_str("reject with tcp reset"),
        (RejectWith::PortUnreachable, _) => "port-unreachable",
        (RejectWith::AdminProhibited, _) => "admin-prohibited",
        (RejectWith::NoRoute, Family::Ip) => "net-unreachable",
        (RejectWith::NoRoute, _) => "no-route",
        (RejectWith::HostUnreachable, Family::Ip6) => "addr-unreachable",
        (RejectWith::HostUnreachable, _) => "host-unreachable",
    };
    write!(f, "reject with {icmp} {code}")
}

/// The flags of a NAT statement, with a leading space.
struct FlagsText(NatFlags);

impl Display for FlagsText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let flags = [
            (self.0.random, "random"),
            (self.0.fully_random, "fully-random"),
            (self.0.persistent, "persistent"),
        ];
        let set = flags.into_iter().filter(|(on, _)| *on);
        for (index, (_, word)) in set.enumerate() {
            write!(f, "{}{word}", if index == 0 { " " } else { "," })?;
        }
        Ok(())
    }
}

/// A timeout: whole seconds where it is, milliseconds where not.
struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

/// A quoted string; `nft` knows no escapes, so what would end it is replaced.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            f.write_char(match character {
                '"' => '\'',
                control if control.is_control() => ' ',
                other => other,
            })?;
        }
        f.write_char('"')
    }
}

/// An operation in the words of an error.
pub(crate) struct OpText<'a> {
    pub(crate) transaction: &'a Transaction,
    pub(crate) op: &'a Op,
    pub(crate) element: Option<&'a Element>,
}

impl Display for OpText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let table = &self.transaction.table;
        let elements =
            |f: &mut Formatter<'_>, verb: &str, way: &str, spec: &SetSpec, count: usize| {
                match self.element {
                    Some(element) => {
                        let extra = element.extra.as_deref();
                        let record =
                            Record { key: element.key.as_bytes(), datum: Datum::None, extra };
                        write!(f, "{verb} element {}", RangeText { spec, record })?;
                    }
                    None => write!(f, "{verb} {count} elements")?,
                }
                write!(f, " {way} {} {}", set_word(spec), spec.name)
            };
        match self.op {
            Op::AddTable { .. } => write!(f, "adding table {table}"),
            Op::DeleteTable => write!(f, "deleting table {table}"),
            Op::AddChain { name, .. } => write!(f, "adding chain {name}"),
            Op::DeleteChain { name } => write!(f, "deleting chain {name}"),
            Op::FlushChain { chain } => write!(f, "flushing chain {chain}"),
            Op::AddRule { chain, rule } => {
                let family = self.transaction.family;
                write!(f, "adding rule \"{}\" to chain {chain}", RuleText { family, rule })
            }
            Op::AddSet(spec) => write!(f, "adding {} {}", set_word(spec), spec.name),
            Op::DeleteSet { name } => write!(f, "deleting set {name}"),
            Op::FlushSet { set } => write!(f, "flushing set {set}"),
            Op::AddElements { set, elements: all } => elements(f, "adding", "to", set, all.len()),
            Op::DeleteElements { set, elements: all } => {
                elements(f, "deleting", "from", set, all.len())
            }
        }
    }
}
