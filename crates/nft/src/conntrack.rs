//! Tracked connections: list them, and delete those whose translation is out of date.
//!
//! A UDP "connection" lives as long as packets come; when its endpoint is gone or its Service got its first endpoint,
//! the kernel goes on translating as before until the entry is deleted.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::kernel::Socket;
use crate::wire::attr::{Attributes, Message, Messages, Writer, refusal, u16_be, u32_be};
use crate::wire::number::{self, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOINFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const GET: u16 = 1;
const DELETE: u16 = 2;

/// `CTA_FILTER_F_*`: which fields of a filter's tuple count.
const BY_SOURCE: u32 = 1;
const BY_DESTINATION: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol number.
    pub protocol: u8,
    /// Source port; 0 for protocols without.
    pub source_port: u16,
    /// Destination port; 0 for protocols without.
    pub destination_port: u16,
    /// ICMP id, type and code, which take the ports' part.
    pub icmp: Option<(u16, u8, u8)>,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the first packet went, before any translation.
    pub original: Tuple,
    /// As the answer goes, before it is translated back: its source is the endpoint.
    pub reply: Tuple,
    /// `IPS_*` bits: 16 source translated, 32 destination translated.
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// The conntrack zone.
    pub zone: u16,
    /// Seconds until it is forgotten, if nothing more comes; 0 when the kernel did not say.
    pub timeout: u32,
    /// TCP: one side has closed it or reset it; what is left only waits to be forgotten.
    pub is_closed: bool,
}

impl Flow {
    /// Where the answers come from: the endpoint, where the destination was translated.
    #[must_use]
    pub fn answered_by(&self) -> SocketAddr {
        SocketAddr::new(self.reply.source, self.reply.source_port)
    }

    /// Whether its destination was translated (`IPS_DST_NAT`).
    #[must_use]
    pub fn is_redirected(&self) -> bool {
        self.status & 32 != 0
    }
}

/// A frontend: the address clients dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// The transport protocol number: 17 UDP, 132 SCTP, 6 TCP.
    pub protocol: u8,
    /// The address; `None` for any, as with node ports.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// A failure to list or delete connections.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The socket failed.
    #[error("conntrack: {what}")]
    Socket {
        /// What was being done.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("conntrack: {what}: {errno}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The kernel's error number.
        errno: crate::Errno,
    },
}

