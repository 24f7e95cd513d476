//! Where cluster addresses come from.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ObjectKey;

/// A ServiceCIDR (`networking.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Its name, in no namespace.
    pub key: ObjectKey,
    /// `spec.cidrs`, without host bits.
    pub cidrs: Box<[IpNet]>,
    /// Addresses are given out of it: its condition `Ready` is true and it is not being deleted. Of one that is not ready
    /// nothing follows for addresses no Service has.
    pub ready: bool,
}
