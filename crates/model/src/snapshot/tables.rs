//! Tables of objects that stand for themselves: kept by key, shared where they are alike.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::{Listing, Update};
use crate::{
    Block, ClusterPolicy, Labels, NamedPort, Namespace, NetworkPolicy, NodeName, ObjectKey, Pod,
    Pool,
};

#[cfg(test)]
mod tests;

/// A kind whose objects are kept by key.
pub(super) trait Keyed: PartialEq {
    fn key(&self) -> &ObjectKey;
}

impl Keyed for Pod {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for ClusterPolicy {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for NetworkPolicy {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for Namespace {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for Pool {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

impl Keyed for Block {
    fn key(&self) -> &ObjectKey {
        &self.key
    }
}

/// Applies one step to a table, notes the keys that changed, and says whether any did.
pub(super) fn apply<T: Keyed>(
    known: &mut HashMap<ObjectKey, T>,
    listing: &mut Listing,
    changed: &mut BTreeSet<ObjectKey>,
    update: Update<T>,
) -> bool {
    match update {
        Update::Begin => {
            listing.begin(known.keys().cloned());
            false
        }
        Update::Listed(object) | Update::Applied(object) => {
            listing.saw(object.key());
            if known.get(object.key()) == Some(&object) {
                return false;
            }
            changed.insert(object.key().clone());
            known.insert(object.key().clone(), object);
            true
        }
        Update::Unreadable(key) => {
            listing.saw(&key);
            false
        }
        Update::End => {
            let mut gone = listing.end();
            gone.retain(|key| known.remove(key).is_some());
            let any = !gone.is_empty();
            changed.extend(gone);
            any
        }
        Update::Deleted(key) => {
            listing.saw(&key);
            let went = known.remove(&key).is_some();
            if went {
                changed.insert(key);
            }
            went
        }
    }
}

/// Labels and ports repeat in every pod of a ReplicaSet.
#[derive(Debug, Default)]
pub(super) struct Shared {
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[NamedPort]>>,
    /// How many there may be before those nobody has are let go.
    limit: usize,
}

impl Shared {
    /// Lets a pod use what others have already.
    pub(super) fn share(&mut self, pod: &mut Pod, names: &mut HashSet<NodeName>) {
        if let Some(node) = &mut pod.node {
            match names.get(node) {
                Some(known) => *node = known.clone(),
                None => drop(names.insert(node.clone())),
            }
        }
        match self.labels.get(&pod.labels) {
            Some(known) => pod.labels = known.clone(),
            None => drop(self.labels.insert(pod.labels.clone())),
        }
        match self.ports.get(&pod.ports) {
            Some(known) => pod.ports = known.clone(),
            None => drop(self.ports.insert(pod.ports.clone())),
        }
        if self.labels.len() + self.ports.len() > self.limit {
            self.labels.retain(|labels| !labels.is_lone());
            self.ports.retain(|ports| Arc::strong_count(ports) > 1);
            self.limit = 64 + 2 * (self.labels.len() + self.ports.len());
        }
    }
}
