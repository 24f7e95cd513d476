//! `v1` Service.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Findings, Parsed, unusable};
use crate::{
    BALANCE_ANNOTATION, Balance, ClusterIps, External, Kind, LoadBalancerIngress, Protocol, Report,
    Service, ServicePort, ServiceType, TrafficDistribution, TrafficPolicy, WEIGHTS_ANNOTATION,
    WeightRule,
};

/// The API's default, three hours.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;
/// The API's maximum, one day.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

impl TryFrom<&api::Service> for Parsed<Service> {
    type Error = Report;

    fn try_from(object: &api::Service) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::Service, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let Some(spec) = &object.spec else {
            return Err(findings.error(
                "NoSpec",
                "the Service has no spec".into(),
                "write spec.ports",
            ));
        };
        let has_label =
            |name: &str| meta.labels.as_ref().is_some_and(|labels| labels.contains_key(name));
        let kind = match spec.type_.as_deref() {
            None | Some("ClusterIP" | "") => ServiceType::ClusterIp,
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            Some(other) => {
                return Err(findings.error(
                    "UnknownType",
                    format!("spec.type {other:?} is not known"),
                    "use ClusterIP, NodePort, LoadBalancer or ExternalName",
                ));
            }
        };
        let (cluster_ips, no_address) = cluster_ips(spec, &mut findings);
        let ports = ports(spec, &mut findings);
        let affinity_seconds = affinity(spec, &mut findings);
        let internal_policy =
            policy("internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut findings);
        let external_policy =
            policy("externalTrafficPolicy", spec.external_traffic_policy.as_deref(), &mut findings);
        let distribution = match spec.traffic_distribution.as_deref() {
            Some("PreferClose" | "PreferSameZone") => TrafficDistribution::SameZone,
            Some("PreferSameNode") => TrafficDistribution::SameNode,
            _ => TrafficDistribution::Any,
        };
        let external = external(object, spec, &mut findings);
        let balance = balance(meta, affinity_seconds.is_some(), &mut findings);
        let weights = weights(meta, &mut findings);
        let service = Service {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            kind,
            cluster_ips,
            headless: no_address || has_label(HEADLESS),
            foreign_proxy: has_label(PROXY_NAME),
            affinity_seconds,
            internal_policy,
            external_policy,
            distribution,
            balance,
            weights,
            ports,
            external,
            external_name: (kind == ServiceType::ExternalName)
                .then(|| spec.external_name.as_deref().unwrap_or_default().into()),
        };
        Ok(Self { value: service, reports: findings.reports })
    }
}

/// The cluster addresses, and whether the Service says it wants none.
fn cluster_ips(spec: &api::ServiceSpec, findings: &mut Findings) -> (ClusterIps, bool) {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let texts = if listed.is_empty() { spec.cluster_ip.as_slice() } else { listed };
    let mut ips = ClusterIps::default();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        if text == "None" {
            return (ClusterIps::default(), true);
        }
        match address("clusterIPs", text, findings) {
            Some(IpAddr::V4(v4)) => ips.v4 = Some(v4),
            Some(IpAddr::V6(v6)) => ips.v6 = Some(v6),
            None => {}
        }
    }
    (ips, false)
}

fn address(field: &str, text: &str, findings: &mut Findings) -> Option<IpAddr> {
    let parsed: Option<IpAddr> = text.parse().ok();
    let wrong = match parsed {
        None => Some("is not an IP address"),
        Some(address) => unusable(address),
    };
    match wrong {
        None => parsed,
        Some(wrong) => {
            findings.warn(
                "BadAddress",
                format!("{field} {text:?} {wrong}; it is not served"),
                "write a unicast IPv4 or IPv6 address, without leading zeros",
            );
            None
        }
    }
}

fn ports(spec: &api::ServiceSpec, findings: &mut Findings) -> Box<[ServicePort]> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(number) = findings.port("port", port.port) else { continue };
        let text = port.protocol.as_deref().unwrap_or_default();
        let Some(protocol) = Protocol::parse(text) else {
            findings.warn(
                "UnknownProtocol",
                format!("protocol {text:?} of port {number} is not known; the port is not served"),
                "use TCP, UDP or SCTP",
            );
            continue;
        };
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(value) => findings.port("nodePort", value).and_then(NonZeroU16::new),
        };
        ports.push(ServicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol,
            port: number,
            node_port,
        });
    }
    ports.into()
}

