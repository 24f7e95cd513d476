//! Cluster DNS.

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
