//! nf_tables as typed values: text form, netlink form, listing, diff, and an in-memory double.
//!
//! A [`Table`] is a value: chains of rules and sets of elements. [`diff`] compares the table that is wanted
//! with the one the kernel holds and gives a [`Transaction`]; a [`Kernel`] commits it, all or nothing. The
//! real one is [`kernel::Netlink`], the one for tests is [`Double`]. Both reject the same things with the same
//! errno, and one suite of scenarios runs over both.
//!
//! Everything here is pure but [`kernel`] and [`conntrack`], which own the sockets. Nothing executes `nft`.
//!
//! ```
//! use nft::{Data, Element, Family, Name, Packed, Selector, Set, SetData, SetSpec, Table};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut table = Table::new(Family::Inet, Name::new("example")?);
//! let spec = SetSpec::new(Name::new("slot4")?, [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport])
//!     .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport]));
//! let mut slots = Set::new(spec);
//! slots.elements.insert(&Element::new(
//!     Packed::new().ipv4([10, 96, 0, 1].into()).proto(6).port(80),
//!     Data::Value(Packed::new().ipv4([10, 244, 0, 7].into()).port(8080)),
//! ))?;
//! table.insert_set(slots);
//! assert!(table.to_string().contains("10.96.0.1 . tcp . 80 : 10.244.0.7 . 8080"));
//! # Ok(()) }
//! ```

mod chain;
pub mod conntrack;
mod diff;
mod double;
mod elements;
mod error;
mod expr;
mod field;
mod jhash;
pub mod kernel;
mod lower;
mod name;
mod packed;
mod raise;
mod selector;
mod set;
mod statement;
mod table;
mod text;
mod transaction;
mod wire;

pub use chain::{Chain, Hook, HookKind, HookPoint, Policy, Rule};
pub use diff::diff;
pub use double::Double;
pub use double::evaluate::{
    ConntrackView, EvaluateError, Fate, Numbers, Outcome, Packet, SetUpdate, Translation, evaluate,
};
pub use elements::{ElementError, Elements};
pub use error::{CommitError, Committed, Errno, ListError, Refused};
pub use field::{Field, SetField};
pub use jhash::{jhash, jhash_scale};
pub use kernel::Kernel;
pub use lower::RuleError;
pub use name::{Name, NameError};
pub use packed::Packed;
pub use selector::{Direction, Selector};
pub use set::{Data, Element, ElementExtra, Set, SetData, SetFlags, SetSpec, Verdict};
pub use statement::{
    IpFamily, LogInto, MarkPlace, MarkValue, Match, MatchOp, NatFlags, NatKind, NatTarget, Opaque,
    RejectWith, Right, Statement, UpdateOp, VerdictMap,
};
pub use table::{Family, Table};
pub use transaction::{Op, Transaction};
