//! `v1` Node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Findings, Parsed, labels};
use crate::{Kind, NodeFacts, NodeName, Report};

const ZONE: &str = "topology.kubernetes.io/zone";
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

impl TryFrom<&api::Node> for Parsed<NodeFacts> {
    type Error = Report;

    fn try_from(object: &api::Node) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::Node, meta);
        let Some(name) = &meta.name else {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        };
        let mut internal_ips: Vec<IpAddr> = Vec::new();
        let addresses = object.status.as_ref().and_then(|status| status.addresses.as_ref());
        for entry in addresses.into_iter().flatten().filter(|entry| entry.type_ == "InternalIP") {
            match entry.address.parse() {
                Ok(address) if !internal_ips.contains(&address) => internal_ips.push(address),
                Ok(_) => {}
                Err(_) => findings.warn(
                    "BadAddress",
                    format!(
                        "InternalIP {:?} is not an IP address; the node is not reached by it",
                        entry.address
                    ),
                    "check the kubelet's --node-ip",
                ),
            }
        }
        let mut pod_cidrs: Vec<IpNet> = Vec::new();
        let spec = object.spec.as_ref();
        let listed = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        let single = spec.and_then(|spec| spec.pod_cidr.as_ref());
        for text in if listed.is_empty() {
            single.map(std::slice::from_ref).unwrap_or_default()
        } else {
            listed
        } {
            match text.parse::<IpNet>() {
                Ok(cidr) => pod_cidrs.push(cidr.trunc()),
                Err(_) => findings.warn(
                    "BadPodCIDR",
                    format!("podCIDR {text:?} is not a CIDR; pods in it are not reached"),
                    "write address/prefix, for example 10.244.1.0/24",
                ),
            }
        }
        let zone = meta.labels.as_ref().and_then(|labels| labels.get(ZONE));
        let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let leaving = meta.deletion_timestamp.is_some()
            || taints.iter().any(|taint| taint.key == TO_BE_DELETED);
        let facts = NodeFacts {
            name: NodeName::new(name),
            uid: findings.object.uid,
            internal_ips,
            pod_cidrs,
            labels: labels(meta.labels.as_ref()),
            zone: zone.map(|zone| Arc::from(zone.as_str())),
            leaving,
        };
        Ok(Self { value: facts, reports: findings.reports })
    }
}
