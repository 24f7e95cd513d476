//! The facts at one moment, the one writer that moves them on, and what changed since somebody last looked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::endpoints::merge;
use crate::{
    Block, ClusterPolicy, Endpoint, EndpointSlice, Family, Namespace, NetworkPolicy, NodeFacts,
    NodeName, ObjectKey, Pod, Pool, Protocol, Service, ServiceCidr, ServiceKey, SliceKey,
};

mod pools;
mod tables;
#[cfg(test)]
mod tests;

/// What a watch says about objects of one kind.
///
/// A (re)list is `Begin`, one `Listed` per object, `End`; objects known before and not listed are dropped at `End`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<T> {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(T),
    /// An object of the list that cannot be read: its last good form is kept.
    Unreadable(ObjectKey),
    /// The list is complete.
    End,
    /// An object was added or changed.
    Applied(T),
    /// An object is gone.
    Deleted(ObjectKey),
}

/// One step of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Services.
    Service(Update<Service>),
    /// EndpointSlices.
    Slice(Update<EndpointSlice>),
    /// Nodes; keys are cluster-scoped.
    Node(Update<NodeFacts>),
    /// ServiceCIDRs; keys are cluster-scoped. Clusters before 1.33 may have none of them.
    ServiceCidr(Update<ServiceCidr>),
    /// Pods.
    Pod(Update<Pod>),
    /// Namespaces; keys are cluster-scoped.
    Namespace(Update<Namespace>),
    /// NetworkPolicies.
    NetworkPolicy(Update<NetworkPolicy>),
    /// ClusterNetworkPolicies; keys are cluster-scoped. Few clusters have the kind.
    ClusterPolicy(Update<ClusterPolicy>),
    /// Address pools; keys are cluster-scoped. Where the API has no such kind: an empty list.
    Pool(Update<Pool>),
    /// Blocks of pools; keys are cluster-scoped. Where the API has no such kind: an empty list.
    Block(Update<Block>),
}

/// Services, endpoints, nodes, pods and namespaces at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    revision: u64,
    services: HashMap<ServiceKey, Service>,
    /// Sorted by slice key, so that merging does not depend on the order of arrival.
    slices: HashMap<ServiceKey, Vec<EndpointSlice>>,
    slice_count: usize,
    nodes: BTreeMap<NodeName, NodeFacts>,
    service_cidrs: BTreeMap<ObjectKey, ServiceCidr>,
    pods: HashMap<ObjectKey, Pod>,
    namespaces: HashMap<ObjectKey, Namespace>,
    policies: HashMap<ObjectKey, NetworkPolicy>,
    cluster_policies: HashMap<ObjectKey, ClusterPolicy>,
    pools: HashMap<ObjectKey, Pool>,
    blocks: HashMap<ObjectKey, Block>,
}

impl Snapshot {
    /// Counts every change of content, from 0.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values()
    }

    /// The keys of all Services, and of those that are known by their slices only; in no order.
    pub fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        let lone = self.slices.keys().filter(|key| !self.services.contains_key(*key));
        self.services.keys().chain(lone)
    }

    /// The slices of a Service, by name.
    #[must_use]
    pub fn slices(&self, service: &ServiceKey) -> &[EndpointSlice] {
        self.slices.get(service).map_or(&[], Vec::as_slice)
    }

    /// How many slices are known.
    #[must_use]
    pub fn slice_count(&self) -> usize {
        self.slice_count
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeFacts> {
        self.nodes.values()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// The ServiceCIDRs, by name.
    pub fn service_cidrs(&self) -> impl ExactSizeIterator<Item = &ServiceCidr> {
        self.service_cidrs.values()
    }

    /// One pod.
    #[must_use]
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// All pods of the cluster, in no order.
    pub fn pods(&self) -> impl ExactSizeIterator<Item = &Pod> {
        self.pods.values()
    }

    /// One namespace, by its cluster-scoped key.
    #[must_use]
    pub fn namespace(&self, key: &ObjectKey) -> Option<&Namespace> {
        self.namespaces.get(key)
    }

    /// All namespaces, in no order.
    pub fn namespaces(&self) -> impl ExactSizeIterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// One NetworkPolicy.
    #[must_use]
    pub fn network_policy(&self, key: &ObjectKey) -> Option<&NetworkPolicy> {
        self.policies.get(key)
    }

    /// One ClusterNetworkPolicy, by its cluster-scoped key.
    #[must_use]
    pub fn cluster_policy(&self, key: &ObjectKey) -> Option<&ClusterPolicy> {
        self.cluster_policies.get(key)
    }

    /// All ClusterNetworkPolicies, in no order.
    pub fn cluster_policies(&self) -> impl ExactSizeIterator<Item = &ClusterPolicy> {
        self.cluster_policies.values()
    }

    /// All NetworkPolicies, in no order.
    pub fn network_policies(&self) -> impl ExactSizeIterator<Item = &NetworkPolicy> {
        self.policies.values()
    }

    /// The address pools, in no order.
    pub fn pools(&self) -> impl ExactSizeIterator<Item = &Pool> {
        self.pools.values()
    }

    /// The blocks of pools, in no order.
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = &Block> {
        self.blocks.values()
    }

    /// The endpoints of one Service port in one family, merged over slices: sorted by address, each address once.
    #[must_use]
    pub fn endpoints(
        &self,
        service: &ServiceKey,
        port_name: &str,
        protocol: Protocol,
        family: Family,
    ) -> Vec<Endpoint<'_>> {
        merge(self.slices(service), port_name, protocol, family)
    }
}

