//! What the operator of the control plane decides for the controllers.

use ipnet::IpNet;
use jiff::SignedDuration;

/// A range pod CIDRs are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterCidr {
    /// The whole range.
    pub range: IpNet,
    /// Prefix length of one node's part.
    pub node_prefix: u8,
}

/// Settings of all controllers; the defaults are upstream's, the ranges the lab's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Ranges for pod CIDRs, the primary family first.
    pub cluster_cidrs: Vec<ClusterCidr>,
    /// A node that has not renewed its Lease (or Ready heartbeat) for so long is unreachable.
    pub node_grace: SignedDuration,
    /// How long pods of a node that does not exist are kept, in case it registers again.
    pub node_quarantine: SignedDuration,
    /// How long pods stay on a not-ready or unreachable node unless their tolerations say.
    pub default_toleration: SignedDuration,
    /// Age at which Events go.
    pub event_ttl: SignedDuration,
    /// The CA certificate (PEM) published as `kube-root-ca.crt` in every namespace.
    pub root_ca: String,
}

impl Default for Config {
    fn default() -> Self {
        let cidr = |range: &str, node_prefix| ClusterCidr {
            range: range.parse().expect("invariant: a literal CIDR"),
            node_prefix,
        };
        Self {
            cluster_cidrs: vec![cidr("10.244.0.0/16", 24), cidr("fd00:10:244::/56", 64)],
            node_grace: SignedDuration::from_secs(40),
            node_quarantine: SignedDuration::from_secs(40),
            default_toleration: SignedDuration::from_secs(300),
            event_ttl: SignedDuration::from_secs(3600),
            root_ca: String::new(),
        }
    }
}
