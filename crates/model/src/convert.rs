//! API objects to model values. A bad part costs that part and yields a [`Report`]; only an object that means nothing at
//! all (no name, no readable address type) is an error. Nothing here panics on any object.

mod cluster_policy;
mod node;
mod pod;
mod policy;
mod pool;
mod service;
mod service_cidr;
mod slice;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Kind, Labels, ObjectKey, ObjectRef, Report, Severity, Uid};

pub use cluster_policy::ClusterNetworkPolicy;
pub use pool::{AddressBlock, AddressBlockSpec, IpPool, IpPoolSpec, LentPart};

/// A value and what had to be left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The value.
    pub value: T,
    /// What is wrong with the object; empty for a good one.
    pub reports: Vec<Report>,
}

/// Collects reports about one object.
struct Findings {
    object: ObjectRef,
    reports: Vec<Report>,
}

impl Findings {
    fn about(kind: Kind, meta: &ObjectMeta) -> Self {
        let key = ObjectKey::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let uid = meta.uid.as_deref().and_then(Uid::parse);
        Self { object: ObjectRef { kind, key, uid }, reports: Vec::new() }
    }

    fn warn(&mut self, reason: &'static str, message: String, hint: impl Into<Cow<'static, str>>) {
        let report = self.report(Severity::Warning, reason, message, hint.into());
        self.reports.push(report);
    }

    fn error(&self, reason: &'static str, message: String, hint: &'static str) -> Report {
        self.report(Severity::Error, reason, message, hint.into())
    }

    fn report(
        &self,
        severity: Severity,
        reason: &'static str,
        message: String,
        hint: Cow<'static, str>,
    ) -> Report {
        Report { object: self.object.clone(), severity, reason, message, hint }
    }

    fn port(&mut self, what: &str, value: i32) -> Option<u16> {
        match u16::try_from(value) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                self.warn(
                    "PortOutOfRange",
                    format!("{what} {value} is not a port"),
                    "use a number from 1 to 65535",
                );
                None
            }
        }
    }
}

fn labels(of: Option<&BTreeMap<String, String>>) -> Labels {
    of.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// Why an address can be nobody's address in a cluster, or `None` if it is fine. These are the API server's own rules
/// for endpoints; a slice can still carry such an address when it was written around the API's validation.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("is the unspecified address")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if link_local {
        Some("is a link-local address")
    } else {
        None
    }
}
