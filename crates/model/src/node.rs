//! A node as its neighbours see it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Family, Labels, NodeName, Uid};

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `status.addresses` of type `InternalIP`, in the API's order.
    pub internal_ips: Vec<IpAddr>,
    /// Where its pods' addresses come from, without host bits: `spec.podCIDRs` in the API's order, and the blocks it holds
    /// by range. A part lent by another node lies inside that node's block.
    pub pod_cidrs: Vec<IpNet>,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: Labels,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// It is being deleted, or has the taint `ToBeDeletedByClusterAutoscaler`: load balancers should stop choosing it
    /// (KEP-3836). No plan depends on this, so a change of it alone names the node in no [`crate::Change`].
    pub leaving: bool,
}

impl NodeFacts {
    /// The first internal address of a family.
    #[must_use]
    pub fn internal_ip(&self, family: Family) -> Option<IpAddr> {
        self.internal_ips.iter().copied().find(|&address| Family::of(address) == family)
    }

    /// The pod CIDRs of a family.
    pub fn pod_cidrs_of(&self, family: Family) -> impl Iterator<Item = IpNet> + '_ {
        self.pod_cidrs.iter().copied().filter(move |cidr| Family::of(cidr.addr()) == family)
    }
}
