//! `healthCheckNodePort`: what a load balancer is told about this node.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use model::{Endpoint, NodeName, Service, ServiceType, TrafficPolicy};

/// One health check: the port the agent listens on, and what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// Ready endpoints on this node, a dual-stack one counted once. None: the load balancer must look elsewhere.
    pub local_endpoints: usize,
}

/// The port of a Service that load balancers check, if it is of the kind that has one.
pub(crate) fn port(service: &Service) -> Option<u16> {
    let wants = service.is_served()
        && service.kind == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local;
    let port = service.external.as_deref().map_or(0, |external| external.health_check_node_port);
    (wants && port != 0).then_some(port)
}

/// Counts the addresses of ready local endpoints over the ports of a Service.
#[derive(Debug, Default)]
pub(crate) struct LocalReady(HashMap<model::Family, BTreeSet<IpAddr>>);

impl LocalReady {
    pub(crate) fn add(&mut self, endpoints: &[Endpoint<'_>], node: &NodeName) {
        let local = |it: &&Endpoint<'_>| it.conditions.ready && it.node == Some(node);
        for endpoint in endpoints.iter().filter(local) {
            let address = endpoint.address.ip();
            self.0.entry(model::Family::of(address)).or_default().insert(address);
        }
    }

    /// The larger family's count: a dual-stack pod has one address in each.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).max().unwrap_or(0)
    }
}
