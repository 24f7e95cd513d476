//! Keeps the plan of one node: the whole table, or what a change makes different. Both come to the same.
//!
//! The work of a change is that of the pods, policies and addresses it touches: selectors are found by the labels they need,
//! identities and sets by what they say, and what is used by nobody any more goes away.

mod batch;
mod learn;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::{
    Change, Family, Kind, Labels, NodeName, ObjectKey, ObjectRef, PodAddresses, Report, Severity,
    Snapshot, Uid,
};
use nft::{Element, Name, Packed, Set, SetSpec, Table, Transaction, Verdict};

use crate::compile::{self, Compiled};
use crate::facts::{Known, Namespaces, Owners, Whereabouts, means};
use crate::index::Index;
use crate::program::{self, SetId, chain_name, packed};
use crate::rule::{Body, Collection, Direction, Id, Members, id_of};
use batch::Batch;

/// The whole.
#[derive(Debug)]
pub struct Plan {
    /// The table, with no more in it than policy needs.
    pub table: Table,
    /// What is wrong with which policy.
    pub reports: Vec<Report>,
}

/// What a change makes different.
#[derive(Debug)]
pub struct Delta {
    /// What the kernel has to be told.
    pub transaction: Transaction,
    /// From or to these addresses something that was allowed may not be any more: their connections have to be looked at.
    pub narrowed: HashSet<IpAddr>,
    /// Chains that go, and what their rules counted with them.
    pub retires: Vec<Name>,
    /// What is wrong with which policy.
    pub reports: Vec<Report>,
}

/// Addresses a pod was given, before the API knows of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The pod.
    pub pod: ObjectKey,
    /// Its uid: a later pod of the same name is another.
    pub uid: Option<Uid>,
    /// The addresses.
    pub addresses: PodAddresses,
}

/// Something used by a number of others.
#[derive(Debug)]
struct Used<T> {
    value: T,
    uses: u32,
    /// The kernel has it.
    live: bool,
}

/// A pod of this node, as its elements say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Local {
    addresses: Vec<IpAddr>,
    ingress: Option<Id>,
    egress: Option<Id>,
    /// Something is kept from it.
    isolated: bool,
}

impl Local {
    fn identity(&self, direction: Direction) -> Option<Id> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    fn elements(&self) -> BTreeMap<(SetId, Packed), Option<Verdict>> {
        let mut all = BTreeMap::new();
        for &address in &self.addresses {
            let (family, key) = (Family::of(address), packed(address));
            all.insert((SetId::Pods(family), key), None);
            if self.isolated {
                all.insert((SetId::Isolated(family), key), None);
            }
            for direction in Direction::BOTH {
                if let Some(id) = self.identity(direction) {
                    let verdict = Verdict::Goto(chain_name(direction, id));
                    all.insert((SetId::Identity(direction, family), key), Some(verdict));
                    all.insert((SetId::Itself(family), key.then(&key)), None);
                }
            }
        }
        all
    }
}

/// One node's plan.
#[derive(Debug)]
pub struct Planner {
    node: NodeName,
    namespaces: Namespaces,
    pods: HashMap<ObjectKey, Known>,
    owners: Owners,
    whereabouts: Whereabouts,
    claims: HashMap<ObjectKey, Claim>,
    claims_changed: bool,
    policies: HashMap<Id, Compiled>,
    subjects: Index<Id>,
    local: BTreeMap<ObjectKey, Local>,
    bodies: HashMap<Id, Used<Body>>,
    collections: HashMap<Collection, Used<Members>>,
    index: Index<(Collection, u32)>,
    /// Where each address is a member, and with which port; sorted. May name collections that are gone.
    placed: HashMap<IpAddr, Box<[(Collection, u16)]>>,
    specs: HashMap<SetId, Arc<SetSpec>>,
}

