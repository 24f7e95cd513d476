//! Entries of the ARP and NDP tables.

use std::fmt;
use std::net::IpAddr;

use crate::{LinkIndex, MacAddr};

/// What the kernel knows about a neighbour (its NUD state).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NeighbourState {
    /// Set by hand; never asked for, never aged.
    Permanent,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// Being asked for.
    Resolving,
    /// Does not answer.
    Failed,
    /// The link needs no resolution.
    NoArp,
}

/// One neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// The link it is on.
    pub device: LinkIndex,
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address; none while it is being resolved.
    pub mac: Option<MacAddr>,
    /// State.
    pub state: NeighbourState,
}

impl Neighbour {
    /// An entry set by hand.
    pub fn permanent(device: LinkIndex, address: IpAddr, mac: MacAddr) -> Self {
        Self { device, address, mac: Some(mac), state: NeighbourState::Permanent }
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev if{}", self.address, self.device)?;
        if let Some(mac) = self.mac {
            write!(f, " lladdr {mac}")?;
        }
        f.write_str(match self.state {
            NeighbourState::Permanent => " nud permanent",
            NeighbourState::Reachable => " nud reachable",
            NeighbourState::Stale => " nud stale",
            NeighbourState::Resolving => " nud incomplete",
            NeighbourState::Failed => " nud failed",
            NeighbourState::NoArp => " nud noarp",
        })
    }
}
