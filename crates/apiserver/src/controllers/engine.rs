//! The view, the queue and the table of controllers, put together without a clock or an API.
//!
//! `observe` takes changes in and turns them into keys; `take` hands out a key that is due;
//! `reconcile` asks its controller. The driver does the rest; tests do it against a store of
//! their own.

#[cfg(test)]
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::config::Config;
use super::events;
use super::queue::Queue;
use super::view::{Change, View};
use super::write::{EVENTS, ObjectRef, Op, Outcome};
use super::{
    deployment, endpoints, endpointslice, event_expiry, garbage, mirroring, namespace, node_cidr,
    node_lifecycle, pod_garbage, replicaset, scheduler, service_cidr,
};

/// The controllers, in no particular order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    /// Deployment → ReplicaSets.
    Deployment,
    /// ReplicaSet → pods.
    ReplicaSet,
    /// Pod → node.
    Scheduler,
    /// Service → EndpointSlices.
    EndpointSlice,
    /// Service → Endpoints.
    Endpoints,
    /// Hand-written Endpoints → EndpointSlices.
    Mirroring,
    /// ServiceCIDR → Ready; its end.
    ServiceCidr,
    /// Node → pod CIDRs.
    NodeCidr,
    /// Node → Ready, taints; its pods → Ready, eviction.
    NodeLifecycle,
    /// Pods whose node is gone.
    PodGarbage,
    /// Namespace → its standard content; its end.
    Namespace,
    /// Owners and dependents.
    Garbage,
    /// Old Events.
    EventExpiry,
}

/// A controller and the object it shall look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Who.
    pub controller: Controller,
    /// What.
    pub target: ObjectRef,
}

/// Where controllers put the keys a change wakes.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    now: Vec<Key>,
    later: Vec<(Key, Timestamp)>,
}

impl Wakes {
    pub(crate) fn push(&mut self, controller: Controller, target: ObjectRef) {
        self.now.push(Key { controller, target });
    }

    pub(crate) fn push_at(&mut self, controller: Controller, target: ObjectRef, at: Timestamp) {
        self.later.push((Key { controller, target }, at));
    }
}

/// View, queue and settings.
#[derive(Debug)]
pub struct Engine {
    view: View,
    queue: Queue<Key>,
    config: Config,
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(config: Config) -> Self {
        Self { view: View::new(), queue: Queue::default(), config }
    }

    /// What the engine has seen.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Makes a served kind known (see [`View::serve`]).
    pub fn serve(&mut self, group: &str, kind: &str) {
        self.view.serve(group, kind);
    }

    /// Takes the first list of everything in: all objects are in the view before any of them
    /// wakes a controller, so that none sees half a cluster.
    pub fn start(&mut self, objects: Vec<(ObjectRef, Arc<Value>)>, now: Timestamp) {
        let changes: Vec<Change> = objects
            .into_iter()
            .map(|(target, object)| Change { target, old: None, new: Some(object) })
            .collect();
        for change in &changes {
            self.view.apply(change);
        }
        for change in &changes {
            self.wake(change, now);
        }
    }

    /// Takes one change in and queues what it wakes.
    pub fn observe(&mut self, change: &Change, now: Timestamp) {
        self.view.apply(change);
        self.wake(change, now);
    }

    fn wake(&mut self, change: &Change, now: Timestamp) {
        let mut wakes = Wakes::default();
        if change.target.resource == EVENTS {
            // Events are many and concern two controllers only.
            event_expiry::wakes(change, &self.config, now, &mut wakes);
            namespace::wakes(change, &self.view, &mut wakes);
        } else {
            deployment::wakes(change, &self.view, &mut wakes);
            replicaset::wakes(change, &self.view, &mut wakes);
            scheduler::wakes(change, &self.view, &mut wakes);
            endpointslice::wakes(change, &self.view, &mut wakes);
            endpoints::wakes(change, &self.view, &mut wakes);
            mirroring::wakes(change, &self.view, &mut wakes);
            service_cidr::wakes(change, &self.view, &mut wakes);
            node_cidr::wakes(change, &self.view, &mut wakes);
            node_lifecycle::wakes(change, &self.view, &mut wakes);
            pod_garbage::wakes(change, &self.view, &self.config, now, &mut wakes);
            namespace::wakes(change, &self.view, &mut wakes);
            garbage::wakes(change, &self.view, &mut wakes);
        }
        for key in wakes.now {
            self.queue.push(key);
        }
        for (key, at) in wakes.later {
            self.queue.push_at(key, at);
        }
    }

    /// The next key that is due.
    pub fn take(&mut self, now: Timestamp) -> Option<Key> {
        self.queue.pop(now)
    }

    /// When later work is due.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.queue.next_due()
    }

    /// What a key's controller wants done. Pure: the queue is told by [`Engine::settle`].
    pub fn reconcile(&self, key: &Key, now: Timestamp) -> Outcome {
        let (view, target) = (&self.view, &key.target);
        match key.controller {
            Controller::Deployment => deployment::reconcile(view, target, now),
            Controller::ReplicaSet => replicaset::reconcile(view, target, now),
            Controller::Scheduler => scheduler::reconcile(view, target, now),
            Controller::EndpointSlice => endpointslice::reconcile(view, target),
            Controller::Endpoints => endpoints::reconcile(view, target),
            Controller::Mirroring => mirroring::reconcile(view, target),
            Controller::ServiceCidr => service_cidr::reconcile(view, target, now),
            Controller::NodeCidr => node_cidr::reconcile(view, target, &self.config),
            Controller::NodeLifecycle => node_lifecycle::reconcile(view, target, &self.config, now),
            Controller::PodGarbage => pod_garbage::reconcile(view, target),
            Controller::Namespace => namespace::reconcile(view, target, &self.config, now),
            Controller::Garbage => garbage::reconcile(view, target),
            Controller::EventExpiry => event_expiry::reconcile(view, target, &self.config, now),
        }
    }

    /// The request that records a note.
    pub fn event(&self, note: &super::write::Note, now: Timestamp) -> Op {
        events::record(&self.view, note, now)
    }

    /// Tells the queue how a key's writes went. Returns whether it will be tried again.
    pub fn settle(&mut self, key: Key, outcome: Settled, now: Timestamp) -> bool {
        match outcome {
            Settled::Done { again_at } => {
                self.queue.succeeded(&key);
                if let Some(at) = again_at {
                    self.queue.push_at(key, at);
                }
                false
            }
            Settled::Failed => {
                self.queue.failed(key, now);
                true
            }
        }
    }

    /// Every key any controller would look at for what is in the view.
    #[cfg(test)]
    pub(crate) fn every_key(&self, now: Timestamp) -> BTreeSet<Key> {
        let mut other = Self::new(self.config.clone());
        let objects: Vec<_> = self
            .view
            .refs()
            .map(|(resource, object)| (ObjectRef::of(resource.clone(), object), Arc::clone(object)))
            .collect();
        other.start(objects, now);
        let mut keys = BTreeSet::new();
        while let Some(key) = other.take(Timestamp::MAX) {
            keys.insert(key);
        }
        keys
    }
}

/// How the writes of a reconcile went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// All done; look again at the given time.
    Done {
        /// From [`Outcome::again_at`].
        again_at: Option<Timestamp>,
    },
    /// One failed; try again with backoff.
    Failed,
}
