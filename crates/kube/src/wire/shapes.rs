//! What is read of each kind. A conversion that begins to look at another field needs it here; the test
//! `conversions_see_the_same_objects` compares with the whole API types.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node, NodeAddress, NodeSpec, NodeStatus, Pod, PodIP,
    PodSpec, PodStatus, Service, ServiceSpec, ServiceStatus, Taint,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::Resource;
use model::convert::{AddressBlock, ClusterNetworkPolicy, IpPool};
use serde::Deserialize;

use super::{Meta, Object, Wire};

/// Kinds of few objects, read whole.
macro_rules! whole {
    ($($kind:ty),+) => {$(
        impl Wire for $kind {
            type Read = Self;

            fn from_read(read: Self) -> Object<Self> {
                let entries = read.meta().managed_fields.iter().flatten();
                let written = entries.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
                Object { object: read, written }
            }
        }
    )+};
}

whole!(ServiceCIDR, Namespace, NetworkPolicy, ClusterNetworkPolicy, IpPool, AddressBlock);

#[derive(Deserialize)]
pub(crate) struct ReadService {
    #[serde(default)]
    metadata: Meta,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

impl Wire for Service {
    type Read = ReadService;

    fn from_read(read: ReadService) -> Object<Self> {
        let (metadata, written) = read.metadata.split();
        Object { object: Self { metadata, spec: read.spec, status: read.status }, written }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadSlice {
    #[serde(default)]
    metadata: Meta,
    address_type: Option<String>,
    endpoints: Option<Vec<ReadEndpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<EndpointConditions>,
    hints: Option<EndpointHints>,
    hostname: Option<String>,
    node_name: Option<String>,
    zone: Option<String>,
}

impl From<ReadEndpoint> for Endpoint {
    fn from(read: ReadEndpoint) -> Self {
        Self {
            addresses: read.addresses.unwrap_or_default(),
            conditions: read.conditions,
            hints: read.hints,
            hostname: read.hostname,
            node_name: read.node_name,
            zone: read.zone,
            ..Self::default()
        }
    }
}

impl Wire for EndpointSlice {
    type Read = ReadSlice;

    fn from_read(read: ReadSlice) -> Object<Self> {
        let ReadSlice { metadata, address_type, endpoints, ports } = read;
        let (metadata, written) = metadata.split();
        let endpoints = endpoints.map(|all| all.into_iter().map(Endpoint::from).collect());
        let address_type = address_type.unwrap_or_default();
        Object { object: Self { metadata, address_type, endpoints, ports }, written }
    }
}

#[derive(Deserialize)]
pub(crate) struct ReadNode {
    #[serde(default)]
    metadata: Meta,
    spec: Option<ReadNodeSpec>,
    status: Option<ReadNodeStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadNodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Deserialize)]
struct ReadNodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

impl Wire for Node {
    type Read = ReadNode;

    fn from_read(read: ReadNode) -> Object<Self> {
        let (metadata, written) = read.metadata.split();
        let spec = read.spec.map(|spec| NodeSpec {
            pod_cidr: spec.pod_cidr,
            pod_cidrs: spec.pod_cidrs,
            taints: spec.taints,
            ..NodeSpec::default()
        });
        let status = read
            .status
            .map(|status| NodeStatus { addresses: status.addresses, ..NodeStatus::default() });
        Object { object: Self { metadata, spec, status }, written }
    }
}

#[derive(Deserialize)]
pub(crate) struct ReadPod {
    #[serde(default)]
    metadata: Meta,
    spec: Option<ReadPodSpec>,
    status: Option<ReadPodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPodSpec {
    containers: Option<Vec<ReadContainer>>,
    init_containers: Option<Vec<ReadContainer>>,
    host_network: Option<bool>,
    hostname: Option<String>,
    node_name: Option<String>,
    subdomain: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadContainer {
    ports: Option<Vec<ContainerPort>>,
    restart_policy: Option<String>,
}

impl From<ReadContainer> for Container {
    fn from(read: ReadContainer) -> Self {
        Self { ports: read.ports, restart_policy: read.restart_policy, ..Self::default() }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIP>>,
}

impl Wire for Pod {
    type Read = ReadPod;

    fn from_read(read: ReadPod) -> Object<Self> {
        let (metadata, written) = read.metadata.split();
        let containers = |read: Vec<ReadContainer>| read.into_iter().map(Container::from).collect();
        let spec = read.spec.map(|spec| PodSpec {
            containers: containers(spec.containers.unwrap_or_default()),
            init_containers: spec.init_containers.map(containers),
            host_network: spec.host_network,
            hostname: spec.hostname,
            node_name: spec.node_name,
            subdomain: spec.subdomain,
            ..PodSpec::default()
        });
        let status = read.status.map(|status| PodStatus {
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..PodStatus::default()
        });
        Object { object: Self { metadata, spec, status }, written }
    }
}
