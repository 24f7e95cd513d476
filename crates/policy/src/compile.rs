//! Policies to steps, and the steps that apply to one pod.

use std::sync::Arc;

use model::{
    ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, NetworkPolicy, NodeFacts, ObjectKey,
    PolicyAction, PolicyPeer, PolicyPort, PolicyRule, PolicyTier, Protocol, Selector, Uid,
};

use crate::facts::Known;
use crate::ranges;
use crate::rule::{Action, Body, Direction, End, Origin, Peers, PodPeer, Ports, Scope, Step};

/// A policy made ready: the groups of its peers have their numbers.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) key: ObjectKey,
    pub(crate) uid: Option<Uid>,
    /// The pods it isolates.
    pub(crate) subject: PodPeer,
    tier: Tier,
    ingress: Option<Vec<Step>>,
    egress: Option<Vec<Step>>,
    drain: bool,
}

/// When a policy is asked; of those of the administrator, the lower number goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Admin(u16),
    Network,
    /// A NetworkPolicy that only notes what it would deny.
    Audit,
    Baseline(u16),
}

impl Compiled {
    pub(crate) fn new(policy: &NetworkPolicy) -> Self {
        let namespace: Arc<str> = policy.key.namespace().into();
        let steps = |direction, rules: &Option<Box<[PolicyRule]>>| {
            let rules = rules.as_ref()?.iter().enumerate();
            let step = |(at, rule)| {
                let origin = Origin { policy: policy.key.clone(), direction, rule: at };
                step(origin, &namespace, rule)
            };
            Some(rules.map(step).collect())
        };
        Self {
            key: policy.key.clone(),
            uid: policy.uid,
            ingress: steps(Direction::Ingress, &policy.ingress),
            egress: steps(Direction::Egress, &policy.egress),
            subject: PodPeer { scope: Scope::One(namespace.clone()), pods: policy.pods.clone() },
            tier: if policy.audit { Tier::Audit } else { Tier::Network },
            drain: policy.drain,
        }
    }

    /// A policy of the administrator; `nodes` are those whose addresses its peers may mean.
    pub(crate) fn of_cluster(policy: &ClusterPolicy, nodes: &[&NodeFacts]) -> Self {
        let steps = |direction, rules: &[ClusterRule]| {
            let rules = rules.iter().enumerate();
            let step = |(at, rule)| {
                let origin = Origin { policy: policy.key.clone(), direction, rule: at };
                cluster_step(origin, rule, nodes)
            };
            Some(rules.map(step).collect::<Vec<_>>()).filter(|steps| !steps.is_empty())
        };
        Self {
            key: policy.key.clone(),
            uid: policy.uid,
            ingress: steps(Direction::Ingress, &policy.ingress),
            egress: steps(Direction::Egress, &policy.egress),
            subject: PodPeer {
                scope: Scope::Matching(policy.namespaces.clone()),
                pods: policy.pods.clone(),
            },
            tier: match policy.tier {
                PolicyTier::Admin => Tier::Admin(policy.priority),
                PolicyTier::Baseline => Tier::Baseline(policy.priority),
            },
            drain: false,
        }
    }

    /// Whether it is a policy of the administrator.
    pub(crate) fn is_of_cluster(&self) -> bool {
        matches!(self.tier, Tier::Admin(_) | Tier::Baseline(_))
    }

    /// Names of ports that something may come in by, and the pod does not have.
    pub(crate) fn unknown_ports<'a>(&'a self, pod: &'a Known) -> impl Iterator<Item = &'a str> {
        // The administrator's policies are about pods of many kinds: not all have the port.
        let steps = self.ingress.iter().filter(|_| !self.is_of_cluster()).flatten();
        let named = steps.flat_map(|step| &step.ports).flat_map(|ports| &ports.named);
        named
            .filter(|(protocol, name)| pod.port(name, *protocol).is_none())
            .map(|(_, name)| &**name)
    }

