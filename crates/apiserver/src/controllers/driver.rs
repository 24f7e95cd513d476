//! The edge of the controllers: store watches in, registry writes out, one thread, one clock.
//!
//! One OS thread runs everything, so the view has one writer and no lock. It empties all watches
//! before each reconcile, applies the writes, and sleeps until a watch signals or a key is due;
//! nothing polls. Waiting on the watches is cancel-safe: an event stays in its ring until taken.
//! The thread ends when its [`Handle`] is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::select_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::config::Config;
use super::engine::{Engine, Key, Settled};
use super::view::Change;
use super::write::{EVENTS, Note, ObjectRef, Op, Propagation, Resource, Write};
use crate::kinds::Verbs;
use crate::registry::{self, DeleteOptions, Part, Place, Registry, WriteOptions};
use crate::status::Status;
use crate::store;

/// Reconciles between two looks at whether to stop.
const BATCH: usize = 128;
/// Longest sleep; a later deadline is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Keeps the controllers running; dropping it stops them and waits for the step under way.
#[derive(Debug)]
pub struct Handle {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the controllers ended in a panic");
        }
    }
}

/// Starts the controllers on a registry, on a thread of their own.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(registry: Registry, config: Config) -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("controllers".into())
        .spawn(move || runtime.block_on(run(Driver::new(registry, config), stopped)))?;
    Ok(Handle { stop: Some(stop), thread: Some(thread) })
}

