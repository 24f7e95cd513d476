//! Coming to a node and leaving it again.
//!
//! | module | room |
//! |---|---|
//! | [`preflight`] | whether this node can run Fairway: every check tried, one line each |
//! | [`kube_proxy`] | taking over from a running kube-proxy, and giving back |
//! | [`cleanup`] | removing every trace |
//! | [`processes`] | edge: who runs in this network namespace |
//!
//! All of it looks at the calling thread's network namespace, and at the files of this machine.

pub mod cleanup;
pub mod kube_proxy;
pub mod preflight;
pub mod processes;
