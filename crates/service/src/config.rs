//! What the planner is told once.

use ipnet::IpNet;

/// The mark bit kube-proxy uses, and other software knows.
const DEFAULT_MARK: u32 = 1 << 14;

/// What the planner is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The mark bit of packets to masquerade.
    pub mark: u32,
    /// Ranges whose addresses count as pods, besides the nodes' pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self { mark: DEFAULT_MARK, pod_cidrs: Vec::new() }
    }
}
