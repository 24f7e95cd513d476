//! What the cluster's names are answered from: the Services, endpoints, pods and namespaces of a [`Snapshot`], by name and by
//! address. A change costs what it names.
//!
//! The data plane must be ahead of the names: what went is taken away before it goes from the kernel, what came is told
//! after it is there. So a change is a [`Patch`] made once and applied in two steps, [`Facts::retract`] before the commit
//! and [`Facts::publish`] after it.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use model::{
    Change, ClusterIps, EndpointSlice, NodeName, ObjectKey, Pod, PodPhase, Protocol, Service,
    ServiceKey, ServiceType, Snapshot,
};

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name; unnamed ports have no SRV record and are not kept.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// A ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its address.
    pub address: IpAddr,
    /// Its `hostname`.
    pub name: Option<Box<str>>,
}

/// Ready endpoints that listen on the same ports: those of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// Their named ports.
    pub ports: Box<[Port]>,
    /// They themselves.
    pub hosts: Box<[Host]>,
}

/// What is known of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has cluster addresses.
    Cluster {
        /// The addresses.
        ips: ClusterIps,
        /// Its named ports.
        ports: Box<[Port]>,
    },
    /// It is headless.
    Headless(Box<[Hosts]>),
    /// It stands for another name.
    External(Box<str>),
}

impl Entry {
    /// What the snapshot says of a Service.
    fn of(snapshot: &Snapshot, key: &ServiceKey) -> Option<Self> {
        let service = snapshot.service(key)?;
        Some(match (service.kind, service.headless) {
            (ServiceType::ExternalName, _) => Self::External(service.external_name.clone()?),
            (_, true) if service.cluster_ips == ClusterIps::default() => {
                Self::Headless(snapshot.slices(key).iter().filter_map(hosts).collect())
            }
            _ => Self::Cluster { ips: service.cluster_ips, ports: service_ports(service) },
        })
    }

    /// What of this is still so in `next`.
    fn kept(&self, next: Option<&Self>) -> Option<Self> {
        match (self, next?) {
            (Self::Cluster { ips, ports }, Self::Cluster { ips: new, ports: new_ports }) => {
                let ips = ClusterIps {
                    v4: ips.v4.filter(|v4| new.v4 == Some(*v4)),
                    v6: ips.v6.filter(|v6| new.v6 == Some(*v6)),
                };
                let ports = ports.iter().filter(|port| new_ports.contains(port));
                Some(Self::Cluster { ips, ports: ports.cloned().collect() })
            }
            (Self::Headless(old), Self::Headless(new)) => {
                let stays = |host: &Host| new.iter().any(|group| group.hosts.contains(host));
                let groups = old.iter().map(|group| Hosts {
                    ports: group.ports.clone(),
                    hosts: group.hosts.iter().filter(|host| stays(host)).cloned().collect(),
                });
                Some(Self::Headless(groups.filter(|group| !group.hosts.is_empty()).collect()))
            }
            (Self::External(old), Self::External(new)) if old == new => Some(self.clone()),
            _ => None,
        }
    }

    /// The addresses that lead back to it.
    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Cluster { ips, .. } => {
                ips.v4.map(IpAddr::V4).into_iter().chain(ips.v6.map(IpAddr::V6)).collect()
            }
            Self::Headless(groups) => {
                groups.iter().flat_map(|group| &group.hosts).map(|host| host.address).collect()
            }
            Self::External(_) => Vec::new(),
        }
    }
}

fn service_ports(service: &Service) -> Box<[Port]> {
    let named = service.ports.iter().filter(|port| !port.name.is_empty());
    let port = |port: &model::ServicePort| Port {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
    };
    named.map(port).collect()
}

/// The ready endpoints of a slice. `publishNotReadyAddresses` is in the condition already: its controller says `ready`.
fn hosts(slice: &EndpointSlice) -> Option<Hosts> {
    slice.address_type.family()?;
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
    let hosts: Box<[Host]> = ready
        .map(|endpoint| Host { address: endpoint.address, name: endpoint.hostname.clone() })
        .collect();
    let named = slice.ports.iter().filter(|port| !port.name.is_empty());
    let port = |port: &model::SlicePort| Port {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
    };
    (!hosts.is_empty()).then(|| Hosts { ports: named.map(port).collect(), hosts })
}

/// `NAMESPACE/NAME` as text, to look a key up without making one.
struct Wanted<'a>(&'a str);

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<ObjectKey> for Wanted<'_> {
    fn equivalent(&self, key: &ObjectKey) -> bool {
        key.as_str() == self.0
    }
}

/// Who has an address; nearly always one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holders {
    One(ObjectKey),
    #[expect(clippy::box_collection, reason = "few have several; the others stay small")]
    Many(Box<BTreeSet<ObjectKey>>),
}

