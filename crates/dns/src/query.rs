//! Reading a query. The common one, a question and perhaps an OPT record, is read by hand without an allocation; anything
//! else is given to the library `domain`, and what that refuses is a format error.

use domain::base::Message;

use crate::name::{MAX_LABEL, MAX_NAME};

/// Length of a message's header.
pub(crate) const HEADER: usize = 12;
/// What a client without EDNS takes over UDP (RFC 1035 §4.2.1).
pub const PLAIN_UDP: u16 = 512;

/// Types that are treated in a way of their own, by their IANA numbers.
#[allow(missing_docs, reason = "the registry's own names")]
pub mod kind {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const PTR: u16 = 12;
    pub const HINFO: u16 = 13;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const OPT: u16 = 41;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// Response codes, by their IANA numbers.
#[allow(missing_docs, reason = "the registry's own names")]
pub mod code {
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const BADVERS: u16 = 16;
    pub const BADCOOKIE: u16 = 23;
}

/// The Internet, the one class there is an answer for.
pub const CLASS_IN: u16 = 1;

/// A client's cookie option (RFC 7873).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The client's half.
    pub client: [u8; 8],
    /// The server's half, 8 to 32 octets, as far as the client knows one.
    pub server: Option<ServerCookie>,
}

/// A server's half of a cookie as a client sent it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerCookie {
    bytes: [u8; 32],
    length: u8,
}

impl ServerCookie {
    /// Its octets.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What an OPT record said (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Octets the client takes over UDP, at least 512.
    pub payload: u16,
    /// EDNS version.
    pub version: u8,
    /// DNSSEC OK.
    pub dnssec_ok: bool,
    /// Its cookie.
    pub cookie: Option<Cookie>,
}

/// A question's name: as it came, in lower case, and where its labels begin.
#[derive(Clone, Copy)]
pub struct QName {
    raw: [u8; MAX_NAME],
    lower: [u8; MAX_NAME],
    length: u8,
    starts: [u8; 128],
    labels: u8,
}

impl QName {
    /// Of a wire form without pointers; `None` when it is none.
    #[must_use]
    pub fn of_wire(wire: &[u8]) -> Option<Self> {
        let mut name = Self {
            raw: [0; MAX_NAME],
            lower: [0; MAX_NAME],
            length: 0,
            starts: [0; 128],
            labels: 0,
        };
        let mut at = 0;
        loop {
            let length = usize::from(*wire.get(at)?);
            if length == 0 {
                at += 1;
                break;
            }
            if length > MAX_LABEL || at + 1 + length >= MAX_NAME {
                return None;
            }
            *name.starts.get_mut(usize::from(name.labels))? = u8::try_from(at).ok()?;
            name.labels += 1;
            at += 1 + length;
        }
        let bytes = wire.get(..at)?;
        name.raw[..at].copy_from_slice(bytes);
        name.lower[..at].copy_from_slice(bytes);
        name.lower[..at].make_ascii_lowercase();
        name.length = u8::try_from(at).ok()?;
        Some(name)
    }

    /// The wire form as it came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw[..usize::from(self.length)]
    }

    /// The wire form in lower case.
    #[must_use]
    pub fn lower(&self) -> &[u8] {
        &self.lower[..usize::from(self.length)]
    }

    /// How many labels it has.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.labels)
    }

    /// A label in lower case, counted from the left; empty beyond the last.
    #[must_use]
    pub fn label(&self, at: usize) -> &[u8] {
        let Some(&start) = self.starts[..self.count()].get(at) else { return &[] };
        let start = usize::from(start);
        &self.lower[start + 1..start + 1 + usize::from(self.lower[start])]
    }

    /// The label in lower case as text; empty when it is none.
    #[must_use]
    pub fn text(&self, at: usize) -> &str {
        std::str::from_utf8(self.label(at)).unwrap_or_default()
    }

    /// The lower-case wire form from this label on.
    #[must_use]
    pub fn from(&self, at: usize) -> &[u8] {
        match self.starts[..self.count()].get(at) {
            Some(&start) => &self.lower[usize::from(start)..usize::from(self.length)],
            None => &[0],
        }
    }

    /// Of how many labels it consists above `zone` (in lower case), if it is within it.
    #[must_use]
    pub fn above(&self, zone: &[u8]) -> Option<usize> {
        let above = usize::from(self.length).checked_sub(zone.len())?;
        if self.lower()[above..] != *zone {
            return None;
        }
        if zone.len() == 1 {
            return Some(self.count());
        }
        let above = u8::try_from(above).ok()?;
        self.starts[..self.count()].binary_search(&above).ok()
    }
}

impl std::fmt::Debug for QName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::name::write_text(self.raw(), f)
    }
}

impl std::fmt::Display for QName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::name::write_text(self.raw(), f)
    }
}

/// A query with one question.
#[derive(Clone, Debug)]
pub struct Query {
    /// The client's number for it.
    pub id: u16,
    /// Recursion is desired.
    pub recursion_desired: bool,
    /// Checking is disabled (RFC 4035 §3.2.2).
    pub checking_disabled: bool,
    /// The name asked for.
    pub name: QName,
    /// The type asked for.
    pub kind: u16,
    /// The class asked for.
    pub class: u16,
    /// What the client says in an OPT record.
    pub edns: Option<Edns>,
}

