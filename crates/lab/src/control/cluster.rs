//! The cluster a lab is: its own API server and controllers, or its part in an existing one.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, bail};
use apiserver::store::{Resource, Store};
use serde_json::Value;

use super::{PORTS_TRIED, names};
use crate::api::{Api, ApiUser};
use crate::existing::Existing;
use crate::existing::access::Access;
use crate::existing::mirror::Mirror;
use crate::layout::{API_PORT, Layout, NodePlan, SWITCH_V4};
use crate::network::Network;
use crate::state::LabSpec;

/// Who answers as the API, from before the network is there until it does.
pub(super) enum Plan {
    /// An API server of our own, listening on the host's loopback.
    Own(TcpListener),
    /// Somebody else's.
    Existing(Box<Access>),
}

impl Plan {
    /// What a specification asks for; nothing but a listener is made.
    pub(super) fn of(spec: &LabSpec, api_port: Option<u16>) -> anyhow::Result<Self> {
        match &spec.kubeconfig {
            None => listen_on_loopback(api_port, spec.api_port).map(Self::Own),
            Some(file) => Ok(Self::Existing(Box::new(Access::read(file)?))),
        }
    }

    /// Brings the API to the lab's nodes.
    pub(super) async fn start(
        self,
        layout: &Layout,
        spec: &LabSpec,
        nodes: &[NodePlan],
        network: &Network,
    ) -> anyhow::Result<Cluster> {
        match self {
            Self::Own(outside) => {
                let port = outside.local_addr().context("cannot read the API's port")?.port();
                let inside = network.listen(SWITCH_V4.into(), API_PORT)?;
                let api = Api::start(layout, vec![outside, inside])?;
                names::ensure(api.registry(), nodes)?;
                Ok(Cluster::Own { api, port })
            }
            Self::Existing(access) => {
                let bind = spec.bind_pods;
                let joined = Existing::join(*access, layout, nodes, network, bind).await?;
                Ok(Cluster::Existing(joined))
            }
        }
    }
}

/// Who answers as the API.
pub(super) enum Cluster {
    Own { api: Api, port: u16 },
    Existing(Existing),
}

/// A user of the API.
pub(super) enum User<'a> {
    /// Whoever runs `kubectl` on the host.
    Admin,
    /// A node's agent.
    Agent(&'a str),
    /// A node's pod runner.
    Runner(&'a str),
}

impl Cluster {
    /// Where the host reaches the API.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Own { port, .. } => format!("https://127.0.0.1:{port}"),
            Self::Existing(existing) => existing.access().url(),
        }
    }

    /// The port of our own API on the host's loopback.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Own { port, .. } => Some(*port),
            Self::Existing(_) => None,
        }
    }

    /// Where the API server of an existing cluster reaches a node's kubelet, if it does.
    pub(super) fn kubelet(&self, node: &str) -> Option<SocketAddr> {
        match self {
            Self::Own { .. } => None,
            Self::Existing(existing) => existing.kubelet(node),
        }
    }

    /// How many objects an earlier run left.
    pub(super) fn restored(&self) -> usize {
        match self {
            Self::Own { api, .. } => api.restored(),
            Self::Existing(_) => 0,
        }
    }

    /// The kubeconfig of a user. In an existing cluster everybody is who its kubeconfig says.
    pub(super) fn kubeconfig(&self, lab: &str, user: User<'_>) -> anyhow::Result<String> {
        let api = match (self, &user) {
            (Self::Own { api, .. }, _) => api,
            (Self::Existing(existing), User::Admin) => return existing.access().outside(),
            (Self::Existing(existing), _) => return existing.access().inside(),
        };
        let inside = format!("https://{SWITCH_V4}:{API_PORT}");
        let (name, group, url) = match user {
            User::Admin => ("admin".to_owned(), "system:masters", self.url()),
            User::Agent(node) => (format!("fairway:agent:{node}"), "system:masters", inside),
            User::Runner(node) => (format!("system:node:{node}"), "system:nodes", inside),
        };
        api.kubeconfig(lab, ApiUser { name: &name, group }, &url)
    }

    /// What is seen of its objects.
    pub(super) fn seen(&self) -> Seen {
        match self {
            Self::Own { api, .. } => Seen::Own(api.store().clone()),
            Self::Existing(existing) => Seen::Existing(existing.mirror().clone()),
        }
    }

    /// Ends our own API server in peace; an existing one is not ours to end.
    pub(super) async fn stop(self) {
        if let Self::Own { api, .. } = self {
            api.stop().await;
        }
    }
}

/// The objects of a cluster, as far as the control process looks at them.
#[derive(Clone)]
pub(super) enum Seen {
    Own(Store),
    Existing(Mirror),
}

impl Seen {
    /// A Node.
    pub(super) fn node(&self, name: &str) -> Option<Arc<Value>> {
        match self {
            Self::Own(store) => store.get(&Resource::new("", "nodes"), "", name),
            Self::Existing(mirror) => mirror.node(name),
        }
    }

    /// How many pods are bound to each of these nodes.
    pub(super) fn pods<'a>(&self, nodes: &'a [NodePlan]) -> HashMap<&'a str, usize> {
        let names = nodes.iter().map(|plan| plan.name.as_str());
        match self {
            Self::Own(store) => {
                let mut counts: HashMap<&str, usize> = names.map(|name| (name, 0)).collect();
                for pod in store.list(&Resource::new("", "pods"), None).items {
                    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
                    if let Some(count) = counts.get_mut(node) {
                        *count += 1;
                    }
                }
                counts
            }
            Self::Existing(mirror) => names.map(|name| (name, mirror.pods_on(name))).collect(),
        }
    }

    /// How many Services there are.
    pub(super) fn services(&self) -> usize {
        match self {
            Self::Own(store) => store.list(&Resource::new("", "services"), None).items.len(),
            Self::Existing(mirror) => mirror.services(),
        }
    }

    /// Asks `done` now and whenever a Node changed, until it says yes.
    pub(super) async fn until(&self, mut done: impl FnMut(&Self) -> bool) {
        match self {
            // A watch that fell behind begins again with a list.
            Self::Own(store) => loop {
                let (_, mut watch) = store.list_watch(&Resource::new("", "nodes"), None);
                loop {
                    if done(self) {
                        return;
                    }
                    if watch.next().await.is_err() {
                        break;
                    }
                }
            },
            Self::Existing(mirror) => {
                let mut changes = mirror.changes();
                while !done(self) {
                    if changes.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// Binds the API's port on the host's loopback: the one asked for or none; else the one of the last run, else the
/// first free one.
fn listen_on_loopback(asked: Option<u16>, last: Option<u16>) -> anyhow::Result<TcpListener> {
    let bind = |port: u16| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(port) = asked {
        return bind(port).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "port {port} on 127.0.0.1 is taken: choose another with --api-port, or none and the first free one is used"
            ),
            _ => anyhow::anyhow!("cannot listen on 127.0.0.1:{port}: {error}"),
        });
    }
    let mut reason = None;
    for port in last.into_iter().chain(API_PORT..API_PORT + PORTS_TRIED) {
        match bind(port) {
            Ok(listener) => return Ok(listener),
            Err(error) => reason = Some(error),
        }
    }
    let reason = reason.map_or_else(String::new, |error| format!(" ({error})"));
    bail!("no port from {API_PORT} on is free on 127.0.0.1{reason}: choose one with --api-port")
}
