//! One Service to its ports: what clients dial, how a slot is picked, which endpoint has which slot.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use model::{
    Balance, Family, Kind, NodeFacts, NodeName, ObjectRef, Protocol, Report, Service, ServiceKey,
    Severity, Snapshot, TrafficPolicy,
};
use nft::Packed;

use crate::Frontend;
use crate::balance::{Choice, Weighted};
use crate::claims::Claims;
use crate::element::{Elements, Value};
use crate::frontend::{At, Side, View, packed_address};
use crate::health::{self, HealthCheck, LocalReady};
use crate::program::{Algorithm, CountChain, SetId};
use crate::select::{self, Asked, Here, Lists};
use crate::stale::Backends;
pub(crate) use crate::wanted::claims;
use crate::wanted::{Exposure, admitted, wanted};

/// One port of a Service in one family, as it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedPort {
    /// What clients dial; contested ones that others own are not here.
    pub(crate) frontends: Box<[(Frontend, Exposure)]>,
    pub(crate) internal: TrafficPolicy,
    pub(crate) external: TrafficPolicy,
    pub(crate) choice: Choice,
    /// The endpoints of policy `Cluster`, by slot; empty if nothing here follows it.
    pub(crate) cluster: Box<[SocketAddr]>,
    /// The endpoints of policy `Local`, by slot; empty if nothing here follows it.
    pub(crate) local: Box<[SocketAddr]>,
    /// Whether there is an endpoint anywhere.
    pub(crate) anywhere: bool,
    /// The sources admitted to the load balancer's addresses; empty for all.
    pub(crate) admitted: Box<[(IpAddr, IpAddr)]>,
    /// Those that may reach themselves through this node.
    pub(crate) hairpins: Box<[IpAddr]>,
    /// Those of weight 0, and, where connection tracking holds clients, those passed over that still serve.
    pub(crate) idle: Box<[SocketAddr]>,
    /// Every endpoint with its weight, where shares are steered by the connections they hold.
    pub(crate) steered: Box<Weighted>,
}

/// A Service as it is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) ports: Box<[PlannedPort]>,
    /// Everything it wants, owned or not.
    pub(crate) claims: Box<[Frontend]>,
    /// What load balancers that check this node are told.
    pub(crate) health: Option<HealthCheck>,
}

/// What one Service compiles against.
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) claims: &'a Claims,
    pub(crate) node: &'a NodeName,
    pub(crate) facts: Option<&'a NodeFacts>,
    /// Where this agent listens as an endpoint.
    pub(crate) own: &'a [SocketAddr],
}

/// Gives the slots one side of a frontend had.
pub(crate) type Prior<'a> = dyn Fn(&Frontend, Side) -> Vec<SocketAddr> + 'a;

