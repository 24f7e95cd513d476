//! The real kernel: the only place with sockets, beside [`crate::conntrack`].

mod ask;
mod list;
mod live;
mod netlink;
mod socket;
mod watch;

pub use live::{BaseChain, Count, LiveElement, LiveRule};
pub use netlink::Netlink;
pub(crate) use socket::Socket;
pub use watch::{Change, Watch};

use crate::{CommitError, Committed, Family, ListError, Name, Packed, SetSpec, Table, Transaction};

/// Who knows what is probably in a table.
pub trait Expected {
    /// The keys `set` probably has; `so_far` holds the sets that were read before it, the verdict maps among them. `None`
    /// to have the set walked: for want of an idea, or because it is small. A key too many costs a lookup; a key too few
    /// costs the walk after all.
    fn keys(&self, set: &SetSpec, so_far: &Table) -> Option<Vec<Packed>>;
}

/// The table that is wanted is what is probably there.
impl Expected for Table {
    fn keys(&self, set: &SetSpec, _: &Table) -> Option<Vec<Packed>> {
        Some(self.sets.get(&set.name)?.elements.keys().collect())
    }
}

/// Something that holds nf_tables: the kernel, or [`crate::Double`].
pub trait Kernel {
    /// The table as it is now; `None` when there is none of that name.
    ///
    /// # Errors
    /// [`ListError`].
    fn list(&mut self, family: Family, name: &Name) -> Result<Option<Table>, ListError>;

    /// The same, faster where big sets hold about what is expected: time grows with the number of elements, where a plain
    /// listing of the real kernel takes their square.
    ///
    /// # Errors
    /// [`ListError`].
    fn list_expecting(
        &mut self,
        family: Family,
        name: &Name,
        expected: &dyn Expected,
    ) -> Result<Option<Table>, ListError> {
        let _ = expected;
        self.list(family, name)
    }

    /// Does all operations or none.
    ///
    /// # Errors
    /// [`CommitError`] with the operation that caused it; then nothing was changed.
    fn commit(&mut self, transaction: &Transaction) -> Result<Committed, CommitError>;
}
