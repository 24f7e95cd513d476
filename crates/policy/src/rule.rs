//! The pure middle: what may come into or go out of a pod, as steps one after the other. It knows neither API objects nor
//! a kernel. What is equal has an equal number, which names its chain or set.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use model::{ObjectKey, Protocol, Selector};

/// From the pod's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// `ingress` or `egress`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The rule of a policy something comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The policy.
    pub policy: ObjectKey,
    /// Of the direction concerned.
    pub direction: Direction,
    /// The rule's place in the policy's list, from 0.
    pub rule: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.rule)
    }
}

/// A number that stands for what it was made of.
pub(crate) type Id = u64;

/// The number of a value. Two values with one number are as likely as a guessed 64-bit number; who could make two collide
/// would confuse two policies of their own.
pub(crate) fn id_of(value: &impl Hash) -> Id {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// In which namespaces pods are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// In this one.
    One(Arc<str>),
    /// In those with these labels.
    Matching(Selector),
}

/// Pods that may be at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodPeer {
    pub(crate) scope: Scope,
    pub(crate) pods: Selector,
}

/// Pods any of these mean; sorted.
pub(crate) type Group = Arc<[PodPeer]>;
/// First and last addresses of ranges that do not touch, by family and address.
pub(crate) type Blocks = Arc<[(IpAddr, IpAddr)]>;

/// Who may be at the other end: a member of the group, or an address of the blocks.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) group: Option<(Id, Group)>,
    pub(crate) blocks: Option<(Id, Blocks)>,
}

impl Peers {
    pub(crate) fn new(mut pods: Vec<PodPeer>, blocks: Vec<(IpAddr, IpAddr)>) -> Self {
        pods.sort();
        pods.dedup();
        let group = (!pods.is_empty()).then(|| (id_of(&pods), pods.into()));
        let blocks = (!blocks.is_empty()).then(|| (id_of(&blocks), blocks.into()));
        Self { group, blocks }
    }

    fn ids(&self) -> (Option<Id>, Option<Id>) {
        (self.group.as_ref().map(|it| it.0), self.blocks.as_ref().map(|it| it.0))
    }
}

impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        self.ids() == other.ids()
    }
}

impl Eq for Peers {}

impl Hash for Peers {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.ids().hash(state);
    }
}

/// On which ports of the pod that receives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    /// Protocol, first and last; ranges of one protocol do not touch. 0 to 65535 is all of a protocol.
    pub(crate) ranges: Vec<(Protocol, u16, u16)>,
    /// Of the receiving pod, by name. Only where that is the other end.
    pub(crate) named: Vec<(Protocol, Arc<str>)>,
}

/// A set of the kernel that follows from what policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Collection {
    /// The addresses of a group.
    Group(Id),
    /// Where the pods of a group have a port of a name.
    Named(Id),
    /// Ranges of addresses.
    Blocks(Id),
}

/// What a collection is made of.
#[derive(Clone, Debug)]
pub(crate) enum Members {
    Group(Group),
    Named(Group, Protocol, Arc<str>),
    Blocks(Blocks),
}

impl Members {
    /// The pods that are in it.
    pub(crate) fn group(&self) -> Option<&Group> {
        match self {
            Self::Group(group) | Self::Named(group, ..) => Some(group),
            Self::Blocks(_) => None,
        }
    }
}

/// What a step does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// What comes after this tier decides.
    Pass,
}

/// One rule; the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Step {
    pub(crate) origin: Origin,
    pub(crate) action: Action,
    /// `None`: everybody.
    pub(crate) peers: Option<Peers>,
    /// `None`: every port of every protocol.
    pub(crate) ports: Option<Ports>,
}

impl Step {
    /// Whether any port is allowed by its number.
    pub(crate) fn has_numbers(&self) -> bool {
        self.ports.as_ref().is_none_or(|ports| !ports.ranges.is_empty())
    }

    /// The ports meant by their name in the receiving pod, each with its collection.
    pub(crate) fn named(&self) -> impl Iterator<Item = (Collection, Members)> + '_ {
        let group = self.named_group();
        let named = self.ports.iter().flat_map(|ports| &ports.named);
        named.filter_map(move |(protocol, name)| {
            let (id, group) = group.clone()?;
            let collection = Collection::Named(id_of(&(id, protocol, name)));
            Some((collection, Members::Named(group, *protocol, name.clone())))
        })
    }

    /// All collections it needs.
    pub(crate) fn collections(&self) -> Vec<(Collection, Members)> {
        let mut all: Vec<_> = self.named().collect();
        if let Some(peers) = self.peers.as_ref().filter(|_| self.has_numbers()) {
            let group = peers.group.clone();
            all.extend(group.map(|(id, group)| (Collection::Group(id), Members::Group(group))));
            let blocks = peers.blocks.clone();
            all.extend(
                blocks.map(|(id, blocks)| (Collection::Blocks(id), Members::Blocks(blocks))),
            );
        }
        all
    }

    /// The group of pods whose named ports are meant where `peers` says everybody.
    pub(crate) fn named_group(&self) -> Option<(Id, Group)> {
        match &self.peers {
            Some(peers) => peers.group.clone(),
            None => {
                let all = Selector::everything();
                let pods = vec![PodPeer { scope: Scope::Matching(all.clone()), pods: all }];
                Peers::new(pods, Vec::new()).group
            }
        }
    }
}

/// What becomes of a packet no step matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is noted and goes on.
    Audit,
}

/// All that applies to one pod in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Body {
    pub(crate) direction: Direction,
    /// The NetworkPolicies that isolate the pod, sorted.
    pub(crate) policies: Vec<ObjectKey>,
    /// The administrator's, asked first.
    pub(crate) admin: Vec<Step>,
    /// Those of the NetworkPolicies or, where none isolates the pod, of the baseline.
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    /// Connections that are denied from now on may end by themselves.
    pub(crate) drain: bool,
}

impl Body {
    /// All steps.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Step> {
        self.admin.iter().chain(&self.steps)
    }

    /// Whether anything may be kept from the pod.
    pub(crate) fn denies(&self) -> bool {
        self.end == End::Deny || self.all().any(|step| step.action == Action::Deny)
    }
}
