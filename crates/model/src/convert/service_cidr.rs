//! `networking.k8s.io/v1` ServiceCIDR.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;

use super::{Findings, Parsed};
use crate::{Kind, Report, ServiceCidr};

impl TryFrom<&api::ServiceCIDR> for Parsed<ServiceCidr> {
    type Error = Report;

    fn try_from(object: &api::ServiceCIDR) -> Result<Self, Report> {
        let meta = &object.metadata;
        let mut findings = Findings::about(Kind::ServiceCidr, meta);
        if meta.name.is_none() {
            return Err(findings.error(
                "NoName",
                "the object has no name".into(),
                "this is a fault of the API server",
            ));
        }
        let mut cidrs: Vec<IpNet> = Vec::new();
        let listed = object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref());
        for text in listed.unwrap_or_default() {
            match text.parse::<IpNet>() {
                Ok(cidr) => cidrs.push(cidr.trunc()),
                Err(_) => findings.warn(
                    "BadServiceCIDR",
                    format!("cidr {text:?} is not a CIDR; unused addresses in it are not refused"),
                    "write address/prefix, for example 10.96.0.0/16",
                ),
            }
        }
        let conditions = object.status.as_ref().and_then(|status| status.conditions.as_deref());
        let ready = conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let value = ServiceCidr {
            key: findings.object.key.clone(),
            cidrs: cidrs.into(),
            ready: ready && meta.deletion_timestamp.is_none(),
        };
        Ok(Self { value, reports: findings.reports })
    }
}
