//! ClusterIP, NodePort and health-check port allocation, with explicit state.
//!
//! The state is a set of claims and is rebuilt from the Services at start; nothing here does I/O.
//! Bands follow upstream (KEP-3070): addresses and ports a client asks for may be anywhere,
//! dynamic ones come from the upper band first, so that the two seldom meet. Within a band a
//! cursor walks on, so a freed address rests before it is given again.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::validate::{Causes, Check, Path};

mod pool;
mod service;

use pool::{Addresses, Ports};
pub use service::{release, service};

/// The range of node ports, upstream's default.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Claims of addresses and ports.
#[derive(Debug, Clone)]
pub struct State {
    ranges: Vec<Addresses>,
    ports: Ports,
}

/// A claim that could not be taken over from the Services at start: two of them hold one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Service {service}: {what} is already held by another Service, or is out of range")]
pub struct Conflict {
    /// `namespace/name`.
    pub service: String,
    /// `clusterIP 10.96.0.9` or `node port 30080`.
    pub what: String,
}

impl State {
    /// An empty state over Service CIDRs; the family of the first is the cluster's primary one.
    pub fn new(cidrs: Vec<IpNet>) -> Self {
        Self {
            ranges: cidrs.into_iter().map(Addresses::new).collect(),
            ports: Ports::new(NODE_PORTS),
        }
    }

    /// The state the given Services make, and what they hold twice.
    pub fn rebuild<'a>(
        cidrs: Vec<IpNet>,
        services: impl IntoIterator<Item = &'a Value>,
    ) -> (Self, Vec<Conflict>) {
        let mut state = Self::new(cidrs);
        let mut conflicts = Vec::new();
        for object in services {
            for what in state.take_over(object) {
                let metadata = &object["metadata"];
                let text = |field: &str| metadata[field].as_str().unwrap_or_default();
                let service = format!("{}/{}", text("namespace"), text("name"));
                conflicts.push(Conflict { service, what });
            }
        }
        (state, conflicts)
    }

    fn take_over(&mut self, object: &Value) -> Vec<String> {
        let held = service::held(object);
        let mut refused = Vec::new();
        for ip in held.addresses {
            if self.claim_address(ip).is_err() {
                refused.push(format!("clusterIP {ip}"));
            }
        }
        for port in held.ports {
            if self.ports.claim(port).is_err() {
                refused.push(format!("node port {port}"));
            }
        }
        refused
    }

    /// Adds a range (a ServiceCIDR that became ready). One that is known already changes nothing.
    pub fn add_range(&mut self, cidr: IpNet) {
        if !self.ranges.iter().any(|range| range.cidr() == cidr.trunc()) {
            self.ranges.push(Addresses::new(cidr));
        }
    }

    /// Takes a range away if nothing in it is claimed; returns whether it went.
    pub fn remove_range(&mut self, cidr: IpNet) -> bool {
        let at = self.ranges.iter().position(|range| range.cidr() == cidr.trunc());
        match at {
            Some(at) if self.ranges[at].is_unused() => {
                self.ranges.remove(at);
                true
            }
            _ => false,
        }
    }

    /// Whether an address is claimed.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.has(ip))
    }

    /// Whether a node port is claimed.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.has(port)
    }

    /// How many addresses and ports are claimed.
    pub fn len(&self) -> (usize, usize) {
        (self.ranges.iter().map(Addresses::len).sum(), self.ports.len())
    }

    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn primary_is_v6(&self) -> bool {
        self.ranges.first().is_some_and(Addresses::is_v6)
    }

    fn has_family(&self, v6: bool) -> bool {
        self.ranges.iter().any(|range| range.is_v6() == v6)
    }

    /// Claims an address; the message says why not, in upstream's words.
    fn claim_address(&mut self, ip: IpAddr) -> Result<(), String> {
        if self.has_address(ip) {
            return Err("provided IP is already allocated".to_owned());
        }
        if let Some(range) = self.ranges.iter_mut().find(|range| range.contains(ip)) {
            range.claim(ip);
            return Ok(());
        }
        let ranges: Vec<String> = self
            .ranges
            .iter()
            .filter(|range| range.is_v6() == ip.is_ipv6())
            .map(|range| range.cidr().to_string())
            .collect();
        Err(format!(
            "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
            ranges.join(", ")
        ))
    }

    fn next_address(&mut self, v6: bool) -> Option<IpAddr> {
        self.ranges.iter_mut().filter(|range| range.is_v6() == v6).find_map(Addresses::next)
    }

    fn free_address(&mut self, ip: IpAddr) {
        for range in &mut self.ranges {
            range.free(ip);
        }
    }
}

#[cfg(test)]
mod tests;
