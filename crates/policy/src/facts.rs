//! What the planner keeps of each pod, and whose an address is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::{Labels, NamedPort, ObjectKey, PodAddresses, Protocol, Uid};

use crate::rule::{Group, PodPeer, Scope};

/// A pod with addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) uid: Option<Uid>,
    pub(crate) labels: Labels,
    pub(crate) ports: Arc<[NamedPort]>,
    pub(crate) addresses: PodAddresses,
    /// It runs on this node.
    pub(crate) local: bool,
    pub(crate) terminating: bool,
}

impl Known {
    pub(crate) fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        ports.find(|port| &*port.name == name && port.protocol == protocol).map(|port| port.port)
    }
}

/// The labels of namespaces, by name.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(pub(crate) HashMap<Arc<str>, Labels>);

impl Namespaces {
    /// A pod may be heard of before its namespace: then it has no labels yet.
    pub(crate) fn labels(&self, name: &str) -> Labels {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// Whether an entry of a group means a pod.
pub(crate) fn means(peer: &PodPeer, namespace: &str, of: &Labels, pod: &Labels) -> bool {
    let there = match &peer.scope {
        Scope::One(name) => **name == *namespace,
        Scope::Matching(selector) => selector.matches(of),
    };
    there && peer.pods.matches(pod)
}

/// Whether a group has a pod.
pub(crate) fn has(group: &Group, namespace: &str, of: &Labels, pod: &Labels) -> bool {
    group.iter().any(|peer| means(peer, namespace, of, pod))
}

/// Which pods say an address is theirs: nearly always one. Two do when one has gone and the API does not know it yet.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<IpAddr, Vec<ObjectKey>>);

impl Owners {
    pub(crate) fn add(&mut self, address: IpAddr, pod: &ObjectKey) {
        let all = self.0.entry(address).or_default();
        if !all.contains(pod) {
            all.reserve_exact(1);
            all.push(pod.clone());
        }
    }

    pub(crate) fn remove(&mut self, address: IpAddr, pod: &ObjectKey) {
        let Some(all) = self.0.get_mut(&address) else { return };
        all.retain(|one| one != pod);
        if all.is_empty() {
            self.0.remove(&address);
        }
    }

    /// All that say so.
    pub(crate) fn of(&self, address: IpAddr) -> &[ObjectKey] {
        self.0.get(&address).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.keys().copied()
    }
}
