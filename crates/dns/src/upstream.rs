//! What upstreams say, made safe to remember; and which of them is asked next. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use domain::base::iana::Opcode;
use domain::base::name::ToName;
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;

use crate::config::Policy;
use crate::name::Name;
use crate::query::{HEADER, QName, code, kind};
use crate::reply::{Data, Owner, Record, Reply, Soa};

/// Times to live above this mean 0 (RFC 2181 §8).
const MAX_TTL: u32 = 1 << 31;
/// Octets taken over UDP.
const PAYLOAD: u16 = 1232;

/// A query as it goes to an upstream. `id` and the case of the name's letters, which `coin` decides, must come back.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its number.
    pub id: u16,
    /// The name with its letters' case drawn by lot (draft-vixie-dnsext-dns0x20).
    pub name: Vec<u8>,
    /// The type.
    pub kind: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Checking is disabled.
    pub checking_disabled: bool,
}

impl Question {
    /// A question for a name in lower case.
    #[must_use]
    pub fn new(id: u16, name: &QName, kind: u16, mut coin: impl FnMut() -> bool) -> Self {
        let mut wire = name.lower().to_vec();
        for byte in &mut wire {
            // Lengths of labels are below any letter.
            if byte.is_ascii_lowercase() && coin() {
                byte.make_ascii_uppercase();
            }
        }
        Self { id, name: wire, kind, dnssec_ok: false, checking_disabled: false }
    }

    /// Its wire form.
    #[must_use]
    pub fn wire(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.name.len() + 15);
        out.extend_from_slice(&self.id.to_be_bytes());
        let checking = u8::from(self.checking_disabled) << 4;
        out.extend_from_slice(&[1, checking, 0, 1, 0, 0, 0, 0, 0, 1]);
        out.extend_from_slice(&self.name);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&[0, 0, 41]);
        out.extend_from_slice(&PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[0, 0, u8::from(self.dnssec_ok) << 7, 0, 0, 0]);
        out
    }

    /// Whether this octet string is an answer to it at all: a spoofed one must guess the number, the port and the case.
    #[must_use]
    pub fn is_answered_by(&self, message: &[u8]) -> bool {
        let question = HEADER..HEADER + self.name.len() + 4;
        let Some(theirs) = message.get(question) else { return false };
        let (name, rest) = theirs.split_at(self.name.len());
        message[..2] == self.id.to_be_bytes()
            && message[2] & 0xf8 == 0x80
            && message[4..6] == [0, 1]
            && name == self.name
            && rest[..2] == self.kind.to_be_bytes()
            && rest[2..] == [0, 1]
    }
}

/// What an upstream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An answer, without what it has no business to say.
    Reply(Reply),
    /// It did not fit: TCP has it whole.
    Truncated,
}

/// Why a message is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It is not well-formed.
    #[error("the answer is malformed")]
    Malformed,
    /// It answers something else.
    #[error("the answer is to another question")]
    Unasked,
}

/// Reads an upstream's answer. Kept are the records of the name asked for, along its CNAMEs, and the SOA record that says
/// how long an absence lasts; anything else could be an attempt to plant what was never asked (bailiwick).
///
/// # Errors
/// [`BadAnswer`].
pub fn read(question: &Question, bytes: &[u8]) -> Result<Said, BadAnswer> {
    if !question.is_answered_by(bytes) {
        return Err(BadAnswer::Unasked);
    }
    // The case drawn by lot has done its work; names point back to it, and it would be seen in them.
    let mut bytes = bytes.to_vec();
    bytes[HEADER..HEADER + question.name.len()].make_ascii_lowercase();
    let bytes = bytes.as_slice();
    let message = Message::from_octets(bytes).map_err(|_| BadAnswer::Malformed)?;
    let header = message.header();
    if header.opcode() != Opcode::QUERY {
        return Err(BadAnswer::Unasked);
    }
    if header.tc() {
        return Ok(Said::Truncated);
    }
    let mut reply = Reply::of_code(header.rcode().to_int().into());
    // The names an answer may be about: the one asked for, and where its CNAMEs lead.
    let mut current = Name::of_wire(&question.name).ok_or(BadAnswer::Malformed)?;
    let asked = current.clone();
    let mut chain = vec![current.clone()];
    for record in message.answer().map_err(|_| BadAnswer::Malformed)? {
        let record = record.map_err(|_| BadAnswer::Malformed)?;
        let record = record
            .to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>()
            .map_err(|_| BadAnswer::Malformed)?;
        let owner = name_of(record.owner()).ok_or(BadAnswer::Malformed)?;
        if record.class().to_int() != 1 || !chain.iter().any(|name| name.is(&owner)) {
            continue;
        }
        let data = data_of(record.rtype().to_int(), record.data()).ok_or(BadAnswer::Malformed)?;
        if let Data::Cname(target) = &data
            && owner.is(&current)
            && question.kind != kind::CNAME
        {
            current = target.clone();
            chain.push(target.clone());
        }
        let owner = if owner.is(&asked) { Owner::Question } else { Owner::Name(owner) };
        reply.answers.push(Record { owner, ttl: sane(record.ttl().as_secs()), data });
    }
    let has_answer = reply.answers.iter().any(|record| record.data.kind() == question.kind);
    for record in message.authority().map_err(|_| BadAnswer::Malformed)? {
        let record = record.map_err(|_| BadAnswer::Malformed)?;
        let is_soa = record.rtype().to_int() == kind::SOA;
        let is_proof = question.dnssec_ok && matches!(record.rtype().to_int(), 46 | 47 | 50);
        if has_answer || !(is_soa || is_proof) {
            continue;
        }
        let record = record
            .to_any_record::<AllRecordData<&[u8], ParsedName<&[u8]>>>()
            .map_err(|_| BadAnswer::Malformed)?;
        let owner = name_of(record.owner()).ok_or(BadAnswer::Malformed)?;
        let data = data_of(record.rtype().to_int(), record.data()).ok_or(BadAnswer::Malformed)?;
        let mut ttl = sane(record.ttl().as_secs());
        if let Data::Soa(soa) = &data {
            if !current.is_within(&owner) {
                continue;
            }
            // RFC 2308 §5.
            ttl = ttl.min(soa.minimum);
        }
        reply.authority.push(Record::of(owner, ttl, data));
    }
    Ok(Said::Reply(reply))
}

