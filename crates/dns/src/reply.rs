//! An answer as a value, and its wire form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::{Name, labels};
use crate::query::{Edns, HEADER, Query, code, kind};

/// Whose record it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The name that was asked for, as it was written.
    Question,
    /// Another.
    Name(Name),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are the RFC's: 1035 §3.3, 3596, 2782")]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(Name),
    Ns(Name),
    Ptr(Name),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: Name,
    },
    Txt(Arc<[Box<[u8]>]>),
    Soa(Arc<Soa>),
    /// Any other type: its number and its data, which holds no compressed name.
    Other(u16, Arc<[u8]>),
}

/// A start of authority (RFC 1035 §3.3.13); times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are the RFC's")]
pub struct Soa {
    pub server: Name,
    pub mailbox: Name,
    pub serial: u32,
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    /// How long an absence may be remembered (RFC 2308).
    pub minimum: u32,
}

impl Data {
    /// The IANA number of its type.
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Aaaa(_) => kind::AAAA,
            Self::Cname(_) => kind::CNAME,
            Self::Ns(_) => kind::NS,
            Self::Ptr(_) => kind::PTR,
            Self::Srv { .. } => kind::SRV,
            Self::Txt(_) => kind::TXT,
            Self::Soa(_) => kind::SOA,
            Self::Other(kind, _) => *kind,
        }
    }

    /// The record of an address.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Whose.
    pub owner: Owner,
    /// Seconds it may be remembered.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

impl Record {
    /// A record of the name asked for.
    #[must_use]
    pub fn own(ttl: u32, data: Data) -> Self {
        Self { owner: Owner::Question, ttl, data }
    }

    /// A record of another name.
    #[must_use]
    pub fn of(name: Name, ttl: u32, data: Data) -> Self {
        Self { owner: Owner::Name(name), ttl, data }
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The response code, [`code`].
    pub code: u16,
    /// Whether it comes from who knows.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section, without OPT.
    pub additional: Vec<Record>,
}

impl Reply {
    /// A code and nothing else.
    #[must_use]
    pub fn of_code(code: u16) -> Self {
        Self { code, ..Self::default() }
    }

    /// The smallest time to live of its records; `None` without records.
    #[must_use]
    pub fn least_ttl(&self) -> Option<u32> {
        let all = self.answers.iter().chain(&self.authority).chain(&self.additional);
        all.map(|record| record.ttl).min()
    }
}

/// What goes into the OPT record of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyEdns {
    /// Octets this server takes over UDP.
    pub payload: u16,
    /// A client's half of a cookie, and ours.
    pub cookie: Option<([u8; 8], [u8; 16])>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Octets it may have.
    pub limit: usize,
    /// What an OPT record says, where the query had one.
    pub edns: ReplyEdns,
    /// Seconds since the answer was made, to be taken off every time to live.
    pub age: u32,
    /// By how many places answers of one type are turned round.
    pub turn: usize,
}

/// Writes the answer to `query` into `out`, whatever was there. Says whether it was truncated.
pub fn write(out: &mut Vec<u8>, query: &Query, reply: &Reply, form: &Form) -> bool {
    out.clear();
    let opcode_and_flags =
        0x80 | u8::from(reply.authoritative) << 2 | u8::from(query.recursion_desired);
    out.extend_from_slice(&query.id.to_be_bytes());
    out.push(opcode_and_flags);
    out.push(0x80 | u8::from(query.checking_disabled) << 4 | (reply.code & 0x0f) as u8);
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(query.name.raw());
    out.extend_from_slice(&query.kind.to_be_bytes());
    out.extend_from_slice(&query.class.to_be_bytes());
    let opt = query.edns.as_ref().map_or(0, |_| opt_length(&form.edns));
    let mut writer = Writer {
        out,
        limit: form.limit.saturating_sub(opt),
        names: Names::new(query),
        age: form.age,
    };
    let order = Order::of(&reply.answers, form.turn);
    let answers = writer.section((0..reply.answers.len()).map(|at| &reply.answers[order.at(at)]));
    let mut whole = usize::from(answers) == reply.answers.len();
    let authority = if whole { writer.section(reply.authority.iter()) } else { 0 };
    whole &= usize::from(authority) == reply.authority.len();
    let mut additional = if whole { writer.section(reply.additional.iter()) } else { 0 };
    if let Some(edns) = &query.edns {
        write_opt(out, edns, reply.code, &form.edns);
        additional += 1;
    }
    for (at, count) in [(6, answers), (8, authority), (10, additional)] {
        out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    if !whole {
        out[2] |= 0x02;
    }
    !whole
}

/// Writes an answer to something that was no query: a header with a code.
pub fn write_refusal(out: &mut Vec<u8>, id: u16, flags: u8, code: u16) {
    out.clear();
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[0x80 | flags, (code & 0x0f) as u8, 0, 0, 0, 0, 0, 0, 0, 0]);
}

fn opt_length(edns: &ReplyEdns) -> usize {
    11 + edns.cookie.map_or(0, |_| 4 + 24)
}

fn write_opt(out: &mut Vec<u8>, asked: &Edns, code: u16, edns: &ReplyEdns) {
    out.extend_from_slice(&[0, 0, 41]);
    out.extend_from_slice(&edns.payload.to_be_bytes());
    out.extend_from_slice(&[(code >> 4) as u8, 0, u8::from(asked.dnssec_ok) << 7, 0]);
    match edns.cookie {
        None => out.extend_from_slice(&[0, 0]),
        Some((client, server)) => {
            out.extend_from_slice(&[0, 28, 0, 10, 0, 24]);
            out.extend_from_slice(&client);
            out.extend_from_slice(&server);
        }
    }
}