async fn run(mut driver: Driver, mut stopped: oneshot::Receiver<()>) {
    loop {
        let mut busy = true;
        for _ in 0..BATCH {
            let now = driver.registry.now();
            busy = driver.step(now);
            if !busy {
                break;
            }
        }
        if busy {
            if !matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                return;
            }
            continue;
        }
        let sleep = driver.sleep(driver.registry.now());
        tokio::select! {
            _ = &mut stopped => return,
            () = driver.wait() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// The engine with its watches, one step at a time.
#[derive(Debug)]
pub struct Driver {
    registry: Registry,
    engine: Engine,
    watches: HashMap<Resource, store::Watch>,
    /// The table of kinds the watches were made for.
    generation: Option<u64>,
}

impl Driver {
    /// A driver that has listed everything the registry serves.
    pub fn new(registry: Registry, config: Config) -> Self {
        let mut driver = Self {
            registry,
            engine: Engine::new(config),
            watches: HashMap::new(),
            generation: None,
        };
        let now = driver.registry.now();
        driver.follow_kinds(now);
        driver
    }

    /// What the controllers see and what they wait for.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Watches every kind that is served; lists those that are new.
    fn follow_kinds(&mut self, now: Timestamp) {
        let generation = self.registry.kinds().generation();
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        let mut objects = Vec::new();
        let mut served = Vec::new();
        for kind in self.registry.kinds().all() {
            for version in &kind.served {
                self.engine.serve(&version.group, &kind.kind);
            }
            if kind.verbs == Verbs::CreateOnly {
                continue;
            }
            let resource = Resource::new(&kind.group, &kind.plural);
            served.push(resource.clone());
            if self.watches.contains_key(&resource) {
                continue;
            }
            let (listing, watch) = self.registry.store().list_watch(&stored(&resource), None);
            self.watches.insert(resource.clone(), watch);
            objects.extend(
                listing.items.into_iter().map(|o| (ObjectRef::of(resource.clone(), &o), o)),
            );
        }
        let gone: Vec<Resource> =
            self.watches.keys().filter(|resource| !served.contains(resource)).cloned().collect();
        for resource in gone {
            // What the kind's end removed may not have been read any more.
            self.relist(&resource, now);
            self.watches.remove(&resource);
        }
        self.engine.start(objects, now);
    }

    /// Takes in everything that has happened.
    fn pump(&mut self, now: Timestamp) {
        self.follow_kinds(now);
        let mut lost = Vec::new();
        for (resource, watch) in &mut self.watches {
            loop {
                match watch.try_next() {
                    Ok(Some(event)) => self.engine.observe(&change(resource, &event), now),
                    Ok(None) => break,
                    Err(_) => {
                        lost.push(resource.clone());
                        break;
                    }
                }
            }
        }
        for resource in lost {
            self.relist(&resource, now);
        }
    }

    /// A watch fell out of its ring: the difference between the list and the view is what it
    /// missed.
    fn relist(&mut self, resource: &Resource, now: Timestamp) {
        tracing::debug!(?resource, "controllers list again");
        let (listing, watch) = self.registry.store().list_watch(&stored(resource), None);
        self.watches.insert(resource.clone(), watch);
        let mut gone: HashMap<ObjectRef, Arc<Value>> = self
            .engine
            .view()
            .all(resource)
            .map(|object| (ObjectRef::of(resource.clone(), object), Arc::clone(object)))
            .collect();
        let mut changes = Vec::new();
        for object in listing.items {
            let target = ObjectRef::of(resource.clone(), &object);
            let old = gone.remove(&target);
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &object)) {
                changes.push(Change { target, old, new: Some(object) });
            }
        }
        changes.extend(gone.into_iter().map(|(target, old)| Change {
            target,
            old: Some(old),
            new: None,
        }));
        for change in &changes {
            self.engine.observe(change, now);
        }
    }

    /// Takes in what happened and works on one key; false when none is due.
    pub fn step(&mut self, now: Timestamp) -> bool {
        self.pump(now);
        let Some(key) = self.engine.take(now) else { return false };
        let outcome = self.engine.reconcile(&key, now);
        for write in &outcome.writes {
            if let Err(status) = self.write(write, now) {
                self.failed(&key, &status);
                self.engine.settle(key, Settled::Failed, now);
                return true;
            }
        }
        self.engine.settle(key, Settled::Done { again_at: outcome.again_at }, now);
        true
    }

    /// How long nothing is due.
    fn sleep(&self, now: Timestamp) -> Duration {
        self.engine.next_due().map_or(LONGEST_SLEEP, |due| {
            Duration::try_from(due.duration_since(now)).unwrap_or_default().min(LONGEST_SLEEP)
        })
    }

    /// Waits until something happens. The event itself is left for [`Driver::step`] unless it was
    /// taken to be seen, in which case it is taken in here.
    async fn wait(&mut self) {
        let waits = self.watches.iter_mut().map(|(resource, watch)| {
            let resource = resource.clone();
            Box::pin(async move { (resource, watch.next().await) })
        });
        let ((resource, event), _, rest) = select_all(waits).await;
        drop(rest);
        let now = self.registry.now();
        match event {
            Ok(event) => self.engine.observe(&change(&resource, &event), now),
            Err(_) => self.relist(&resource, now),
        }
    }

    fn failed(&self, key: &Key, status: &Status) {
        if status.code == 409 {
            tracing::debug!(?key, %status, "tried again");
        } else {
            tracing::warn!(?key, %status, "a controller's write failed and is tried again");
        }
    }

    /// One write with its Events. A write that finds its object gone is done: the view will say.
    fn write(&mut self, write: &Write, now: Timestamp) -> Result<(), Status> {
        let result = match &write.op {
            Some(op) => self.apply(op).map(Some),
            None => Ok(None),
        };
        match result {
            Ok(object) => {
                if let Some(note) = &write.on_success {
                    let name = object.as_deref().map_or("", |object| super::object::name(object));
                    self.note(note, &note.message.replace("{name}", name), now);
                }
                Ok(())
            }
            Err(status) if status.code == 404 && !matches!(write.op, Some(Op::Create { .. })) => {
                Ok(())
            }
            // A terminating namespace takes nothing; whoever asked is going too.
            Err(status) if is_terminating(&status) => Ok(()),
            Err(status) => {
                if let Some(note) = write.on_failure.as_ref().filter(|_| status.code != 409) {
                    let message = note.message.replace("{error}", &status.message);
                    self.note(note, &message, now);
                }
                Err(status)
            }
        }
    }

    /// Records an Event. An Event that cannot be written is not worth a retry of its cause.
    fn note(&mut self, note: &Note, message: &str, now: Timestamp) {
        let note = Note { message: message.to_owned(), ..note.clone() };
        // The newest count of this Event may still be on its way to the view.
        self.pump_events(now);
        let op = self.engine.event(&note, now);
        if let Err(status) = self.apply(&op) {
            tracing::debug!(reason = note.reason, %status, "Event not recorded");
        }
    }

    fn pump_events(&mut self, now: Timestamp) {
        if let Some(watch) = self.watches.get_mut(&EVENTS) {
            while let Ok(Some(event)) = watch.try_next() {
                self.engine.observe(&change(&EVENTS, &event), now);
            }
        }
    }

    fn apply(&self, op: &Op) -> Result<Arc<Value>, Status> {
        let options = WriteOptions::default();
        let update = |resource: &Resource, object: &Value, part| {
            let place = self.place(&ObjectRef::of(resource.clone(), object))?;
            Ok(self.registry.update(&place, part, object.clone(), &options)?.object)
        };
        match op {
            Op::Create { resource, object } => {
                let namespace = super::object::namespace(object);
                let place = self.place(&ObjectRef::new(resource.clone(), namespace, ""))?;
                Ok(self.registry.create(&place, object.clone(), &options)?.object)
            }
            Op::Update { resource, object } => update(resource, object, Part::Main),
            Op::UpdateStatus { resource, object } => update(resource, object, Part::Status),
            Op::Finalize { object } => update(&super::write::NAMESPACES, object, Part::Finalize),
            Op::Delete { target, uid, grace_seconds, propagation } => {
                let options = DeleteOptions {
                    grace_period_seconds: *grace_seconds,
                    uid: Some(uid.clone()).filter(|uid| !uid.is_empty()),
                    propagation: Some(match propagation {
                        Propagation::Background => registry::Propagation::Background,
                        Propagation::Foreground => registry::Propagation::Foreground,
                        Propagation::Orphan => registry::Propagation::Orphan,
                    }),
                    ..DeleteOptions::default()
                };
                Ok(self.registry.delete(&self.place(target)?, &options)?.object)
            }
            Op::Bind { namespace, pod, uid, node } => {
                let place = self.place(&ObjectRef::new(super::write::PODS, namespace, pod))?;
                let binding = json!({
                    "metadata": { "name": pod, "namespace": namespace, "uid": uid },
                    "target": { "kind": "Node", "name": node },
                });
                Ok(self.registry.bind(&place, &binding, &options)?.object)
            }
        }
    }

    fn place(&self, target: &ObjectRef) -> Result<Place, Status> {
        let ObjectRef { resource, namespace, name } = target;
        self.registry.place(resource.group(), resource.plural(), namespace, name)
    }
}

fn is_terminating(status: &Status) -> bool {
    status.code == 403
        && status.details.as_ref().is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
}

fn stored(resource: &Resource) -> store::Resource {
    store::Resource::new(resource.group(), resource.plural())
}

fn change(resource: &Resource, event: &store::Event) -> Change {
    Change {
        target: ObjectRef::new(resource.clone(), &event.key.namespace, &event.key.name),
        old: event.previous.clone(),
        new: (event.change != store::Change::Deleted).then(|| event.object.clone()),
    }
}

#[cfg(test)]
mod tests;
