//! A Service as the data plane sees it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Balance, ServiceKey, Uid, WeightRule};

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in order.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A transport protocol a Service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// SCTP (132).
    Sctp,
}

impl Protocol {
    /// The IANA protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of an IANA number, if a Service port can have it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The API's spelling; the empty string is TCP, the API's default.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// A cluster address only.
    ClusterIp,
    /// A cluster address and a port on every node.
    NodePort,
    /// The above and addresses given by a load balancer.
    LoadBalancer,
    /// A DNS alias; nothing for a node to do.
    ExternalName,
}

/// `spec.clusterIPs`, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIps {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl ClusterIps {
    /// The address of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Every endpoint of the cluster.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// `spec.trafficDistribution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficDistribution {
    /// No preference.
    #[default]
    Any,
    /// `PreferClose` or `PreferSameZone`.
    SameZone,
    /// `PreferSameNode`.
    SameNode,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name, empty if it has none. EndpointSlice ports join on it.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on cluster, external and load-balancer addresses.
    pub port: u16,
    /// The port on every node.
    pub node_port: Option<std::num::NonZeroU16>,
}

/// One address of `status.loadBalancer.ingress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerIngress {
    /// The address.
    pub address: IpAddr,
    /// `ipMode: Proxy`: traffic from inside must go out to the load balancer, so nodes leave this address alone.
    pub proxied: bool,
}

/// What only Services with addresses from outside have; kept apart so that the others stay small.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// `spec.externalIPs`.
    pub addresses: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<LoadBalancerIngress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`, 0 if none.
    pub health_check_node_port: u16,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `metadata.creationTimestamp`, seconds since the epoch; 0 if the object carries none. Decides who keeps a contested address.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`.
    pub cluster_ips: ClusterIps,
    /// `clusterIP: None`, or the label `service.kubernetes.io/headless`.
    pub headless: bool,
    /// The label `service.kubernetes.io/service-proxy-name` is set: another proxy serves it.
    pub foreign_proxy: bool,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<std::num::NonZeroU32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.trafficDistribution`.
    pub distribution: TrafficDistribution,
    /// How an endpoint is chosen; with affinity, for a client that has none.
    pub balance: Balance,
    /// How much each endpoint gets; empty when all get the same.
    pub weights: Box<[WeightRule]>,
    /// The ports, as written.
    pub ports: Box<[ServicePort]>,
    /// Addresses from outside, if there are any.
    pub external: Option<Box<External>>,
    /// `spec.externalName`, of an ExternalName Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<Box<str>>,
}

impl Service {
    /// Whether this node's data plane has anything to do for it.
    #[must_use]
    pub fn is_served(&self) -> bool {
        !self.headless && !self.foreign_proxy && self.kind != ServiceType::ExternalName
    }
}
