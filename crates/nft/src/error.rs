//! What goes wrong between a table and the kernel, with the operands as data.

use std::fmt;

use crate::text::OpText;
use crate::{Element, RuleError, Transaction};

/// An error number of the kernel, with its usual words.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        f.write_str(text.split(" (os error").next().unwrap_or(&text))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}, {self})", self.0)
    }
}

/// An operation the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its place in the transaction.
    pub op: usize,
    /// What it was, in words: "adding element 10.96.0.1 . tcp . 80 to map frontend4".
    pub what: String,
    /// The element it was about, when the kernel said.
    pub element: Option<Box<Element>>,
    /// The kernel's error number.
    pub errno: Errno,
    /// The kernel's own words, when it had some.
    pub message: Option<String>,
}

impl Refused {
    pub(crate) fn new(
        transaction: &Transaction,
        op: usize,
        element: Option<Element>,
        errno: i32,
        message: Option<String>,
    ) -> Self {
        let what = match transaction.ops.get(op) {
            Some(operation) => {
                OpText { transaction, op: operation, element: element.as_ref() }.to_string()
            }
            None => format!("operation {op} of table {}", transaction.table),
        };
        Self { op, what, element: element.map(Box::new), errno: Errno(errno), message }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.errno)?;
        self.message.as_ref().map_or(Ok(()), |message| write!(f, " ({message})"))
    }
}

/// Why a transaction was not committed; nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A rule that cannot be said; nothing was sent.
    #[error("operation {op}, a rule of chain {chain}")]
    Rule {
        /// The operation's place.
        op: usize,
        /// The rule's chain.
        chain: String,
        /// What is wrong with it.
        source: RuleError,
    },
    /// The kernel refused operations; the first is the cause, later ones may follow from it.
    #[error("table {table}: {first}{}", if *more == 0 { String::new() } else { format!(" and {more} more") })]
    Refused {
        /// The table.
        table: String,
        /// The first refused operation.
        first: Refused,
        /// How many others were refused with it.
        more: usize,
    },
    /// Every operation was right by itself, the table they make is not (a loop of jumps, a statement in a hook that
    /// does not have it), or the caller may not change it.
    #[error("table {table}: the kernel refused the change as a whole: {errno}")]
    Whole {
        /// The table.
        table: String,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The socket failed.
    #[error("table {table}: sending the change over netlink: {errno}")]
    Socket {
        /// The table.
        table: String,
        /// The error number.
        errno: Errno,
    },
}

impl CommitError {
    /// The kernel's error number; `None` when nothing was sent.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Rule { .. } => None,
            Self::Refused { first, .. } => Some(first.errno.0),
            Self::Whole { errno, .. } | Self::Socket { errno, .. } => Some(errno.0),
        }
    }
}

/// Why a table could not be listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The kernel refused.
    #[error("listing table {table}: {what}: {errno}")]
    Refused {
        /// The table.
        table: String,
        /// What was asked for.
        what: &'static str,
        /// The kernel's error number.
        errno: Errno,
    },
    /// The table changed under every attempt.
    #[error("listing table {table}: it changed during each of {attempts} attempts")]
    Unstable {
        /// The table.
        table: String,
        /// How often it was tried.
        attempts: u32,
    },
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// Operations, every element one.
    pub operations: usize,
    /// Bytes of netlink sent; 0 when there was nothing to do.
    pub bytes: usize,
}
