//! `v1` Pod and Namespace.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::{Findings, Parsed, labels};
use crate::{
    Kind, Labels, NamedPort, Namespace, NodeName, Pod, PodAddresses, PodDetails, PodPhase,
    Protocol, Report,
};

/// Annotations that are ours.
const OURS: &str = "fairway.dev/";

impl TryFrom<&api::Pod> for Parsed<Pod> {
    type Error = Report;

    fn try_from(object: &api::Pod) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::Pod, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
        let phase = match status.and_then(|status| status.phase.as_deref()) {
            Some("Running") => PodPhase::Running,
            Some("Succeeded" | "Failed") => PodPhase::Finished,
            _ => PodPhase::Pending,
        };
        let value = Pod {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            node: spec
                .and_then(|spec| spec.node_name.as_deref())
                .filter(|name| !name.is_empty())
                .map(NodeName::new),
            addresses: status.map(|status| addresses(status, &mut findings)).unwrap_or_default(),
            labels: labels(meta.labels.as_ref()),
            ports: spec.map(|spec| ports(spec, &mut findings)).unwrap_or_default(),
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            phase,
            terminating: meta.deletion_timestamp.is_some(),
            details: details(object),
        };
        Ok(Self { value, reports: findings.reports })
    }
}

fn addresses(status: &api::PodStatus, findings: &mut Findings) -> PodAddresses {
    let listed = status.pod_ips.iter().flatten().map(|entry| &entry.ip);
    let single = status.pod_ip.iter().filter(|_| status.pod_ips.is_none());
    let mut parsed = Vec::new();
    for text in listed.chain(single).filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(address) => parsed.push(address),
            Err(_) => findings.warn(
                "BadAddress",
                format!("pod address {text:?} is not an IP address; it is not used"),
                "this is a fault of the kubelet or its container runtime",
            ),
        }
    }
    parsed.into_iter().collect()
}

fn ports(spec: &api::PodSpec, findings: &mut Findings) -> Arc<[NamedPort]> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let mut named: Vec<NamedPort> = Vec::new();
    for port in spec.containers.iter().chain(sidecars).flat_map(|one| one.ports.iter().flatten()) {
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        let Some(protocol) = Protocol::parse(port.protocol.as_deref().unwrap_or_default()) else {
            continue;
        };
        let Some(number) = findings.port("containerPort", port.container_port) else { continue };
        if !named.iter().any(|known| &*known.name == name && known.protocol == protocol) {
            named.push(NamedPort { name: name.into(), protocol, port: number });
        }
    }
    named.into()
}

fn details(object: &api::Pod) -> Option<Box<PodDetails>> {
    let spec = object.spec.as_ref();
    let text = |field: Option<&String>| Box::from(field.map_or("", String::as_str));
    let annotations = object.metadata.annotations.iter().flatten();
    let details = PodDetails {
        hostname: text(spec.and_then(|spec| spec.hostname.as_ref())),
        subdomain: text(spec.and_then(|spec| spec.subdomain.as_ref())),
        annotations: annotations
            .filter(|(name, _)| name.starts_with(OURS))
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect::<Labels>(),
    };
    (details != PodDetails::default()).then(|| Box::new(details))
}

impl TryFrom<&api::Namespace> for Parsed<Namespace> {
    type Error = Report;

    fn try_from(object: &api::Namespace) -> Result<Self, Report> {
        let meta = &object.metadata;
        let findings = Findings::about(Kind::Namespace, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let value = Namespace {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            labels: labels(meta.labels.as_ref()),
        };
        Ok(Self { value, reports: findings.reports })
    }
}
