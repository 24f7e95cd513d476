//! The planner: state of what is in the kernel, the full compile, and the update for the keys that changed.

mod delta;
mod expected;
mod loads;
mod prior;
mod ranges;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::{Change, NodeFacts, NodeName, Report, ServiceKey, Snapshot};
use nft::conntrack::Flow;

use crate::claims::Claims;
use crate::compile::{self, Context, Planned, PlannedPort, Prior};
use crate::element::{Elements, Lowering, Place, Specs, Value};
use crate::program::{self, CountChain, SetId};
use crate::stale::{self, Backends, Slots};
use crate::{Config, Frontend, HealthCheck, Insiders, LocalTraffic, Side, StaleFlow};

use loads::Steered;
use ranges::Ranges;

pub use loads::Loads;
pub(crate) use ranges::merged;

/// The whole desired table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The table.
    pub table: nft::Table,
    /// What is wrong with which Service.
    pub reports: Vec<Report>,
}

/// What changes.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The operations, in one transaction; empty when nothing changed.
    pub transaction: nft::Transaction,
    /// Tracked connections to delete after the commit.
    pub stale: Vec<StaleFlow>,
    /// What is wrong with which Service.
    pub reports: Vec<Report>,
}

/// Knows what it asked the kernel for, and says what to ask next.
#[derive(Debug)]
pub struct Planner {
    node: NodeName,
    config: Config,
    facts: Option<NodeFacts>,
    services: HashMap<ServiceKey, Planned>,
    claims: Claims,
    /// How many frontends each count chain serves.
    chains: BTreeMap<CountChain, u32>,
    /// How many Service ports each local endpoint serves.
    hairpins: HashMap<IpAddr, u32>,
    ranges: Ranges,
    health: BTreeMap<ServiceKey, HealthCheck>,
    specs: Specs,
    /// Services whose shares follow the connections their endpoints hold.
    steered: Steered,
}

impl Planner {
    /// A planner for the node of this name.
    #[must_use]
    pub fn new(node: NodeName, config: Config) -> Self {
        Self {
            node,
            config,
            facts: None,
            services: HashMap::new(),
            claims: Claims::default(),
            chains: BTreeMap::new(),
            hairpins: HashMap::new(),
            ranges: Ranges::new(),
            health: BTreeMap::new(),
            specs: Specs::default(),
            steered: Steered::default(),
        }
    }

    /// The whole table for a snapshot. Slots stay as this planner last gave them, or, for a Service it does not know, as
    /// `listed` has them: a restart moves nobody.
    pub fn full(&mut self, snapshot: &Snapshot, listed: Option<&nft::Table>) -> Plan {
        let before = std::mem::take(&mut self.services);
        self.claims.clear();
        self.chains.clear();
        self.hairpins.clear();
        self.steered.forget_services();
        self.facts = snapshot.node(self.node.as_str()).cloned();
        self.ranges = ranges::all(snapshot, &self.config, self.facts.as_ref());
        self.health.clear();
        for service in snapshot.services() {
            for frontend in &compile::claims(service) {
                self.claims.add(*frontend, &service.key);
            }
        }
        let mut reports = Vec::new();
        let mut sets = HashMap::new();
        let mut lowering = Lowering::default();
        let mut elements = Elements::new();
        for service in snapshot.services() {
            let known = before.get(&service.key);
            let prior = |frontend: &Frontend, side| match known {
                Some(planned) => shown(planned, frontend, side).unwrap_or_default().to_vec(),
                None => listed.map(|table| prior::slots(table, frontend, side)).unwrap_or_default(),
            };
            let planned = self.compile(snapshot, service, &prior, &mut reports);
            planned.elements(&mut elements);
            self.health.extend(planned.health.map(|check| (service.key.clone(), check)));
            self.steered.learn(&service.key, Some(&planned));
            for (at, value) in elements.drain() {
                self.retain_chain(&value);
                self.fill(&mut sets, &mut lowering, at, &value);
            }
            for address in planned.ports.iter().flat_map(|port| &port.hairpins) {
                *self.hairpins.entry(*address).or_default() += 1;
            }
            self.services.insert(service.key.clone(), planned);
        }
        elements.extend(self.hairpins.keys().map(|address| compile::hairpin(*address)));
        elements.extend(self.ranges.iter().map(|(start, end)| ranges::element(*start, *end)));
        for (at, value) in elements.drain() {
            self.fill(&mut sets, &mut lowering, at, &value);
        }
        reports.sort();
        Plan { table: self.table(sets), reports }
    }

    /// The whole table again, slots as `listed` has them, for a planner that just made its first plan without a listing.
    /// To compare with a kernel at start: plan without a listing, list with that plan as what is expected, and only where
    /// the two differ, adopt.
    pub fn adopt(&mut self, snapshot: &Snapshot, listed: &nft::Table) -> Plan {
        self.services.clear();
        self.full(snapshot, Some(listed))
    }

