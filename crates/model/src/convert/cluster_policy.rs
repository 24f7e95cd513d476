//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy. What cannot be read fails closed, as the API says: of a rule that
//! accepts it is left out, a rule that denies or passes becomes one that denies everything.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Findings, Parsed, policy::selector};
use crate::{
    ClusterPeer, ClusterPolicy, ClusterPort, ClusterRule, Kind, PolicyAction, PolicyPeer,
    PolicyPort, PolicyTier, Protocol, Report, Selector,
};

/// The object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: ClusterNetworkPolicySpec,
}

/// `spec` of a ClusterNetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicySpec {
    /// `Admin` or `Baseline`.
    pub tier: String,
    /// 0 to 1000.
    pub priority: i64,
    /// `namespaces` or `pods`.
    pub subject: Peer,
    /// In order.
    pub ingress: Vec<Rule>,
    /// In order.
    pub egress: Vec<Rule>,
}

/// A rule of either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// Of ingress.
    pub from: Vec<Peer>,
    /// Of egress.
    pub to: Vec<Peer>,
    /// Every port without them.
    pub protocols: Option<Vec<Value>>,
}

/// A subject or a peer: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peer {
    /// All pods of namespaces.
    pub namespaces: Option<LabelSelector>,
    /// Pods of namespaces.
    pub pods: Option<NamespacedPod>,
    /// Nodes; egress only.
    pub nodes: Option<LabelSelector>,
    /// Ranges; egress only.
    pub networks: Option<Vec<String>>,
    /// Names; egress only.
    pub domain_names: Option<Vec<String>>,
}

/// Pods of namespaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamespacedPod {
    /// The namespaces.
    pub namespace_selector: LabelSelector,
    /// The pods.
    pub pod_selector: LabelSelector,
}

super::pool::custom_resource!(
    ClusterNetworkPolicy,
    "policy.networking.k8s.io",
    "v1alpha2",
    "ClusterNetworkPolicy",
    "clusternetworkpolicies"
);

impl TryFrom<&ClusterNetworkPolicy> for Parsed<ClusterPolicy> {
    type Error = Report;

    fn try_from(object: &ClusterNetworkPolicy) -> Result<Self, Report> {
        let mut findings = Findings::about(Kind::ClusterNetworkPolicy, &object.metadata);
        let spec = &object.spec;
        let last = "correct it; until then the last readable form of the policy stays in effect";
        let wrong = |message: String| findings.error("BadClusterNetworkPolicy", message, last);
        let tier = match spec.tier.as_str() {
            "Admin" => PolicyTier::Admin,
            "Baseline" => PolicyTier::Baseline,
            other => return Err(wrong(format!("tier {other:?} is neither Admin nor Baseline"))),
        };
        let priority = match u16::try_from(spec.priority) {
            Ok(priority) if priority <= 1000 => priority,
            _ => return Err(wrong(format!("priority {} is not from 0 to 1000", spec.priority))),
        };
        let (namespaces, pods) = match pods(&spec.subject) {
            Ok(Some(subject)) => subject,
            Ok(None) => return Err(wrong("subject has neither namespaces nor pods".into())),
            Err(why) => return Err(wrong(format!("subject: {why}"))),
        };
        let mut rules = |side: &str, rules: &[Rule]| -> Box<[ClusterRule]> {
            let read = |(at, one): (usize, &Rule)| {
                rule(&format!("{side}[{at}]"), side == "egress", one, &mut findings)
            };
            rules.iter().enumerate().map(read).collect()
        };
        let (ingress, egress) = (rules("ingress", &spec.ingress), rules("egress", &spec.egress));
        let value = ClusterPolicy {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            generation: object.metadata.generation.unwrap_or(0),
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress,
        };
        Ok(Self { value, reports: findings.reports })
    }
}