impl Holders {
    fn add(&mut self, key: ObjectKey) {
        match self {
            Self::One(one) if *one == key => {}
            Self::One(one) => *self = Self::Many(Box::new(BTreeSet::from([one.clone(), key]))),
            Self::Many(many) => drop(many.insert(key)),
        }
    }

    /// Whether nobody is left.
    fn remove(&mut self, key: &ObjectKey) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Many(many) => {
                many.remove(key);
                if let (1, Some(last)) = (many.len(), many.first()) {
                    *self = Self::One(last.clone());
                }
                false
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &ObjectKey> {
        let (one, many) = match self {
            Self::One(one) => (Some(one), None),
            Self::Many(many) => (None, Some(many.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

type ByAddress = HashMap<IpAddr, Holders>;

fn hold(table: &mut ByAddress, address: IpAddr, key: &ObjectKey) {
    match table.get_mut(&address) {
        Some(holders) => holders.add(key.clone()),
        None => drop(table.insert(address, Holders::One(key.clone()))),
    }
}

fn release(table: &mut ByAddress, address: IpAddr, key: &ObjectKey) {
    if table.get_mut(&address).is_some_and(|holders| holders.remove(key)) {
        table.remove(&address);
    }
}

/// A pod that has addresses of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Addresses(Box<[IpAddr]>);

/// What changes, taken from a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    services: Vec<(ServiceKey, Option<Entry>)>,
    pods: Vec<(ObjectKey, Option<Addresses>)>,
    namespaces: Vec<(Box<str>, bool)>,
    /// Everything is in it: what it does not name is gone.
    whole: bool,
    knows_namespaces: bool,
}

impl Patch {
    /// What `change` names.
    #[must_use]
    pub fn of(snapshot: &Snapshot, change: &Change, keep: &Keep) -> Self {
        let services = change.services.iter();
        let pods = change.pods.iter().filter(|_| keep.pods);
        Self {
            services: services.map(|key| (key.clone(), Entry::of(snapshot, key))).collect(),
            pods: pods.map(|key| (key.clone(), addresses(snapshot.pod(key), keep))).collect(),
            namespaces: (change.namespaces.iter())
                .map(|key| (Box::from(key.name()), snapshot.namespace(key).is_some()))
                .collect(),
            whole: false,
            knows_namespaces: snapshot.namespaces().len() > 0,
        }
    }

    /// Everything.
    #[must_use]
    pub fn whole(snapshot: &Snapshot, keep: &Keep) -> Self {
        let services = snapshot.services().map(|service| &service.key);
        let pods = snapshot.pods().filter(|_| keep.pods);
        Self {
            services: services.map(|key| (key.clone(), Entry::of(snapshot, key))).collect(),
            pods: pods.map(|pod| (pod.key.clone(), addresses(Some(pod), keep))).collect(),
            namespaces: snapshot.namespaces().map(|it| (Box::from(it.key.name()), true)).collect(),
            whole: true,
            knows_namespaces: snapshot.namespaces().len() > 0,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.whole
            && self.services.is_empty()
            && self.pods.is_empty()
            && self.namespaces.is_empty()
    }
}

/// Which pods are of use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Any at all: for pod records `verified`, autopath and a log that names who asked.
    pub pods: bool,
    /// Only those of this node; none keeps all of the cluster, which records `verified` need.
    pub of_node: Option<NodeName>,
}

fn addresses(pod: Option<&Pod>, keep: &Keep) -> Option<Addresses> {
    let pod = pod?;
    let elsewhere = keep.of_node.as_ref().is_some_and(|node| pod.node.as_ref() != Some(node));
    if elsewhere || pod.phase == PodPhase::Finished {
        return None;
    }
    let own: Box<[IpAddr]> = pod.own_addresses().collect();
    (!own.is_empty()).then_some(Addresses(own))
}

/// The facts. Equal facts give equal answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    services: HashMap<ServiceKey, Entry>,
    by_address: ByAddress,
    pods: HashMap<ObjectKey, Addresses>,
    pod_at: ByAddress,
    /// How many Services each namespace has, and whether it is there by itself.
    namespaces: HashMap<Box<str>, (u32, bool)>,
    knows_namespaces: bool,
    /// Counts what was published; the serial number of zones.
    serial: u32,
    /// Something was published whole: an absence is one.
    ready: bool,
}

impl Facts {
    /// None, of which the next change will have a serial number above this one, in the sense of RFC 1982.
    #[must_use]
    pub fn from_serial(serial: u32) -> Self {
        Self { serial, ..Self::default() }
    }

    /// Takes away what will not be so any more.
    pub fn retract(&mut self, patch: &Patch) {
        for (key, next) in &patch.services {
            if let Some(old) = self.services.get(key) {
                let kept = old.kept(next.as_ref());
                if kept.as_ref() != Some(old) {
                    self.put_service(key, kept);
                }
            }
        }
        for (key, next) in &patch.pods {
            let Some(old) = self.pods.get(key) else { continue };
            let stays =
                |address: &&IpAddr| next.as_ref().is_some_and(|next| next.0.contains(address));
            let kept: Box<[IpAddr]> = old.0.iter().filter(stays).copied().collect();
            if kept != old.0 {
                self.put_pod(key, (!kept.is_empty()).then_some(Addresses(kept)));
            }
        }
        if patch.whole {
            let named: BTreeSet<&ServiceKey> = patch.services.iter().map(|(key, _)| key).collect();
            let known = self.services.keys().filter(|key| !named.contains(key));
            for key in known.cloned().collect::<Vec<_>>() {
                self.put_service(&key, None);
            }
            let named: BTreeSet<&ObjectKey> = patch.pods.iter().map(|(key, _)| key).collect();
            let known = self.pods.keys().filter(|key| !named.contains(key));
            for key in known.cloned().collect::<Vec<_>>() {
                self.put_pod(&key, None);
            }
            for (_, there) in self.namespaces.values_mut() {
                *there = false;
            }
        }
    }

    /// Makes it so.
    pub fn publish(&mut self, patch: Patch) {
        self.retract(&patch);
        self.serial = self.serial.wrapping_add(1);
        self.ready |= patch.whole;
        self.knows_namespaces = patch.knows_namespaces;
        for (key, entry) in patch.services {
            self.put_service(&key, entry);
        }
        for (key, addresses) in patch.pods {
            self.put_pod(&key, addresses);
        }
        for (name, there) in patch.namespaces {
            let (services, known) = self.namespaces.entry(name.clone()).or_default();
            *known = there;
            if !there && *services == 0 {
                self.namespaces.remove(&name);
            }
        }
        if patch.whole {
            self.namespaces.retain(|_, (services, there)| *services > 0 || *there);
        }
    }

    fn put_service(&mut self, key: &ServiceKey, entry: Option<Entry>) {
        if let Some(old) = self.services.get(key) {
            for address in old.addresses() {
                release(&mut self.by_address, address, key);
            }
        }
        for address in entry.iter().flat_map(Entry::addresses) {
            hold(&mut self.by_address, address, key);
        }
        let came = entry.is_some();
        let went = match entry {
            Some(entry) => self.services.insert(key.clone(), entry).is_some(),
            None => self.services.remove(key).is_some(),
        };
        if came != went {
            let name = key.namespace();
            if !self.namespaces.contains_key(name) {
                self.namespaces.insert(name.into(), (0, false));
            }
            if let Some((services, there)) = self.namespaces.get_mut(name) {
                *services = if came { *services + 1 } else { services.saturating_sub(1) };
                if *services == 0 && !*there {
                    self.namespaces.remove(name);
                }
            }
        }
    }

    fn put_pod(&mut self, key: &ObjectKey, addresses: Option<Addresses>) {
        if let Some(old) = self.pods.remove(key) {
            for address in old.0 {
                release(&mut self.pod_at, address, key);
            }
        }
        if let Some(new) = addresses {
            for address in &new.0 {
                hold(&mut self.pod_at, *address, key);
            }
            self.pods.insert(key.clone(), new);
        }
    }

    /// A Service by its namespace and name, in lower case as all of theirs are.
    #[must_use]
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        let mut buffer = [0; 128];
        let length = namespace.len() + 1 + name.len();
        let text = buffer.get_mut(..length)?;
        text[..namespace.len()].copy_from_slice(namespace.as_bytes());
        text[namespace.len()] = b'/';
        text[namespace.len() + 1..].copy_from_slice(name.as_bytes());
        self.services.get(&Wanted(std::str::from_utf8(text).ok()?))
    }

    /// The Services that have this address, or an endpoint there.
    pub fn services_at(&self, address: IpAddr) -> impl Iterator<Item = (&ServiceKey, &Entry)> {
        let holders = self.by_address.get(&address).into_iter().flat_map(Holders::iter);
        holders.filter_map(|key| self.services.get_key_value(key))
    }

    /// The pod that has this address: none when two claim it, for then nobody can tell.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        match self.pod_at.get(&address)? {
            Holders::One(key) => Some(key),
            Holders::Many(_) => None,
        }
    }

    /// Whether a pod of this namespace has this address.
    #[must_use]
    pub fn has_pod(&self, namespace: &str, address: IpAddr) -> bool {
        let holders = self.pod_at.get(&address).into_iter().flat_map(Holders::iter);
        holders.into_iter().any(|key| key.namespace() == namespace)
    }

    /// Whether there is such a namespace: it has Services, or is known by itself. While nothing is known of namespaces,
    /// every one may be there.
    #[must_use]
    pub fn has_namespace(&self, name: &str) -> bool {
        !self.knows_namespaces || self.namespaces.contains_key(name)
    }

    /// Whether everything was published once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Counts changes.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many Services and pods are known.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.pods.len())
    }
}

/// Facts many ask and one changes.
pub type SharedFacts = Arc<std::sync::RwLock<Facts>>;
