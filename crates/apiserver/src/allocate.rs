//! ClusterIP, NodePort and health-check port allocation, with explicit state.
//!
//! The state is a set of claims and is rebuilt from the Services at start; nothing here does I/O.
//! The ranges are those the server was started with or what the ServiceCIDRs say (KEP-1880); a
//! range that goes leaves the claims in it as they are.
//! Bands follow upstream (KEP-3070): addresses and ports a client asks for may be anywhere,
//! dynamic ones come from the upper band first, so that the two seldom meet. Within a band a
//! cursor walks on, so a freed address rests before it is given again.

use std::collections::BTreeSet;
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
    taken: BTreeSet<IpAddr>,
    /// Whether the cluster's families are IPv6, the primary one first: a ServiceCIDR adds none.
    families: Vec<bool>,
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
        let mut families: Vec<bool> = Vec::new();
        for v6 in cidrs.iter().map(|cidr| cidr.addr().is_ipv6()) {
            if !families.contains(&v6) {
                families.push(v6);
            }
        }
        Self {
            ranges: cidrs.into_iter().map(Addresses::new).collect(),
            taken: BTreeSet::new(),
            families,
            ports: Ports::new(NODE_PORTS),
        }
    }

    /// Takes over what the given Services hold; returns what they hold twice or out of range.
    pub fn rebuild<'a>(&mut self, services: impl IntoIterator<Item = &'a Value>) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for object in services {
            for what in self.take_over(object) {
                let metadata = &object["metadata"];
                let text = |field: &str| metadata[field].as_str().unwrap_or_default();
                let service = format!("{}/{}", text("namespace"), text("name"));
                conflicts.push(Conflict { service, what });
            }
        }
        conflicts
    }

    fn take_over(&mut self, object: &Value) -> Vec<String> {
        let held = service::held(object);
        let mut refused = Vec::new();
        for ip in held.addresses {
            if self.claim_address(ip).is_err() {
                refused.push(format!("clusterIP {ip}"));
                // Whatever became of its range, nobody else shall get it.
                self.taken.insert(ip);
            }
        }
        for port in held.ports {
            if self.ports.claim(port).is_err() {
                refused.push(format!("node port {port}"));
            }
        }
        refused
    }

    /// Makes these the ranges addresses are given from, the first one first. Claims stay, and a range that stays goes
    /// on where it was.
    pub fn set_ranges(&mut self, cidrs: Vec<IpNet>) {
        let mut old = std::mem::take(&mut self.ranges);
        for cidr in cidrs.into_iter().map(|cidr| cidr.trunc()) {
            if self.ranges.iter().any(|range| range.cidr() == cidr) {
                continue;
            }
            let known = old.iter().position(|range| range.cidr() == cidr);
            self.ranges.push(known.map_or_else(|| Addresses::new(cidr), |at| old.swap_remove(at)));
        }
    }

    /// Whether an address is claimed.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.taken.contains(&ip)
    }

    /// Whether a node port is claimed.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.has(port)
    }

    /// How many addresses and ports are claimed.
    pub fn len(&self) -> (usize, usize) {
        (self.taken.len(), self.ports.len())
    }

    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn primary_is_v6(&self) -> bool {
        self.families.first().is_some_and(|v6| *v6)
    }

    fn has_family(&self, v6: bool) -> bool {
        self.families.contains(&v6)
    }

    /// Claims an address; the message says why not, in upstream's words.
    fn claim_address(&mut self, ip: IpAddr) -> Result<(), String> {
        if self.has_address(ip) {
            return Err("provided IP is already allocated".to_owned());
        }
        if self.ranges.iter().any(|range| range.contains(ip)) {
            self.taken.insert(ip);
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
        let Self { ranges, taken, .. } = self;
        let mut ranges = ranges.iter_mut().filter(|range| range.is_v6() == v6);
        let ip = ranges.find_map(|range| range.next(taken))?;
        taken.insert(ip);
        Some(ip)
    }

    fn free_address(&mut self, ip: IpAddr) {
        self.taken.remove(&ip);
    }
}

#[cfg(test)]
mod tests;
