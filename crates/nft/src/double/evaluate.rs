//! A packet's way through the chains of one hook: what the rules of a table do to it, said in plain values.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::elements::Datum;
use crate::{
    Chain, Direction, Field, HookKind, HookPoint, IpFamily, MarkPlace, MarkValue, Match, MatchOp,
    Name, NatFlags, NatKind, NatTarget, Packed, Policy, RejectWith, Right, Selector, Set,
    Statement, Table, UpdateOp, Verdict, VerdictMap, jhash, jhash_scale,
};

/// `IPS_DST_NAT`.
const IPS_DST_NAT: u32 = 32;

/// What connection tracking knows of a packet's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackView {
    /// One of the `ct state` bits: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    pub state: u32,
    /// The `ct status` bits (16 snat, 32 dnat).
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// The packet's direction.
    pub direction: Direction,
    /// Source address and port as the connection was first seen.
    pub original_source: (IpAddr, u16),
    /// Destination address and port as the connection was first seen.
    pub original_destination: (IpAddr, u16),
}

/// A packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// Transport protocol number.
    pub protocol: u8,
    /// Source port; 0 where there is none.
    pub source_port: u16,
    /// Destination port; 0 where there is none.
    pub destination_port: u16,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// The link it came in by; empty for packets of this host.
    pub input: String,
    /// The link it goes out by; empty when not known yet.
    pub output: String,
    /// The packet's mark.
    pub mark: u32,
    /// What the routing table says of the source (`fib saddr type`): 1 unicast, 2 local.
    pub source_type: u32,
    /// What the routing table says of the destination.
    pub destination_type: u32,
    /// Its connection.
    pub conntrack: ConntrackView,
}

impl Packet {
    /// The first packet of a connection, from and to addresses elsewhere.
    #[must_use]
    pub fn new(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            source: source.0,
            destination: destination.0,
            protocol,
            source_port: source.1,
            destination_port: destination.1,
            tcp_flags: 2,
            icmp_type: 0,
            input: String::new(),
            output: String::new(),
            mark: 0,
            source_type: 1,
            destination_type: 1,
            conntrack: ConntrackView {
                state: 8,
                status: 0,
                mark: 0,
                direction: Direction::Original,
                original_source: source,
                original_destination: destination,
            },
        }
    }
}

/// Chooses the value of a `numgen`, below its modulus; offsets are added after it. A `jhash` is computed as the kernel does.
pub type Numbers<'a> = dyn FnMut(&Selector) -> u32 + 'a;

/// What became of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Accepted,
    /// It is gone without a word.
    Dropped,
    /// It is gone, and its sender is told.
    Rejected(RejectWith),
}

/// A rewritten address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// Which end.
    pub kind: NatKind,
    /// The new address.
    pub address: IpAddr,
    /// The new port, when one is set.
    pub port: Option<u16>,
    /// The map it came from, when it did.
    pub map: Option<Name>,
}

/// An element a rule put into a dynamic set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUpdate {
    /// The set.
    pub set: Name,
    /// The key.
    pub key: Packed,
    /// How long it lives, when the rule says.
    pub timeout: Option<Duration>,
}

/// All that happened at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The end of it.
    pub fate: Fate,
    /// `dnat` or `snat`.
    pub translation: Option<Translation>,
    /// `masquerade`.
    pub masquerade: Option<NatFlags>,
    /// The packet's mark afterwards.
    pub mark: u32,
    /// The connection's mark afterwards.
    pub connection_mark: u32,
    /// Whether connection tracking was switched off for it.
    pub notrack: bool,
    /// Elements put into dynamic sets, in order.
    pub updates: Vec<SetUpdate>,
    /// Rules whose statements all held, in order: chain and place.
    pub rules: Vec<(Name, usize)>,
}

impl Outcome {
    /// Nothing happened.
    #[must_use]
    pub fn accepted(packet: &Packet) -> Self {
        Self {
            fate: Fate::Accepted,
            translation: None,
            masquerade: None,
            mark: packet.mark,
            connection_mark: packet.conntrack.mark,
            notrack: false,
            updates: Vec::new(),
            rules: Vec::new(),
        }
    }
}

