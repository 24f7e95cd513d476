//! Notices of change, for repair loops: which table changed, not how. A loop lists what it cares
//! about when one arrives; a lost notice (buffer overrun) counts as "everything changed".

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::NetlinkError;
use super::socket::split;
use crate::{LinkIndex, Namespace};

/// Which tables to hear about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchGroups {
    /// Links made, changed, removed.
    pub links: bool,
    /// Addresses, IPv4 and IPv6.
    pub addresses: bool,
    /// Routes, IPv4 and IPv6.
    pub routes: bool,
    /// Neighbours.
    pub neighbours: bool,
}

/// What changed since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watched {
    /// Links changed.
    pub links: bool,
    /// Addresses changed.
    pub addresses: bool,
    /// Routes changed.
    pub routes: bool,
    /// Neighbours changed.
    pub neighbours: bool,
    /// Notices were lost: take everything as changed.
    pub lost: bool,
}

impl Watched {
    /// Whether anything at all changed.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// A subscription. Readable (`poll`, `AsyncFd`) when something changed; non-blocking.
#[derive(Debug)]
pub struct Watch {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
    /// Links whose neighbours matter; all when none.
    neighbours_of: Option<Vec<LinkIndex>>,
}

// RTNLGRP_* of linux/rtnetlink.h.
const GROUP_LINK: u32 = 1;
const GROUP_NEIGH: u32 = 3;
const GROUP_IPV4_IFADDR: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV6_IFADDR: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;

impl Watch {
    /// Subscribes in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open(groups: WatchGroups) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Socket { operation: "subscribe to", source };
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        let wanted = [
            (groups.links, GROUP_LINK),
            (groups.addresses, GROUP_IPV4_IFADDR),
            (groups.addresses, GROUP_IPV6_IFADDR),
            (groups.routes, GROUP_IPV4_ROUTE),
            (groups.routes, GROUP_IPV6_ROUTE),
            (groups.neighbours, GROUP_NEIGH),
        ];
        for (_, group) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
            socket.add_membership(group).map_err(failed)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(64 * 1024), neighbours_of: None })
    }

    /// Subscribes in `namespace`.
    ///
    /// # Errors
    /// [`NetlinkError::Namespace`] or [`NetlinkError::Socket`].
    pub fn in_namespace(namespace: &Namespace, groups: WatchGroups) -> Result<Self, NetlinkError> {
        namespace.run(|| Self::open(groups))?
    }

    /// From now on only neighbours and forwarding entries of these links count: on a busy node the others change all
    /// the time.
    pub fn only_neighbours_of(&mut self, links: Vec<LinkIndex>) {
        self.neighbours_of = Some(links);
    }

    /// Takes all notices that have arrived, without waiting.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] when the socket fails for good.
    pub fn drain(&mut self) -> Result<Watched, NetlinkError> {
        let mut watched = Watched::default();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(watched),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    watched.lost = true;
                    continue;
                }
                Err(source) => {
                    return Err(NetlinkError::Socket { operation: "receive from", source });
                }
            }
            let Ok(messages) = split(&self.buffer) else {
                watched.lost = true;
                continue;
            };
            for message in messages {
                // RTM_* come in groups of four, new and delete first (linux/rtnetlink.h).
                match NetlinkBuffer::new(message).message_type() {
                    16 | 17 => watched.links = true,
                    20 | 21 => watched.addresses = true,
                    24 | 25 => watched.routes = true,
                    28 | 29 => watched.neighbours |= counts(message, self.neighbours_of.as_deref()),
                    _ => {}
                }
            }
        }
    }
}

/// `ndm_ifindex` follows the header of 16 bytes, the family and three bytes of padding (struct ndmsg).
fn counts(message: &[u8], links: Option<&[LinkIndex]>) -> bool {
    let Some(links) = links else { return true };
    let bytes = message.get(20..24).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    bytes.is_none_or(|bytes| links.contains(&LinkIndex::from_ne_bytes(bytes)))
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Watch {
    #[allow(unsafe_code, reason = "netlink-sys gives the raw number only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket owns the descriptor and outlives the borrow of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}
