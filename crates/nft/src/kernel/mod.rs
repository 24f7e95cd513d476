//! The real kernel: the only place with sockets, beside [`crate::conntrack`].

mod list;
mod live;
mod netlink;
mod socket;
mod watch;

pub use live::{BaseChain, Count, LiveElement};
pub use netlink::Netlink;
pub(crate) use socket::Socket;
pub use watch::{Change, Watch};

use crate::{CommitError, Committed, Family, ListError, Name, Table, Transaction};

/// Something that holds nf_tables: the kernel, or [`crate::Double`].
pub trait Kernel {
    /// The table as it is now; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`ListError`].
    fn list(&mut self, family: Family, name: &Name) -> Result<Option<Table>, ListError>;

    /// Does all operations or none.
    ///
    /// # Errors
    /// [`CommitError`] with the operation that caused it; then nothing was changed.
    fn commit(&mut self, transaction: &Transaction) -> Result<Committed, CommitError>;
}
