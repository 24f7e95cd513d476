//! Addresses and ports of Services: the allocator's state beside the store, changed together.
//!
//! Whoever writes Services holds the ledger from reading the old object until the store has the
//! new one, so that no address is given twice and a refused write gives back what it took.
//! The ranges are those of the ServiceCIDRs that are not being deleted. Upstream also waits for
//! their Ready condition, because its allocators are many; here the write itself opens the range.

use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;
use serde_json::Value;

use super::invalid;
use crate::allocate::{self, State};
use crate::kinds::Kind;
use crate::status::Status;
use crate::store::{Resource, Store};

/// The ServiceCIDR with the ranges the server was started with.
pub(crate) const DEFAULT_CIDR: &str = "kubernetes";
const GROUP: &str = "networking.k8s.io";
const PLURAL: &str = "servicecidrs";

#[derive(Debug)]
pub(super) struct Ledger {
    state: Mutex<State>,
    configured: Vec<IpNet>,
}

/// The ledger while a write of a Service is under way; empty for other kinds.
pub(super) struct Claim<'a> {
    state: Option<MutexGuard<'a, State>>,
    undo: Option<(Value, Option<Value>)>,
}

impl Ledger {
    /// The claims of the Services in a store.
    pub(super) fn new(store: &Store, cidrs: Vec<IpNet>) -> Self {
        let mut state = State::new(cidrs.clone());
        state.set_ranges(ranges(store, &cidrs));
        let services = store.list(&Resource::new("", "services"), None).items;
        for conflict in state.rebuild(services.iter().map(|service| service.as_ref())) {
            tracing::warn!(%conflict, "a stored Service keeps what it should not have");
        }
        Self { state: Mutex::new(state), configured: cidrs }
    }

    /// After a write or removal of a ServiceCIDR: from now on its ranges are used, or no more.
    pub(super) fn follow(&self, store: &Store, kind: &Kind) {
        if kind.group == GROUP && kind.plural == PLURAL {
            // Listed with the lock held: of two writes, the one that comes second here sees both.
            let mut state = self.lock();
            state.set_ranges(ranges(store, &self.configured));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the ledger if the kind needs it.
    pub(super) fn open(&self, kind: &Kind) -> Claim<'_> {
        let needed = kind.group.is_empty() && kind.kind == "Service";
        Claim { state: needed.then(|| self.lock()), undo: None }
    }
}

/// The ranges of the ServiceCIDRs in use, the default one's first; those the server was started with until the default
/// one is written.
fn ranges(store: &Store, configured: &[IpNet]) -> Vec<IpNet> {
    let objects = store.list(&Resource::new(GROUP, PLURAL), None).items;
    let is_default = |object: &Value| object["metadata"]["name"] == DEFAULT_CIDR;
    let mut ranges = Vec::new();
    if !objects.iter().any(|object| is_default(object)) {
        ranges.extend_from_slice(configured);
    }
    let (first, rest): (Vec<_>, Vec<_>) = objects
        .iter()
        .filter(|object| object["metadata"]["deletionTimestamp"].is_null())
        .partition(|object| is_default(object));
    for object in first.into_iter().chain(rest) {
        let cidrs = object["spec"]["cidrs"].as_array().into_iter().flatten();
        ranges.extend(cidrs.filter_map(|cidr| cidr.as_str()?.parse::<IpNet>().ok()));
    }
    ranges
}

impl Claim<'_> {
    /// Allocates what a new or changed Service needs; given back on drop unless kept.
    pub(super) fn take(
        &mut self,
        kind: &Kind,
        new: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<(), Status> {
        let Some(state) = &mut self.state else { return Ok(()) };
        allocate::service(state, new, old, dry_run).map_err(|causes| invalid(kind, new, causes))?;
        if !dry_run {
            self.undo = Some((new.clone(), old.cloned()));
        }
        Ok(())
    }

    /// The write happened.
    pub(super) fn keep(&mut self) {
        self.undo = None;
    }

    /// The Service is gone.
    pub(super) fn release(&mut self, service: &Value) {
        if let Some(state) = &mut self.state {
            allocate::release(state, service);
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let (Some(state), Some((new, old))) = (&mut self.state, self.undo.take()) else { return };
        allocate::release(state, &new);
        if let Some(mut old) = old
            && let Err(causes) = allocate::service(state, &mut old, None, false)
        {
            tracing::error!(%causes, "a Service's old claims could not be taken back");
        }
    }
}