fn affinity(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<NonZeroU32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds =
        config.and_then(|client| client.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    let clamped = seconds.clamp(1, MAX_AFFINITY_SECONDS);
    if clamped != seconds {
        findings.warn(
            "AffinityOutOfRange",
            format!("sessionAffinityConfig.clientIP.timeoutSeconds {seconds} is out of range; {clamped} is used"),
            "use 1 to 86400 seconds",
        );
    }
    u32::try_from(clamped).ok().and_then(NonZeroU32::new)
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let text = meta.annotations.as_ref()?.get(name)?.trim();
    (!text.is_empty()).then_some(text)
}

fn balance(meta: &ObjectMeta, is_affine: bool, findings: &mut Findings) -> Balance {
    let Some(text) = annotation(meta, BALANCE_ANNOTATION) else { return Balance::Random };
    let Some(balance) = Balance::parse(text) else {
        findings.warn(
            "UnknownBalance",
            format!("{BALANCE_ANNOTATION} {text:?} is not known; random is used"),
            "use random, round-robin, source-hash, maglev or least-connections",
        );
        return Balance::Random;
    };
    if is_affine && balance != Balance::Random {
        findings.warn(
            "BalanceHasNoEffect",
            format!("{BALANCE_ANNOTATION} {text:?} has no effect beside sessionAffinity: ClientIP; a client's first endpoint is drawn at random"),
            "remove one of the two; source-hash gives affinity without remembering clients",
        );
        return Balance::Random;
    }
    balance
}

fn weights(meta: &ObjectMeta, findings: &mut Findings) -> Box<[WeightRule]> {
    let mut rules = Vec::new();
    for entry in annotation(meta, WEIGHTS_ANNOTATION).into_iter().flat_map(|text| text.split(',')) {
        match WeightRule::parse(entry.trim()) {
            Ok(rule) => rules.push(rule),
            Err(why) => findings.warn(
                "BadWeight",
                format!("entry {entry:?} of {WEIGHTS_ANNOTATION} {why}; it is left out"),
                "write ADDRESS, ADDRESS/PREFIX, zone:NAME, node:NAME or *, then =WEIGHT, joined by commas",
            ),
        }
    }
    rules.into()
}

fn policy(field: &str, text: Option<&str>, findings: &mut Findings) -> TrafficPolicy {
    match text {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            findings.warn(
                "UnknownPolicy",
                format!("{field} {other:?} is not known; Cluster is used"),
                "use Cluster or Local",
            );
            TrafficPolicy::Cluster
        }
    }
}

fn external(
    object: &api::Service,
    spec: &api::ServiceSpec,
    findings: &mut Findings,
) -> Option<Box<External>> {
    let addresses = spec.external_ips.iter().flatten();
    let addresses: Vec<IpAddr> =
        addresses.filter_map(|text| address("externalIPs", text, findings)).collect();
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let mut ingress = Vec::new();
    for entry in balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten() {
        let Some(text) = &entry.ip else { continue };
        let Some(address) = address("status.loadBalancer.ingress", text, findings) else {
            continue;
        };
        ingress.push(LoadBalancerIngress {
            address,
            proxied: entry.ip_mode.as_deref() == Some("Proxy"),
        });
    }
    let mut source_ranges = Vec::new();
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        match text.trim().parse::<IpNet>() {
            Ok(range) => source_ranges.push(range.trunc()),
            Err(_) => findings.warn(
                "BadSourceRange",
                format!("loadBalancerSourceRanges {text:?} is not a CIDR; it admits nobody"),
                "write address/prefix, for example 192.0.2.0/24",
            ),
        }
    }
    let health_check_node_port = match spec.health_check_node_port {
        None | Some(0) => 0,
        Some(value) => findings.port("healthCheckNodePort", value).unwrap_or(0),
    };
    let external = External { addresses, ingress, source_ranges, health_check_node_port };
    (external != External::default()).then(|| Box::new(external))
}
