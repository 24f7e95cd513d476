//! The existing cluster as `lab status` shows it: Node objects whole, of pods only where they are, of Services only that
//! they are.
//!
//! Task: [`follow`], three watches. One lock, never held over an await.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tracing::warn;

#[derive(Debug, Default)]
struct Seen {
    nodes: BTreeMap<String, Arc<Value>>,
    /// `namespace/name` of a pod to its node.
    pods: BTreeMap<String, String>,
    services: BTreeSet<String>,
}

/// A cluster as last seen; clones are the same.
#[derive(Debug, Clone)]
pub struct Mirror {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Sender<()>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { seen: Arc::default(), changed: watch::Sender::new(()) }
    }
}

impl Mirror {
    /// A Node object.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Value>> {
        self.with(|seen| seen.nodes.get(name).cloned())
    }

    /// Every Node object.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Value>> {
        self.with(|seen| seen.nodes.values().cloned().collect())
    }

    /// How many pods are bound to a node.
    #[must_use]
    pub fn pods_on(&self, node: &str) -> usize {
        self.with(|seen| seen.pods.values().filter(|on| *on == node).count())
    }

    /// How many Services there are.
    #[must_use]
    pub fn services(&self) -> usize {
        self.with(|seen| seen.services.len())
    }

    /// A channel that changes whenever a Node does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key<K: ResourceExt>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Keeps the mirror equal to the cluster until cancelled.
pub async fn follow(client: Client, mirror: Mirror) {
    let nodes = each(
        watcher(Api::<Node>::all(client.clone()), watcher::Config::default()).default_backoff(),
        |event| {
            mirror.with(|seen| match event {
                Event::Apply(node) | Event::InitApply(node) => {
                    let name = node.name_any();
                    match serde_json::to_value(node) {
                        Ok(object) => drop(seen.nodes.insert(name, Arc::new(object))),
                        Err(error) => warn!(%error, name, "a Node that cannot be kept"),
                    }
                }
                Event::Delete(node) => drop(seen.nodes.remove(&node.name_any())),
                Event::Init => seen.nodes.clear(),
                Event::InitDone => {}
            });
            mirror.changed.send_replace(());
        },
    );
    let pods = each(
        watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff(),
        |event| {
            mirror.with(|seen| match event {
                Event::Apply(pod) | Event::InitApply(pod) => {
                    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                    match node {
                        Some(node) => drop(seen.pods.insert(key(&pod), node)),
                        None => drop(seen.pods.remove(&key(&pod))),
                    }
                }
                Event::Delete(pod) => drop(seen.pods.remove(&key(&pod))),
                Event::Init => seen.pods.clear(),
                Event::InitDone => {}
            });
        },
    );
    let services = each(
        watcher(Api::<PartialObjectMeta<Service>>::all(client), watcher::Config::default())
            .default_backoff(),
        |event| {
            mirror.with(|seen| match event {
                Event::Apply(service) | Event::InitApply(service) => {
                    seen.services.insert(key(&service));
                }
                Event::Delete(service) => drop(seen.services.remove(&key(&service))),
                Event::Init => seen.services.clear(),
                Event::InitDone => {}
            });
        },
    );
    futures::join!(nodes, pods, services);
}

async fn each<K: Resource + Debug>(
    events: impl futures::Stream<Item = Result<Event<K>, watcher::Error>>,
    mut take: impl FnMut(Event<K>),
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(event),
            Err(error) => warn!(%error, "a watch of the cluster broke; it is started again"),
        }
    }
}