/// Something the evaluator cannot say the effect of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A statement it does not know.
    #[error("rule {rule} of chain {chain}: unknown statement {what}")]
    Unknown {
        /// The chain.
        chain: Name,
        /// The rule's place in it.
        rule: usize,
        /// The statement.
        what: String,
    },
    /// A set, map or chain that is not in the table.
    #[error("rule {rule} of chain {chain} refers to {missing}, which is not there")]
    Missing {
        /// The chain.
        chain: Name,
        /// The rule's place in it.
        rule: usize,
        /// What is missing.
        missing: Name,
    },
    /// Jumps deeper than the kernel allows.
    #[error("chain {chain} is reached by more than 16 jumps")]
    Depth {
        /// The chain.
        chain: Name,
    },
}

/// Sends a packet through the base chains at one hook, lowest priority first.
///
/// As in the kernel, chains of type nat see only packets of new connections, the first translation ends them, and later
/// chains of the hook see the translated destination.
///
/// # Errors
/// [`EvaluateError`].
pub fn evaluate(
    table: &Table,
    hook: HookPoint,
    packet: &Packet,
    numbers: &mut Numbers<'_>,
) -> Result<Outcome, EvaluateError> {
    let mut chains: Vec<_> = table
        .chains
        .values()
        .filter_map(|chain| chain.hook.filter(|at| at.point == hook).map(|at| (at, chain)))
        .collect();
    chains.sort_by_key(|(hook, _)| hook.priority);
    let mut walk =
        Walk { table, packet: packet.clone(), numbers, outcome: Outcome::accepted(packet) };
    let mut translated = false;
    for (hook, chain) in chains {
        if table.dormant
            || (hook.kind == HookKind::Nat && (translated || walk.packet.conntrack.state & 8 == 0))
        {
            continue;
        }
        let fate = match walk.chain(chain, 0)? {
            Step::End(fate) => fate,
            Step::Next => match hook.policy {
                Policy::Accept => Fate::Accepted,
                Policy::Drop => Fate::Dropped,
            },
        };
        translated = walk.outcome.translation.is_some() || walk.outcome.masquerade.is_some();
        walk.outcome.fate = fate;
        if fate != Fate::Accepted {
            break;
        }
        if let Some(Translation { kind: NatKind::Dnat, address, port, .. }) =
            &walk.outcome.translation
        {
            walk.packet.destination = *address;
            walk.packet.destination_port = port.unwrap_or(walk.packet.destination_port);
            walk.packet.conntrack.status |= IPS_DST_NAT;
        }
    }
    let Walk { packet, mut outcome, .. } = walk;
    outcome.mark = packet.mark;
    outcome.connection_mark = packet.conntrack.mark;
    Ok(outcome)
}

enum Step {
    /// Decided.
    End(Fate),
    /// Fell off the end, or returned.
    Next,
}

/// What a statement says about going on.
enum Flow {
    On,
    /// The rule does not match from here.
    Break,
    Verdict(Verdict),
    End(Fate),
}

struct Walk<'t, 'n, 'f> {
    table: &'t Table,
    packet: Packet,
    numbers: &'n mut Numbers<'f>,
    outcome: Outcome,
}

struct Place<'t> {
    chain: &'t Name,
    rule: usize,
}

impl Place<'_> {
    fn missing(&self, name: &Name) -> EvaluateError {
        EvaluateError::Missing { chain: self.chain.clone(), rule: self.rule, missing: name.clone() }
    }

    fn unknown(&self, what: impl fmt::Debug) -> EvaluateError {
        EvaluateError::Unknown {
            chain: self.chain.clone(),
            rule: self.rule,
            what: format!("{what:?}"),
        }
    }
}

