//! What is wrong with an object, said so that its author can mend it.

use std::borrow::Cow;
use std::fmt;

use crate::{ObjectKey, Uid};

/// The kinds of object a report can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
    /// `v1` Pod.
    Pod,
    /// `v1` Namespace.
    Namespace,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `crd.projectcalico.org/v1` IPPool.
    Pool,
    /// `fairway.dev/v1` AddressBlock.
    Block,
}

impl Kind {
    /// The API's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::Pool => "IPPool",
            Self::Block => "AddressBlock",
        }
    }

    /// The API version the object is read with.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Node | Self::Pod | Self::Namespace => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::ServiceCidr | Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Pool => "crd.projectcalico.org/v1",
            Self::Block => "fairway.dev/v1",
        }
    }
}

/// Which object a report is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Its uid, where known: without it `kubectl describe` does not find the Event.
    pub uid: Option<Uid>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.key)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something is left out, the rest of the object works.
    Warning,
    /// The object as a whole is not served (its last good form is kept, if there was one).
    Error,
}

/// One finding about one object. It feeds Events, logs and dumps alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Report {
    /// The object.
    pub object: ObjectRef,
    /// How bad it is.
    pub severity: Severity,
    /// A CamelCase word for machines, as in an Event's `reason`.
    pub reason: &'static str,
    /// What is wrong, with the value that is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Cow<'static, str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}; {}", self.object, self.reason, self.message, self.hint)
    }
}