fn sane(ttl: u32) -> u32 {
    if ttl >= MAX_TTL { 0 } else { ttl }
}

fn name_of(name: &ParsedName<&[u8]>) -> Option<Name> {
    Name::of_wire(name.to_vec().as_slice())
}

fn data_of(kind: u16, data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> Option<Data> {
    Some(match data {
        AllRecordData::A(a) => Data::A(a.addr()),
        AllRecordData::Aaaa(aaaa) => Data::Aaaa(aaaa.addr()),
        AllRecordData::Cname(cname) => Data::Cname(name_of(cname.cname())?),
        AllRecordData::Ptr(ptr) => Data::Ptr(name_of(ptr.ptrdname())?),
        AllRecordData::Ns(ns) => Data::Ns(name_of(ns.nsdname())?),
        AllRecordData::Srv(srv) => Data::Srv {
            priority: srv.priority(),
            weight: srv.weight(),
            port: srv.port(),
            target: name_of(srv.target())?,
        },
        AllRecordData::Txt(txt) => Data::Txt(txt.iter().map(Box::from).collect()),
        AllRecordData::Soa(soa) => Data::Soa(std::sync::Arc::new(Soa {
            server: name_of(soa.mname())?,
            mailbox: name_of(soa.rname())?,
            serial: soa.serial().into_int(),
            refresh: soa.refresh().as_secs(),
            retry: soa.retry().as_secs(),
            expire: soa.expire().as_secs(),
            minimum: soa.minimum().as_secs(),
        })),
        other => {
            let mut bytes = Vec::new();
            other.compose_rdata(&mut bytes).ok()?;
            Data::Other(kind, bytes.into())
        }
    })
}

/// Whether an answer says that the upstream itself is in trouble, so that the next is tried.
#[must_use]
pub fn is_failure(reply: &Reply) -> bool {
    matches!(reply.code, code::SERVFAIL | code::REFUSED | code::NOTIMP | code::FORMERR)
}

/// What is known of the upstreams of one `forward`. A dead one is not asked while another lives; when all are dead, all are
/// tried: to be wrong about them costs less than to answer nobody.
#[derive(Debug)]
pub struct Health {
    fails: Vec<u32>,
    most: u32,
    policy: Policy,
    next: usize,
}

impl Health {
    /// Of so many, all well; `most` failures in a row make one dead, 0 never does.
    #[must_use]
    pub fn new(count: usize, most: u32, policy: Policy) -> Self {
        Self { fails: vec![0; count], most, policy, next: 0 }
    }

    /// Whether one counts as dead.
    #[must_use]
    pub fn is_dead(&self, at: usize) -> bool {
        self.most > 0 && self.fails[at] >= self.most
    }

    /// In which order they are to be asked now. `draw` gives a number below its argument.
    pub fn order(&mut self, draw: impl FnOnce(usize) -> usize) -> Vec<usize> {
        let count = self.fails.len();
        if count == 0 {
            return Vec::new();
        }
        let first = match self.policy {
            Policy::Sequential => 0,
            Policy::Random => draw(count),
            Policy::RoundRobin => {
                self.next = (self.next + 1) % count;
                self.next
            }
        };
        let all = (0..count).map(|at| (first + at) % count);
        let (dead, well): (Vec<usize>, Vec<usize>) = all.partition(|at| self.is_dead(*at));
        if well.is_empty() { dead } else { well }
    }

    /// One answered.
    pub fn answered(&mut self, at: usize) {
        self.fails[at] = 0;
    }

    /// One did not. Whether it must be asked from now on whether it lives.
    pub fn failed(&mut self, at: usize) -> bool {
        self.fails[at] = self.fails[at].saturating_add(1);
        self.fails[at] == 1
    }

    /// Whether all are dead.
    #[must_use]
    pub fn all_dead(&self) -> bool {
        (0..self.fails.len()).all(|at| self.is_dead(at))
    }

    /// Whether one failed last time.
    #[must_use]
    pub fn is_suspect(&self, at: usize) -> bool {
        self.fails[at] > 0
    }
}

/// How long one upstream is waited for before the next is asked.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long a client waits for all of it.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Where an upstream is, as metrics name it.
#[must_use]
pub fn label(address: SocketAddr) -> String {
    address.to_string()
}
