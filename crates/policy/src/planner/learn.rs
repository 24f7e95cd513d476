//! Facts that changed, and what they touch: pods of this node to be looked at again, addresses whose memberships may differ.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use model::{ClusterPeer, ClusterPolicy, ObjectKey, PodPhase, Snapshot};

use super::{Batch, Planner, ranges_of};
use crate::compile::Compiled;
use crate::facts::{Known, means};
use crate::index::Index;
use crate::rule::{Collection, Members, id_of};

/// What a change touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) local: BTreeSet<ObjectKey>,
    pub(super) addresses: BTreeSet<IpAddr>,
}

impl Planner {
    pub(super) fn learn_namespace(
        &mut self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        touched: &mut Touched,
    ) {
        let known = self.namespaces.labels(key.name());
        match snapshot.namespace(key) {
            Some(namespace) => {
                self.namespaces.0.insert(key.name().into(), namespace.labels.clone())
            }
            None => self.namespaces.0.remove(key.name()),
        };
        if known != self.namespaces.labels(key.name()) {
            let there = self.whereabouts.in_namespace(key.name());
            let there = there.filter_map(|pod| self.pods.get(pod));
            touched.addresses.extend(there.flat_map(|known| known.addresses.iter()));
            // A policy of the administrator may select pods by their namespace.
            let local = self.local.keys().filter(|pod| pod.namespace() == key.name());
            touched.local.extend(local.cloned());
        }
    }

    pub(super) fn learn_pod(
        &mut self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        touched: &mut Touched,
    ) {
        let before = self.pods.remove(key);
        let after = self.known(snapshot, key);
        let labels = |known: &Option<Known>| known.as_ref().map(|known| known.labels.clone());
        let (old, new) = (labels(&before), labels(&after));
        if old != new {
            if let Some(labels) = old {
                self.whereabouts.remove(key, &labels);
            }
            if let Some(labels) = new {
                self.whereabouts.add(key, &labels);
            }
        }
        for known in [&before, &after].into_iter().flatten() {
            if known.local {
                touched.local.insert(key.clone());
            }
            touched.addresses.extend(known.addresses.iter());
        }
        for address in before.iter().flat_map(|known| known.addresses.iter()) {
            self.owners.remove(address, key);
            self.touch_owners(address, touched);
        }
        for address in after.iter().flat_map(|known| known.addresses.iter()) {
            self.owners.add(address, key);
            self.touch_owners(address, touched);
        }
        if let Some(after) = after {
            self.pods.insert(key.clone(), after);
        }
    }

    /// Whose an address is may be another question now.
    fn touch_owners(&self, address: IpAddr, touched: &mut Touched) {
        for owner in self.owners.of(address) {
            if self.pods.get(owner).is_some_and(|known| known.local) {
                touched.local.insert(owner.clone());
            }
        }
    }