fn rule(place: &str, egress: bool, rule: &Rule, findings: &mut Findings) -> ClusterRule {
    let mut whole = true;
    let mut say = |reason: &'static str, message: String| {
        whole = false;
        findings.warn(
            reason,
            format!("{place}{message}; the rule fails closed"),
            "correct it; what accepts matches less meanwhile, what denies or passes denies everything",
        );
    };
    let action = match rule.action.as_str() {
        "Accept" => PolicyAction::Accept,
        "Deny" => PolicyAction::Deny,
        "Pass" => PolicyAction::Pass,
        other => {
            say("UnknownAction", format!(".action {other:?} is not known"));
            PolicyAction::Deny
        }
    };
    let (side, listed) = if egress { ("to", &rule.to) } else { ("from", &rule.from) };
    if listed.is_empty() {
        say("BadPeer", format!(".{side} is empty"));
    }
    let mut peers = Vec::new();
    for (at, peer) in listed.iter().enumerate() {
        match self::peer(peer, egress) {
            Ok(read) => peers.extend(read),
            Err((reason, why)) => say(reason, format!(".{side}[{at}]: {why}")),
        }
    }
    let ports = rule.protocols.as_ref().map(|protocols| {
        let mut ports = Vec::new();
        for (at, protocol) in protocols.iter().enumerate() {
            match self::port(protocol) {
                Some(port) => ports.push(port),
                None => say(
                    "UnknownProtocol",
                    format!(".protocols[{at}]: {protocol} is not understood"),
                ),
            }
        }
        ports.into()
    });
    if !whole && action != PolicyAction::Accept {
        return ClusterRule { action: PolicyAction::Deny, peers: None, ports: None };
    }
    ClusterRule { action, peers: Some(peers.into()), ports }
}

/// Namespaces and pods of a subject or peer that means pods.
fn pods(peer: &Peer) -> Result<Option<(Selector, Selector)>, String> {
    Ok(match (&peer.namespaces, &peer.pods) {
        (Some(namespaces), None) => Some((selector(namespaces)?, Selector::everything())),
        (None, Some(pods)) => {
            Some((selector(&pods.namespace_selector)?, selector(&pods.pod_selector)?))
        }
        _ => None,
    })
}

fn peer(peer: &Peer, egress: bool) -> Result<Vec<ClusterPeer>, (&'static str, String)> {
    let selected = pods(peer).map_err(|why| ("BadSelector", why))?;
    if let Some((namespaces, pods)) = selected {
        let namespaces = Some(namespaces);
        return Ok(vec![ClusterPeer::Peer(PolicyPeer::Pods { namespaces, pods })]);
    }
    match (&peer.nodes, &peer.networks) {
        (Some(nodes), None) if egress => {
            let nodes = selector(nodes).map_err(|why| ("BadSelector", why))?;
            Ok(vec![ClusterPeer::Nodes(nodes)])
        }
        (None, Some(networks)) if egress => {
            let block = |text: &String| match text.parse::<IpNet>() {
                Ok(cidr) => {
                    let except = Box::default();
                    Ok(ClusterPeer::Peer(PolicyPeer::Block { cidr: cidr.trunc(), except }))
                }
                Err(_) => Err(("BadCIDR", format!("{text:?} is not a CIDR"))),
            };
            networks.iter().map(block).collect()
        }
        _ if peer.domain_names.is_some() => {
            Err(("NotSupported", "domainNames are not enforced by this version".into()))
        }
        _ => Err(("BadPeer", "it has none of the fields known here".into())),
    }
}

/// `tcp`, `udp`, `sctp` with `destinationPort`, or `destinationNamedPort`.
fn port(protocol: &Value) -> Option<ClusterPort> {
    let (name, value) = protocol.as_object().filter(|it| it.len() == 1)?.iter().next()?;
    if name == "destinationNamedPort" {
        let name = value.as_str().filter(|name| !name.is_empty())?;
        return Some(ClusterPort::Named(Arc::from(name)));
    }
    let transport = match name.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|port| *port != 0);
    let range = match value.get("destinationPort") {
        None if value.as_object().is_some_and(serde_json::Map::is_empty) => (0, u16::MAX),
        None => return None,
        Some(port) => match (port.get("number"), port.get("range")) {
            (Some(one), None) => (number(one)?, number(one)?),
            (None, Some(range)) => (number(range.get("start")?)?, number(range.get("end")?)?),
            _ => return None,
        },
    };
    let (first, last) = range;
    (first <= last).then_some(ClusterPort::Port(PolicyPort::Range(transport, first, last)))
}
