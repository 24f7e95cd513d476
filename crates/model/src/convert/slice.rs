//! `discovery.k8s.io/v1` EndpointSlice.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;

use super::{Findings, Parsed, unusable};
use crate::{
    AddressType, Conditions, EndpointSlice, Family, Hints, Kind, NodeName, ObjectKey, Protocol,
    Report, SliceEndpoint, SlicePort,
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl TryFrom<&api::EndpointSlice> for Parsed<EndpointSlice> {
    type Error = Report;

    fn try_from(object: &api::EndpointSlice) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::EndpointSlice, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let address_type = match object.address_type.as_str() {
            "IPv4" => AddressType::V4,
            "IPv6" => AddressType::V6,
            "FQDN" => AddressType::Fqdn,
            other => {
                return Err(findings.error(
                    "UnknownAddressType",
                    format!("addressType {other:?} is not known"),
                    "use IPv4, IPv6 or FQDN",
                ));
            }
        };
        // A slice without the label belongs to no Service; it is kept under the empty name, which no Service has.
        let label = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let service =
            ObjectKey::new(findings.object.key.namespace(), label.map_or("", String::as_str));
        let ports = ports(object, &mut findings);
        let endpoints = match address_type.family() {
            Some(family) => endpoints(object, family, &mut findings),
            None => Box::default(),
        };
        let slice = EndpointSlice {
            key: findings.object.key.clone(),
            uid: findings.object.uid,
            service,
            address_type,
            ports,
            endpoints,
        };
        Ok(Self { value: slice, reports: findings.reports })
    }
}

fn ports(object: &api::EndpointSlice, findings: &mut Findings) -> Box<[SlicePort]> {
    let mut ports = Vec::new();
    for port in object.ports.iter().flatten() {
        // No number means "all ports", which a Service port cannot name.
        let Some(number) = port.port.and_then(|number| findings.port("port", number)) else {
            continue;
        };
        let text = port.protocol.as_deref().unwrap_or_default();
        let Some(protocol) = Protocol::parse(text) else {
            findings.warn(
                "UnknownProtocol",
                format!("protocol {text:?} of port {number} is not known; the port is not served"),
                "use TCP, UDP or SCTP",
            );
            continue;
        };
        ports.push(SlicePort {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol,
            port: number,
        });
    }
    ports.into()
}

fn endpoints(
    object: &api::EndpointSlice,
    family: Family,
    findings: &mut Findings,
) -> Box<[SliceEndpoint]> {
    let mut endpoints = Vec::new();
    for endpoint in object.endpoints.iter().flatten() {
        // Consumers use the first address only (KEP-0752; more than one never got a meaning).
        let Some(text) = endpoint.addresses.first() else {
            findings.warn(
                "NoAddress",
                "an endpoint has no address; it gets no traffic".into(),
                "write addresses",
            );
            continue;
        };
        let parsed = text.parse::<IpAddr>();
        let wrong = match parsed {
            Err(_) => Some("is not an IP address"),
            Ok(address) if Family::of(address) != family => {
                Some("is not of the slice's addressType")
            }
            Ok(address) => unusable(address),
        };
        let address = match (parsed, wrong) {
            (Ok(address), None) => address,
            (_, wrong) => {
                findings.warn(
                    "BadAddress",
                    format!(
                        "endpoint address {text:?} {}; it gets no traffic",
                        wrong.unwrap_or_default()
                    ),
                    "write a unicast address of the slice's addressType, without leading zeros",
                );
                continue;
            }
        };
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let hints = endpoint.hints.as_ref().map(|hints| {
            let zones = hints.for_zones.iter().flatten();
            let nodes = hints.for_nodes.iter().flatten();
            Hints {
                zones: zones.map(|zone| Arc::from(zone.name.as_str())).collect(),
                nodes: nodes.map(|node| NodeName::new(&node.name)).collect(),
            }
        });
        endpoints.push(SliceEndpoint {
            address,
            conditions: Conditions {
                ready,
                serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
                terminating: conditions
                    .and_then(|conditions| conditions.terminating)
                    .unwrap_or(false),
            },
            node: endpoint.node_name.as_deref().map(NodeName::new),
            zone: endpoint.zone.as_deref().map(Arc::from),
            hints: hints.filter(|hints| *hints != Hints::default()).map(Box::new),
            hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Box::from),
        });
    }
    endpoints.into()
}
