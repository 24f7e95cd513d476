//! What becomes of a packet, said from the same steps the kernel's chains are made of, with the name of who says so.

use std::net::IpAddr;

use model::{ObjectKey, Protocol};

use crate::explain::{Nearest, nearest};
use crate::facts::{Known, has};
use crate::planner::Planner;
use crate::program::Severed;
use crate::ranges;
use crate::rule::{Action, Body, Direction, End, Origin, Step};

/// The first packet of a connection, as it is on its way from pod to pod: destinations translated, sources not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// The transport protocol's number.
    pub protocol: u8,
    /// The destination port; 0 for protocols without.
    pub port: u16,
}

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// A pod and itself.
    Itself,
    /// This rule allows it.
    Rule(Origin),
    /// This rule of the administrator denies it.
    Denied(Origin),
    /// The pod is isolated by these policies, and none of their rules allows it.
    Isolation {
        /// The policies.
        policies: Vec<ObjectKey>,
        /// They only audit: it goes on all the same.
        audit: bool,
        /// The rule that would have been the least wrong one.
        nearest: Option<Nearest>,
    },
}

/// What one of the two pods says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The pod.
    pub pod: ObjectKey,
    /// What the packet is to it.
    pub direction: Direction,
    /// Why it may pass, or may not.
    pub by: By,
    /// Connections that are denied from now on may end by themselves.
    pub drain: bool,
}

impl Finding {
    /// Whether the packet may pass.
    #[must_use]
    pub fn allows(&self) -> bool {
        !matches!(&self.by, By::Isolation { audit: false, .. } | By::Denied(_))
    }
}

/// What the pods of this node say of a packet; nothing of an end that is no pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The sender's side.
    pub egress: Option<Finding>,
    /// The receiver's side.
    pub ingress: Option<Finding>,
}

impl Judgement {
    /// Whether the packet passes this node.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.findings().all(Finding::allows)
    }

    /// What was said, the sender's side first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.egress.iter().chain(&self.ingress)
    }

    /// Whether a connection under way that is denied now is cut.
    #[must_use]
    pub fn cuts(&self) -> bool {
        self.findings().any(|finding| !finding.allows() && !finding.drain)
    }
}

/// The other end of a packet, as a step sees it.
pub(crate) struct Other<'a> {
    pub(crate) address: IpAddr,
    pub(crate) pod: Option<(&'a ObjectKey, &'a Known)>,
}

impl Planner {
    /// What becomes of a packet that is forwarded here.
    #[must_use]
    pub fn judge(&self, traffic: &Traffic) -> Judgement {
        Judgement {
            egress: self.side(traffic, Direction::Egress),
            ingress: self.side(traffic, Direction::Ingress),
        }
    }

    /// Whether the answers of a flow that is denied would bring it back: they pass, and no rule says that they may.
    #[must_use]
    pub fn revives(&self, severed: &Severed) -> bool {
        let judgement = self.judge(&severed.answer());
        judgement.allows() && !judgement.findings().any(|it| matches!(it.by, By::Rule(_)))
    }

    fn side(&self, traffic: &Traffic, direction: Direction) -> Option<Finding> {
        let (own, other) = match direction {
            Direction::Ingress => (traffic.destination, traffic.source),
            Direction::Egress => (traffic.source, traffic.destination),
        };
        let (pod, known) = self.pod_at(own).filter(|(_, known)| known.local)?;
        let finding = |by, drain| Some(Finding { pod: pod.clone(), direction, by, drain });
        if own == other {
            return finding(By::Itself, false);
        }
        debug_assert!(known.local);
        let Some(body) = self.body_of(pod, direction) else {
            return finding(By::NotIsolated, false);
        };
        let other = Other { address: other, pod: self.pod_at(other) };
        let matched = |steps: &'_ [Step]| {
            let matched = steps.iter().find(|it| self.matches(it, direction, &other, traffic));
            matched.map(|step| (step.action, step.origin.clone()))
        };
        match matched(&body.admin) {
            Some((Action::Allow, origin)) => return finding(By::Rule(origin), false),
            Some((Action::Deny, origin)) => return finding(By::Denied(origin), false),
            Some((Action::Pass, _)) | None => {}
        }
        match matched(&body.steps) {
            Some((Action::Allow, origin)) => return finding(By::Rule(origin), false),
            Some((Action::Deny, origin)) => return finding(By::Denied(origin), false),
            Some((Action::Pass, _)) => return finding(By::NotIsolated, false),
            None if body.end == End::Allow => return finding(By::NotIsolated, false),
            None => {}
        }
        finding(self.isolation(body, &other, traffic), body.drain)
    }

    fn isolation(&self, body: &Body, other: &Other<'_>, traffic: &Traffic) -> By {
        By::Isolation {
            policies: body.policies.clone(),
            audit: body.end == End::Audit,
            nearest: nearest(self, body, other, traffic),
        }
    }

    fn matches(
        &self,
        step: &Step,
        direction: Direction,
        other: &Other<'_>,
        traffic: &Traffic,
    ) -> bool {
        self.meets_numbers(step, traffic) && self.is_peer(step, other)
            || direction == Direction::Egress && self.meets_named(step, other, traffic)
    }

    /// Whether the other end is one of the step's peers.
    pub(crate) fn is_peer(&self, step: &Step, other: &Other<'_>) -> bool {
        let Some(peers) = &step.peers else { return true };
        let in_blocks = peers
            .blocks
            .as_ref()
            .is_some_and(|(_, blocks)| ranges::contains(blocks, other.address));
        in_blocks
            || peers.group.as_ref().is_some_and(|(_, group)| {
                other.pod.is_some_and(|(key, known)| {
                    has(group, key.namespace(), &self.labels_of(key), &known.labels)
                })
            })
    }

    /// Whether the port is one of the step's numbers.
    pub(crate) fn meets_numbers(&self, step: &Step, traffic: &Traffic) -> bool {
        let Some(ports) = &step.ports else { return true };
        ports.ranges.iter().any(|(protocol, first, last)| {
            protocol.number() == traffic.protocol && (*first..=*last).contains(&traffic.port)
        })
    }

    /// Whether the port is one the receiving pod, a peer of the step, has by a name of the step.
    pub(crate) fn meets_named(&self, step: &Step, other: &Other<'_>, traffic: &Traffic) -> bool {
        let Some(ports) = &step.ports else { return false };
        let Some((key, known)) = other.pod else { return false };
        let Some(protocol) = Protocol::from_number(traffic.protocol) else { return false };
        let called = |(of, name): &(Protocol, std::sync::Arc<str>)| {
            *of == protocol && known.port(name, protocol) == Some(traffic.port)
        };
        ports.named.iter().any(called)
            && step.named_group().is_some_and(|(_, group)| {
                has(&group, key.namespace(), &self.labels_of(key), &known.labels)
            })
    }
}
