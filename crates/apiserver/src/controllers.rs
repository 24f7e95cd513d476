//! The controllers of the embedded control plane.
//!
//! ```text
//! store watches ──► View (indices) ──► queue of keys ──► reconcile(view, key, now) ──► writes
//!        ▲                                                                              │
//!        └────────────────────────────── registry ◄─────────────────────────────────────┘
//! ```
//! Every controller is a pure function from what the API holds to the writes that bring it one
//! step nearer to what its objects ask for; [`engine`] keeps the view and the queue and is as pure;
//! [`driver`] is the only file that touches the store, the registry, a clock or a thread.
//! Level-triggered throughout: a controller never learns which event woke it, a second reconcile of
//! a settled object writes nothing, and anything that fails is tried again from a newer view.
//!
//! A controller must not keep state of its own: what it needs to remember is in the objects.

mod claim;
pub mod config;
mod deployment;
pub mod driver;
mod endpoint_ports;
mod endpoints;
mod endpointslice;
pub mod engine;
mod event_expiry;
mod events;
#[cfg(test)]
mod fixtures;
mod garbage;
mod hints;
mod mirroring;
mod namespace;
mod node_cidr;
mod node_lifecycle;
mod object;
mod pod;
mod pod_garbage;
mod queue;
mod replicaset;
mod scheduler;
mod selector;
mod service_cidr;
mod slice_packing;
pub mod view;
pub mod write;

#[cfg(test)]
mod tests;