impl Planner {
    /// A planner for this node that knows nothing yet.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            namespaces: Namespaces::default(),
            pods: HashMap::new(),
            owners: Owners::default(),
            whereabouts: Whereabouts::default(),
            claims: HashMap::new(),
            claims_changed: false,
            policies: HashMap::new(),
            subjects: Index::default(),
            local: BTreeMap::new(),
            bodies: HashMap::new(),
            collections: HashMap::new(),
            index: Index::default(),
            placed: HashMap::new(),
            specs: HashMap::new(),
        }
    }

    /// The whole table for this snapshot. Claims stay.
    pub fn full(&mut self, snapshot: &Snapshot) -> Plan {
        let mut claims = std::mem::take(&mut self.claims);
        let all = claims.len();
        claims.retain(|pod, _| snapshot.pod(pod).is_some());
        let claims_changed = self.claims_changed || claims.len() != all;
        *self = Self { claims, claims_changed, ..Self::new(self.node.clone()) };
        let everything = Change {
            pods: snapshot.pods().map(|pod| pod.key.clone()).collect(),
            namespaces: snapshot.namespaces().map(|namespace| namespace.key.clone()).collect(),
            network_policies: snapshot.network_policies().map(|it| it.key.clone()).collect(),
            cluster_policies: snapshot.cluster_policies().map(|it| it.key.clone()).collect(),
            ..Change::default()
        };
        let delta = self.update(snapshot, &everything);
        Plan { table: self.table(), reports: delta.reports }
    }

    /// What brings the kernel from the last plan to this snapshot; `change` names at least the keys whose facts changed.
    pub fn update(&mut self, snapshot: &Snapshot, change: &Change) -> Delta {
        let mut batch = Batch::default();
        let mut touched = learn::Touched::default();
        for key in &change.namespaces {
            self.learn_namespace(snapshot, key, &mut touched);
        }
        for key in &change.pods {
            self.learn_pod(snapshot, key, &mut touched);
        }
        for address in &touched.addresses {
            self.replace(*address, &mut batch);
        }
        for key in &change.network_policies {
            self.learn_policy(snapshot, key, &mut touched);
        }
        if !change.nodes.is_empty() {
            self.learn_nodes(snapshot, &mut touched);
        }
        for key in &change.cluster_policies {
            self.learn_cluster_policy(snapshot, key, &mut touched);
        }
        let mut reports = Vec::new();
        let mut bodies = HashSet::new();
        for pod in &touched.local {
            self.identify(pod, &mut bodies, &mut batch, &mut reports);
        }
        self.settle(bodies, &mut batch);
        reports.sort();
        reports.dedup();
        let (narrowed, retires) = (std::mem::take(&mut batch.narrowed), batch.retires());
        Delta { transaction: batch.transaction(&mut self.specs), narrowed, retires, reports }
    }

    /// A pod of this node was given addresses, before the API says so; the next [`Self::full`] or [`Self::update`] that names
    /// the pod goes by them. `false` when the facts do not know such a pod here yet.
    pub fn claim(&mut self, snapshot: &Snapshot, claim: Claim) -> bool {
        let Some(pod) = snapshot.pod(&claim.pod) else { return false };
        let same = claim.uid.is_none() || pod.uid.is_none() || claim.uid == pod.uid;
        let here = same && pod.node.as_ref() == Some(&self.node);
        if here {
            self.claims_changed = true;
            self.claims.insert(claim.pod.clone(), claim);
        }
        here
    }

    /// What pods of this node were given, as far as the facts know the pods.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values()
    }

    /// Whether [`Self::claims`] are others than when this was asked last.
    pub fn take_claims_changed(&mut self) -> bool {
        std::mem::take(&mut self.claims_changed)
    }

    /// The addresses of this node's pods that have rules.
    pub fn isolated(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let isolated =
            self.local.values().filter(|local| local.ingress.is_some() || local.egress.is_some());
        isolated.flat_map(|local| local.addresses.iter().copied())
    }

    /// Which pod has an address.
    #[must_use]
    pub fn name_of(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.pod_at(address).map(|(key, _)| key)
    }

    /// How many identities pods of this node have, and how many sets of peers those need.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.bodies.len(), self.collections.len())
    }

    /// Whose address it is.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Option<(&ObjectKey, &Known)> {
        let claimed = |key: &ObjectKey| {
            self.claims
                .get(key)
                .is_some_and(|claim| claim.addresses.iter().any(|one| one == address))
        };
        let all = self.owners.of(address).iter();
        let known = all.filter_map(|key| Some((key, self.pods.get(key)?)));
        // One that is there rather than one that goes, and always the same.
        known.min_by_key(|(key, known)| (!claimed(key), known.terminating, *key))
    }

    pub(crate) fn labels_of(&self, pod: &ObjectKey) -> Labels {
        self.namespaces.labels(pod.namespace())
    }

    pub(crate) fn body_of(&self, pod: &ObjectKey, direction: Direction) -> Option<&Body> {
        let id = self.local.get(pod)?.identity(direction)?;
        self.bodies.get(&id).map(|used| &used.value)
    }

    /// The policies whose chains a pod of this node goes through in a direction.
    #[must_use]
    pub fn isolating(&self, pod: &ObjectKey, direction: Direction) -> &[ObjectKey] {
        self.body_of(pod, direction).map_or(&[], |body| &body.policies)
    }

    /// Whether these addresses are a pod's of this node in the plan.
    #[must_use]
    pub fn has(&self, pod: &ObjectKey, addresses: &PodAddresses) -> bool {
        self.local
            .get(pod)
            .is_some_and(|local| addresses.iter().all(|address| local.addresses.contains(&address)))
    }

    /// Works out what applies to a pod of this node, or was one, and says what that changes.
    fn identify(
        &mut self,
        pod: &ObjectKey,
        bodies: &mut HashSet<Id>,
        batch: &mut Batch,
        reports: &mut Vec<Report>,
    ) {
        let before = self.local.remove(pod).unwrap_or_default();
        let mut after = Local::default();
        if let Some(known) = self.pods.get(pod).filter(|known| known.local) {
            let owned = |address: &IpAddr| self.pod_at(*address).is_some_and(|it| it.0 == pod);
            after.addresses = known.addresses.iter().filter(owned).collect();
            let policies = self.policies_of(pod, known);
            for policy in &policies {
                let lacking = policy.unknown_ports(known);
                reports.extend(lacking.map(|name| unknown_port(policy, pod, name)));
            }
            let ingress = compile::body(&policies, Direction::Ingress, known);
            let egress = compile::body(&policies, Direction::Egress, known);
            after.isolated = [&ingress, &egress].into_iter().flatten().any(Body::denies);
            after.ingress = self.retain(ingress);
            after.egress = self.retain(egress);
        }
        bodies
            .extend([before.ingress, before.egress, after.ingress, after.egress].iter().flatten());
        for id in [before.ingress, before.egress].into_iter().flatten() {
            if let Some(body) = self.bodies.get_mut(&id) {
                body.uses -= 1;
            }
        }
        let changed = |direction| before.identity(direction) != after.identity(direction);
        if Direction::BOTH.into_iter().any(changed) {
            batch.narrowed.extend(&after.addresses);
        }
        let (old, new) = (before.elements(), after.elements());
        for ((set, key), verdict) in &old {
            if new.get(&(*set, *key)) != Some(verdict) {
                batch.remove(*set, Element::key(*key));
            }
        }
        for ((set, key), verdict) in new {
            if old.get(&(set, key)) != Some(&verdict) {
                batch.add(
                    set,
                    match verdict {
                        Some(verdict) => Element::verdict(key, verdict),
                        None => Element::key(key),
                    },
                );
            }
        }
        if after != Local::default() {
            self.local.insert(pod.clone(), after);
        }
    }

    fn policies_of(&self, pod: &ObjectKey, known: &Known) -> Vec<&Compiled> {
        let mut found: BTreeMap<&ObjectKey, &Compiled> = BTreeMap::new();
        let of = self.labels_of(pod);
        self.subjects.candidates(pod.namespace(), &of, &known.labels, |id| {
            if let Some(policy) = self.policies.get(&id)
                && means(&policy.subject, pod.namespace(), &of, &known.labels)
            {
                found.insert(&policy.key, policy);
            }
        });
        found.into_values().collect()
    }

    fn retain(&mut self, body: Option<Body>) -> Option<Id> {
        let body = body?;
        let id = id_of(&body);
        self.bodies.entry(id).or_insert(Used { value: body, uses: 0, live: false }).uses += 1;
        Some(id)
    }

    /// Makes what is used for the first time, and removes what nobody uses any more.
    fn settle(&mut self, bodies: HashSet<Id>, batch: &mut Batch) {
        let bodies: BTreeSet<Id> = bodies.into_iter().collect();
        let mut collections = BTreeSet::new();
        for id in bodies {
            let Some(body) = self.bodies.get_mut(&id) else { continue };
            let (was, is) = (body.live, body.uses > 0);
            body.live = is;
            if was != is {
                for (collection, members) in body.value.all().flat_map(|it| it.collections()) {
                    let used = self.collections.entry(collection);
                    let used = used.or_insert(Used { value: members, uses: 0, live: false });
                    if is {
                        used.uses += 1
                    } else {
                        used.uses -= 1
                    }
                    collections.insert(collection);
                }
                if is {
                    program::chains(id, &body.value).into_iter().for_each(|it| batch.chain(it));
                } else {
                    let names = program::chain_names(id, &body.value);
                    names.into_iter().for_each(|name| batch.no_chain(name));
                }
            }
            if !is {
                self.bodies.remove(&id);
            }
        }
        let mut new = Vec::new();
        for collection in collections {
            let Some(used) = self.collections.get_mut(&collection) else { continue };
            let (was, is) = (used.live, used.uses > 0);
            used.live = is;
            if was != is {
                let members = used.value.clone();
                for set in sets_of(collection, &members) {
                    if is { batch.set(set) } else { batch.no_set(set) }
                }
                for (at, peer) in members.group().into_iter().flat_map(|it| it.iter()).enumerate() {
                    let item = (collection, at as u32);
                    if is { self.index.insert(peer, item) } else { self.index.remove(peer, item) }
                }
                if is {
                    new.push((collection, members));
                }
            }
            if !is {
                self.collections.remove(&collection);
            }
        }
        self.fill(new, batch);
    }

    /// The table as planned.
    fn table(&mut self) -> Table {
        let mut table = program::skeleton();
        for (id, body) in &self.bodies {
            for chain in program::chains(*id, &body.value) {
                table.insert_chain(chain);
            }
        }
        let mut elements: Vec<(SetId, Element)> = Vec::new();
        for (collection, used) in &self.collections {
            for set in sets_of(*collection, &used.value) {
                table.insert_set(Set::new(set.spec()));
            }
            elements.extend(ranges_of(*collection, &used.value));
        }
        for (address, places) in &self.placed {
            elements.extend(places.iter().filter_map(|place| self.member(*address, *place)));
        }
        for local in self.local.values() {
            for ((set, key), verdict) in local.elements() {
                let element = match verdict {
                    Some(verdict) => Element::verdict(key, verdict),
                    None => Element::key(key),
                };
                elements.push((set, element));
            }
        }
        let mut names = HashMap::new();
        for (set, element) in elements {
            let name = names.entry(set).or_insert_with(|| set.name());
            let set = table.sets.get_mut(name).expect("invariant: a planned set is in the table");
            set.elements.insert(&element).expect("invariant: keys have the lengths of their set");
        }
        table
    }

    /// The element that makes an address a member of a collection there still is.
    fn member(
        &self,
        address: IpAddr,
        (collection, port): (Collection, u16),
    ) -> Option<(SetId, Element)> {
        let used = self.collections.get(&collection).filter(|used| used.live)?;
        let key = match &used.value {
            Members::Group(_) => packed(address),
            Members::Named(_, protocol, _) => packed(address).proto(protocol.number()).port(port),
            Members::Blocks(_) => return None,
        };
        Some((SetId::Members(collection, Family::of(address)), Element::key(key)))
    }
}

