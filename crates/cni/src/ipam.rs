//! Addresses for pods: host-local's ranges and host-local's files, so a node can change from the
//! reference plugin to this one and back with its pods running.
//!
//! [`RangeSet`] is pure: which addresses there are and in which order they are tried. [`Store`] is
//! the directory, under its lock.

mod ranges;
mod store;

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

pub use ranges::{Range, RangeConfig, RangeError, RangeSet};
pub use store::{Reservation, Store};

/// Why no address could be reserved or given back.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All addresses of a range set are taken.
    #[error("no address is left in {ranges}; {taken} are reserved")]
    Exhausted {
        /// The range set.
        ranges: String,
        /// How many addresses of it are reserved.
        taken: usize,
    },
    /// The address asked for cannot be had.
    #[error("address {address} cannot be given: {why}")]
    Unavailable {
        /// The address.
        address: IpAddr,
        /// Taken, or outside of every range, or a gateway.
        why: String,
    },
    /// A file failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