    /// Puts one element into its set.
    fn fill(
        &mut self,
        sets: &mut HashMap<SetId, nft::Set>,
        lowering: &mut Lowering,
        (set, key): Place,
        value: &Value,
    ) {
        let set = sets.entry(set).or_insert_with(|| nft::Set::new(self.specs.get(set)));
        set.elements
            .insert(&lowering.lower(key, value))
            .expect("invariant: keys and data have the lengths of their set");
    }

    /// The table of these sets, with those that have no element.
    fn table(&mut self, mut filled: HashMap<SetId, nft::Set>) -> nft::Table {
        let live: BTreeSet<CountChain> = self.chains.keys().copied().collect();
        let mut table = program::skeleton(&live, &self.config);
        for set in program::sets(&live) {
            let filled = filled.remove(&set);
            table.insert_set(filled.unwrap_or_else(|| nft::Set::new(self.specs.get(set))));
        }
        debug_assert!(filled.is_empty(), "a set that no live chain asks for");
        table
    }

    /// The transaction that brings the kernel from the last plan to this snapshot; `change` names at least the keys whose
    /// facts changed since. The work is that of the Services concerned.
    pub fn update(&mut self, snapshot: &Snapshot, change: &Change) -> Delta {
        let mut affected = change.services.clone();
        let mut before = Elements::new();
        let mut after = Elements::new();
        if !change.nodes.is_empty() || change.service_cidrs {
            let facts = snapshot.node(self.node.as_str());
            let ranges = ranges::all(snapshot, &self.config, facts);
            before.extend(self.ranges.iter().map(|(start, end)| ranges::element(*start, *end)));
            after.extend(ranges.iter().map(|(start, end)| ranges::element(*start, *end)));
            self.ranges = ranges;
            // Its zone, pod CIDRs and addresses say which endpoints are near or here, and what sources are admitted; what
            // else a node says of itself leaves every Service as it is.
            let tells = |facts: &NodeFacts| {
                (facts.zone.clone(), facts.pod_cidrs.clone(), facts.internal_ips.clone())
            };
            if facts.map(tells) != self.facts.as_ref().map(tells) {
                affected.extend(self.services.keys().cloned());
            }
            self.facts = facts.cloned();
        }
        self.reclaim(snapshot, &mut affected);
        self.recompile(snapshot, &affected, before, after, &HashMap::new())
    }

    /// The transaction that follows from compiling these Services anew, beside what `before` and `after` hold already.
    /// Where `steered` has a list, it goes on from that instead of the slots there are.
    fn recompile(
        &mut self,
        snapshot: &Snapshot,
        affected: &BTreeSet<ServiceKey>,
        mut before: Elements,
        mut after: Elements,
        steered: &HashMap<(Frontend, Side), Vec<SocketAddr>>,
    ) -> Delta {
        let mut reports = Vec::new();
        let mut hairpins = HashMap::new();
        let mut planned_before = Vec::with_capacity(affected.len());
        let mut planned_after = Vec::with_capacity(affected.len());
        for key in affected {
            let old = self.services.remove(key).unwrap_or_default();
            let new = snapshot.service(key).map(|service| {
                let prior = |frontend: &Frontend, side| match steered.get(&(*frontend, side)) {
                    Some(slots) => slots.clone(),
                    None => shown(&old, frontend, side).unwrap_or_default().to_vec(),
                };
                self.compile(snapshot, service, &prior, &mut reports)
            });
            old.elements(&mut before);
            for address in old.ports.iter().flat_map(|port| port.hairpins.iter()) {
                self.release_hairpin(*address, &mut hairpins);
            }
            self.health.remove(key);
            planned_before.push(old);
            self.steered.learn(key, new.as_ref());
            if let Some(new) = new {
                for address in new.ports.iter().flat_map(|port| port.hairpins.iter()) {
                    self.retain_hairpin(*address, &mut hairpins);
                }
                self.health.extend(new.health.map(|check| (key.clone(), check)));
                new.elements(&mut after);
                planned_after.push((key.clone(), new));
            }
        }
        for (address, count) in hairpins {
            if count > 0 {
                before.extend([compile::hairpin(address)]);
            }
            if self.hairpins.contains_key(&address) {
                after.extend([compile::hairpin(address)]);
            }
        }
        let stale = {
            let after = planned_after.iter().map(|(_, planned)| planned);
            stale::between(&slots(planned_before.iter()), &slots(after))
        };
        self.services.extend(planned_after);
        reports.sort();
        Delta { transaction: self.transaction(before, after), stale, reports }
    }

