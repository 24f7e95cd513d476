//! What a node's kernel does with Services, beside what the API says.
//!
//! The truth is the kernel's: the table as it is listed now, the connections it tracks. The API adds names and what
//! should be; without it everything is shown by address.
//!
//! | module | room |
//! |---|---|
//! | [`kernel`] | edge: the table, tracked connections, expiry and counters of elements |
//! | [`facts`] | edge: Services, EndpointSlices and Nodes of the API or of manifests |
//! | [`service`] | `fairway service list` and `show`: both joined (pure) and printed |
//! | [`policy`] | `fairway policy list`, `show`, `explain`, `try`: what policies say, counted and judged |
//! | [`progress`] | `fairway service status`: on how many nodes a Service is programmed |
//! | [`pod_link`] | `fairway link show`: one pod's link, both ends |
//! | [`diff`] | `fairway diff`: what the agent would change |
//!
//! Nothing here changes anything.

pub mod diff;
pub mod facts;
pub mod kernel;
pub mod pod_link;
pub mod policy;
pub mod progress;
pub mod service;
