//! A Pod and a Namespace, as far as the network has to know them. A node hears of every pod of the cluster, so a pod is small.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Family, Labels, NodeName, ObjectKey, Protocol, Uid};

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `spec.nodeName`: where it runs, once that is decided.
    pub node: Option<NodeName>,
    /// `status.podIPs`, of each family the first.
    pub addresses: PodAddresses,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The container ports that have a name, those of sidecars too; of a name and protocol given twice, the first.
    pub ports: Arc<[NamedPort]>,
    /// `spec.hostNetwork`: its addresses are the node's.
    pub host_network: bool,
    /// How far it is.
    pub phase: PodPhase,
    /// It is being deleted.
    pub terminating: bool,
    /// What few pods have.
    pub details: Option<Box<PodDetails>>,
}

/// The addresses of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodAddresses {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, not 0.
    pub port: u16,
}

/// `status.phase`, as coarse as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PodPhase {
    /// `Pending`, `Unknown` or nothing yet.
    Pending,
    /// `Running`.
    Running,
    /// `Succeeded` or `Failed`: its addresses may belong to another pod by now.
    Finished,
}

/// What few pods have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDetails {
    /// `spec.hostname`, empty without one.
    pub hostname: Box<str>,
    /// `spec.subdomain`, empty without one.
    pub subdomain: Box<str>,
    /// The annotations under `fairway.dev/`, by their whole names.
    pub annotations: Labels,
}

impl PodAddresses {
    /// The address of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Those there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl FromIterator<IpAddr> for PodAddresses {
    /// Of each family the first.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(from: I) -> Self {
        let mut all = Self::default();
        for address in from {
            match address {
                IpAddr::V4(address) => drop(all.v4.get_or_insert(address)),
                IpAddr::V6(address) => drop(all.v6.get_or_insert(address)),
            }
        }
        all
    }
}

impl Pod {
    /// Its own addresses: none while it has none, none in the host's network, and none once it has finished, because they
    /// may be another's then.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let own = !self.host_network && self.phase != PodPhase::Finished;
        own.then(|| self.addresses.iter()).into_iter().flatten()
    }

    /// The number of a named container port.
    #[must_use]
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        ports.find(|port| &*port.name == name && port.protocol == protocol).map(|port| port.port)
    }

    /// `spec.hostname`, if it has one.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        let hostname = &*self.details.as_ref()?.hostname;
        (!hostname.is_empty()).then_some(hostname)
    }

    /// `spec.subdomain`, if it has one.
    #[must_use]
    pub fn subdomain(&self) -> Option<&str> {
        let subdomain = &*self.details.as_ref()?.subdomain;
        (!subdomain.is_empty()).then_some(subdomain)
    }

    /// An annotation of ours, by its whole name.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.details.as_ref()?.annotations.get(name)
    }
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name, in no namespace.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// `metadata.labels`.
    pub labels: Labels,
}

impl Namespace {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.name()
    }
}
