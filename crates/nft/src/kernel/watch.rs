//! Noticing that somebody else changed a table.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::Socket;
use crate::wire::attr::{Message, Messages, text};
use crate::wire::{message_type, number};
use crate::{Family, Name};

const NFNLGRP_NFTABLES: u32 = 7;

/// What the kernel's events say about the watched table since they were last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nobody else touched it.
    None,
    /// Somebody else changed it.
    Foreign,
    /// Events were lost: assume somebody did.
    Lost,
}

/// A subscription to nf_tables events, for one table.
///
/// The descriptor is non-blocking: wait until it is readable (poll, or tokio's `AsyncFd`), then call [`Watch::read`].
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
    family: Family,
    table: Name,
    ours: HashSet<u32>,
}

impl Watch {
    /// Subscribes in the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(family: Family, table: Name) -> io::Result<Self> {
        let socket = Socket::nonblocking()?;
        socket.join(NFNLGRP_NFTABLES)?;
        Ok(Self { socket, family, table, ours: HashSet::new() })
    }

    /// Takes commits from this netlink port for our own ([`super::Netlink::port`]). The kernel does not even queue their
    /// events: a first sync has a hundred thousand of them, which would push out the others'.
    ///
    /// # Errors
    /// What the kernel says; their events come then, and are known by their sender.
    pub fn ignore(&mut self, port: u32) -> io::Result<()> {
        self.ours.insert(port);
        self.socket.refuse_from(&self.ours.iter().copied().collect::<Vec<_>>())
    }

    /// Reads all waiting events.
    ///
    /// # Errors
    /// What the kernel says, lost events excepted: those are [`Change::Lost`].
    pub fn read(&mut self) -> io::Result<Change> {
        let mut change = Change::None;
        loop {
            let datagram = match self.socket.receive(false) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Ok(change),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    change = Change::Lost;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let foreign = |message: Message<'_>| {
                !self.ours.contains(&message.port) && concerns(&message, self.family, &self.table)
            };
            if Messages(datagram).any(foreign) {
                change = change.max(Change::Foreign);
            }
        }
    }
}

/// Whether an event is about this table. Every event of nf_tables but the generation's names its table first.
fn concerns(message: &Message<'_>, family: Family, table: &Name) -> bool {
    message.kind >> 8 == number::SUBSYS_NFTABLES
        && message.kind != message_type(number::NEWGEN)
        && message.family() == Some(family.number())
        && message.attributes().any(|(kind, name)| kind == 1 && text(name) == Some(table.as_str()))
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