/// The connections tracked in one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace; it stays there wherever the value is moved.
    ///
    /// # Errors
    /// [`ConntrackError::Socket`].
    pub fn open() -> Result<Self, ConntrackError> {
        let socket = Socket::open()
            .map_err(|source| ConntrackError::Socket { what: "opening a socket", source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All connections, of both families.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn list(&mut self) -> Result<Vec<Flow>, ConntrackError> {
        let mut flows = Vec::new();
        self.dump(0, |_| {}, |flow| flows.push(flow))?;
        Ok(flows)
    }

    /// Shows all connections of both families, one by one, without keeping them.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn each(&mut self, take: impl FnMut(&Flow)) -> Result<(), ConntrackError> {
        let mut take = take;
        self.dump(0, |_| {}, |flow| take(&flow))
    }

    /// The connections to a frontend; the kernel leaves out all others where the frontend has an address.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn of_frontend(&mut self, frontend: Frontend) -> Result<Vec<Flow>, ConntrackError> {
        let family = match frontend.address {
            None => 0,
            Some(IpAddr::V4(_)) => libc::AF_INET as u8,
            Some(IpAddr::V6(_)) => libc::AF_INET6 as u8,
        };
        let filter = |w: &mut Writer| {
            let Some(address) = frontend.address else { return };
            let nest = w.nest(FILTER);
            w.bytes(1, &(BY_DESTINATION | BY_PROTOCOL | BY_DESTINATION_PORT).to_ne_bytes());
            w.bytes(2, &0_u32.to_ne_bytes());
            w.end_nest(nest);
            let tuple = w.nest(TUPLE_ORIGINAL);
            let ip = w.nest(1);
            match address {
                IpAddr::V4(address) => w.bytes(2, &address.octets()),
                IpAddr::V6(address) => w.bytes(4, &address.octets()),
            }
            w.end_nest(ip);
            let proto = w.nest(2);
            w.u8(1, frontend.protocol);
            w.u16(3, frontend.port);
            w.end_nest(proto);
            w.end_nest(tuple);
        };
        let mut flows = Vec::new();
        self.dump(family, filter, |flow| {
            let original = &flow.original;
            if original.protocol == frontend.protocol
                && original.destination_port == frontend.port
                && frontend.address.is_none_or(|address| original.destination == address)
            {
                flows.push(flow);
            }
        })?;
        Ok(flows)
    }

    /// The connections that this address began or answers; the kernel leaves out all others.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn of_end(&mut self, address: IpAddr) -> Result<Vec<Flow>, ConntrackError> {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let mut flows = Vec::new();
        for side in [TUPLE_ORIGINAL, TUPLE_REPLY] {
            let filter = |w: &mut Writer| {
                let nest = w.nest(FILTER);
                // What of the original direction counts, then what of the reply.
                for (kind, of) in [(1, TUPLE_ORIGINAL), (2, TUPLE_REPLY)] {
                    let fields = if of == side { BY_SOURCE } else { 0 };
                    w.bytes(kind, &fields.to_ne_bytes());
                }
                w.end_nest(nest);
                let tuple = w.nest(side);
                let ip = w.nest(1);
                match address {
                    IpAddr::V4(address) => w.bytes(1, &address.octets()),
                    IpAddr::V6(address) => w.bytes(3, &address.octets()),
                }
                w.end_nest(ip);
                w.end_nest(tuple);
            };
            self.dump(family, filter, |flow| {
                let (began, answers) =
                    (flow.original.source == address, flow.reply.source == address);
                // One that is both was shown the first time.
                if if side == TUPLE_ORIGINAL { began } else { answers && !began } {
                    flows.push(flow);
                }
            })?;
        }
        Ok(flows)
    }

    /// Deletes connections by their original direction and tells how many were there.
    ///
    /// # Errors
    /// [`ConntrackError`]; one that is gone already is no error.
    pub fn delete(&mut self, flows: &[Flow]) -> Result<usize, ConntrackError> {
        let what = "deleting connections";
        let socket = |source| ConntrackError::Socket { what, source };
        let mut deleted = 0;
        for chunk in flows.chunks(256) {
            let mut w = Writer::default();
            for flow in chunk {
                self.sequence = self.sequence.wrapping_add(1);
                let family =
                    if flow.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
                        as u8;
                let kind = number::SUBSYS_CTNETLINK << 8 | DELETE;
                let open = w.message(kind, NLM_F_REQUEST | NLM_F_ACK, self.sequence, family, 0);
                tuple(&mut w, &flow.original);
                if flow.zone != 0 {
                    w.u16(ZONE, flow.zone);
                }
                w.end_message(open);
            }
            self.socket.send(&w.bytes).map_err(socket)?;
            let mut answers = 0;
            while answers < chunk.len() {
                let Some(datagram) = self.socket.receive(true).map_err(socket)? else { continue };
                for answer in Messages(datagram).filter_map(|message| refusal(&message)) {
                    answers += 1;
                    match answer.errno {
                        0 => deleted += 1,
                        libc::ENOENT => {}
                        errno => {
                            return Err(ConntrackError::Refused {
                                what,
                                errno: crate::Errno(errno),
                            });
                        }
                    }
                }
            }
        }
        Ok(deleted)
    }

    fn dump(
        &mut self,
        family: u8,
        filter: impl FnOnce(&mut Writer),
        mut take: impl FnMut(Flow),
    ) -> Result<(), ConntrackError> {
        let what = "listing connections";
        let socket = |source| ConntrackError::Socket { what, source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut w = Writer::default();
        let kind = number::SUBSYS_CTNETLINK << 8 | GET;
        let open = w.message(kind, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, family, 0);
        filter(&mut w);
        w.end_message(open);
        self.socket.send(&w.bytes).map_err(socket)?;
        loop {
            let datagram = self.socket.receive(true).map_err(socket)?.unwrap_or(&[]);
            for message in Messages(datagram).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    number::NLMSG_DONE => return Ok(()),
                    number::NLMSG_ERROR => {
                        let errno =
                            refusal(&message).map_or(libc::EBADMSG, |refusal| refusal.errno);
                        return Err(ConntrackError::Refused { what, errno: crate::Errno(errno) });
                    }
                    _ => {
                        if let Some(flow) = flow(&message) {
                            take(flow);
                        }
                    }
                }
            }
        }
    }
}

