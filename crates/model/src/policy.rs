//! A NetworkPolicy: for which pods, and what they may receive and send.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ObjectKey, Protocol, Selector, Uid};

/// Says that a policy only counts and logs what it would deny: `audit`; anything else enforces.
pub const POLICY_MODE_ANNOTATION: &str = "fairway.dev/policy-mode";
/// Says what becomes of connections a change of this policy denies: `drain` lets them end by themselves.
pub const POLICY_ESTABLISHED_ANNOTATION: &str = "fairway.dev/policy-established";

/// A NetworkPolicy (`networking.k8s.io/v1`). Parts that cannot be read are left out so that less is allowed, never more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `metadata.generation`.
    pub generation: i64,
    /// The pods of its namespace that it isolates.
    pub pods: Selector,
    /// What may come in; `None` when it says nothing about that direction.
    pub ingress: Option<Box<[PolicyRule]>>,
    /// What may go out; `None` when it says nothing about that direction.
    pub egress: Option<Box<[PolicyRule]>>,
    /// [`POLICY_MODE_ANNOTATION`] says `audit`.
    pub audit: bool,
    /// [`POLICY_ESTABLISHED_ANNOTATION`] says `drain`.
    pub drain: bool,
}

/// Peers and ports that are allowed together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyRule {
    /// With whom; `None` is everybody, an empty list nobody.
    pub peers: Option<Box<[PolicyPeer]>>,
    /// On which ports; `None` is every port of every protocol, an empty list none.
    pub ports: Option<Box<[PolicyPort]>>,
}

/// Who may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// In namespaces with these labels; `None` is the policy's own namespace.
        namespaces: Option<Selector>,
        /// With these labels.
        pods: Selector,
    },
    /// Addresses.
    Block {
        /// In this range, which has no host bits.
        cidr: IpNet,
        /// But not in these.
        except: Box<[IpNet]>,
    },
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyPort {
    /// From the first to the last; 0 to 65535 is all of a protocol.
    Range(Protocol, u16, u16),
    /// A container port by its name, whatever number it has in the pod that receives.
    Named(Protocol, Arc<str>),
}
