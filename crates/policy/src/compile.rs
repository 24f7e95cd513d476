//! Policies to steps, and the steps that apply to one pod.

use std::sync::Arc;

use model::{NetworkPolicy, ObjectKey, PolicyPeer, PolicyPort, PolicyRule, Uid};

use crate::facts::Known;
use crate::ranges;
use crate::rule::{Body, Direction, End, Origin, Peers, PodPeer, Ports, Scope, Step};

/// A policy made ready: the groups of its peers have their numbers.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) key: ObjectKey,
    pub(crate) uid: Option<Uid>,
    /// The pods it isolates.
    pub(crate) subject: PodPeer,
    ingress: Option<Vec<Step>>,
    egress: Option<Vec<Step>>,
    audit: bool,
    drain: bool,
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
            audit: policy.audit,
            drain: policy.drain,
        }
    }

    /// Names of ports that something may come in by, and the pod does not have.
    pub(crate) fn unknown_ports<'a>(&'a self, pod: &'a Known) -> impl Iterator<Item = &'a str> {
        let steps = self.ingress.iter().flatten();
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
    Step { origin, peers, ports }
}

/// What applies to a pod in one direction, given the policies that select it, sorted; `None` when none isolates it.
///
/// A policy that only audits isolates nobody: where others isolate the pod, it has nothing to say.
pub(crate) fn body(policies: &[&Compiled], direction: Direction, pod: &Known) -> Option<Body> {
    let about = |audit| {
        let all = policies.iter().filter(move |policy| policy.audit == audit);
        all.filter_map(move |policy| Some((*policy, policy.steps(direction)?)))
    };
    let audit = about(false).next().is_none();
    let chosen: Vec<(&Compiled, &[Step])> = about(audit).collect();
    if chosen.is_empty() {
        return None;
    }
    let steps = chosen.iter().flat_map(|(_, steps)| steps.iter());
    Some(Body {
        direction,
        policies: chosen.iter().map(|(policy, _)| policy.key.clone()).collect(),
        steps: steps.map(|step| resolved(step, direction, pod)).collect(),
        end: if audit { End::Audit } else { End::Deny },
        drain: chosen.iter().all(|(policy, _)| policy.drain),
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