    fn steps(&self, direction: Direction) -> Option<&[Step]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

fn step(origin: Origin, namespace: &Arc<str>, rule: &PolicyRule) -> Step {
    let peers = rule.peers.as_ref().map(|peers| {
        let pods = peers.iter().filter_map(|peer| match peer {
            PolicyPeer::Pods { namespaces, pods } => Some(PodPeer {
                scope: match namespaces {
                    Some(selector) => Scope::Matching(selector.clone()),
                    None => Scope::One(namespace.clone()),
                },
                pods: pods.clone(),
            }),
            PolicyPeer::Block { .. } => None,
        });
        let blocks = peers.iter().filter_map(|peer| match peer {
            PolicyPeer::Block { cidr, except } => Some((cidr, &**except)),
            PolicyPeer::Pods { .. } => None,
        });
        Peers::new(pods.collect(), ranges::blocks(blocks))
    });
    let ports = rule.ports.as_ref().map(|ports| {
        let mut all = Ports::default();
        for port in ports {
            match port {
                PolicyPort::Range(protocol, first, last) => {
                    all.ranges.push((*protocol, *first, *last));
                }
                PolicyPort::Named(protocol, name) => all.named.push((*protocol, name.clone())),
            }
        }
        all.ranges = ranges::ports(&all.ranges);
        all.named.sort();
        all.named.dedup();
        all
    });
    Step { origin, action: Action::Allow, peers, ports }
}

fn cluster_step(origin: Origin, rule: &ClusterRule, nodes: &[&NodeFacts]) -> Step {
    let peers = rule.peers.as_ref().map(|peers| {
        let (mut pods, mut ranges) = (Vec::new(), Vec::new());
        for peer in peers {
            match peer {
                ClusterPeer::Peer(PolicyPeer::Pods { namespaces, pods: chosen }) => {
                    let scope = namespaces.clone().unwrap_or_else(Selector::everything);
                    let scope = Scope::Matching(scope);
                    pods.push(PodPeer { scope, pods: chosen.clone() });
                }
                ClusterPeer::Peer(PolicyPeer::Block { cidr, .. }) => ranges.push(*cidr),
                ClusterPeer::Nodes(selector) => {
                    let chosen = nodes.iter().filter(|node| selector.matches(&node.labels));
                    let addresses = chosen.flat_map(|node| &node.internal_ips);
                    ranges.extend(addresses.map(|address| ipnet::IpNet::from(*address)));
                }
            }
        }
        Peers::new(pods, ranges::blocks(ranges.iter().map(|cidr| (cidr, &[][..]))))
    });
    let ports = rule.ports.as_ref().map(|ports| {
        let mut all = Ports::default();
        for port in ports {
            match port {
                ClusterPort::Port(PolicyPort::Range(protocol, first, last)) => {
                    all.ranges.push((*protocol, *first, *last));
                }
                ClusterPort::Port(PolicyPort::Named(protocol, name)) => {
                    all.named.push((*protocol, name.clone()));
                }
                ClusterPort::Named(name) => {
                    let each = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
                    all.named.extend(each.map(|protocol| (protocol, name.clone())));
                }
            }
        }
        all.ranges = ranges::ports(&all.ranges);
        all.named.sort();
        all.named.dedup();
        all
    });
    let action = match rule.action {
        PolicyAction::Accept => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Pass => Action::Pass,
    };
    Step { origin, action, peers, ports }
}

/// What applies to a pod in one direction, given the policies that select it, sorted by key; `None` when nothing does.
///
/// A policy that only audits isolates nobody: where others isolate the pod, or there is a baseline, it has nothing to say.
pub(crate) fn body(policies: &[&Compiled], direction: Direction, pod: &Known) -> Option<Body> {
    let mut about: Vec<(&Compiled, &[Step])> =
        policies.iter().filter_map(|policy| Some((*policy, policy.steps(direction)?))).collect();
    // Of one tier and priority by name; the API leaves that order open.
    about.sort_by_key(|(policy, _)| policy.tier);
    let of = |chosen: fn(Tier) -> bool| {
        about.iter().copied().filter(move |(policy, _)| chosen(policy.tier)).collect::<Vec<_>>()
    };
    let steps = |policies: &[(&Compiled, &[Step])]| -> Vec<Step> {
        let steps = policies.iter().flat_map(|(_, steps)| steps.iter());
        steps.map(|step| resolved(step, direction, pod)).collect()
    };
    let admin = of(|tier| matches!(tier, Tier::Admin(_)));
    let mut found = [
        (of(|tier| tier == Tier::Network), End::Deny),
        (of(|tier| matches!(tier, Tier::Baseline(_))), End::Allow),
        (of(|tier| tier == Tier::Audit), End::Audit),
    ]
    .into_iter();
    let found = found.find(|(policies, _)| !policies.is_empty());
    if admin.is_empty() && found.is_none() {
        return None;
    }
    let (chosen, end) = found.unwrap_or((Vec::new(), End::Allow));
    let isolating: &[_] = if end == End::Allow { &[] } else { &chosen };
    Some(Body {
        direction,
        policies: isolating.iter().map(|(policy, _)| policy.key.clone()).collect(),
        admin: steps(&admin),
        steps: steps(&chosen),
        end,
        drain: !isolating.is_empty() && isolating.iter().all(|(policy, _)| policy.drain),
    })
}

/// The step with the names of the pod's own ports replaced by their numbers.
fn resolved(step: &Step, direction: Direction, pod: &Known) -> Step {
    let mut step = step.clone();
    if direction == Direction::Ingress
        && let Some(ports) = step.ports.as_mut().filter(|ports| !ports.named.is_empty())
    {
        for (protocol, name) in std::mem::take(&mut ports.named) {
            if let Some(number) = pod.port(&name, protocol) {
                ports.ranges.push((protocol, number, number));
            }
        }
        ports.ranges = ranges::ports(&ports.ranges);
    }
    step
}
