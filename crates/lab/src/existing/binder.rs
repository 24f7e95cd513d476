//! Pods to nodes, for a cluster that runs a controller manager and no scheduler: the embedded control plane's scheduler
//! over somebody else's API.
//!
//! The decision is [`apiserver::controllers`]'; here are the watches that feed its view and the request that follows.
//! What the other controllers of the same engine would do is dropped: the cluster has its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver::controllers::config::Config;
use apiserver::controllers::engine::{Controller, Engine, Settled};
use apiserver::controllers::view::Change;
use apiserver::controllers::write::{NODES, ObjectRef, Op, PODS, Resource};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use tracing::{debug, warn};

/// Binds pods until cancelled.
pub async fn run(client: Client) {
    let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default());
    let mut nodes = nodes.default_backoff().boxed();
    let mut pods = pods.default_backoff().boxed();
    let mut binder = Binder { engine: Engine::new(Config::default()), listing: BTreeMap::new() };
    loop {
        let now = Timestamp::now();
        let pause = binder.engine.next_due().map_or(std::time::Duration::from_secs(60), |due| {
            due.duration_since(now).try_into().unwrap_or_default()
        });
        let taken = tokio::select! {
            Some(event) = nodes.next() => event.map(|event| binder.take(&NODES, event)),
            Some(event) = pods.next() => event.map(|event| binder.take(&PODS, event)),
            () = tokio::time::sleep(pause) => Ok(()),
        };
        if let Err(error) = taken {
            warn!(%error, "a watch of the cluster broke; it is started again");
        }
        binder.work(&client).await;
    }
}

struct Binder {
    engine: Engine,
    /// What a list under way has shown so far.
    listing: BTreeMap<Resource, Vec<ObjectRef>>,
}

impl Binder {
    fn take<K: Serialize + ResourceExt>(&mut self, resource: &Resource, event: Event<K>) {
        match event {
            Event::Init => drop(self.listing.insert(resource.clone(), Vec::new())),
            Event::InitApply(object) => {
                let target = target(resource, &object);
                self.listing.entry(resource.clone()).or_default().push(target.clone());
                self.observe(target, value(&object));
            }
            Event::InitDone => {
                let listed = self.listing.remove(resource).unwrap_or_default();
                let known: Vec<ObjectRef> = self
                    .engine
                    .view()
                    .all(resource)
                    .map(|object| ObjectRef::of(resource.clone(), object))
                    .collect();
                for target in known.into_iter().filter(|target| !listed.contains(target)) {
                    self.observe(target, None);
                }
            }
            Event::Apply(object) => self.observe(target(resource, &object), value(&object)),
            Event::Delete(object) => self.observe(target(resource, &object), None),
        }
    }

    fn observe(&mut self, target: ObjectRef, new: Option<Arc<Value>>) {
        let old = self.engine.view().get(&target).cloned();
        self.engine.observe(&Change { target, old, new }, Timestamp::now());
    }

    /// Sees the pod on its node before the watch does: the next pod must count it.
    fn assume(&mut self, namespace: &str, pod: &str, node: &str) {
        let target = ObjectRef::new(PODS, namespace, pod);
        if let Some(mut bound) = self.engine.view().get(&target).map(|pod| Value::clone(pod)) {
            bound["spec"]["nodeName"] = node.into();
            self.observe(target, Some(Arc::new(bound)));
        }
    }

    async fn work(&mut self, client: &Client) {
        while let Some(key) = self.engine.take(Timestamp::now()) {
            let now = Timestamp::now();
            if key.controller != Controller::Scheduler {
                self.engine.settle(key, Settled::Done { again_at: None }, now);
                continue;
            }
            let outcome = self.engine.reconcile(&key, now);
            let mut settled = Settled::Done { again_at: outcome.again_at };
            for write in outcome.writes {
                let Some(Op::Bind { namespace, pod, uid, node }) = write.op else { continue };
                if let Err(error) = bind(client, &namespace, &pod, &uid, &node).await {
                    debug!(%error, namespace, pod, node, "not bound; tried again");
                    settled = Settled::Failed;
                } else {
                    self.assume(&namespace, &pod, &node);
                }
            }
            self.engine.settle(key, settled, Timestamp::now());
        }
    }
}

fn target<K: ResourceExt>(resource: &Resource, object: &K) -> ObjectRef {
    let namespace = object.namespace().unwrap_or_default();
    ObjectRef::new(resource.clone(), &namespace, &object.name_any())
}

fn value<K: Serialize>(object: &K) -> Option<Arc<Value>> {
    serde_json::to_value(object).map(Arc::new).ok()
}

async fn bind(
    client: &Client,
    namespace: &str,
    pod: &str,
    uid: &str,
    node: &str,
) -> anyhow::Result<()> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let asked = PostParams::default();
    pods.create_subresource::<_, Value>("binding", pod, &asked, &binding).await?;
    Ok(())
}