impl Query {
    /// Octets the answer may have over UDP; `most` is what this server sends.
    #[must_use]
    pub fn udp_size(&self, most: u16) -> usize {
        usize::from(self.edns.map_or(PLAIN_UDP, |edns| edns.payload.min(most)).max(PLAIN_UDP))
    }
}

/// What a message is.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one packet")]
pub enum Received {
    /// A query.
    Query(Query),
    /// Something that is answered with this code and nothing else.
    Refused {
        /// Its number.
        id: u16,
        /// Its opcode and the bit that asks for recursion, as they stood in octet 2.
        flags: u8,
        /// The code.
        code: u16,
    },
    /// Something nobody must answer: a response, or less than a header.
    Nothing,
}

/// Reads a message that came to a server.
#[must_use]
pub fn read(message: &[u8]) -> Received {
    let Some(header) = message.first_chunk::<HEADER>() else { return Received::Nothing };
    let id = u16::from_be_bytes([header[0], header[1]]);
    let flags = header[2];
    if flags & 0x80 != 0 {
        return Received::Nothing;
    }
    let refused = |code| Received::Refused { id, flags: flags & 0x79, code };
    if flags >> 3 & 0x0f != 0 {
        return refused(code::NOTIMP);
    }
    let counts = &header[4..];
    if counts[..6] != [0, 1, 0, 0, 0, 0] {
        return uncommon(message).unwrap_or_else(|| refused(code::FORMERR));
    }
    common(message, header).or_else(|| uncommon(message)).unwrap_or_else(|| refused(code::FORMERR))
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}

/// A question, and nothing or one OPT record behind it.
fn common(message: &[u8], header: &[u8; HEADER]) -> Option<Received> {
    let name = QName::of_wire(&message[HEADER..])?;
    let at = HEADER + usize::from(name.length);
    let (kind, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
    let mut query = Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        recursion_desired: header[2] & 1 != 0,
        checking_disabled: header[3] & 0x10 != 0,
        name,
        kind,
        class,
        edns: None,
    };
    let rest = &message[at + 4..];
    match (header[10], header[11]) {
        (0, 0) if rest.is_empty() => {}
        (0, 1) => query.edns = Some(opt(rest)?),
        _ => return None,
    }
    Some(Received::Query(query))
}

/// The OPT record that is all of `record`.
fn opt(record: &[u8]) -> Option<Edns> {
    let (head, options) = record.split_at_checked(11)?;
    if head[..3] != [0, 0, 41] || usize::from(u16_at(head, 9)?) != options.len() {
        return None;
    }
    let mut edns = Edns {
        payload: u16_at(head, 3)?.max(PLAIN_UDP),
        version: head[6],
        dnssec_ok: head[7] & 0x80 != 0,
        cookie: None,
    };
    let mut rest = options;
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(4)?;
        let (data, after) = after.split_at_checked(usize::from(u16_at(head, 2)?))?;
        if head[..2] == [0, 10] {
            edns.cookie = Some(cookie(data)?);
        }
        rest = after;
    }
    Some(edns)
}

/// RFC 7873 §5.2.2: 8 octets, or 16 to 40; other lengths are format errors.
fn cookie(data: &[u8]) -> Option<Cookie> {
    let (client, rest) = data.split_first_chunk::<8>()?;
    let server = match rest.len() {
        0 => None,
        8..=32 => {
            let mut bytes = [0; 32];
            bytes[..rest.len()].copy_from_slice(rest);
            Some(ServerCookie { bytes, length: u8::try_from(rest.len()).ok()? })
        }
        _ => return None,
    };
    Some(Cookie { client: *client, server })
}

/// Any other query, by the library. Records beside the OPT record mean nothing to us; a malformed message is `None`.
fn uncommon(message: &[u8]) -> Option<Received> {
    let message = Message::from_octets(message).ok()?;
    let header = message.header();
    let question = message.sole_question().ok()?;
    let mut wire = Vec::with_capacity(MAX_NAME);
    for label in question.qname().iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend_from_slice(label.as_slice());
    }
    // Everything must be readable, and there is at most one OPT record, in its own section (RFC 6891 §6.1.1).
    let opts = |records: domain::base::message::RecordSection<'_, &[u8]>| {
        let mut count = 0;
        for record in records {
            if record.ok()?.rtype().to_int() == kind::OPT {
                count += 1;
            }
        }
        Some(count)
    };
    let outside = opts(message.answer().ok()?)? + opts(message.authority().ok()?)?;
    if outside > 0 || opts(message.additional().ok()?)? > 1 {
        return None;
    }
    let edns = match message.opt() {
        None => None,
        Some(opt) => {
            let mut edns = Edns {
                payload: opt.udp_payload_size().max(PLAIN_UDP),
                version: opt.version(),
                dnssec_ok: opt.dnssec_ok(),
                cookie: None,
            };
            for option in opt.opt().iter::<domain::base::opt::UnknownOptData<_>>() {
                let option = option.ok()?;
                if option.code().to_int() == 10 {
                    edns.cookie = Some(cookie(option.as_slice())?);
                }
            }
            Some(edns)
        }
    };
    Some(Received::Query(Query {
        id: header.id(),
        recursion_desired: header.rd(),
        checking_disabled: header.cd(),
        name: QName::of_wire(&wire)?,
        kind: question.qtype().to_int(),
        class: question.qclass().to_int(),
        edns,
    }))
}