/// In which order the answers go out: what follows a chain of CNAMEs is turned round, the chain stays in front.
struct Order {
    fixed: usize,
    count: usize,
    turn: usize,
}

impl Order {
    fn of(answers: &[Record], turn: usize) -> Self {
        let fixed = answers.iter().take_while(|record| record.data.kind() == kind::CNAME).count();
        let count = answers.len() - fixed;
        let turn = if count > 1 { turn % count } else { 0 };
        Self { fixed, count, turn }
    }

    fn at(&self, at: usize) -> usize {
        if at < self.fixed { at } else { self.fixed + (at - self.fixed + self.turn) % self.count }
    }
}

/// Where names begin that later ones may point to.
struct Names {
    places: [u16; Self::MOST],
    count: usize,
}

impl Names {
    /// More than this many are not pointed to.
    const MOST: usize = 32;

    fn new(query: &Query) -> Self {
        let mut names = Self { places: [0; Self::MOST], count: 0 };
        let mut at = HEADER;
        for label in labels(query.name.raw()) {
            names.learn(at);
            at += 1 + label.len();
        }
        names
    }

    fn learn(&mut self, at: usize) {
        let Ok(at @ ..0x4000) = u16::try_from(at) else { return };
        if let Some(place) = self.places.get_mut(self.count) {
            *place = at;
            self.count += 1;
        }
    }

    /// A place where exactly this name, in wire form, was written.
    fn find(&self, message: &[u8], name: &[u8]) -> Option<u16> {
        self.places[..self.count].iter().copied().find(|&at| is_at(message, at, name))
    }
}

/// Whether `name` stands at `at`. Our own pointers always lead backwards.
fn is_at(message: &[u8], at: u16, name: &[u8]) -> bool {
    let mut at = usize::from(at);
    let mut rest = name;
    loop {
        let length = message[at];
        if length >= 0xc0 {
            at = usize::from(length & 0x3f) << 8 | usize::from(message[at + 1]);
            continue;
        }
        let size = 1 + usize::from(length);
        let (Some(theirs), Some(own)) = (message.get(at..at + size), rest.get(..size)) else {
            return false;
        };
        if theirs != own {
            return false;
        }
        if length == 0 {
            return true;
        }
        at += size;
        rest = &rest[size..];
    }
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    names: Names,
    age: u32,
}

impl Writer<'_> {
    /// Writes records until one does not fit; how many were written.
    fn section<'a>(&mut self, records: impl Iterator<Item = &'a Record>) -> u16 {
        let mut count = 0;
        for record in records {
            let (start, known) = (self.out.len(), self.names.count);
            self.record(record);
            if self.out.len() > self.limit || count == u16::MAX {
                self.out.truncate(start);
                self.names.count = known;
                break;
            }
            count += 1;
        }
        count
    }

    fn record(&mut self, record: &Record) {
        match &record.owner {
            Owner::Question => self.out.extend_from_slice(&[0xc0, HEADER as u8]),
            Owner::Name(name) => self.name(name),
        }
        self.out.extend_from_slice(&record.data.kind().to_be_bytes());
        self.out.extend_from_slice(&[0, 1]);
        self.out.extend_from_slice(&record.ttl.saturating_sub(self.age).to_be_bytes());
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0, 0]);
        match &record.data {
            Data::A(address) => self.out.extend_from_slice(&address.octets()),
            Data::Aaaa(address) => self.out.extend_from_slice(&address.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name),
            Data::Srv { priority, weight, port, target } => {
                for number in [priority, weight, port] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
                // RFC 2782: the target is not compressed; but it may be pointed to.
                self.plain_name(target);
            }
            Data::Txt(strings) => {
                for string in strings.iter() {
                    let string = &string[..string.len().min(255)];
                    self.out.push(string.len() as u8);
                    self.out.extend_from_slice(string);
                }
            }
            Data::Soa(soa) => {
                self.name(&soa.server);
                self.name(&soa.mailbox);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.out.extend_from_slice(&number.to_be_bytes());
                }
            }
            Data::Other(_, bytes) => self.out.extend_from_slice(bytes),
        }
        let length = u16::try_from(self.out.len() - length_at - 2).unwrap_or(u16::MAX);
        self.out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// A name, its tail a pointer where one can be.
    fn name(&mut self, name: &Name) {
        let mut rest = name.wire();
        while rest.len() > 1 {
            if let Some(at) = self.names.find(self.out, rest) {
                self.out.extend_from_slice(&(0xc000 | at).to_be_bytes());
                return;
            }
            let (label, after) = rest.split_at(1 + usize::from(rest[0]));
            self.names.learn(self.out.len());
            self.out.extend_from_slice(label);
            rest = after;
        }
        self.out.push(0);
    }

    fn plain_name(&mut self, name: &Name) {
        let mut at = self.out.len();
        self.out.extend_from_slice(name.wire());
        for label in name.labels() {
            self.names.learn(at);
            at += 1 + label.len();
        }
    }
}

/// A code that stands for a failure of ours, not an answer.
pub(crate) fn failure() -> Reply {
    Reply::of_code(code::SERVFAIL)
}
