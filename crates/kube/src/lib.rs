//! Watches of a Kubernetes API turned into model events; reports written back as Events.
//!
//! An edge: this crate talks to the API server and decides nothing. API objects live here for the moment between the wire
//! and their conversion; no cache of them is kept.
//!
//! Tasks, each owned by a handle that stops it on drop:
//! - one per watched kind ([`Watches`]): wire → conversion → one bounded channel. A full channel makes the watch wait.
//! - one writer of Events ([`EventWriter`]): a full queue drops reports, they are repeated on the next change.
//! - one writer of this node's progress ([`ProgressWriter`]): the latest value, never more often than the API can bear.

mod connect;
mod dial;
mod events;
mod follow;
mod pace;
mod progress;
mod servers;
mod stream;
mod token;
mod watch;
mod wire;

pub use connect::{Access, ConnectError, connect, connect_to};
pub use events::EventWriter;
pub use kube::Client;
pub use progress::{Applied, NodeProgress, ProgressError, ProgressWriter, progress, revision_of};
pub use servers::{ApiServers, BadServer};
pub use watch::{Message, Watches, watch, watch_pools};