/// Compiles one Service.
pub(crate) fn compile(
    context: &Context<'_>,
    service: &Service,
    prior: &Prior<'_>,
    reports: &mut Vec<Report>,
) -> Planned {
    let choice = service.affinity_seconds.map_or(Choice::By(service.balance), Choice::Affine);
    let here = Here { node: context.node, facts: context.facts };
    let health_port = health::port(service);
    let mut local_ready = LocalReady::default();
    let mut ports = Vec::new();
    let mut claims = Vec::new();
    for wanted in wanted(service) {
        claims.extend(wanted.frontends.iter().map(|(frontend, _)| *frontend));
        let mut frontends = wanted.frontends;
        frontends.retain(|(frontend, _)| match context.claims.owner(frontend, context.snapshot) {
            Some(owner) if *owner != service.key => {
                reports.push(contested(service, frontend, owner));
                false
            }
            _ => true,
        });
        if frontends.is_empty() {
            continue;
        }
        let mut endpoints = context.snapshot.endpoints(
            &service.key,
            &wanted.port.name,
            wanted.port.protocol,
            wanted.family,
        );
        let is_own = |endpoint: &model::Endpoint<'_>| context.own.contains(&endpoint.address);
        if !context.own.is_empty() && !endpoints.iter().all(is_own) {
            endpoints.retain(|endpoint| !is_own(endpoint));
        }
        let mut port = PlannedPort {
            frontends: frontends.into(),
            internal: service.internal_policy,
            external: service.external_policy,
            choice,
            cluster: Box::default(),
            local: Box::default(),
            anywhere: false,
            admitted: admitted(service, wanted.family, context.facts).into(),
            hairpins: Box::default(),
            idle: Box::default(),
            steered: Box::default(),
        };
        if health_port.is_some() {
            local_ready.add(&endpoints, context.node);
        }
        let lists = Lists::of(&endpoints, here, port.asked());
        let slots = |policy, endpoints: &[model::Endpoint<'_>]| {
            if endpoints.is_empty() {
                return Vec::new();
            }
            let weighted = select::weighted(endpoints, &service.weights);
            choice.slots(&port.before(policy, prior), &weighted)
        };
        let cluster = slots(TrafficPolicy::Cluster, &lists.cluster).into();
        let local = slots(TrafficPolicy::Local, &lists.local).into();
        port.cluster = cluster;
        port.local = local;
        port.anywhere = lists.anywhere;
        port.hairpins = lists.hairpins(here, port.is_two_sided());
        let is_steered = choice == Choice::By(Balance::LeastConnections);
        if is_steered || !service.weights.is_empty() {
            let weighted = lists.weighted(&service.weights);
            let idle = weighted.iter().filter(|(_, weight)| *weight == 0);
            port.idle = idle.map(|(endpoint, _)| *endpoint).collect();
            if is_steered {
                port.steered = weighted.into();
            }
        }
        if wanted.port.protocol != Protocol::Tcp {
            let passed_over = lists.passed_over(&endpoints, here, port.asked());
            port.idle = port.idle.iter().copied().chain(passed_over).collect();
        }
        ports.push(port);
    }
    let health = health_port.map(|port| HealthCheck { port, local_endpoints: local_ready.count() });
    Planned { ports: ports.into(), claims: claims.into(), health }
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
            for (frontend, exposure) in &port.frontends {
                port.frontend_elements(frontend, *exposure, into);
            }
        }
    }
}

impl PlannedPort {
    /// The list a side of a frontend shows; `None` for the outside of a frontend with one side.
    pub(crate) fn policy_of(&self, exposure: Exposure, side: Side) -> Option<TrafficPolicy> {
        match (exposure, self.external, side) {
            (Exposure::Internal, _, Side::Inside) => Some(self.internal),
            (Exposure::Internal, _, Side::Outside) => None,
            (_, _, Side::Inside) => Some(TrafficPolicy::Cluster),
            (_, TrafficPolicy::Local, Side::Outside) => Some(TrafficPolicy::Local),
            (_, TrafficPolicy::Cluster, Side::Outside) => None,
        }
    }

    fn list(&self, policy: TrafficPolicy) -> &[SocketAddr] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// The endpoints a side of a frontend shows, by slot; `None` if the frontend is not this port's, or has one side.
    pub(crate) fn shown(&self, frontend: &Frontend, side: Side) -> Option<&[SocketAddr]> {
        let (_, exposure) = self.frontends.iter().find(|(own, _)| own == frontend)?;
        self.policy_of(*exposure, side).map(|policy| self.list(policy))
    }

    /// What each of its frontends shows.
    pub(crate) fn all_shown(&self) -> impl Iterator<Item = (Frontend, Backends<'_>)> {
        self.frontends.iter().map(|(frontend, exposure)| {
            let list = |side| self.policy_of(*exposure, side).map(|policy| self.list(policy));
            let (inside, outside) = (list(Side::Inside).unwrap_or_default(), list(Side::Outside));
            (*frontend, Backends { inside, outside, idle: &self.idle })
        })
    }

    fn sides(&self) -> impl Iterator<Item = (&Frontend, Side, TrafficPolicy)> {
        self.frontends.iter().flat_map(move |(frontend, exposure)| {
            Side::ALL.into_iter().filter_map(move |side| {
                self.policy_of(*exposure, side).map(|policy| (frontend, side, policy))
            })
        })
    }

    /// The first frontend and side that show a list, with the list; `None` if it is empty or nobody shows it.
    pub(crate) fn first_shown(
        &self,
        policy: TrafficPolicy,
    ) -> Option<((Frontend, Side), &[SocketAddr])> {
        let list = self.list(policy);
        let (frontend, side, _) =
            self.sides().find(|(_, _, followed)| *followed == policy && !list.is_empty())?;
        Some(((*frontend, side), list))
    }

