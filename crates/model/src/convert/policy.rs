//! `networking.k8s.io/v1` NetworkPolicy. What cannot be read is left out of what is allowed, and said.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Findings, Parsed};
use crate::{
    Family, Kind, NetworkPolicy, POLICY_ESTABLISHED_ANNOTATION, POLICY_MODE_ANNOTATION, PolicyPeer,
    PolicyPort, PolicyRule, Protocol, Report, Requirement, Selector,
};

impl TryFrom<&api::NetworkPolicy> for Parsed<NetworkPolicy> {
    type Error = Report;

    fn try_from(object: &api::NetworkPolicy) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::NetworkPolicy, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let empty = api::NetworkPolicySpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let chosen = spec.pod_selector.as_ref().map_or(Ok(Selector::everything()), selector);
        let pods = match chosen {
            Ok(pods) => pods,
            Err(why) => {
                // For whom it is cannot be guessed; its last good form stays.
                return Err(findings.error(
                    "BadSelector",
                    format!("podSelector {why}"),
                    "correct it; until then the last readable form of the policy stays in effect",
                ));
            }
        };
        let (ingress, egress) = directions(spec, &mut findings);
        let annotation = |name: &str| meta.annotations.as_ref()?.get(name).map(String::as_str);
        let mut chosen = |name: &str, word: &str, otherwise: &str| match annotation(name) {
            None => false,
            Some(text) if text == word => true,
            Some(text) if text == otherwise => false,
            Some(text) => {
                findings.warn(
                    "UnknownAnnotationValue",
                    format!("annotation {name} has no value {text:?}; it counts as {otherwise:?}"),
                    format!("write {word:?} or {otherwise:?}"),
                );
                false
            }
        };
        let audit = chosen(POLICY_MODE_ANNOTATION, "audit", "enforce");
        let drain = chosen(POLICY_ESTABLISHED_ANNOTATION, "drain", "cut");
        let from = |rules: &[api::NetworkPolicyIngressRule], findings: &mut Findings| {
            let read = |(at, rule): (usize, &api::NetworkPolicyIngressRule)| {
                let (peers, ports) = (rule.from.as_deref(), rule.ports.as_deref());
                self::rule(&format!("ingress[{at}]"), "from", peers, ports, findings)
            };
            rules.iter().enumerate().map(read).collect()
        };
        let to = |rules: &[api::NetworkPolicyEgressRule], findings: &mut Findings| {
            let read = |(at, rule): (usize, &api::NetworkPolicyEgressRule)| {
                let (peers, ports) = (rule.to.as_deref(), rule.ports.as_deref());
                self::rule(&format!("egress[{at}]"), "to", peers, ports, findings)
            };
            rules.iter().enumerate().map(read).collect()
        };
        let value = NetworkPolicy {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            generation: meta.generation.unwrap_or(0),
            pods,
            ingress: ingress
                .then(|| from(spec.ingress.as_deref().unwrap_or_default(), &mut findings)),
            egress: egress.then(|| to(spec.egress.as_deref().unwrap_or_default(), &mut findings)),
            audit,
            drain,
        };
        Ok(Self { value, reports: findings.reports })
    }
}

/// Which directions a policy is about: what `policyTypes` says, else ingress, and egress where it has rules.
fn directions(spec: &api::NetworkPolicySpec, findings: &mut Findings) -> (bool, bool) {
    let types = spec.policy_types.as_deref().unwrap_or_default();
    for other in types.iter().filter(|one| *one != "Ingress" && *one != "Egress") {
        findings.warn(
            "UnknownPolicyType",
            format!("policyType {other:?} is not known"),
            "use Ingress and Egress",
        );
    }
    let has = |name: &str| types.iter().any(|one| one == name);
    if types.is_empty() {
        (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()))
    } else {
        (has("Ingress"), has("Egress"))
    }
}

fn rule(
    place: &str,
    side: &str,
    peers: Option<&[api::NetworkPolicyPeer]>,
    ports: Option<&[api::NetworkPolicyPort]>,
    findings: &mut Findings,
) -> PolicyRule {
    let peers = peers.filter(|peers| !peers.is_empty()).map(|peers| {
        let read = |(at, peer)| match self::peer(peer) {
            Ok(peer) => Some(peer),
            Err((reason, why)) => {
                findings.warn(
                    reason,
                    format!("{place}.{side}[{at}]: {why}; it allows nobody"),
                    "correct it; the other entries of the rule stay in effect",
                );
                None
            }
        };
        peers.iter().enumerate().filter_map(read).collect()
    });
    let ports = ports.filter(|ports| !ports.is_empty()).map(|ports| {
        let read = |(at, port)| match self::port(port) {
            Ok(port) => Some(port),
            Err((reason, why)) => {
                findings.warn(
                    reason,
                    format!("{place}.ports[{at}]: {why}; it allows no port"),
                    "correct it; the other entries of the rule stay in effect",
                );
                None
            }
        };
        ports.iter().enumerate().filter_map(read).collect()
    });
    PolicyRule { peers, ports }
}

