//! Desired routes of one protocol number, and what it takes to get there.
//!
//! Ownership is the protocol number: a route with ours that nobody wants is removed, a route with
//! another number is not even looked at.

use std::collections::BTreeMap;

use crate::{Change, Route, RouteKey};

/// The routes one owner wants, by the kernel's key: there cannot be two for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePlan {
    protocol: u8,
    routes: BTreeMap<RouteKey, Route>,
}

impl RoutePlan {
    /// No routes yet, all to be marked with this protocol number.
    pub fn new(protocol: u8) -> Self {
        Self { protocol, routes: BTreeMap::new() }
    }

    /// The protocol number that marks what belongs to this plan.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Adds a route, marked as ours. Returns false and keeps the first when its key is taken.
    pub fn insert(&mut self, mut route: Route) -> bool {
        route.protocol = self.protocol;
        match self.routes.entry(route.key()) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(route);
                true
            }
            std::collections::btree_map::Entry::Occupied(_) => false,
        }
    }

    /// The plan with one more route.
    pub fn with(mut self, route: Route) -> Self {
        self.insert(route);
        self
    }

    /// The routes, in order of their keys.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// The route of this key.
    pub fn get(&self, key: &RouteKey) -> Option<&Route> {
        self.routes.get(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

/// What turns `listed` into `desired`. Listed routes of other protocols are ignored. Replacements
/// come first and removals last, so that a destination which stays reachable never has a gap.
pub fn diff_routes(desired: &RoutePlan, listed: &[Route]) -> Vec<Change<'static>> {
    let mut actual: BTreeMap<RouteKey, Vec<&Route>> = BTreeMap::new();
    for route in listed.iter().filter(|route| route.protocol == desired.protocol) {
        actual.entry(route.key()).or_default().push(route);
    }
    let mut changes = Vec::new();
    let mut removals = Vec::new();
    for (key, wanted) in &desired.routes {
        let present = actual.remove(key).unwrap_or_default();
        let (serving, stale): (Vec<&Route>, Vec<&Route>) =
            present.into_iter().partition(|route| wanted.is_served_by(route));
        if serving.is_empty() {
            // Replaces one entry of that key; more than one exist only for IPv6 siblings, and
            // those are taken away one by one first or they would be kept beside the new one.
            if stale.len() > 1 {
                changes.extend(stale.into_iter().cloned().map(Change::DeleteRoute));
            }
            changes.push(Change::ReplaceRoute(wanted.clone()));
        } else {
            removals.extend(stale.into_iter().cloned().map(Change::DeleteRoute));
            removals.extend(serving.into_iter().skip(1).cloned().map(Change::DeleteRoute));
        }
    }
    removals.extend(actual.into_values().flatten().cloned().map(Change::DeleteRoute));
    changes.append(&mut removals);
    changes
}

#[cfg(test)]
mod tests;