/// The sets of a collection: of blocks only those of families it has some of.
fn sets_of(collection: Collection, members: &Members) -> Vec<SetId> {
    let has = |family: &Family| match members {
        Members::Blocks(blocks) => blocks.iter().any(|(first, _)| Family::of(*first) == *family),
        Members::Group(_) | Members::Named(..) => true,
    };
    let families = Family::BOTH.into_iter().filter(has);
    families.map(|family| SetId::Members(collection, family)).collect()
}

/// The elements of a collection of ranges.
fn ranges_of(collection: Collection, members: &Members) -> Vec<(SetId, Element)> {
    let Members::Blocks(blocks) = members else { return Vec::new() };
    let element = |(first, last): &(IpAddr, IpAddr)| {
        let set = SetId::Members(collection, Family::of(*first));
        (set, Element::key(packed(*first)).to(packed(*last)))
    };
    blocks.iter().map(element).collect()
}

fn unknown_port(policy: &Compiled, pod: &ObjectKey, name: &str) -> Report {
    Report {
        object: ObjectRef { kind: Kind::NetworkPolicy, key: policy.key.clone(), uid: policy.uid },
        severity: Severity::Warning,
        reason: "UnknownPortName",
        message: format!("pod {pod} has no container port {name:?}; nothing comes in by it"),
        hint: "name a port of the pod's containers, or write its number".into(),
    }
}