impl<'t> Walk<'t, '_, '_> {
    fn chain(&mut self, mut chain: &'t Chain, depth: usize) -> Result<Step, EvaluateError> {
        let mut gotos = 0;
        'chain: loop {
            if depth + gotos > 16 {
                return Err(EvaluateError::Depth { chain: chain.name.clone() });
            }
            for (index, rule) in chain.rules.iter().enumerate() {
                let place = Place { chain: &chain.name, rule: index };
                let mut verdict = None;
                let mut held = true;
                for statement in &rule.statements {
                    match self.statement(&place, statement)? {
                        Flow::On => {}
                        Flow::Break => {
                            held = false;
                            break;
                        }
                        Flow::Verdict(decided) => {
                            verdict = Some(decided);
                            break;
                        }
                        Flow::End(fate) => {
                            self.outcome.rules.push((chain.name.clone(), index));
                            return Ok(Step::End(fate));
                        }
                    }
                }
                if !held {
                    continue;
                }
                self.outcome.rules.push((chain.name.clone(), index));
                match verdict {
                    None | Some(Verdict::Continue) => {}
                    Some(Verdict::Accept) => return Ok(Step::End(Fate::Accepted)),
                    Some(Verdict::Drop) => return Ok(Step::End(Fate::Dropped)),
                    Some(Verdict::Return) => return Ok(Step::Next),
                    Some(Verdict::Jump(to)) => {
                        let next = self.table.chains.get(&to).ok_or_else(|| place.missing(&to))?;
                        if let Step::End(fate) = self.chain(next, depth + 1)? {
                            return Ok(Step::End(fate));
                        }
                    }
                    Some(Verdict::Goto(to)) => {
                        chain = self.table.chains.get(&to).ok_or_else(|| place.missing(&to))?;
                        gotos += 1;
                        continue 'chain;
                    }
                }
            }
            return Ok(Step::Next);
        }
    }

    fn statement(
        &mut self,
        place: &Place<'_>,
        statement: &Statement,
    ) -> Result<Flow, EvaluateError> {
        Ok(match statement {
            Statement::Match(matching) => {
                if self.matches(place, matching)? {
                    Flow::On
                } else {
                    Flow::Break
                }
            }
            Statement::Vmap { key, map } => {
                let Some(key) = self.key(key) else { return Ok(Flow::Break) };
                let verdict = match map {
                    VerdictMap::Inline(elements) => elements
                        .iter()
                        .find(|(value, _)| *value == key)
                        .map(|(_, verdict)| verdict.clone()),
                    VerdictMap::Named(name) => match self.lookup(place, name, &key)? {
                        Some(Datum::Verdict(verdict)) => Some(verdict.clone()),
                        _ => None,
                    },
                };
                verdict.map_or(Flow::Break, Flow::Verdict)
            }
            Statement::Nat { kind, family, to, .. } => self.nat(place, *kind, *family, to)?,
            Statement::Masquerade(flags) => {
                self.outcome.masquerade = Some(*flags);
                Flow::End(Fate::Accepted)
            }
            Statement::SetMark { place, value } => {
                self.set_mark(*place, *value);
                Flow::On
            }
            Statement::Reject(with) => {
                if *with == RejectWith::TcpReset && self.packet.protocol != 6 {
                    Flow::Break
                } else {
                    Flow::End(Fate::Rejected(*with))
                }
            }
            Statement::Verdict(verdict) => Flow::Verdict(verdict.clone()),
            Statement::Counter | Statement::Log(_) => Flow::On,
            Statement::Update { op, set, key, timeout } => {
                let declared = self.table.sets.get(set).ok_or_else(|| place.missing(set))?;
                if *op == UpdateOp::Delete {
                    return Err(place.unknown(statement));
                }
                let Some(key) = self.key(key) else { return Ok(Flow::Break) };
                let timeout = timeout.or(declared.spec.timeout);
                self.outcome.updates.push(SetUpdate { set: set.clone(), key, timeout });
                Flow::On
            }
            Statement::Notrack => {
                self.outcome.notrack = true;
                Flow::On
            }
            Statement::Opaque(opaque) => return Err(place.unknown(&opaque.what)),
        })
    }

    fn nat(
        &mut self,
        place: &Place<'_>,
        kind: NatKind,
        family: IpFamily,
        to: &NatTarget,
    ) -> Result<Flow, EvaluateError> {
        let translation = match to {
            NatTarget::Fixed(address, port) => {
                Translation { kind, address: *address, port: *port, map: None }
            }
            NatTarget::Map { key, map, with_port } => {
                let Some(key) = self.key(key) else { return Ok(Flow::Break) };
                let Some(Datum::Value(bytes)) = self.lookup(place, map, &key)? else {
                    return Ok(Flow::Break);
                };
                let length = if family == IpFamily::V4 { 4 } else { 16 };
                let address: Option<IpAddr> = match family {
                    IpFamily::V4 => {
                        bytes.get(..4).and_then(|it| <[u8; 4]>::try_from(it).ok()).map(IpAddr::from)
                    }
                    IpFamily::V6 => bytes
                        .get(..16)
                        .and_then(|it| <[u8; 16]>::try_from(it).ok())
                        .map(IpAddr::from),
                };
                let address = address.ok_or_else(|| place.unknown(to))?;
                let port =
                    bytes.get(length..length + 2).map(|it| u16::from_be_bytes([it[0], it[1]]));
                Translation {
                    kind,
                    address,
                    port: port.filter(|_| *with_port),
                    map: Some(map.clone()),
                }
            }
        };
        if translation.address.is_ipv4() != self.packet.destination.is_ipv4() {
            return Ok(Flow::Break);
        }
        self.outcome.translation = Some(translation);
        Ok(Flow::End(Fate::Accepted))
    }

    fn set_mark(&mut self, place: MarkPlace, value: MarkValue) {
        let (packet, connection) = (&mut self.packet.mark, &mut self.packet.conntrack.mark);
        let (own, other) = match place {
            MarkPlace::Packet => (packet, *connection),
            MarkPlace::Connection => (connection, *packet),
        };
        *own = match value {
            MarkValue::Fixed(mark) => mark,
            MarkValue::Or(bits) => *own | bits,
            MarkValue::And(bits) => *own & bits,
            MarkValue::Xor(bits) => *own ^ bits,
            MarkValue::Copy => other,
        };
    }

    fn matches(&mut self, place: &Place<'_>, matching: &Match) -> Result<bool, EvaluateError> {
        let Match { left, op, right } = matching;
        let Some(key) = self.key(left) else { return Ok(false) };
        // A field of one byte (tcp flags) is padded behind: its number is the first byte.
        let one_byte = left.first().is_some_and(|it| it.field().len() == 1);
        let host = || match key.as_bytes() {
            bytes if one_byte => bytes.first().copied().map_or(0, u32::from),
            bytes => bytes.try_into().map_or(0, u32::from_ne_bytes),
        };
        let holds = match right {
            Right::Set(name) => self.lookup(place, name, &key)?.is_some(),
            Right::OneOf(values) => values.contains(&key),
            Right::Prefix { address, length } => {
                let bits = 0..usize::from(*length);
                let bit =
                    |packed: &Packed, at: usize| packed.as_bytes()[at / 8] & (0x80 >> (at % 8));
                bits.into_iter().all(|at| bit(&key, at) == bit(address, at))
            }
            Right::NamePrefix(prefix) => key.as_bytes().starts_with(prefix.as_bytes()),
            Right::Range(from, to) => *from <= key && key <= *to,
            Right::Masked { mask, value } => host() & mask == *value,
            Right::AnyBit(bits) => host() & bits != 0,
            Right::Value(value) => {
                let order = key.cmp(value);
                return Ok(match op {
                    MatchOp::Eq => order.is_eq(),
                    MatchOp::Ne => order.is_ne(),
                    MatchOp::Lt => order.is_lt(),
                    MatchOp::Le => order.is_le(),
                    MatchOp::Gt => order.is_gt(),
                    MatchOp::Ge => order.is_ge(),
                });
            }
        };
        match op {
            MatchOp::Eq => Ok(holds),
            MatchOp::Ne => Ok(!holds),
            _ => Err(place.unknown(matching)),
        }
    }

    fn lookup(
        &self,
        place: &Place<'_>,
        name: &Name,
        key: &Packed,
    ) -> Result<Option<Datum<'t>>, EvaluateError> {
        let set: &'t Set = self.table.sets.get(name).ok_or_else(|| place.missing(name))?;
        if !set.spec.flags.interval {
            return Ok(set.elements.lookup(key.as_bytes()).map(|record| record.datum));
        }
        let inside = |from: &[u8], to: &[u8]| {
            let mut at = 0;
            set.spec.key_fields().map(Field::padded_len).all(|length| {
                let part = at..at + length;
                at = part.end;
                let value = key.as_bytes().get(part.clone());
                from.get(part.clone()) <= value && value <= to.get(part)
            })
        };
        let mut found = set.elements.records().filter(|record| {
            let end = record
                .extra
                .and_then(|extra| extra.end.as_ref())
                .map_or(record.key, Packed::as_bytes);
            inside(record.key, end)
        });
        Ok(found.next().map(|record| record.datum))
    }

    /// The values of a concatenation; `None` when the packet has none of one (`ip saddr` of an IPv6 packet).
    fn key(&mut self, selectors: &[Selector]) -> Option<Packed> {
        let mut key = Packed::new();
        for selector in selectors {
            key = self.append(key, selector)?;
        }
        Some(key)
    }

    fn append(&mut self, key: Packed, selector: &Selector) -> Option<Packed> {
        let packet = &self.packet;
        let ct = &packet.conntrack;
        let address = |address: IpAddr, v4: bool| match address {
            IpAddr::V4(address) if v4 => Some(key.ipv4(address)),
            IpAddr::V6(address) if !v4 => Some(key.ipv6(address)),
            _ => None,
        };
        let original = |direction: &Direction| (*direction == Direction::Original).then_some(());
        let port = |protocol: Option<u8>, port: u16| {
            (protocol.is_none_or(|protocol| protocol == packet.protocol)).then(|| key.port(port))
        };
        Some(match selector {
            Selector::IpSaddr => address(packet.source, true)?,
            Selector::IpDaddr => address(packet.destination, true)?,
            Selector::Ip6Saddr => address(packet.source, false)?,
            Selector::Ip6Daddr => address(packet.destination, false)?,
            Selector::ThSport => port(None, packet.source_port)?,
            Selector::ThDport => port(None, packet.destination_port)?,
            Selector::TcpSport => port(Some(6), packet.source_port)?,
            Selector::TcpDport => port(Some(6), packet.destination_port)?,
            Selector::UdpSport => port(Some(17), packet.source_port)?,
            Selector::UdpDport => port(Some(17), packet.destination_port)?,
            Selector::SctpSport => port(Some(132), packet.source_port)?,
            Selector::SctpDport => port(Some(132), packet.destination_port)?,
            Selector::TcpFlags => (packet.protocol == 6).then(|| key.proto(packet.tcp_flags))?,
            Selector::IcmpType => (packet.protocol == 1 && packet.source.is_ipv4())
                .then(|| key.proto(packet.icmp_type))?,
            Selector::Icmpv6Type => (packet.protocol == 58 && packet.source.is_ipv6())
                .then(|| key.proto(packet.icmp_type))?,
            Selector::MetaL4proto => key.proto(packet.protocol),
            Selector::MetaNfproto => key.proto(if packet.source.is_ipv4() { 2 } else { 10 }),
            Selector::MetaMark => key.mark(packet.mark),
            Selector::MetaIifname => key.ifname(&packet.input),
            Selector::MetaOifname => key.ifname(&packet.output),
            Selector::CtState => key.index(ct.state),
            Selector::CtStatus => key.index(ct.status),
            Selector::CtMark => key.mark(ct.mark),
            Selector::CtDirection => key.proto(u8::from(ct.direction == Direction::Reply)),
            Selector::CtIpSaddr(at) => {
                original(at).and_then(|()| address(ct.original_source.0, true))?
            }
            Selector::CtIpDaddr(at) => {
                original(at).and_then(|()| address(ct.original_destination.0, true))?
            }
            Selector::CtIp6Saddr(at) => {
                original(at).and_then(|()| address(ct.original_source.0, false))?
            }
            Selector::CtIp6Daddr(at) => {
                original(at).and_then(|()| address(ct.original_destination.0, false))?
            }
            Selector::CtProtocol(_) => key.proto(packet.protocol),
            Selector::CtProtoSrc(at) => original(at).map(|()| key.port(ct.original_source.1))?,
            Selector::CtProtoDst(at) => {
                original(at).map(|()| key.port(ct.original_destination.1))?
            }
            Selector::FibDaddrType => key.index(packet.destination_type),
            Selector::FibSaddrType => key.index(packet.source_type),
            Selector::NumgenRandom { modulus, offset }
            | Selector::NumgenInc { modulus, offset } => {
                let number = (self.numbers)(selector) % (*modulus).max(1);
                key.index(offset.wrapping_add(number))
            }
            Selector::Jhash { over, modulus, seed, offset } => {
                let hashed = self.key(over)?;
                // One component is hashed as long as it is, several as they lie in registers.
                let length =
                    if let [one] = over.as_slice() { one.field().len() } else { hashed.len() };
                let bytes = hashed.as_bytes().get(..length)?;
                key.index(offset.wrapping_add(jhash_scale(jhash(bytes, *seed), *modulus)))
            }
        })
    }
}
