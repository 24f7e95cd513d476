//! Why nothing allowed it: the rule that came nearest, and what it lacked.

use std::fmt;

use model::{Labels, Requirement, Selector};

use crate::judge::{Other, Traffic};
use crate::planner::Planner;
use crate::rule::{Body, Origin, PodPeer, Scope, Step};

/// The rule that came nearest to allowing a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The rule.
    pub rule: Origin,
    /// What it lacked.
    pub lacks: Vec<Reason>,
}

/// One thing a rule lacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The port is not one of these.
    Port {
        /// What was asked for, as `TCP/80`.
        asked: String,
        /// What the rule allows.
        allowed: String,
    },
    /// The other end is no pod, and the rule allows pods or other addresses only.
    NoPod {
        /// Its address.
        address: String,
    },
    /// A label of the other pod.
    PodLabel {
        /// What it has to be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// A label of the other pod's namespace, or the namespace itself.
    Namespace {
        /// What it has to be.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The rule allows nobody: what it says cannot be read.
    Nobody,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { asked, allowed } => {
                write!(f, "it allows {allowed}, the packet is for {asked}")
            }
            Self::NoPod { address } => {
                write!(f, "{address} is no pod and in none of its blocks")
            }
            Self::PodLabel { wanted, found } => {
                write!(f, "it wants pods with {wanted}, this one has {found}")
            }
            Self::Namespace { wanted, found } => {
                write!(f, "it wants namespaces with {wanted}, this one has {found}")
            }
            Self::Nobody => f.write_str("it allows nobody (what it says cannot be read)"),
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.rule)?;
        for (at, reason) in self.lacks.iter().enumerate() {
            write!(f, "{}{reason}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// The rule of an isolated pod that lacks least; of equal ones the first.
pub(crate) fn nearest(
    planner: &Planner,
    body: &Body,
    other: &Other<'_>,
    traffic: &Traffic,
) -> Option<Nearest> {
    let lacking = body.steps.iter().map(|step| {
        let lacks = lacks(planner, step, other, traffic);
        Nearest { rule: step.origin.clone(), lacks }
    });
    lacking.min_by_key(|nearest| nearest.lacks.len())
}

fn lacks(planner: &Planner, step: &Step, other: &Other<'_>, traffic: &Traffic) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if !planner.is_peer(step, other) {
        reasons.extend(wrong_peer(planner, step, other));
    }
    if !planner.meets_numbers(step, traffic) && !planner.meets_named(step, other, traffic) {
        let asked = spoken(traffic.protocol, traffic.port);
        reasons.push(Reason::Port { asked, allowed: ports(step) });
    }
    reasons
}

/// The fewest labels that would have to be others.
fn wrong_peer(planner: &Planner, step: &Step, other: &Other<'_>) -> Vec<Reason> {
    let Some((_, group)) = step.peers.as_ref().and_then(|peers| peers.group.as_ref()) else {
        let blocks = step.peers.as_ref().is_some_and(|peers| peers.blocks.is_some());
        let address = other.address.to_string();
        return vec![if blocks { Reason::NoPod { address } } else { Reason::Nobody }];
    };
    let Some((key, known)) = other.pod else {
        return vec![Reason::NoPod { address: other.address.to_string() }];
    };
    let of = planner.labels_of(key);
    let wrong = |peer: &PodPeer| {
        let mut reasons = Vec::new();
        match &peer.scope {
            Scope::One(name) if **name != *key.namespace() => reasons.push(Reason::Namespace {
                wanted: format!("the name {name}"),
                found: format!("the name {}", key.namespace()),
            }),
            Scope::One(_) => {}
            Scope::Matching(selector) => {
                let failing = failing(selector, &of);
                reasons.extend(failing.map(|(wanted, found)| Reason::Namespace { wanted, found }));
            }
        }
        let failing = failing(&peer.pods, &known.labels);
        reasons.extend(failing.map(|(wanted, found)| Reason::PodLabel { wanted, found }));
        reasons
    };
    group.iter().map(wrong).min_by_key(Vec::len).unwrap_or_default()
}

/// The requirements labels do not fulfil, and what they have instead.
fn failing<'a>(
    selector: &'a Selector,
    labels: &'a Labels,
) -> impl Iterator<Item = (String, String)> + 'a {
    let failing = selector.requirements().iter().filter(|one| !one.matches(labels));
    failing.map(|requirement: &Requirement| {
        let key = requirement.key();
        let found = match labels.get(key) {
            Some(value) => format!("{key}={value}"),
            None => format!("no label {key}"),
        };
        (requirement.to_string(), found)
    })
}

fn spoken(protocol: u8, port: u16) -> String {
    match model::Protocol::from_number(protocol) {
        Some(protocol) => format!("{protocol}/{port}"),
        None => format!("protocol {protocol}"),
    }
}

fn ports(step: &Step) -> String {
    let Some(ports) = &step.ports else { return "every port".to_owned() };
    let ranges = ports.ranges.iter().map(|(protocol, first, last)| match (first, last) {
        (0, &u16::MAX) => format!("all of {protocol}"),
        (first, last) if first == last => format!("{protocol}/{first}"),
        (first, last) => format!("{protocol}/{first}-{last}"),
    });
    let named = ports.named.iter().map(|(protocol, name)| format!("{protocol}/{name}"));
    let all: Vec<String> = ranges.chain(named).collect();
    if all.is_empty() { "no port the pod has".to_owned() } else { all.join(", ") }
}
