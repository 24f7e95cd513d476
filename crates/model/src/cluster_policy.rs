//! A ClusterNetworkPolicy: what the administrator decides, before (Admin) or after (Baseline) the NetworkPolicies of a namespace.

use serde::{Deserialize, Serialize};

use crate::{ObjectKey, PolicyPeer, PolicyPort, Selector, Uid};

/// A ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`). Parts that cannot be read make a rule that accepts match less,
/// and one that denies or passes deny everything, as the API asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPolicy {
    /// Its name, in no namespace.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.tier`.
    pub tier: PolicyTier,
    /// `spec.priority`, 0 to 1000: lower goes first.
    pub priority: u16,
    /// The namespaces of the pods it is about.
    pub namespaces: Selector,
    /// The pods it is about.
    pub pods: Selector,
    /// About what comes in, in order.
    pub ingress: Box<[ClusterRule]>,
    /// About what goes out, in order.
    pub egress: Box<[ClusterRule]>,
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyTier {
    /// Before the NetworkPolicies.
    Admin,
    /// Where no NetworkPolicy isolates the pod.
    Baseline,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyAction {
    /// It may pass, and nobody else is asked.
    Accept,
    /// It may not.
    Deny,
    /// The next tier decides.
    Pass,
}

/// One rule; the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterRule {
    /// What it does.
    pub action: PolicyAction,
    /// With whom; `None` is everybody.
    pub peers: Option<Box<[ClusterPeer]>>,
    /// On which ports; `None` is every port of every protocol.
    pub ports: Option<Box<[ClusterPort]>>,
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ClusterPeer {
    /// Pods or addresses. Pods have a selector of namespaces.
    Peer(PolicyPeer),
    /// Nodes with these labels, by their addresses.
    Nodes(Selector),
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ClusterPort {
    /// As in a NetworkPolicy.
    Port(PolicyPort),
    /// A container port by its name, of whatever protocol.
    Named(std::sync::Arc<str>),
}
