//! A cluster of network namespaces on one machine.
//!
//! `fairway lab` gives a newcomer a working Kubernetes network without containers or virtual machines: N nodes and an
//! outside client, each a network namespace, on one virtual switch; an API server for `kubectl`; on every node the same
//! `fairway agent` a real cluster would run, and a pod runner that plays the kubelet's part.
//!
//! The host's own network is never touched: no link, route, rule or sysctl outside the lab's namespaces. What a lab owns
//! is named in [`layout`], and [`teardown`] removes all of it whatever died before.
//!
//! | module | room |
//! |---|---|
//! | [`layout`] | names, paths and addresses of a lab (pure) |
//! | [`state`] | what is written to disk about a lab |
//! | [`process`], [`enter`] | edges: processes by pid and start time; entering a namespace |
//! | [`preflight`] | what the machine must offer, one line per thing that is missing |
//! | [`network`] | the switch, the nodes' links and routes |
//! | [`existing`] | an existing cluster instead of the embedded API |
//! | [`control`] | the control process: API server, controllers, supervision of agents and runners |
//! | [`up`], [`teardown`], [`status`], [`exec`], [`node`] | the commands |
//! | [`demo`] | `make demo` |
//! | [`runner`], [`container`], [`images`] | the kubelet's part |

pub mod api;
pub mod client;
pub mod container;
pub mod control;
pub mod demo;
pub mod enter;
pub mod exec;
pub mod existing;
pub mod images;
pub mod layout;
pub mod lock;
pub mod network;
pub mod node;
pub mod preflight;
pub mod process;
pub mod protocol;
pub mod runner;
pub mod say;
pub mod state;
pub mod status;
pub mod supervise;
pub mod teardown;
pub mod up;
