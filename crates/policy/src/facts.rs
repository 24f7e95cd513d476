//! What the planner keeps of each pod, and whose an address is.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::{Labels, NamedPort, ObjectKey, PodAddresses, Protocol, Uid};

use crate::index::positive;
use crate::rule::{Group, Id, PodPeer, Scope, id_of};

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

/// Where a pod is filed.
#[derive(Hash)]
enum Place<'a> {
    Label(&'a str, &'a str),
    Namespace(&'a str),
}

/// Pods by their labels and by namespace: who a selector may mean, without asking every pod.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts(HashMap<Id, HashSet<ObjectKey>>);

impl Whereabouts {
    fn places<'a>(pod: &'a ObjectKey, labels: &'a Labels) -> impl Iterator<Item = Id> + 'a {
        let labels = labels.iter().map(|(key, value)| id_of(&Place::Label(key, value)));
        labels.chain([id_of(&Place::Namespace(pod.namespace()))])
    }

    pub(crate) fn add(&mut self, pod: &ObjectKey, labels: &Labels) {
        for place in Self::places(pod, labels) {
            self.0.entry(place).or_default().insert(pod.clone());
        }
    }

    pub(crate) fn remove(&mut self, pod: &ObjectKey, labels: &Labels) {
        for place in Self::places(pod, labels) {
            if let Some(pods) = self.0.get_mut(&place) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.0.remove(&place);
                }
            }
        }
    }

    pub(crate) fn in_namespace(&self, name: &str) -> impl Iterator<Item = &ObjectKey> {
        self.0.get(&id_of(&Place::Namespace(name))).into_iter().flatten()
    }

    /// All pods an entry of a group may mean, and perhaps others; `None` when that may be any.
    pub(crate) fn candidates(
        &self,
        peer: &PodPeer,
        namespaces: &Namespaces,
    ) -> Option<Vec<&HashSet<ObjectKey>>> {
        let filed = |places: Vec<Id>| -> Vec<&HashSet<ObjectKey>> {
            places.iter().filter_map(|place| self.0.get(place)).collect()
        };
        let by_label = positive(&peer.pods).and_then(|(key, values)| {
            let values = values?.into_iter();
            Some(filed(values.map(|value| id_of(&Place::Label(key, value))).collect()))
        });
        let by_namespace = match &peer.scope {
            Scope::One(name) => Some(filed(vec![id_of(&Place::Namespace(name))])),
            // Also the pods of namespaces nobody has heard of yet.
            Scope::Matching(selector) if selector.matches(&Labels::default()) => None,
            Scope::Matching(selector) => {
                let chosen = namespaces.0.iter().filter(|(_, labels)| selector.matches(labels));
                Some(filed(chosen.map(|(name, _)| id_of(&Place::Namespace(name))).collect()))
            }
        };
        let both = by_label.into_iter().chain(by_namespace);
        both.min_by_key(|found| found.iter().map(|pods| pods.len()).sum::<usize>())
    }
}
