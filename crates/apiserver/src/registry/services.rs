//! Addresses and ports of Services: the allocator's state beside the store, changed together.
//!
//! Whoever writes Services holds the ledger from reading the old object until the store has the
//! new one, so that no address is given twice and a refused write gives back what it took.

use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;
use serde_json::Value;

use super::invalid;
use crate::allocate::{self, State};
use crate::kinds::Kind;
use crate::status::Status;
use crate::store::{Resource, Store};

#[derive(Debug)]
pub(super) struct Ledger(Mutex<State>);

/// The ledger while a write of a Service is under way; empty for other kinds.
pub(super) struct Claim<'a> {
    state: Option<MutexGuard<'a, State>>,
    undo: Option<(Value, Option<Value>)>,
}

impl Ledger {
    /// The claims of the Services in a store.
    pub(super) fn new(store: &Store, cidrs: Vec<IpNet>) -> Self {
        let mut state = State::new(cidrs);
        for service in store.list(&Resource::new("", "services"), None).items {
            let mut copy = Value::clone(&service);
            if let Err(causes) = allocate::service(&mut state, &mut copy, None, false) {
                let meta = &service["metadata"];
                tracing::warn!(namespace = %meta["namespace"], name = %meta["name"], %causes,
                    "a stored Service claims what another one has");
            }
        }
        Self(Mutex::new(state))
    }

    /// Takes the ledger if the kind needs it.
    pub(super) fn open(&self, kind: &Kind) -> Claim<'_> {
        let needed = kind.group.is_empty() && kind.kind == "Service";
        Claim {
            state: needed.then(|| self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())),
            undo: None,
        }
    }
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
