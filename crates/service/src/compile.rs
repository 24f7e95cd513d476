//! One Service to its ports: what clients dial, how a slot is picked, which endpoint has which slot.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use model::{
    Family, Kind, NodeFacts, NodeName, ObjectRef, Report, Service, ServiceKey, ServiceType,
    Severity, Snapshot,
};

use crate::claims::Claims;
use crate::element::{Elements, Value};
use crate::frontend::packed_address;
use crate::program::{Algorithm, CountChain, SetId};
use crate::{Frontend, assign, select};

/// One port of a Service in one family, as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedPort {
    /// What clients dial; contested ones that others own are not here.
    pub(crate) frontends: Box<[Frontend]>,
    pub(crate) algorithm: Algorithm,
    /// The endpoints, by slot.
    pub(crate) slots: Box<[SocketAddr]>,
    /// Those of them that are pods of this node.
    pub(crate) local: Box<[IpAddr]>,
}

/// A Service as it is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) ports: Box<[PlannedPort]>,
    /// Everything it wants, owned or not.
    pub(crate) claims: Box<[Frontend]>,
}

/// What a Service wants to be dialled at: one entry per port and family, in order.
struct Wanted<'a> {
    port: &'a model::ServicePort,
    family: Family,
    frontends: Vec<Frontend>,
}

fn wanted(service: &Service) -> Vec<Wanted<'_>> {
    if !service.is_served() {
        return Vec::new();
    }
    let on_nodes = matches!(service.kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let mut all: Vec<Wanted<'_>> = Vec::new();
    for port in &service.ports {
        for family in Family::BOTH {
            let Some(address) = service.cluster_ips.of(family) else { continue };
            let protocol = port.protocol;
            let mut frontends = vec![Frontend::Address { address, protocol, port: port.port }];
            if let Some(node_port) = port.node_port.filter(|_| on_nodes) {
                frontends.push(Frontend::NodePort { family, protocol, port: node_port.get() });
            }
            // Two ports of one Service that want the same: the API refuses such an object; the first one has it.
            frontends
                .retain(|frontend| !all.iter().any(|earlier| earlier.frontends.contains(frontend)));
            all.push(Wanted { port, family, frontends });
        }
    }
    all
}

/// Everything a Service claims.
pub(crate) fn claims(service: &Service) -> Box<[Frontend]> {
    wanted(service).into_iter().flat_map(|wanted| wanted.frontends).collect()
}

/// What one Service compiles against.
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) claims: &'a Claims,
    pub(crate) node: &'a NodeName,
    pub(crate) facts: Option<&'a NodeFacts>,
}

/// Compiles one Service. `prior` gives the slots a frontend had.
pub(crate) fn compile(
    context: &Context<'_>,
    service: &Service,
    prior: &dyn Fn(&Frontend) -> Vec<SocketAddr>,
    reports: &mut Vec<Report>,
) -> Planned {
    let algorithm = service
        .affinity_seconds
        .map_or(Algorithm::Random, |seconds| Algorithm::Affine(seconds.get()));
    let mut ports = Vec::new();
    let mut claims = Vec::new();
    for wanted in wanted(service) {
        claims.extend_from_slice(&wanted.frontends);
        let mut frontends = wanted.frontends;
        frontends.retain(|frontend| match context.claims.owner(frontend, context.snapshot) {
            Some(owner) if *owner != service.key => {
                reports.push(contested(service, frontend, owner));
                false
            }
            _ => true,
        });
        if frontends.is_empty() {
            continue;
        }
        let endpoints = context.snapshot.endpoints(
            &service.key,
            &wanted.port.name,
            wanted.port.protocol,
            wanted.family,
        );
        let answering = select::answering(&endpoints);
        let before =
            frontends.iter().map(prior).find(|slots| !slots.is_empty()).unwrap_or_default();
        let local = answering
            .iter()
            .filter(|endpoint| select::is_local(endpoint, context.node, context.facts));
        let mut local: Vec<IpAddr> = local.map(|endpoint| endpoint.address.ip()).collect();
        local.dedup();
        ports.push(PlannedPort {
            frontends: frontends.into(),
            algorithm,
            slots: assign(&before, &select::addresses(&answering)).into(),
            local: local.into(),
        });
    }
    Planned { ports: ports.into(), claims: claims.into() }
}

fn contested(service: &Service, frontend: &Frontend, owner: &ServiceKey) -> Report {
    Report {
        object: ObjectRef { kind: Kind::Service, key: service.key.clone(), uid: service.uid },
        severity: Severity::Warning,
        reason: "AddressInUse",
        message: format!(
            "{frontend} belongs to the older Service {owner}; this one is not reached by it"
        ),
        hint: Cow::Borrowed("give one of the two another address or port, or delete it"),
    }
}

impl Planned {
    /// Its elements; hairpin pairs are counted elsewhere, they are shared between Services.
    pub(crate) fn elements(&self, into: &mut Elements) {
        for port in &self.ports {
            for frontend in &port.frontends {
                port.frontend_elements(frontend, into);
            }
        }
    }
}

impl PlannedPort {
    fn frontend_elements(&self, frontend: &Frontend, into: &mut Elements) {
        let (view, family, key) = (frontend.view(), frontend.family(), frontend.key());
        let Ok(count) = u32::try_from(self.slots.len()) else { return };
        if count == 0 {
            into.insert((SetId::NoEndpoint(view, family), key), Value::Member);
            return;
        }
        let chain = CountChain { view, algorithm: self.algorithm, count };
        into.insert((SetId::Dispatch(view, family), key), Value::Chain(chain));
        for (slot, endpoint) in (0u32..).zip(&self.slots) {
            let at = match self.algorithm {
                Algorithm::Random => (SetId::Slot(view, family), key.index(slot)),
                Algorithm::Affine(_) => (SetId::AffineSlot(view, family, slot), key),
            };
            into.insert(at, Value::Endpoint(*endpoint));
        }
    }
}

/// The element that lets a pod reach itself.
pub(crate) fn hairpin(address: IpAddr) -> ((SetId, nft::Packed), Value) {
    let key = packed_address(address).then(&packed_address(address));
    ((SetId::Hairpin(Family::of(address)), key), Value::Member)
}
