//! Address pools, and the blocks nodes hold of them.
//!
//! A pool is Calico's `IPPool` (`crd.projectcalico.org/v1`): a range, how packets between its addresses cross from node to
//! node, and which nodes may take blocks of it. A block is an object of its own whose name is its range: who creates it
//! first has it, so two nodes never hold one block.

mod selector;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{NodeName, ObjectKey};

pub use selector::{NodeSelector, NodeSelectorError};

/// How packets for a pod cross from its peer's node to its own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// As they are: the network between the nodes is one subnet, or its routers know the pods.
    #[default]
    Never,
    /// In VXLAN (RFC 7348).
    Vxlan,
    /// In VXLAN where the nodes share no subnet, else as they are.
    VxlanCrossSubnet,
    /// In IP (RFC 2003). IPv4 only.
    Ipip,
    /// In IP where the nodes share no subnet, else as they are.
    IpipCrossSubnet,
}

impl Encapsulation {
    /// All of them, and how each is written.
    pub const ALL: [(&'static str, Self); 5] = [
        ("never", Self::Never),
        ("vxlan", Self::Vxlan),
        ("vxlan-cross-subnet", Self::VxlanCrossSubnet),
        ("ipip", Self::Ipip),
        ("ipip-cross-subnet", Self::IpipCrossSubnet),
    ];

    /// Whether nodes of one subnet need none.
    #[must_use]
    pub fn only_across_subnets(self) -> bool {
        matches!(self, Self::VxlanCrossSubnet | Self::IpipCrossSubnet)
    }

    /// Whether it is VXLAN, everywhere or across subnets.
    #[must_use]
    pub fn is_vxlan(self) -> bool {
        matches!(self, Self::Vxlan | Self::VxlanCrossSubnet)
    }

    /// Whether it is IP in IP, everywhere or across subnets.
    #[must_use]
    pub fn is_ipip(self) -> bool {
        matches!(self, Self::Ipip | Self::IpipCrossSubnet)
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::ALL.iter().find(|(_, mode)| mode == self);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

/// A word that names no encapsulation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of never, vxlan, vxlan-cross-subnet, ipip, ipip-cross-subnet")]
pub struct BadEncapsulation(pub String);

impl FromStr for Encapsulation {
    type Err = BadEncapsulation;

    fn from_str(text: &str) -> Result<Self, BadEncapsulation> {
        let known = Self::ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, mode)| *mode).ok_or_else(|| BadEncapsulation(text.to_owned()))
    }
}

/// An address pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name, in no namespace.
    pub key: ObjectKey,
    /// Its range, without host bits.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_len: u8,
    /// How its packets cross between nodes.
    pub encapsulation: Encapsulation,
    /// Its pods' packets to outside the cluster get the node's address.
    pub nat_outgoing: bool,
    /// Which nodes may take blocks of it.
    pub nodes: NodeSelector,
    /// No new addresses are given out of it. Its range still counts as pods'.
    pub disabled: bool,
    /// Pods get addresses of it only when they ask for it (`assignmentMode: Manual`).
    pub on_request: bool,
    /// Ranges of it no pod gets: the annotation `fairway.dev/reserved`.
    pub reserved: Vec<IpNet>,
}

/// A block of a pool, as its object says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Its name, in no namespace.
    pub key: ObjectKey,
    /// Its range.
    pub cidr: IpNet,
    /// Who holds it.
    pub node: NodeName,
    /// Parts of it that other nodes use, having found no block of their own.
    pub lent: Vec<Lent>,
    /// Nodes that ask to be lent a part.
    pub asking: Vec<NodeName>,
    /// `metadata.resourceVersion`, for a write that must see no other in between.
    pub version: Option<String>,
}

/// A part of a block that another node uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lent {
    /// The part.
    pub cidr: IpNet,
    /// Who uses it.
    pub node: NodeName,
}

impl Block {
    /// The name of the object of a block: its range with dashes, `10-244-1-64-26`. Names of objects are DNS labels, so the
    /// colons of IPv6 become dashes too and an address is written out whole.
    #[must_use]
    pub fn name_of(cidr: IpNet) -> String {
        let address = match cidr {
            IpNet::V4(net) => net.network().to_string().replace('.', "-"),
            IpNet::V6(net) => {
                let parts: Vec<String> =
                    net.network().segments().iter().map(|part| format!("{part:x}")).collect();
                parts.join("-")
            }
        };
        format!("{address}-{}", cidr.prefix_len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for (name, mode) in Encapsulation::ALL {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
        }
        assert!("VXLAN".parse::<Encapsulation>().is_err());
    }

    #[test]
    fn names_of_blocks_are_labels_and_differ() {
        let name = |text: &str| Block::name_of(text.parse().unwrap());
        assert_eq!(name("10.244.1.64/26"), "10-244-1-64-26");
        assert_eq!(name("fd00:10:244::40/122"), "fd00-10-244-0-0-0-0-40-122");
        assert_ne!(name("fd00::1:0/122"), name("fd00::1/122"));
    }
}
