//! Addresses for pods. [`Ipam`] is where a configuration says they come from: one variant per
//! `ipam.type`, each with the same five questions. A new source is a new variant and a file here.
//!
//! | `ipam.type` | where |
//! |---|---|
//! | `host-local` | [`HostLocal`]: the reference plugin's ranges and files, so a node can change from it to this and back with its pods running |
//! | `static` | [`Static`]: what the configuration or the runtime says |
//! | `fairway` | [`FromBlocks`]: the blocks of pools the agent has taken for this node |
//! | another | [`Delegate`]: a program of that name in `CNI_PATH` |
//!
//! [`RangeSet`] is pure: which addresses there are and in which order they are tried. [`Store`] is
//! host-local's directory, under its lock.

pub mod audit;
pub mod blocks;
mod delegate;
mod fixed;
mod host_local;
mod ranges;
mod resolv_conf;
mod store;

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

pub use blocks::FromBlocks;
pub use delegate::Delegate;
pub use fixed::Static;
pub use host_local::HostLocal;
pub use ranges::{Range, RangeConfig, RangeError, RangeSet};
pub use store::{Reservation, Store};

use crate::environment::{Command, Environment, Identity};
use crate::result::AddResult;
use crate::{CniError, NetworkConfig, SpecVersion};

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Ipam {
    /// The reference plugin's ranges and files.
    HostLocal(HostLocal),
    /// Addresses written down.
    Static(Static),
    /// Blocks of pools.
    Fairway(FromBlocks),
    /// Another program.
    Delegate(Delegate),
}

/// One question to a source: who asks, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The variables.
    pub env: &'a Environment,
    /// The whole configuration.
    pub config: &'a NetworkConfig,
    /// For which attachment.
    pub identity: &'a Identity,
}

impl Ipam {
    /// Reads `ipam`; `None` when there is none, or its type is empty. `ranges` are the runtime's
    /// (capability `ipRanges`) and come first.
    ///
    /// # Errors
    /// [`CniError::Config`].
    pub(crate) fn parse(
        ipam: Option<&Value>,
        ranges: Option<Vec<Vec<RangeConfig>>>,
        version: SpecVersion,
    ) -> Result<Option<Self>, CniError> {
        let Some(ipam) = ipam.filter(|ipam| !ipam.is_null()) else { return Ok(None) };
        if !ipam.is_object() {
            let why = "is not an object".to_owned();
            return Err(CniError::Config { field: "ipam", why });
        }
        match ipam.get("type").map(|kind| kind.as_str().ok_or(kind)) {
            None | Some(Ok("")) => Ok(None),
            Some(Ok("host-local")) => {
                HostLocal::parse(ipam, ranges, version).map(|it| Some(Self::HostLocal(it)))
            }
            Some(Ok("fairway")) => FromBlocks::parse(ipam).map(|it| Some(Self::Fairway(it))),
            Some(Ok("static")) => Static::parse(ipam).map(|it| Some(Self::Static(it))),
            Some(Ok(other)) => Delegate::parse(other).map(|it| Some(Self::Delegate(it))),
            Some(Err(other)) => {
                let why = format!("is {other}, not a name");
                Err(CniError::Config { field: "ipam.type", why })
            }
        }
    }

    /// Addresses for one attachment: those it holds, those asked for, or the next free ones.
    /// `first` says that nothing is left of an earlier try.
    ///
    /// # Errors
    /// [`CniError`]; then nothing is reserved.
    pub(crate) fn add(
        &self,
        ask: Ask<'_>,
        wanted: &[IpAddr],
        first: bool,
    ) -> Result<AddResult, CniError> {
        let given = match self {
            Self::HostLocal(source) => source.add(ask, wanted, first)?,
            Self::Static(source) => source.add(ask, wanted)?,
            Self::Fairway(source) => source.add(ask, wanted, first)?,
            Self::Delegate(program) => program.add(ask)?,
        };
        if given.ips.is_empty() {
            let why = "gives no address".to_owned();
            return Err(CniError::Config { field: "ipam", why });
        }
        Ok(given)
    }

    /// Gives back what an attachment holds; nothing held is no error.
    ///
    /// # Errors
    /// [`CniError`].
    pub(crate) fn del(&self, ask: Ask<'_>) -> Result<(), CniError> {
        match self {
            Self::HostLocal(source) => source.del(&ask.config.name, ask.identity),
            Self::Static(_) => Ok(()),
            Self::Fairway(source) => source.as_host_local().del(&ask.config.name, ask.identity),
            Self::Delegate(program) => program.call(Command::Del, ask).map(drop),
        }
    }

    /// Tells what differs from "exactly these addresses are this attachment's".
    ///
    /// # Errors
    /// [`CniError`] when it cannot be told.
    pub(crate) fn check(
        &self,
        ask: Ask<'_>,
        addresses: &[IpAddr],
    ) -> Result<Vec<String>, CniError> {
        match self {
            Self::HostLocal(source) => source.check(&ask.config.name, ask.identity, addresses),
            Self::Static(source) => source.check(ask, addresses),
            Self::Fairway(source) => {
                source.as_host_local().check(&ask.config.name, ask.identity, addresses)
            }
            Self::Delegate(program) => program.call(Command::Check, ask).map(|_| Vec::new()),
        }
    }

    /// Gives back what belongs to no valid attachment.
    ///
    /// # Errors
    /// [`CniError`].
    pub(crate) fn gc(
        &self,
        env: &Environment,
        config: &NetworkConfig,
        valid: &[Identity],
    ) -> Result<(), CniError> {
        match self {
            Self::HostLocal(source) => source.gc(&config.name, valid),
            Self::Static(_) => Ok(()),
            Self::Fairway(source) => source.as_host_local().gc(&config.name, valid),
            Self::Delegate(program) => {
                let nobody = Identity::default();
                program.call(Command::Gc, Ask { env, config, identity: &nobody }).map(drop)
            }
        }
    }

    /// Whether an ADD would get an address.
    ///
    /// # Errors
    /// [`CniError`] when not.
    pub(crate) fn status(&self, env: &Environment, config: &NetworkConfig) -> Result<(), CniError> {
        match self {
            Self::HostLocal(source) => source.status(&config.name),
            Self::Static(_) => Ok(()),
            Self::Fairway(source) => source.status(&config.name),
            Self::Delegate(program) => {
                let nobody = Identity::default();
                program.call(Command::Status, Ask { env, config, identity: &nobody }).map(drop)
            }
        }
    }

    /// Whether the source gives out that address; a source that cannot tell says yes.
    pub(crate) fn gives(&self, ip: IpAddr) -> bool {
        match self {
            Self::HostLocal(source) => source.ranges.iter().any(|set| set.gives(ip)),
            Self::Static(source) => source.gives(ip),
            Self::Fairway(source) => source.ranges.iter().any(|set| set.gives(ip)),
            Self::Delegate(_) => true,
        }
    }
}

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
    /// The node holds no block for that.
    #[error(
        "this node holds no block of a pool for this pod ({}); does the agent run, and is there an IPPool for this node?",
        list.display()
    )]
    NoBlock {
        /// The list of the node's blocks.
        list: PathBuf,
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
