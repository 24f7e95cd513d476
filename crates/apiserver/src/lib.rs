//! The embedded Kubernetes API: generic over kinds, faithful in what it serves.
//!
//! ```text
//! http ── request ── registry ── store ── watch ── http
//!            │           │         └── persist (write-behind file)
//!          auth    schema, defaults, validate, merge, convert, allocate (pure)
//! ```
//! Objects are `Arc<serde_json::Value>` in one [`store::Store`]; a table of [`kinds`] says what is
//! served; the registry holds the rules every kind shares. It must not grow a file per kind, and
//! it answers with a `Status` that names what is missing for anything it does not serve.

pub mod allocate;
pub mod auth;
pub mod controllers;
pub mod convert;
mod crd;
pub mod defaults;
mod discovery;
mod http;
pub mod kinds;
pub mod merge;
pub mod openapi;
mod patch;
pub mod persist;
pub mod proxy;
pub mod registry;
pub mod request;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;
pub mod table;
pub mod validate;
mod watch;
