//! The facts a node works from: Services, endpoints, nodes and pods as compact values, and the [`Snapshot`] they form.
//!
//! API object types stop here: [`convert`] turns `k8s_openapi` objects into these values and says, as [`Report`]s, which
//! parts it had to leave out. Nothing in this crate reads a clock, a socket or a file, and nothing in it knows a kernel.
//!
//! ```
//! use model::{Event, ObjectKey, SnapshotWriter, Update};
//! let mut writer = SnapshotWriter::default();
//! writer.apply(Event::Service(Update::Begin));
//! writer.apply(Event::Service(Update::End));
//! assert!(writer.take_change().is_empty());
//! assert!(writer.snapshot().service(&ObjectKey::new("default", "web")).is_none());
//! ```

mod balance;
mod cluster_policy;
pub mod convert;
mod endpoints;
mod key;
mod labels;
mod node;
mod pod;
mod policy;
mod pool;
mod report;
mod selector;
mod service;
mod service_cidr;
mod snapshot;

pub use balance::{BALANCE_ANNOTATION, Balance, EndpointMatch, WEIGHTS_ANNOTATION, WeightRule};
pub use cluster_policy::{
    ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, PolicyAction, PolicyTier,
};
pub use convert::Parsed;
pub use endpoints::{
    AddressType, Conditions, Endpoint, EndpointSlice, Hints, SliceEndpoint, SlicePort,
};
pub use key::{NodeName, ObjectKey, ServiceKey, SliceKey, Uid};
pub use labels::Labels;
pub use node::NodeFacts;
pub use pod::{NamedPort, Namespace, Pod, PodAddresses, PodDetails, PodPhase};
pub use policy::{
    NetworkPolicy, POLICY_ESTABLISHED_ANNOTATION, POLICY_MODE_ANNOTATION, PolicyPeer, PolicyPort,
    PolicyRule,
};
pub use pool::{
    BadEncapsulation, Block, Encapsulation, Lent, NodeSelector, NodeSelectorError, Pool,
};
pub use report::{Kind, ObjectRef, Report, Severity};
pub use selector::{Requirement, Selector};
pub use service::{
    ClusterIps, External, Family, LoadBalancerIngress, Protocol, Service, ServicePort, ServiceType,
    TrafficDistribution, TrafficPolicy,
};
pub use service_cidr::ServiceCidr;
pub use snapshot::{Change, Event, Snapshot, SnapshotWriter, Update};
