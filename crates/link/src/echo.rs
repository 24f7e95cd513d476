//! One echo request and its answer (ICMP, RFC 792; ICMPv6, RFC 4443): how long the way is, and whether a packet of a size
//! goes whole. An edge: opens a raw socket, which needs CAP_NET_RAW.
#![allow(unsafe_code, reason = "rustix does not know IP_MTU_DISCOVER")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketType, connect, ipproto, recv, send, socket, sockopt,
};

/// Bytes of an echo request before its data.
const HEADER: usize = 8;

/// Echo requests to one address.
#[derive(Debug)]
pub struct Echo {
    socket: OwnedFd,
    v6: bool,
    id: u16,
    sequence: u16,
    wait: Duration,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of the answer, ICMP header included.
    pub bytes: usize,
    /// From the request to the answer.
    pub took: Duration,
}

impl Echo {
    /// Gets ready; an answer is waited for that long.
    ///
    /// # Errors
    /// As `socket(2)` and `connect(2)`: not permitted, no way to that address.
    pub fn to(address: IpAddr, wait: Duration) -> io::Result<Self> {
        let v6 = address.is_ipv6();
        let (family, protocol) = if v6 {
            (AddressFamily::INET6, ipproto::ICMPV6)
        } else {
            (AddressFamily::INET, ipproto::ICMP)
        };
        let socket = socket(family, SocketType::RAW, Some(protocol))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(wait))?;
        connect(&socket, &SocketAddr::new(address, 0))?;
        let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
        Ok(Self { socket, v6, id, sequence: 0, wait })
    }

    /// From now on packets go whole or not at all, whatever the kernel has learned of the way.
    ///
    /// # Errors
    /// As `setsockopt(2)`.
    pub fn whole(self) -> io::Result<Self> {
        let (level, option, value) = if self.v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        };
        // SAFETY: the value is an int that lives through the call, and its size is told.
        let set = unsafe {
            libc::setsockopt(self.socket.as_raw_fd(), level, option, (&raw const value).cast(), 4)
        };
        if set == 0 { Ok(self) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one request with that many bytes of data; `None` when no answer came in time.
    ///
    /// # Errors
    /// As `send(2)`: too long for the link, no way.
    pub fn ask(&mut self, data: usize) -> io::Result<Option<Answer>> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let (request, reply) = if self.v6 { (128, 129) } else { (8, 0) };
        let packet = packet(request, self.id, sequence, data, !self.v6);
        let began = Instant::now();
        send(&self.socket, &packet, SendFlags::empty())?;
        let mark = [self.id.to_be_bytes(), sequence.to_be_bytes()].concat();
        let mut buffer = vec![0; data + 256];
        while began.elapsed() < self.wait {
            let Ok((n, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()) else { break };
            // IPv4 raw sockets show the IP header.
            let skip = if self.v6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
            let Some(icmp) = buffer.get(skip..n.min(buffer.len())) else { continue };
            if icmp.first() == Some(&reply) && icmp.get(4..HEADER) == Some(&mark[..]) {
                return Ok(Some(Answer { bytes: icmp.len(), took: began.elapsed() }));
            }
        }
        Ok(None)
    }
}

/// An echo request; for IPv6 the kernel fills in the checksum.
fn packet(kind: u8, id: u16, sequence: u16, data: usize, checksum: bool) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend_from_slice(&id.to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend((0..=u8::MAX).cycle().take(data));
    if checksum {
        let sum = !sum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The one's complement sum of RFC 1071; an odd last byte is the high half of a word.
fn sum(packet: &[u8]) -> u16 {
    let word = |w: &[u8]| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0));
    let mut sum: u32 = packet.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        for data in [0, 1, 56, 1473] {
            assert_eq!(sum(&packet(8, 0x1234, 7, data, true)), 0xffff);
        }
    }
}