    /// Brings the claims of changed Services up to date and adds everybody who shares one with them.
    fn reclaim(&mut self, snapshot: &Snapshot, affected: &mut BTreeSet<ServiceKey>) {
        let changed: Vec<ServiceKey> = affected.iter().cloned().collect();
        for key in &changed {
            let new = snapshot.service(key).map(compile::claims).unwrap_or_default();
            let old =
                self.services.get(key).map(|planned| planned.claims.clone()).unwrap_or_default();
            for frontend in old.iter().filter(|frontend| !new.contains(frontend)) {
                self.claims.remove(frontend, key);
                affected.extend(self.claims.of(frontend).iter().cloned());
            }
            for frontend in &new {
                self.claims.add(*frontend, key);
                affected.extend(self.claims.of(frontend).iter().cloned());
            }
        }
    }

    fn compile(
        &self,
        snapshot: &Snapshot,
        service: &model::Service,
        prior: &Prior<'_>,
        reports: &mut Vec<Report>,
    ) -> Planned {
        let context = Context {
            snapshot,
            claims: &self.claims,
            node: &self.node,
            own: &self.config.own_endpoints,
            facts: self.facts.as_ref(),
        };
        compile::compile(&context, service, prior, reports)
    }

    /// Counts a local endpoint of one more Service port; `touched` keeps what the count was before this update.
    fn retain_hairpin(&mut self, address: IpAddr, touched: &mut HashMap<IpAddr, u32>) {
        let count = self.hairpins.entry(address).or_default();
        touched.entry(address).or_insert(*count);
        *count += 1;
    }

    /// Counts one less.
    fn release_hairpin(&mut self, address: IpAddr, touched: &mut HashMap<IpAddr, u32>) {
        let count = self.hairpins.entry(address).or_default();
        touched.entry(address).or_insert(*count);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.hairpins.remove(&address);
        }
    }

    /// The endpoints a frontend leads to now; `None` if no Service owns it.
    #[must_use]
    pub fn endpoints_of(&self, frontend: &Frontend) -> Option<Backends<'_>> {
        self.claims.of(frontend).iter().find_map(|key| {
            let planned = self.services.get(key)?;
            let mut all = planned.ports.iter().flat_map(PlannedPort::all_shown);
            all.find_map(|(own, backends)| (own == *frontend).then_some(backends))
        })
    }

    /// Whether a tracked connection was translated to an endpoint its frontend no longer has, or came to a frontend before
    /// that could translate. `is_local` says whether an address is this node's.
    pub fn is_stale(
        &self,
        flow: &Flow,
        insiders: &Insiders,
        is_local: impl Fn(IpAddr) -> bool,
    ) -> bool {
        let Some([by_address, by_port]) = Frontend::dialled_by(flow) else { return false };
        let of_port = || {
            let here = is_local(flow.original.destination);
            here.then(|| self.endpoints_of(&by_port)).flatten()
        };
        let Some(endpoints) = self.endpoints_of(&by_address).or_else(of_port) else { return false };
        let side = insiders.side_of(flow.original.source);
        if flow.is_redirected() {
            !endpoints.keeps(side, &flow.answered_by())
        } else {
            !endpoints.of(side).is_empty()
        }
    }

    /// Who stands inside: whose connections a [`StaleFlow`] of one side means.
    #[must_use]
    pub fn insiders(&self) -> Insiders {
        let by_node = self.config.local_traffic == LocalTraffic::NodeCidrs;
        let is_pods = |set: &SetId| match set {
            SetId::PodCidrs(_) => !by_node,
            SetId::NodePodCidrs(_) => by_node,
            _ => false,
        };
        let pods = self.ranges.iter().filter(|((set, _), _)| is_pods(set));
        Insiders {
            pods: pods.map(|((_, first), last)| (*first, *last)).collect(),
            node: self.facts.iter().flat_map(|facts| facts.internal_ips.iter().copied()).collect(),
        }
    }

    /// The Services whose load balancers check this node, by name.
    pub fn health_checks(&self) -> impl ExactSizeIterator<Item = (&ServiceKey, HealthCheck)> {
        self.health.iter().map(|(key, check)| (key, *check))
    }

    /// What load balancers are told when they check this node for a Service; `None` when they do not.
    #[must_use]
    pub fn health_check(&self, service: &ServiceKey) -> Option<HealthCheck> {
        self.health.get(service).copied()
    }

    /// How many Services it knows, and how many frontends.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let frontends = self
            .services
            .values()
            .flat_map(|planned| &planned.ports)
            .map(|port| port.frontends.len());
        (self.services.len(), frontends.sum())
    }
}

fn shown<'a>(planned: &'a Planned, frontend: &Frontend, side: Side) -> Option<&'a [SocketAddr]> {
    planned.ports.iter().find_map(|port| port.shown(frontend, side))
}

fn slots<'a>(planned: impl Iterator<Item = &'a Planned>) -> Slots<'a> {
    planned.flat_map(|planned| &planned.ports).flat_map(PlannedPort::all_shown).collect()
}