/// The keys whose facts changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Services that came, changed or went, or whose endpoints did.
    pub services: BTreeSet<ServiceKey>,
    /// Nodes that came, changed or went.
    pub nodes: BTreeSet<NodeName>,
    /// Whether any ServiceCIDR did.
    pub service_cidrs: bool,
    /// Pods that came, changed or went.
    pub pods: BTreeSet<ObjectKey>,
    /// Namespaces that came, changed or went; keys are cluster-scoped.
    pub namespaces: BTreeSet<ObjectKey>,
    /// NetworkPolicies that came, changed or went.
    pub network_policies: BTreeSet<ObjectKey>,
    /// ClusterNetworkPolicies that came, changed or went; keys are cluster-scoped.
    pub cluster_policies: BTreeSet<ObjectKey>,
    /// Address pools that came, changed or went; keys are cluster-scoped.
    pub pools: BTreeSet<ObjectKey>,
    /// Blocks that came, changed or went; keys are cluster-scoped. Nodes that hold other ranges because of it are named
    /// among the nodes.
    pub blocks: BTreeSet<ObjectKey>,
}

impl Change {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let keys = [
            &self.services,
            &self.pods,
            &self.namespaces,
            &self.network_policies,
            &self.cluster_policies,
            &self.pools,
            &self.blocks,
        ];
        !self.service_cidrs && self.nodes.is_empty() && keys.iter().all(|keys| keys.is_empty())
    }

    /// Adds what `other` names.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.nodes.extend(other.nodes);
        self.service_cidrs |= other.service_cidrs;
        self.pods.extend(other.pods);
        self.namespaces.extend(other.namespaces);
        self.network_policies.extend(other.network_policies);
        self.cluster_policies.extend(other.cluster_policies);
        self.pools.extend(other.pools);
        self.blocks.extend(other.blocks);
    }
}

/// Where a kind's list stands.
#[derive(Debug, Default)]
struct Listing {
    complete: bool,
    /// Keys known before the running list that it has not named yet.
    unseen: Option<HashSet<ObjectKey>>,
}

impl Listing {
    fn begin(&mut self, known: impl Iterator<Item = ObjectKey>) {
        self.unseen = Some(known.collect());
    }

    fn saw(&mut self, key: &ObjectKey) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
    }

    fn end(&mut self) -> HashSet<ObjectKey> {
        self.complete = true;
        self.unseen.take().unwrap_or_default()
    }
}

/// The one place that changes a [`Snapshot`].
#[derive(Debug, Default)]
pub struct SnapshotWriter {
    snapshot: Snapshot,
    change: Change,
    /// Which Service a slice was filed under: its label may change.
    slice_service: HashMap<SliceKey, ServiceKey>,
    /// Node and zone names repeat in every endpoint; they share one allocation.
    names: HashSet<NodeName>,
    zones: HashSet<Arc<str>>,
    services: Listing,
    slices: Listing,
    nodes: Listing,
    service_cidrs: Listing,
    pods: Listing,
    namespaces: Listing,
    policies: Listing,
    cluster_policies: Listing,
    shared: tables::Shared,
    pools: Listing,
    blocks: Listing,
    ranges: pools::Ranges,
}

impl SnapshotWriter {
    /// The facts now.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What changed since the last call.
    pub fn take_change(&mut self) -> Change {
        std::mem::take(&mut self.change)
    }

    /// Whether anything changed since the last [`Self::take_change`].
    #[must_use]
    pub fn has_change(&self) -> bool {
        !self.change.is_empty()
    }