fn peer(peer: &api::NetworkPolicyPeer) -> Result<PolicyPeer, (&'static str, String)> {
    let by_labels = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    let bad = |field: &'static str| move |why| ("BadSelector", format!("{field} {why}"));
    match (&peer.ip_block, by_labels) {
        (Some(_), true) => {
            Err(("BadPeer", "ipBlock and selectors exclude each other, and it has both".into()))
        }
        (None, false) => {
            Err(("BadPeer", "it has none of ipBlock, podSelector and namespaceSelector".into()))
        }
        (Some(block), false) => self::block(block),
        (None, true) => {
            let namespaces = peer.namespace_selector.as_ref().map(selector).transpose();
            let pods = peer.pod_selector.as_ref().map_or(Ok(Selector::everything()), selector);
            Ok(PolicyPeer::Pods {
                namespaces: namespaces.map_err(bad("namespaceSelector"))?,
                pods: pods.map_err(bad("podSelector"))?,
            })
        }
    }
}

fn block(block: &api::IPBlock) -> Result<PolicyPeer, (&'static str, String)> {
    let read = |text: &str| {
        text.parse::<IpNet>()
            .map(|net| net.trunc())
            .map_err(|_| ("BadCIDR", format!("{text:?} is not a CIDR")))
    };
    let cidr = read(&block.cidr)?;
    let listed = block.except.iter().flatten();
    let except = listed.map(|text| read(text)).collect::<Result<Vec<_>, _>>()?;
    // What is excepted from the other family would except nothing, which nobody means.
    match except.iter().find(|one| Family::of(one.addr()) != Family::of(cidr.addr())) {
        Some(one) => Err(("BadCIDR", format!("except {one} is not of the family of {cidr}"))),
        None => Ok(PolicyPeer::Block { cidr, except: except.into() }),
    }
}

fn port(port: &api::NetworkPolicyPort) -> Result<PolicyPort, (&'static str, String)> {
    let text = port.protocol.as_deref().unwrap_or_default();
    let Some(protocol) = Protocol::parse(text) else {
        return Err(("UnknownProtocol", format!("protocol {text:?} is not known")));
    };
    let number = |number: i32| {
        u16::try_from(number)
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| ("PortOutOfRange", format!("port {number} is not a port")))
    };
    match (&port.port, port.end_port) {
        (None, None) => Ok(PolicyPort::Range(protocol, 0, u16::MAX)),
        (None, Some(_)) => Err(("BadEndPort", "endPort needs a port to start from".into())),
        (Some(IntOrString::Int(first)), last) => {
            let first = number(*first)?;
            let last = last.map_or(Ok(first), number)?;
            if last < first {
                return Err(("BadEndPort", format!("endPort {last} is below port {first}")));
            }
            Ok(PolicyPort::Range(protocol, first, last))
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            Err(("BadEndPort", "endPort cannot go with a port's name".into()))
        }
        (Some(IntOrString::String(name)), None) if name.is_empty() => {
            Err(("BadPortName", "the port's name is empty".into()))
        }
        (Some(IntOrString::String(name)), None) => {
            Ok(PolicyPort::Named(protocol, name.as_str().into()))
        }
    }
}

/// A selector, or what is wrong with it.
pub(super) fn selector(object: &LabelSelector) -> Result<Selector, String> {
    let labels = object.match_labels.iter().flatten();
    let mut all: Vec<Requirement> = labels
        .map(|(key, value)| Requirement::In(key.as_str().into(), [value.as_str().into()].into()))
        .collect();
    for expression in object.match_expressions.iter().flatten() {
        let key = expression.key.as_str().into();
        let values: Box<[_]> =
            expression.values.iter().flatten().map(|value| value.as_str().into()).collect();
        all.push(match (expression.operator.as_str(), values.is_empty()) {
            ("In", false) => Requirement::In(key, values),
            ("NotIn", false) => Requirement::NotIn(key, values),
            ("Exists", true) => Requirement::Exists(key),
            ("DoesNotExist", true) => Requirement::Absent(key),
            (operator @ ("In" | "NotIn"), true) => {
                return Err(format!("has the operator {operator} for {key} without values"));
            }
            (operator @ ("Exists" | "DoesNotExist"), false) => {
                return Err(format!("has the operator {operator} for {key} with values"));
            }
            (operator, _) => {
                return Err(format!("has the unknown operator {operator:?} for {key}"));
            }
        });
    }
    Ok(Selector::new(all))
}
