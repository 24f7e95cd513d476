//! Netlink messages and attributes: an append-only writer and a parser that never panics.

use super::number;

/// Attribute type bit: the payload is attributes.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// `struct nlmsghdr` and `struct nfgenmsg`.
pub(crate) const NF_HEADER: usize = 20;

/// Appends messages and attributes to one buffer; lengths are filled in when a message or nest is closed.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

/// Where an open message or nest began.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Open(usize);

impl Writer {
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
    ) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        Open(start)
    }

    pub(crate) fn end_message(&mut self, open: Open) {
        let length = (self.bytes.len() - open.0) as u32;
        self.bytes[open.0..open.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Open(start)
    }

    pub(crate) fn end_nest(&mut self, open: Open) {
        let length = self.bytes.len() - open.0;
        let length = u16::try_from(length)
            .expect("invariant: elements are chunked, so no nest passes 64 KiB");
        self.bytes[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Bytes written since `open`.
    pub(crate) fn length_since(&self, open: Open) -> usize {
        self.bytes.len() - open.0
    }

    pub(crate) fn bytes(&mut self, kind: u16, payload: &[u8]) {
        self.bytes.extend_from_slice(&(payload.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        self.bytes.extend_from_slice(&(text.len() as u16 + 5).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A netlink message, borrowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes of a netfilter message; none when it is too short.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(4..).unwrap_or(&[]))
    }

    /// The address family in `struct nfgenmsg`.
    pub(crate) fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }
}

/// The messages of one datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = u32_ne(header) as usize;
        let payload = self.0.get(HEADER..length)?;
        let message = Message {
            kind: u16_ne(&header[4..]),
            flags: u16_ne(&header[6..]),
            sequence: u32_ne(&header[8..]),
            port: u32_ne(&header[12..]),
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    }
}

/// Attributes, borrowed; iteration ends at the first malformed one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16_ne(header));
        let payload = self.0.get(4..length)?;
        let kind = u16_ne(&header[2..]) & TYPE_MASK;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

fn u16_ne(bytes: &[u8]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

fn u32_ne(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// A big-endian 16-bit payload.
pub(crate) fn u16_be(payload: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(payload.try_into().ok()?))
}

/// A big-endian 32-bit payload.
pub(crate) fn u32_be(payload: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(payload.try_into().ok()?))
}

/// A big-endian 64-bit payload.
pub(crate) fn u64_be(payload: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(payload.try_into().ok()?))
}

/// A NUL-terminated string payload.
pub(crate) fn text(payload: &[u8]) -> Option<&str> {
    std::str::from_utf8(payload.strip_suffix(&[0]).unwrap_or(payload)).ok()
}

/// What an error message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// 0 for an acknowledgement.
    pub(crate) errno: i32,
    pub(crate) sequence: u32,
    /// The kernel's words, when it gave some.
    pub(crate) message: Option<String>,
    /// The offset of the offending attribute in our message.
    pub(crate) offset: Option<u32>,
}

/// Reads `NLMSG_ERROR` with its extended acknowledgement.
pub(crate) fn refusal(message: &Message<'_>) -> Option<Refusal> {
    let errno = i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?);
    let original = message.payload.get(4..4 + HEADER)?;
    let mut refusal = Refusal {
        errno: errno.checked_neg()?,
        sequence: message.sequence,
        message: None,
        offset: None,
    };
    if message.flags & number::NLM_F_ACK_TLVS != 0 {
        let skip = if message.flags & number::NLM_F_CAPPED != 0 {
            HEADER
        } else {
            (u32_ne(original) as usize).checked_next_multiple_of(4)?.max(HEADER)
        };
        for (kind, payload) in Attributes(message.payload.get(4 + skip..).unwrap_or(&[])) {
            match kind {
                1 => refusal.message = text(payload).map(str::to_owned),
                2 => refusal.offset = payload.try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
    }
    Some(refusal)
}