    /// The frontends a list's connections come through. One with two sides counts with both lists: what tracks a
    /// connection does not say from which side it came.
    pub(crate) fn frontends_following(
        &self,
        policy: TrafficPolicy,
    ) -> impl Iterator<Item = Frontend> + '_ {
        let following = self.sides().filter(move |(_, _, followed)| *followed == policy);
        following.map(|(frontend, _, _)| *frontend)
    }

    fn asked(&self) -> Asked {
        let follows = |policy| self.sides().any(|(_, _, followed)| followed == policy);
        Asked { cluster: follows(TrafficPolicy::Cluster), local: follows(TrafficPolicy::Local) }
    }

    fn is_two_sided(&self) -> bool {
        self.sides().any(|(_, side, _)| side == Side::Outside)
    }

    /// The slots a list had: as any frontend showed it.
    fn before(&self, policy: TrafficPolicy, prior: &Prior<'_>) -> Vec<SocketAddr> {
        let showing = self.sides().filter(|(_, _, followed)| *followed == policy);
        let mut known = showing.map(|(frontend, side, _)| prior(frontend, side));
        known.find(|slots| !slots.is_empty()).unwrap_or_default()
    }

    fn frontend_elements(&self, frontend: &Frontend, exposure: Exposure, into: &mut Elements) {
        let (at, family, key) = (frontend.at(), frontend.family(), frontend.key());
        if exposure == Exposure::Balancer && !self.admitted.is_empty() {
            into.insert((SetId::Filtered(family), key), Value::Member);
            for (first, last) in &self.admitted {
                let source = key.then(&packed_address(*first));
                into.insert((SetId::Admitted(family), source), Value::RangeTo(*last));
            }
        }
        if !self.anywhere {
            into.insert((SetId::NoEndpoint(at, family), key), Value::Member);
            return;
        }
        let dispatch = (SetId::Dispatch(at, family), key);
        if self.policy_of(exposure, Side::Outside).is_some() {
            into.insert(dispatch, Value::TwoSides(at));
            for side in Side::ALL {
                let inner = (SetId::Inner(at, side, family), key);
                self.side_elements(frontend, exposure, View::of_side(at, side), inner, into);
            }
        } else {
            let view = match (exposure, at) {
                (Exposure::Internal, _) => View::Cluster,
                (_, At::Address) => View::External,
                (_, At::Port) => View::Node,
            };
            self.side_elements(frontend, exposure, view, dispatch, into);
        }
    }

    /// What one side of a frontend shows: its slots, and the chain that picks one.
    fn side_elements(
        &self,
        frontend: &Frontend,
        exposure: Exposure,
        view: View,
        dispatch: (SetId, Packed),
        into: &mut Elements,
    ) {
        let (family, key) = (frontend.family(), frontend.key());
        let Some(policy) = self.policy_of(exposure, view.side()) else { return };
        let slots = self.list(policy);
        let Ok(count) = u32::try_from(slots.len()) else { return };
        if count == 0 {
            into.insert((SetId::NoLocalEndpoint(view.at(), family), key), Value::Member);
            return;
        }
        let algorithm = algorithm(self.choice, frontend, count);
        let chain = CountChain { view, algorithm, count };
        if chain.is_common() {
            into.insert((SetId::Common(family, count), key), Value::Member);
        } else {
            into.insert(dispatch, Value::Chain(chain));
        }
        for (slot, endpoint) in (0u32..).zip(slots) {
            let (at, side) = (view.at(), view.side());
            let place = match algorithm {
                Algorithm::Affine(_) => (SetId::AffineSlot(at, side, family, slot), key),
                _ => (SetId::Slot(at, side, family), key.index(slot)),
            };
            into.insert(place, Value::Endpoint(*endpoint));
        }
    }
}

/// What picks one of so many slots of a frontend.
fn algorithm(choice: Choice, frontend: &Frontend, count: u32) -> Algorithm {
    match choice {
        Choice::Affine(seconds) => Algorithm::Affine(seconds.get()),
        Choice::By(_) if count == 1 => Algorithm::Random,
        Choice::By(Balance::Random | Balance::LeastConnections) => Algorithm::Random,
        Choice::By(Balance::RoundRobin) => Algorithm::RoundRobin(*frontend),
        Choice::By(Balance::SourceHash) => Algorithm::SourceHash,
        Choice::By(Balance::Maglev) => Algorithm::Maglev,
    }
}

/// The element that lets a pod reach itself.
pub(crate) fn hairpin(address: IpAddr) -> ((SetId, nft::Packed), Value) {
    let key = packed_address(address).then(&packed_address(address));
    ((SetId::Hairpin(Family::of(address)), key), Value::Member)
}
