//! Commits over netlink: one batch, one send, and every refusal led back to the operation that caused it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Expected, Kernel, Socket, list};
use crate::wire::attr::{Attributes, Message, Messages, NF_HEADER, Refusal, refusal, u32_be};
use crate::wire::encode::{Batch, encode};
use crate::wire::number;
use crate::{
    CommitError, Committed, Element, Elements, Errno, Family, ListError, Name, Op, Packed, Refused,
    SetSpec, Table, Transaction,
};

/// The kernel's nf_tables in one network namespace.
#[derive(Debug)]
pub struct Netlink {
    pub(super) socket: Socket,
    sequence: u32,
    owning: bool,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace; it stays there wherever the value is moved.
    ///
    /// # Errors
    /// What the kernel says: no netfilter netlink (`EPROTONOSUPPORT`), out of descriptors.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open()?, sequence: 0, owning: false })
    }

    /// The same; the tables made by it are its own (`flags owner`, Linux 5.12): nobody else can change them, and they go
    /// with the socket, even when the process is killed.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn owning() -> io::Result<Self> {
        Ok(Self { owning: true, ..Self::open()? })
    }

    /// The netlink port of this socket; [`super::Watch::ignore`] it to see only what others do.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// A fresh sequence number with room for a whole batch behind it.
    pub(super) fn next_sequence(&mut self, messages: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = first.wrapping_add(messages);
        first
    }

    /// Tries whether there is nf_tables at all.
    ///
    /// # Errors
    /// [`ListError::Refused`] when not.
    pub fn probe(&mut self) -> Result<(), ListError> {
        list::probe(self)
    }

    /// The number of the last transaction of anybody in this namespace. None when the kernel does not say.
    pub fn generation(&mut self) -> Option<u32> {
        list::generation(self).ok()
    }

    /// Whether a table of this name has elements, without reading them.
    ///
    /// # Errors
    /// [`ListError`].
    pub fn is_filled(&mut self, family: Family, name: &Name) -> Result<bool, ListError> {
        list::is_filled(self, family, name)
    }

    /// The elements of a set that have one of `keys`; a key that is not there has none in the answer.
    ///
    /// # Errors
    /// [`ListError::Refused`] with ENOENT when there is no such table or set.
    pub fn get(
        &mut self,
        family: Family,
        table: &Name,
        set: &SetSpec,
        keys: &[Packed],
    ) -> Result<Elements, ListError> {
        list::get(self, family, table, set, keys)
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.socket.receive(false)?.is_some() {}
        Ok(())
    }

    fn send(&mut self, batch: &Batch) -> io::Result<Vec<Refusal>> {
        self.drain()?;
        self.socket.send(&batch.bytes)?;
        // The kernel worked while it took the message in: whatever it has to say is there now.
        let mut answers = Vec::new();
        while let Some(datagram) = self.socket.receive(false)? {
            let errors = Messages(datagram).filter(|message| message.kind == number::NLMSG_ERROR);
            answers.extend(errors.filter_map(|message| refusal(&message)));
        }
        Ok(answers)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Kernel for Netlink {
    fn list(&mut self, family: Family, name: &Name) -> Result<Option<Table>, ListError> {
        list::list(self, family, name, None)
    }

    fn list_expecting(
        &mut self,
        family: Family,
        name: &Name,
        expected: &dyn Expected,
    ) -> Result<Option<Table>, ListError> {
        list::list(self, family, name, Some(expected))
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Committed, CommitError> {
        let table = || transaction.table.to_string();
        let operations = transaction.len();
        if operations == 0 {
            return Ok(Committed::default());
        }
        let first = self.sequence.wrapping_add(1);
        let batch = encode(transaction, first, self.owning).map_err(|(op, source)| {
            let chain = match &transaction.ops[op] {
                Op::AddRule { chain, .. } => chain.to_string(),
                _ => String::new(),
            };
            CommitError::Rule { op, chain, source }
        })?;
        self.next_sequence(batch.messages.len() as u32 + 1);
        let socket = |error: io::Error| CommitError::Socket {
            table: table(),
            errno: Errno(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let answers = self.send(&batch).map_err(socket)?;
        let failed: Vec<_> = answers.iter().filter(|answer| answer.errno != 0).collect();
        let Some(cause) =
            failed.iter().find(|answer| answer.sequence != batch.begin).or(failed.first())
        else {
            // No word at all: the answer was lost, and with it whether the change was taken.
            return if answers.is_empty() {
                Err(CommitError::Socket { table: table(), errno: Errno(libc::ENOBUFS) })
            } else {
                Ok(Committed { operations, bytes: batch.bytes.len() })
            };
        };
        let index = cause.sequence.wrapping_sub(batch.begin).wrapping_sub(1) as usize;
        let Some(sent) = batch.messages.get(index) else {
            return Err(CommitError::Whole { table: table(), errno: Errno(cause.errno) });
        };
        let element = element_at(transaction, &batch, index, cause.offset);
        let first = Refused::new(transaction, sent.op, element, cause.errno, cause.message.clone());
        Err(CommitError::Refused { table: table(), first, more: failed.len() - 1 })
    }
}

/// The element an error's attribute offset points into.
fn element_at(
    transaction: &Transaction,
    batch: &Batch,
    index: usize,
    offset: Option<u32>,
) -> Option<Element> {
    let sent = &batch.messages[index];
    let (Op::AddElements { elements, .. } | Op::DeleteElements { elements, .. }) =
        &transaction.ops[sent.op]
    else {
        return None;
    };
    if elements.len() == 1 {
        return elements.first().cloned();
    }
    let offset = offset? as usize;
    let bytes = batch.bytes.get(sent.offset..)?;
    let message: Message<'_> = Messages(bytes).next()?;
    let place = |payload: &[u8]| payload.as_ptr() as usize - bytes.as_ptr() as usize;
    let list = message.attributes().find(|(kind, _)| *kind == 3)?.1;
    debug_assert!(place(list) > NF_HEADER);
    let mut found = None;
    let mut next = sent.first_element;
    for (_, element) in Attributes(list) {
        if place(element) - 4 > offset {
            break;
        }
        let flags =
            Attributes(element).find(|(kind, _)| *kind == 3).and_then(|(_, flags)| u32_be(flags));
        if flags.unwrap_or(0) & number::ELEM_INTERVAL_END == 0 {
            found = Some(next);
            next += 1;
        }
    }
    elements.get(found?).cloned()
}