    /// Whether every kind has been listed completely at least once. Before that a missing object proves nothing. Not
    /// ServiceCIDRs: nothing is refused because of one that is not known yet, and older servers do not serve them. Nor pods
    /// and namespaces, of which there are many and on which no Service depends: see [`Self::knows_pods`].
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pending().is_empty()
    }

    /// Whether pods and namespaces have been listed completely at least once.
    #[must_use]
    pub fn knows_pods(&self) -> bool {
        self.pods.complete && self.namespaces.complete
    }

    /// Whether everything network policy depends on has been listed completely at least once.
    #[must_use]
    pub fn knows_policies(&self) -> bool {
        self.knows_pods() && self.policies.complete && self.cluster_policies.complete
    }

    /// The kinds not listed yet.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        let pools = [("ippools", &self.pools), ("addressblocks", &self.blocks)];
        let pools = pools.into_iter().filter(|_| self.ranges.are_expected());
        [("services", &self.services), ("endpointslices", &self.slices), ("nodes", &self.nodes)]
            .into_iter()
            .chain(pools)
            .filter(|(_, listing)| !listing.complete)
            .map(|(name, _)| name)
            .collect()
    }

    /// Applies one step and says whether the facts changed.
    pub fn apply(&mut self, event: Event) -> bool {
        let changed = match event {
            Event::Service(update) => self.apply_service(update),
            Event::Slice(update) => self.apply_slice(update),
            Event::Node(update) => self.apply_node(update),
            Event::ServiceCidr(update) => self.apply_service_cidr(update),
            Event::Pod(update) => self.apply_pod(update),
            Event::NetworkPolicy(update) => {
                let known = &mut self.snapshot.policies;
                tables::apply(known, &mut self.policies, &mut self.change.network_policies, update)
            }
            Event::ClusterPolicy(update) => {
                let known = &mut self.snapshot.cluster_policies;
                let changed = &mut self.change.cluster_policies;
                tables::apply(known, &mut self.cluster_policies, changed, update)
            }
            Event::Namespace(update) => {
                let known = &mut self.snapshot.namespaces;
                tables::apply(known, &mut self.namespaces, &mut self.change.namespaces, update)
            }
            Event::Pool(update) => {
                let known = &mut self.snapshot.pools;
                tables::apply(known, &mut self.pools, &mut self.change.pools, update)
            }
            Event::Block(update) => self.apply_block(update),
        };
        if changed {
            self.snapshot.revision += 1;
        }
        changed
    }

    fn apply_service(&mut self, update: Update<Service>) -> bool {
        match update {
            Update::Begin => {
                self.services.begin(self.snapshot.services.keys().cloned());
                false
            }
            Update::Listed(service) | Update::Applied(service) => {
                self.services.saw(&service.key);
                self.put_service(service)
            }
            Update::Unreadable(key) => {
                self.services.saw(&key);
                false
            }
            Update::End => {
                let gone = self.services.end();
                gone.iter().filter(|key| self.drop_service(key)).count() > 0
            }
            Update::Deleted(key) => {
                self.services.saw(&key);
                self.drop_service(&key)
            }
        }
    }

    fn put_service(&mut self, service: Service) -> bool {
        if self.snapshot.services.get(&service.key) == Some(&service) {
            return false;
        }
        self.change.services.insert(service.key.clone());
        self.snapshot.services.insert(service.key.clone(), service);
        true
    }

    fn drop_service(&mut self, key: &ServiceKey) -> bool {
        let gone = self.snapshot.services.remove(key).is_some();
        if gone {
            self.change.services.insert(key.clone());
        }
        gone
    }

    fn apply_slice(&mut self, update: Update<EndpointSlice>) -> bool {
        match update {
            Update::Begin => {
                self.slices.begin(self.slice_service.keys().cloned());
                false
            }
            Update::Listed(slice) | Update::Applied(slice) => {
                self.slices.saw(&slice.key);
                self.put_slice(slice)
            }
            Update::Unreadable(key) => {
                self.slices.saw(&key);
                false
            }
            Update::End => {
                let gone = self.slices.end();
                gone.iter().filter(|key| self.drop_slice(key)).count() > 0
            }
            Update::Deleted(key) => {
                self.slices.saw(&key);
                self.drop_slice(&key)
            }
        }
    }

    fn put_slice(&mut self, mut slice: EndpointSlice) -> bool {
        self.share_names(&mut slice);
        let moved = match self.slice_service.get(&slice.key) {
            Some(service) if *service != slice.service => self.drop_slice(&slice.key.clone()),
            _ => false,
        };
        let siblings = self.snapshot.slices.entry(slice.service.clone()).or_default();
        match siblings.binary_search_by(|sibling| sibling.key.cmp(&slice.key)) {
            Ok(at) if siblings[at] == slice => return moved,
            Ok(at) => {
                self.change.services.insert(slice.service.clone());
                siblings[at] = slice;
            }
            Err(at) => {
                self.change.services.insert(slice.service.clone());
                self.slice_service.insert(slice.key.clone(), slice.service.clone());
                // Most Services have one slice; a vector grows to four at once.
                siblings.reserve_exact(1);
                siblings.insert(at, slice);
                self.snapshot.slice_count += 1;
            }
        }
        true
    }

    fn drop_slice(&mut self, key: &SliceKey) -> bool {
        let Some(service) = self.slice_service.remove(key) else { return false };
        self.snapshot.slice_count -= 1;
        if let Some(siblings) = self.snapshot.slices.get_mut(&service) {
            siblings.retain(|sibling| sibling.key != *key);
            if siblings.is_empty() {
                self.snapshot.slices.remove(&service);
            }
        }
        self.change.services.insert(service);
        true
    }

    fn share_names(&mut self, slice: &mut EndpointSlice) {
        if let Some((service, _)) = self.snapshot.services.get_key_value(&slice.service) {
            slice.service = service.clone();
        }
        for endpoint in &mut slice.endpoints {
            if let Some(node) = &mut endpoint.node {
                match self.names.get(node) {
                    Some(known) => *node = known.clone(),
                    None => drop(self.names.insert(node.clone())),
                }
            }
            if let Some(zone) = &mut endpoint.zone {
                match self.zones.get(zone) {
                    Some(known) => *zone = known.clone(),
                    None => drop(self.zones.insert(zone.clone())),
                }
            }
        }
    }

    fn apply_node(&mut self, update: Update<NodeFacts>) -> bool {
        match update {
            Update::Begin => {
                let known = self.snapshot.nodes.keys();
                self.nodes.begin(known.map(|name| ObjectKey::new("", name.as_str())));
                false
            }
            Update::Listed(mut node) | Update::Applied(mut node) => {
                self.ranges.put_node(&mut node);
                self.nodes.saw(&ObjectKey::new("", node.name.as_str()));
                if let Some(known) = self.snapshot.nodes.get_mut(&node.name) {
                    // Nobody plans by this; a drain must not wake the planners of a whole cluster.
                    known.leaving = node.leaving;
                    if *known == node {
                        return false;
                    }
                }
                self.change.nodes.insert(node.name.clone());
                self.snapshot.nodes.insert(node.name.clone(), node);
                true
            }
            Update::Unreadable(key) => {
                self.nodes.saw(&key);
                false
            }
            Update::End => {
                let gone = self.nodes.end();
                gone.iter().filter(|key| self.drop_node(key.name())).count() > 0
            }
            Update::Deleted(key) => {
                self.nodes.saw(&key);
                self.drop_node(key.name())
            }
        }
    }

    fn drop_node(&mut self, name: &str) -> bool {
        let Some((name, _)) = self.snapshot.nodes.remove_entry(name) else { return false };
        self.ranges.drop_node(&name);
        self.change.nodes.insert(name);
        true
    }

    fn apply_service_cidr(&mut self, update: Update<ServiceCidr>) -> bool {
        let known = &mut self.snapshot.service_cidrs;
        let changed = match update {
            Update::Begin => {
                self.service_cidrs.begin(known.keys().cloned());
                false
            }
            Update::Listed(cidr) | Update::Applied(cidr) => {
                self.service_cidrs.saw(&cidr.key);
                known.get(&cidr.key) != Some(&cidr) && {
                    known.insert(cidr.key.clone(), cidr);
                    true
                }
            }
            Update::Unreadable(key) => {
                self.service_cidrs.saw(&key);
                false
            }
            Update::End => {
                let gone = self.service_cidrs.end();
                gone.iter().filter(|key| known.remove(*key).is_some()).count() > 0
            }
            Update::Deleted(key) => {
                self.service_cidrs.saw(&key);
                known.remove(&key).is_some()
            }
        };
        self.change.service_cidrs |= changed;
        changed
    }

    fn apply_pod(&mut self, mut update: Update<Pod>) -> bool {
        if let Update::Listed(pod) | Update::Applied(pod) = &mut update {
            self.shared.share(pod, &mut self.names);
        }
        tables::apply(&mut self.snapshot.pods, &mut self.pods, &mut self.change.pods, update)
    }
}