fn tuple(w: &mut Writer, tuple: &Tuple) {
    let nest = w.nest(TUPLE_ORIGINAL);
    let ip = w.nest(1);
    match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            w.bytes(1, &source.octets());
            w.bytes(2, &destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            w.bytes(3, &source.octets());
            w.bytes(4, &destination.octets());
        }
        // No connection has two families; the kernel refuses the empty tuple.
        _ => {}
    }
    w.end_nest(ip);
    let proto = w.nest(2);
    w.u8(1, tuple.protocol);
    match tuple.icmp {
        None => {
            w.u16(2, tuple.source_port);
            w.u16(3, tuple.destination_port);
        }
        Some((id, kind, code)) => {
            let base = if tuple.source.is_ipv4() { 4 } else { 7 };
            w.u16(base, id);
            w.u8(base + 1, kind);
            w.u8(base + 2, code);
        }
    }
    w.end_nest(proto);
    w.end_nest(nest);
}

/// Reads one connection; `None` when it is not whole.
fn flow(message: &Message<'_>) -> Option<Flow> {
    let (mut original, mut reply) = (None, None);
    let (mut status, mut mark, mut zone, mut timeout) = (0, 0, 0, 0);
    let mut is_closed = false;
    for (kind, payload) in message.attributes() {
        match kind {
            TUPLE_ORIGINAL => original = read_tuple(payload),
            TUPLE_REPLY => reply = read_tuple(payload),
            STATUS => status = u32_be(payload)?,
            PROTOINFO => is_closed = is_closed_tcp(payload),
            MARK => mark = u32_be(payload)?,
            ZONE => zone = u16_be(payload)?,
            TIMEOUT => timeout = u32_be(payload)?,
            _ => {}
        }
    }
    Some(Flow { original: original?, reply: reply?, status, mark, zone, timeout, is_closed })
}

/// `CTA_PROTOINFO_TCP_STATE` from `TCP_CONNTRACK_FIN_WAIT` (4) to `TCP_CONNTRACK_CLOSE` (8).
fn is_closed_tcp(nest: &[u8]) -> bool {
    let tcp = Attributes(nest).find(|(kind, _)| *kind == 1).map(|(_, tcp)| tcp).unwrap_or_default();
    let state = Attributes(tcp).find(|(kind, _)| *kind == 1).and_then(|(_, state)| state.first());
    state.is_some_and(|state| (4..=8).contains(state))
}

fn read_tuple(nest: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (0, 0, 0);
    let (mut id, mut kind_of, mut code) = (None, 0, 0);
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    for (kind, payload) in Attributes(nest) {
        for (inner, value) in Attributes(payload) {
            match (kind, inner) {
                (1, 1) => source = v4(value),
                (1, 2) => destination = v4(value),
                (1, 3) => source = v6(value),
                (1, 4) => destination = v6(value),
                (2, 1) => protocol = *value.first()?,
                (2, 2) => source_port = u16_be(value)?,
                (2, 3) => destination_port = u16_be(value)?,
                (2, 4 | 7) => id = Some(u16_be(value)?),
                (2, 5 | 8) => kind_of = *value.first()?,
                (2, 6 | 9) => code = *value.first()?,
                _ => {}
            }
        }
    }
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol,
        source_port,
        destination_port,
        icmp: id.map(|id| (id, kind_of, code)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_flow_or_none(bytes: Vec<u8>) {
            for message in Messages(&bytes) {
                flow(&message);
            }
            read_tuple(&bytes);
        }

        #[test]
        fn a_tuple_is_read_as_it_was_written(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), protocol: u8) {
            let written = Tuple {
                source: source.into(),
                destination: destination.into(),
                protocol,
                source_port: ports.0,
                destination_port: ports.1,
                icmp: None,
            };
            let mut w = Writer::default();
            tuple(&mut w, &written);
            let (kind, nest) = Attributes(&w.bytes).next().unwrap();
            prop_assert_eq!(kind, TUPLE_ORIGINAL);
            prop_assert_eq!(read_tuple(nest), Some(written));
        }
    }
}
