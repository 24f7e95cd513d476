//! Services and EndpointSlices, seen from one node, as a constant nf_tables program and its elements.
//!
//! In: a [`model::Snapshot`], this node's name, a [`Config`]. Out: [`Planner::full`] gives the whole table, and
//! [`Planner::update`] the transaction for the keys that changed. Both are pure: no socket, no clock, no process. The
//! chains do not depend on how many Services there are: every Service, endpoint and port is an element of a map.
//!
//! The rooms: `wanted` says what clients may dial and [`frontend`] what that is to a rule; `select` which endpoints answer whom;
//! `balance` how often each of them is chosen; [`assign`](fn@assign) which slot it has; `claims` who owns a contested address;
//! `program` holds the sets, the chains that are always there and those made on demand; `planner` puts them together; `stale`
//! says which tracked connections end, `health` what load balancers are told. [`listed`] reads a table back.

mod assign;
mod balance;
mod claims;
mod compile;
mod config;
mod element;
pub mod frontend;
mod health;
pub mod listed;
mod planner;
mod program;
mod select;
mod stale;
mod wanted;

pub use assign::assign;
pub use config::{Config, LocalTraffic, NodePortAddresses};
pub use frontend::{Frontend, Side};
pub use health::HealthCheck;
pub use planner::{Delta, Loads, Plan, Planner};
pub use program::TABLE;
pub use stale::{Backends, Insiders, StaleFlow, StaleFlows};
