//! What the planner is told once.

use std::net::SocketAddr;

use ipnet::IpNet;

/// The mark bit kube-proxy uses, and other software knows.
const DEFAULT_MARK: u32 = 1 << 14;

/// How a pod's own traffic is told from everybody else's: it keeps its address, and a frontend's `Local` policy does not
/// concern it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalTraffic {
    /// By source address: the pod CIDRs of all nodes and [`Config::pod_cidrs`].
    #[default]
    ClusterCidrs,
    /// By source address: this node's pod CIDRs.
    NodeCidrs,
    /// By the bridge it comes from.
    Bridge(String),
    /// By the beginning of the name of the link it comes from.
    InterfacePrefix(String),
}

/// The addresses of this node that node ports answer on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All but loopback.
    #[default]
    All,
    /// The first `InternalIP` of each family.
    Primary,
    /// Those in these ranges.
    Ranges(Vec<IpNet>),
}

/// What the planner is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The mark bit of packets to masquerade.
    pub mark: u32,
    /// Ranges whose addresses count as pods, besides the nodes' pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// How pods are recognised.
    pub local_traffic: LocalTraffic,
    /// Masquerade everything that goes to a cluster address, pods too.
    pub masquerade_all: bool,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Whether node ports answer on 127.0.0.0/8 as well. The kernel must allow loopback addresses on other links
    /// (`net.ipv4.conf.*.route_localnet`); with this set, the program drops such packets that come from outside.
    pub localhost_node_ports: bool,
    /// Ranges of cluster addresses, besides those of ServiceCIDR objects.
    pub service_cidrs: Vec<IpNet>,
    /// Where this agent itself listens as an endpoint of Services, such as the cluster's DNS: its own node does without it
    /// where there are others, for it goes there only while the agent does not answer.
    pub own_endpoints: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mark: DEFAULT_MARK,
            pod_cidrs: Vec::new(),
            local_traffic: LocalTraffic::default(),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::default(),
            localhost_node_ports: false,
            service_cidrs: Vec::new(),
            own_endpoints: Vec::new(),
        }
    }
}