    /// A pod as the facts and the claims have it; `None` when it has no addresses of its own.
    fn known(&mut self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Known> {
        let pod = snapshot.pod(key);
        let claim = self.claims.get(key);
        let holds = |it: &&super::Claim| {
            pod.is_some_and(|pod| it.uid.is_none() || pod.uid.is_none() || it.uid == pod.uid)
        };
        let claim = claim.filter(holds).map(|claim| claim.addresses);
        if claim.is_none() && self.claims.remove(key).is_some() {
            self.claims_changed = true;
        }
        let pod = pod.filter(|pod| !pod.host_network && pod.phase != PodPhase::Finished)?;
        let said = pod.addresses;
        let none = said.iter().next().is_none();
        let addresses = if none { claim.unwrap_or_default() } else { said };
        addresses.iter().next()?;
        Some(Known {
            uid: pod.uid,
            labels: pod.labels.clone(),
            ports: pod.ports.clone(),
            addresses,
            local: pod.node.as_ref() == Some(&self.node),
            terminating: pod.terminating,
        })
    }

    pub(super) fn learn_policy(
        &mut self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        touched: &mut Touched,
    ) {
        let id = id_of(key);
        if let Some(old) = self.policies.remove(&id) {
            self.subjects.remove(&old.subject, id);
        }
        if let Some(policy) = snapshot.network_policy(key) {
            let new = Compiled::new(policy);
            self.subjects.insert(&new.subject, id);
            self.policies.insert(id, new);
        }
        let there = self.local.keys().filter(|pod| pod.namespace() == key.namespace());
        touched.local.extend(there.cloned());
    }

    pub(super) fn learn_cluster_policy(
        &mut self,
        snapshot: &Snapshot,
        key: &ObjectKey,
        touched: &mut Touched,
    ) {
        let id = id_of(key);
        if let Some(old) = self.policies.remove(&id) {
            self.subjects.remove(&old.subject, id);
        }
        if let Some(policy) = snapshot.cluster_policy(key) {
            let nodes: Vec<_> = snapshot.nodes().collect();
            let new = Compiled::of_cluster(policy, &nodes);
            self.subjects.insert(&new.subject, id);
            self.policies.insert(id, new);
        }
        touched.local.extend(self.local.keys().cloned());
    }

    /// Nodes changed: policies may mean their addresses.
    pub(super) fn learn_nodes(&mut self, snapshot: &Snapshot, touched: &mut Touched) {
        let of_nodes = |policy: &&ClusterPolicy| {
            let rules = policy.ingress.iter().chain(&policy.egress);
            let mut peers = rules.flat_map(|rule| rule.peers.iter().flatten());
            peers.any(|peer| matches!(peer, ClusterPeer::Nodes(_)))
        };
        let concerned: Vec<ObjectKey> =
            snapshot.cluster_policies().filter(of_nodes).map(|it| it.key.clone()).collect();
        for key in concerned {
            self.learn_cluster_policy(snapshot, &key, touched);
        }
    }

    /// Where an address is a member now, by the collections of the index.
    fn places(&self, address: IpAddr, index: &Index<(Collection, u32)>) -> Vec<(Collection, u16)> {
        let Some((key, known)) = self.pod_at(address) else { return Vec::new() };
        let of = self.labels_of(key);
        let mut places = Vec::new();
        index.candidates(key.namespace(), &of, &known.labels, |(collection, at)| {
            let Some(used) = self.collections.get(&collection) else { return };
            let peer = used.value.group().and_then(|group| group.get(at as usize));
            if !peer.is_some_and(|peer| means(peer, key.namespace(), &of, &known.labels)) {
                return;
            }
            match &used.value {
                Members::Group(_) => places.push((collection, 0)),
                Members::Named(_, protocol, name) => {
                    places.extend(known.port(name, *protocol).map(|port| (collection, port)));
                }
                Members::Blocks(_) => {}
            }
        });
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Brings the memberships of an address up to date.
    pub(super) fn replace(&mut self, address: IpAddr, batch: &mut Batch) {
        let after = self.places(address, &self.index);
        let before = self.placed.remove(&address).unwrap_or_default();
        for place in before.iter().filter(|place| after.binary_search(place).is_err()) {
            if let Some((set, element)) = self.member(address, *place) {
                batch.remove(set, element);
                batch.narrowed.insert(address);
            }
        }
        for place in after.iter().filter(|place| before.binary_search(place).is_err()) {
            if let Some((set, element)) = self.member(address, *place) {
                batch.add(set, element);
            }
        }
        if !after.is_empty() {
            self.placed.insert(address, after.into());
        }
    }

    /// Whose addresses may be members of these collections: each once, and all where that is less work to find out.
    fn candidates(&self, collections: &[(Collection, Members)]) -> Vec<IpAddr> {
        let all = || self.owners.addresses().collect();
        let (mut pods, mut found) = (HashSet::new(), 0);
        for (_, members) in collections {
            for peer in members.group().into_iter().flat_map(|group| group.iter()) {
                let Some(filed) = self.whereabouts.candidates(peer, &self.namespaces) else {
                    return all();
                };
                found += filed.iter().map(|pods| pods.len()).sum::<usize>();
                if found >= self.pods.len() {
                    return all();
                }
                pods.extend(filed.into_iter().flatten());
            }
        }
        let known = pods.into_iter().filter_map(|pod| self.pods.get(pod));
        let addresses: BTreeSet<IpAddr> = known.flat_map(|known| known.addresses.iter()).collect();
        addresses.into_iter().collect()
    }

    /// Fills collections that are new: every address that may be a member is asked once, whatever their number.
    pub(super) fn fill(&mut self, new: Vec<(Collection, Members)>, batch: &mut Batch) {
        if new.is_empty() {
            return;
        }
        let mut index = Index::default();
        let mut fresh = HashMap::new();
        for (collection, members) in &new {
            for (set, element) in ranges_of(*collection, members) {
                batch.add(set, element);
            }
            for (at, peer) in members.group().into_iter().flat_map(|it| it.iter()).enumerate() {
                index.insert(peer, (*collection, at as u32));
            }
            fresh.insert(*collection, ());
        }
        for address in self.candidates(&new) {
            let places = self.places(address, &index);
            let known = self.placed.remove(&address).unwrap_or_default();
            // What it says of a collection that was there before and is made again is out of date.
            let kept = known.iter().filter(|(collection, _)| {
                self.collections.contains_key(collection) && !fresh.contains_key(collection)
            });
            let mut all: Vec<_> = kept.copied().chain(places.iter().copied()).collect();
            all.sort_unstable();
            for place in places {
                if let Some((set, element)) = self.member(address, place) {
                    batch.add(set, element);
                }
            }
            if !all.is_empty() {
                self.placed.insert(address, all.into());
            }
        }
    }
}
