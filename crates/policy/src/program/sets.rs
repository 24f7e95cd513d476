//! The sets of the program, and how addresses are written in them.

use std::net::IpAddr;
use std::time::Duration;

use model::Family;
use nft::{Field, Name, Packed, Selector, SetData, SetFlags, SetSpec};

use super::{name, severed};
use crate::judge::Traffic;
use crate::rule::{Collection, Direction};

/// How many different flows are noted at a time; more are counted all the same.
const NOTED: u32 = 4096;
/// How long a noted flow is remembered after its last packet.
const NOTED_FOR: Duration = Duration::from_secs(60);

/// One set of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SetId {
    /// Addresses of this node's pods.
    Pods(Family),
    /// (address, address) of this node's pods that have rules: nothing keeps a pod from itself.
    Itself(Family),
    /// Addresses of this node's pods that rules keep something from.
    Isolated(Family),
    /// Address of a pod of this node → the chain of its identity.
    Identity(Direction, Family),
    /// Flows that were denied, or would have been.
    Noted {
        /// Of the identity that says so.
        direction: Direction,
        /// Of the addresses.
        family: Family,
        /// Whether they went on all the same.
        audit: bool,
    },
    /// Answers of UDP flows that were cut.
    Severed(Family),
    /// Addresses; (address, protocol, port) for named ports; ranges of addresses.
    Members(Collection, Family),
}

pub(crate) fn saddr(family: Family) -> Selector {
    match family {
        Family::V4 => Selector::IpSaddr,
        Family::V6 => Selector::Ip6Saddr,
    }
}

pub(crate) fn daddr(family: Family) -> Selector {
    match family {
        Family::V4 => Selector::IpDaddr,
        Family::V6 => Selector::Ip6Daddr,
    }
}

/// An address as a key.
pub(crate) fn packed(address: IpAddr) -> Packed {
    match address {
        IpAddr::V4(address) => Packed::new().ipv4(address),
        IpAddr::V6(address) => Packed::new().ipv6(address),
    }
}

impl SetId {
    /// The sets that are always there.
    pub(crate) fn fixed() -> Vec<Self> {
        let mut sets = Vec::new();
        for family in Family::BOTH {
            sets.extend([Self::Pods(family), Self::Itself(family), Self::Isolated(family)]);
            sets.push(Self::Severed(family));
            for direction in Direction::BOTH {
                sets.push(Self::Identity(direction, family));
                sets.extend([false, true].map(|audit| Self::Noted { direction, family, audit }));
            }
        }
        sets
    }

    /// The name in the table.
    pub(crate) fn name(self) -> Name {
        let digit = |family| if family == Family::V4 { 4 } else { 6 };
        name(&match self {
            Self::Pods(family) => format!("pods{}", digit(family)),
            Self::Itself(family) => format!("itself{}", digit(family)),
            Self::Isolated(family) => format!("isolated{}", digit(family)),
            Self::Identity(direction, family) => format!("{direction}{}", digit(family)),
            Self::Severed(family) => format!("severed{}", digit(family)),
            Self::Noted { direction, family, audit } => {
                let word = if audit { "audited" } else { "denied" };
                format!("{word}-{direction}{}", digit(family))
            }
            Self::Members(collection, family) => match collection {
                Collection::Group(id) => format!("peers{}-{id:016x}", digit(family)),
                Collection::Named(id) => format!("port{}-{id:016x}", digit(family)),
                Collection::Blocks(id) => format!("blocks{}-{id:016x}", digit(family)),
            },
        })
    }

    /// The declaration.
    pub(crate) fn spec(self) -> SetSpec {
        let address = |family| saddr(family).field();
        let name = self.name();
        match self {
            Self::Pods(family)
            | Self::Isolated(family)
            | Self::Members(Collection::Group(_), family) => SetSpec::new(name, [address(family)]),
            Self::Itself(family) => SetSpec::new(name, [address(family), address(family)]),
            Self::Identity(_, family) => {
                SetSpec::new(name, [address(family)]).with_data(SetData::Verdict)
            }
            Self::Severed(family) => severed::spec(name, family),
            Self::Noted { family, .. } => {
                let address = address(family);
                let key = [address, address, Field::InetProto, Field::InetService];
                let flags = SetFlags { dynamic: true, timeout: true, ..SetFlags::default() };
                let mut spec = SetSpec::new(name, key).with_flags(flags).with_size(NOTED);
                spec.timeout = Some(NOTED_FOR);
                spec
            }
            Self::Members(Collection::Named(_), family) => {
                SetSpec::new(name, [address(family), Field::InetProto, Field::InetService])
            }
            Self::Members(Collection::Blocks(_), family) => {
                let flags = SetFlags { interval: true, ..SetFlags::default() };
                SetSpec::new(name, [address(family)]).with_flags(flags)
            }
        }
    }
}

/// A flow somebody's rules denied, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeniedFlow {
    /// Which packets.
    pub traffic: Traffic,
    /// Of the identity that denied them.
    pub direction: Direction,
    /// They went on all the same.
    pub audit: bool,
}

/// The dynamic sets with the flows denied of late, and how to read their keys.
#[must_use]
pub fn denied_sets() -> Vec<(Name, Direction, bool)> {
    let noted = SetId::fixed().into_iter().filter_map(|set| match set {
        SetId::Noted { direction, audit, .. } => Some((set.name(), direction, audit)),
        _ => None,
    });
    noted.collect()
}

/// The flow a key of one of [`denied_sets`] stands for.
#[must_use]
pub fn flow_of_key(key: &Packed) -> Option<Traffic> {
    let (source, destination, rest) = addresses(key.as_bytes(), 8)?;
    Some(Traffic {
        source,
        destination,
        protocol: *rest.first()?,
        port: u16::from_be_bytes([*rest.get(4)?, *rest.get(5)?]),
    })
}

/// The two addresses a key begins with, and the bytes after them, which are so many.
pub(super) fn addresses(bytes: &[u8], after: usize) -> Option<(IpAddr, IpAddr, &[u8])> {
    let (both, rest) = bytes.split_at_checked(bytes.len().checked_sub(after)?)?;
    let (source, destination) = both.split_at(both.len() / 2);
    let address = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
            16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
            _ => None,
        }
    };
    Some((address(source)?, address(destination)?, rest))
}
