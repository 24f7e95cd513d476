//! A table as a value: what is wanted, or what the kernel holds.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Chain, Name, Set};

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Bridged frames.
    Bridge,
    /// One device.
    Netdev,
}

impl Family {
    /// The kernel's number (`NFPROTO_*`).
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    /// `nft`'s word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One table with everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: Name,
    /// A comment `nft list` shows; set when the table is made, the kernel cannot change it later.
    pub comment: Option<String>,
    /// Whether the table is switched off (`flags dormant`).
    pub dormant: bool,
    /// Chains by name.
    pub chains: BTreeMap<Name, Chain>,
    /// Sets, maps and verdict maps by name.
    pub sets: BTreeMap<Name, Set>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family, name: Name) -> Self {
        Self {
            family,
            name,
            comment: None,
            dormant: false,
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    /// Adds a chain, or replaces the one of that name and gives it back.
    pub fn insert_chain(&mut self, chain: Chain) -> Option<Chain> {
        self.chains.insert(chain.name.clone(), chain)
    }

    /// Adds a set, or replaces the one of that name and gives it back.
    pub fn insert_set(&mut self, set: Set) -> Option<Set> {
        self.sets.insert(set.spec.name.clone(), set)
    }

    /// How many elements all sets have together.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.sets.values().map(|set| set.elements.len()).sum()
    }
}
