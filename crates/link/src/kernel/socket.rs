//! Sending batches and collecting answers, by sequence number.

use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::NetlinkError;

/// Requests per `send`: their acknowledgements must fit the default receive buffer (about 212 kB,
/// of which the kernel books some 800 bytes for each).
const BATCH_REQUESTS: usize = 100;
/// Bytes per `send`, well under the default send buffer.
const BATCH_BYTES: usize = 64 * 1024;
/// The kernel fills dump answers up to 32 KiB; a single link can be larger than a page.
const RECEIVE_BYTES: usize = 64 * 1024;
/// How often an inconsistent listing is asked for again.
const DUMP_ATTEMPTS: usize = 8;
/// NLMSGERR_ATTR_MSG: the kernel's sentence (linux/netlink.h).
const ATTR_MSG: u16 = 1;

/// A request with its NLM_F_* flags beyond REQUEST and ACK.
pub(super) type Request = (Message, u16);
/// Errno and sentence of a refusal.
pub(super) type Refused = (i32, Option<String>);

#[derive(Debug)]
pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Socket {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { operation: "open", source };
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_netlink_get_strict_chk(true).map_err(failed)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Sends all requests in as few batches as fit; returns the refused ones by position.
    pub(super) fn request(
        &mut self,
        requests: Vec<Request>,
    ) -> Result<Vec<(usize, i32, Option<String>)>, NetlinkError> {
        let mut refused = Vec::new();
        let mut batch = Vec::new();
        let (mut done, mut pending) = (0, 0);
        for (message, flags) in requests {
            self.append(&mut batch, message, flags | NLM_F_ACK);
            pending += 1;
            if pending == BATCH_REQUESTS || batch.len() >= BATCH_BYTES {
                self.exchange(&batch, done, pending, &mut refused)?;
                done += pending;
                pending = 0;
                batch.clear();
            }
        }
        if pending > 0 {
            self.exchange(&batch, done, pending, &mut refused)?;
        }
        Ok(refused)
    }

    fn exchange(
        &mut self,
        batch: &[u8],
        done: usize,
        pending: usize,
        refused: &mut Vec<(usize, i32, Option<String>)>,
    ) -> Result<(), NetlinkError> {
        self.send(batch)?;
        let end = self.sequence.wrapping_add(1);
        let first = end.wrapping_sub(u32::try_from(pending).unwrap_or(u32::MAX));
        let mut answered = 0;
        while answered < pending {
            for message in self.receive(first, end)? {
                if let NetlinkPayload::Error(answer) = &message.payload {
                    let at = done + message.header.sequence_number.wrapping_sub(first) as usize;
                    if let Some((errno, text)) = refusal(message.header.flags, answer) {
                        refused.push((at, errno, text));
                    }
                    answered += 1;
                }
            }
        }
        Ok(())
    }

    /// One question with one answer.
    pub(super) fn get(
        &mut self,
        message: Message,
    ) -> Result<Result<Message, Refused>, NetlinkError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, 0);
        self.send(&bytes)?;
        let (first, end) = (self.sequence, self.sequence.wrapping_add(1));
        loop {
            for message in self.receive(first, end)? {
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => return Ok(Ok(answer)),
                    NetlinkPayload::Error(answer) => {
                        let none = (0, None);
                        return Ok(Err(refusal(message.header.flags, &answer).unwrap_or(none)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// A whole table; asked again when it changed under the listing.
    pub(super) fn dump(
        &mut self,
        what: &str,
        request: &Message,
    ) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(messages) = self.dump_once(what, request.clone())? {
                return Ok(messages);
            }
        }
        Err(NetlinkError::Interrupted)
    }

    fn dump_once(
        &mut self,
        what: &str,
        request: Message,
    ) -> Result<Option<Vec<Message>>, NetlinkError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_DUMP);
        self.send(&bytes)?;
        let (first, end) = (self.sequence, self.sequence.wrapping_add(1));
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            for message in self.receive(first, end)? {
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                let failed = match message.payload {
                    NetlinkPayload::InnerMessage(answer) => {
                        found.push(answer);
                        continue;
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => {
                        return Ok(consistent.then_some(found));
                    }
                    NetlinkPayload::Done(done) => Some((done.code.saturating_neg(), None)),
                    NetlinkPayload::Error(answer) => refusal(message.header.flags, &answer),
                    _ => continue,
                };
                // A family the kernel was built or booted without has an empty table.
                let (errno, text) = failed.unwrap_or((0, None));
                if errno == libc::EOPNOTSUPP || errno == libc::EAFNOSUPPORT {
                    return Ok(Some(found));
                }
                let change = what.to_owned();
                let refusal = super::Refusal { at: 0, change, errno, text };
                return Err(NetlinkError::Refused(vec![refusal]));
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: Message, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        // The next message starts at a multiple of four (NLMSG_ALIGNTO).
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        match self.socket.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(NetlinkError::Socket { operation: "send to", source }),
        }
    }

    /// The messages of one datagram that answer requests `first..end`. Answers to earlier requests
    /// are what an exchange that ended in an error left behind, and are dropped.
    fn receive(
        &mut self,
        first: u32,
        end: u32,
    ) -> Result<Vec<NetlinkMessage<Message>>, NetlinkError> {
        self.buffer.clear();
        let received = loop {
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let length = received
            .map_err(|source| NetlinkError::Socket { operation: "receive from", source })?;
        if length > self.buffer.len() {
            let had = self.buffer.len();
            return Err(NetlinkError::Decode {
                detail: format!("datagram of {length} bytes in a buffer of {had}"),
            });
        }
        let mut messages = Vec::new();
        for bytes in split(&self.buffer)? {
            let number = NetlinkBuffer::new(bytes).sequence_number();
            if number.wrapping_sub(first) < end.wrapping_sub(first) {
                messages.push(parse(bytes)?);
            } else if first.wrapping_sub(number) > u32::MAX / 2 {
                return Err(NetlinkError::Sequence { got: number, first, end });
            }
        }
        Ok(messages)
    }
}

/// Cuts a datagram into messages, each as long as its header says.
pub(super) fn split(datagram: &[u8]) -> Result<Vec<&[u8]>, NetlinkError> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(unreadable)?.length() as usize;
        // new_checked has seen 16 <= length <= rest.len().
        messages.push(&rest[..length]);
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(messages)
}

pub(super) fn parse(bytes: &[u8]) -> Result<NetlinkMessage<Message>, NetlinkError> {
    NetlinkMessage::deserialize(bytes).map_err(unreadable)
}

#[allow(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn unreadable(error: netlink_packet_core::DecodeError) -> NetlinkError {
    NetlinkError::Decode { detail: error.to_string() }
}

/// Errno and the kernel's sentence; none for an acknowledgement.
fn refusal(flags: u16, answer: &netlink_packet_core::ErrorMessage) -> Option<Refused> {
    let errno = answer.code?.get().saturating_neg();
    if flags & NLM_F_ACK_TLVS == 0 {
        return Some((errno, None));
    }
    // The attributes follow the request's header, and the whole request unless it was capped.
    let skip = match (flags & NLM_F_CAPPED, NetlinkBuffer::new_checked(&answer.header)) {
        (0, Ok(request)) => (request.length() as usize).next_multiple_of(4),
        _ => 16,
    };
    let attributes = answer.header.get(skip..).unwrap_or_default();
    let text = NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == ATTR_MSG);
    let text =
        text.map(|nla| String::from_utf8_lossy(nla.value()).trim_end_matches('\0').to_owned());
    Some((errno, text))
}
