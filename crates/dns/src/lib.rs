//! Cluster DNS: questions and the facts of a cluster to answers, and the server that gives them.
//!
//! The middle is pure: [`facts`] (what is known, changed step by step), [`zone`] (the Kubernetes DNS specification 1.1.0),
//! [`query`] and [`reply`] (messages by hand where they are common, by the library `domain` otherwise), [`resolve`] (a
//! question's way through a server block), [`cache`], [`upstream`], [`hosts`], [`rewrite`], [`template`] and [`corefile`]. Time
//! and chance come in as arguments. Sockets, threads and `unsafe` are in [`server`], one blocking question in [`client`].
//!
//! Nothing here knows the kernel or the API: whoever holds a [`Server`] tells it what is so, and when.

pub mod cache;
pub mod client;
pub mod config;
pub mod corefile;
pub mod facts;
pub mod hosts;
mod metrics;
pub mod name;
pub mod query;
pub mod reply;
pub mod resolve;
pub mod rewrite;
pub mod server;
pub mod template;
pub mod text;
pub mod top;
pub mod upstream;
pub mod zone;

pub use config::Config;
pub use name::Name;
pub use server::{ListenError, Server, Settings};
