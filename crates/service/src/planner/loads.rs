//! Least connections: the connections endpoints hold, counted by the caller, become shares of slots.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use model::{ServiceKey, Snapshot, TrafficPolicy};
use nft::conntrack::Flow;

use super::{Delta, Planner};
use crate::balance::least::Levels;
use crate::balance::{Weighted, dealt};
use crate::compile::{Planned, PlannedPort};
use crate::element::Elements;
use crate::{Frontend, Side, assign};

/// Live connections of this node, by what their clients dialled and the endpoint they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads(HashMap<Frontend, HashMap<SocketAddr, u32>>);

impl Loads {
    /// Counts for these frontends, none yet.
    pub fn of(frontends: impl IntoIterator<Item = Frontend>) -> Self {
        Self(frontends.into_iter().map(|frontend| (frontend, HashMap::new())).collect())
    }

    /// Adds a tracked connection, if it is alive and came through one of the frontends.
    pub fn add(&mut self, flow: &Flow) {
        let Some([by_address, by_port]) = Frontend::dialled_by(flow) else { return };
        if flow.is_closed {
            return;
        }
        // To a port of another machine there may be connections too; none of them leads to an endpoint that is counted.
        let frontend = if self.0.contains_key(&by_address) { by_address } else { by_port };
        if let Some(endpoints) = self.0.get_mut(&frontend) {
            *endpoints.entry(flow.answered_by()).or_default() += 1;
        }
    }

    /// Says how many connections there are through a frontend to an endpoint.
    pub fn set(&mut self, frontend: Frontend, endpoint: SocketAddr, connections: u32) {
        self.0.entry(frontend).or_default().insert(endpoint, connections);
    }
}

/// The Services that are steered, and what is known of their endpoints.
#[derive(Debug, Default)]
pub(super) struct Steered {
    services: BTreeSet<ServiceKey>,
    /// By the first frontend and side that show a list.
    levels: HashMap<(Frontend, Side), Levels>,
}

impl Steered {
    /// Notes whether a Service is steered, as it is planned now.
    pub(super) fn learn(&mut self, key: &ServiceKey, planned: Option<&Planned>) {
        let mut ports = planned.into_iter().flat_map(|planned| &planned.ports);
        if ports.any(|port| !port.steered.is_empty()) {
            self.services.insert(key.clone());
        } else if !self.services.is_empty() {
            self.services.remove(key);
        }
    }

    /// Forgets which Services there are; what is known of endpoints stays.
    pub(super) fn forget_services(&mut self) {
        self.services.clear();
    }
}

impl Planner {
    /// The frontends whose connections are to be counted for [`Planner::set_loads`].
    pub fn steered(&self) -> impl Iterator<Item = Frontend> + '_ {
        self.steered_ports().flat_map(|port| port.frontends.iter().map(|(frontend, _)| *frontend))
    }

    fn steered_ports(&self) -> impl Iterator<Item = &PlannedPort> {
        let services = self.steered.services.iter().filter_map(|key| self.services.get(key));
        services.flat_map(|planned| &planned.ports).filter(|port| !port.steered.is_empty())
    }

    /// The transaction that steers new connections to where there are fewer. It concerns the Services that ask for it and
    /// no others, and changes elements of slot maps only.
    ///
    /// Call it again and again, about a second apart: each call is a step. `snapshot` is the one of the last
    /// [`Planner::update`] or [`Planner::full`].
    pub fn set_loads(&mut self, snapshot: &Snapshot, loads: &Loads) -> Delta {
        let mut known = std::mem::take(&mut self.steered.levels);
        let mut levels = HashMap::new();
        let mut changed = HashMap::new();
        for port in self.steered_ports() {
            for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
                let Some((at, slots)) = port.first_shown(policy) else { continue };
                let mut counted: HashMap<SocketAddr, u32> = HashMap::new();
                for frontend in port.frontends_following(policy) {
                    for (endpoint, count) in loads.0.get(&frontend).into_iter().flatten() {
                        *counted.entry(*endpoint).or_default() += count;
                    }
                }
                let mut state = known.remove(&at).unwrap_or_default();
                let endpoints = of_list(&port.steered, slots);
                let each = state.step(&endpoints, slots, &counted);
                levels.insert(at, state);
                let steered = assign(slots, &dealt(&endpoints, &each));
                if *steered != *slots {
                    changed.insert(at, steered);
                }
            }
        }
        self.steered.levels = levels;
        let services = self.steered.services.iter().filter(|key| {
            let ports = self.services.get(*key).into_iter().flat_map(|planned| &planned.ports);
            ports.flat_map(|port| &port.frontends).any(|(frontend, _)| {
                Side::ALL.iter().any(|side| changed.contains_key(&(*frontend, *side)))
            })
        });
        let services: BTreeSet<ServiceKey> = services.cloned().collect();
        self.recompile(snapshot, &services, Elements::new(), Elements::new(), &changed)
    }
}

/// The endpoints a list shows, with their weights. Those of weight 0 have no slots and no connections to come.
fn of_list(weights: &Weighted, slots: &[SocketAddr]) -> Vec<(SocketAddr, u16)> {
    let weights: BTreeMap<_, _> = weights.iter().copied().collect();
    let shown: BTreeSet<SocketAddr> = slots.iter().copied().collect();
    shown.into_iter().map(|at| (at, weights.get(&at).copied().unwrap_or(1))).collect()
}
