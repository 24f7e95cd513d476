//! The store: every object in memory, one revision for all of them, and what changed lately.
//!
//! Values are immutable and shared (`Arc<Value>`); a write puts a new value in place under the
//! next revision and stamps it into `metadata.resourceVersion`. Each resource keeps a bounded
//! ring of its last events; a watch is a cursor over that ring, so a slow watcher costs nothing
//! and one that falls out of the ring is told so ([`Expired`]). There is no I/O here: persistence
//! takes what is [dirty](Store::take_dirty) from another thread.
//!
//! The store knows no kinds and no rules; `registry` has those.

mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch as signal;

pub use watch::Watch;

/// Events kept per resource unless told otherwise.
pub const RING: usize = 10_000;

/// A resource: storage group and plural.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// API group, empty for core.
    pub group: Arc<str>,
    /// `services`.
    pub plural: Arc<str>,
}

impl Resource {
    /// From its two names.
    pub fn new(group: &str, plural: &str) -> Self {
        Self { group: group.into(), plural: plural.into() }
    }
}

/// Where an object lives. `namespace` is empty for cluster-scoped objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace, or empty.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// From its parts.
    pub fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self { resource: resource.clone(), namespace: namespace.into(), name: name.into() }
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It has a new value.
    Modified,
    /// It is gone; the event carries its last value under the revision of the deletion.
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The revision it happened at.
    pub revision: u64,
    /// Where.
    pub key: Key,
    /// The value after it (for deletions: the last value, stamped with this revision).
    pub object: Arc<Value>,
    /// The value before it.
    pub previous: Option<Arc<Value>>,
    forms: Mutex<Vec<(u64, Bytes)>>,
}

impl Event {
    /// The serialised form number `form` of this event, made once for all who want it.
    pub fn form(&self, form: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut forms = lock(&self.forms);
        if let Some((_, bytes)) = forms.iter().find(|(id, _)| *id == form) {
            return bytes.clone();
        }
        let bytes = make();
        forms.push((form, bytes.clone()));
        bytes
    }
}

/// A consistent list.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The revision the list is true at; a watch from here misses nothing.
    pub revision: u64,
    /// Objects ordered by namespace, then name.
    pub items: Vec<Arc<Value>>,
}

/// Why a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Create of a key that is there.
    #[error("{0:?} already exists")]
    Exists(Key),
    /// Update or delete of a key that is not there.
    #[error("{0:?} not found")]
    NotFound(Key),
    /// The expected revision is not the object's.
    #[error("{key:?} is at revision {actual}, not {expected}")]
    Conflict {
        /// Which object.
        key: Key,
        /// What the writer had read.
        expected: u64,
        /// What is there.
        actual: u64,
    },
}

/// The revision a watch wants to start from, or was at, has left the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Expired {
    /// What was asked.
    pub asked: u64,
    /// The oldest revision a watch may start from.
    pub oldest: u64,
}

/// Changes that are not on disk yet.
#[derive(Debug, Default)]
pub struct Dirty {
    /// The newest revision in here.
    pub revision: u64,
    /// Last value per key; `None` is a deletion.
    pub objects: BTreeMap<Key, Option<Arc<Value>>>,
}

/// The objects of a namespace by name, with the revision each is at.
type Objects = BTreeMap<Arc<str>, (u64, Arc<Value>)>;

#[derive(Debug)]
struct Shelf {
    objects: BTreeMap<Arc<str>, Objects>,
    ring: VecDeque<Arc<Event>>,
    /// A watch may start from this revision or a later one.
    oldest: u64,
    signal: signal::Sender<u64>,
}

impl Shelf {
    fn new(oldest: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            ring: VecDeque::new(),
            oldest,
            signal: signal::Sender::new(0),
        }
    }

    fn get(&self, namespace: &str, name: &str) -> Option<&(u64, Arc<Value>)> {
        self.objects.get(namespace)?.get(name)
    }
}

#[derive(Debug)]
struct State {
    revision: u64,
    shelves: HashMap<Resource, Shelf>,
}

#[derive(Debug)]
struct Inner {
    state: RwLock<State>,
    dirty: Option<Mutex<Dirty>>,
    dirt: Condvar,
    ring: usize,
    /// Revision the store started with; nothing older can be watched.
    start: u64,
}

/// The store. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Objects are JSON maps; puts the revision where it belongs.
fn stamp(value: &mut Value, revision: u64) {
    if let Some(object) = value.as_object_mut() {
        let metadata =
            object.entry("metadata").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".into(), Value::String(revision.to_string()));
        }
    }
}

impl Store {
    /// An empty store that forgets when it is dropped.
    pub fn new() -> Self {
        Self::build(RING, 1, Vec::new(), false)
    }

    /// An empty store with a ring of `ring` events per resource.
    pub fn with_ring(ring: usize) -> Self {
        Self::build(ring, 1, Vec::new(), false)
    }

    /// A store that starts with objects read from disk at `revision` and keeps track of what
    /// must be written there.
    pub fn restore(revision: u64, objects: Vec<(Key, Value)>) -> Self {
        Self::build(RING, revision.max(1), objects, true)
    }

    fn build(ring: usize, revision: u64, objects: Vec<(Key, Value)>, durable: bool) -> Self {
        let mut shelves: HashMap<Resource, Shelf> = HashMap::new();
        for (key, value) in objects {
            let at = revision_of(&value).unwrap_or(revision);
            let shelf = shelves.entry(key.resource).or_insert_with(|| Shelf::new(revision));
            shelf.objects.entry(key.namespace).or_default().insert(key.name, (at, Arc::new(value)));
        }
        Self(Arc::new(Inner {
            state: RwLock::new(State { revision, shelves }),
            dirty: durable.then(Mutex::default),
            dirt: Condvar::new(),
            ring: ring.max(1),
            start: revision,
        }))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    /// One object.
    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let state = self.read();
        Some(state.shelves.get(resource)?.get(namespace, name)?.1.clone())
    }

    /// Objects of a resource, in one namespace or in all, and the revision they are true at.
    pub fn list(&self, resource: &Resource, namespace: Option<&str>) -> Listing {
        let state = self.read();
        let mut items = Vec::new();
        if let Some(shelf) = state.shelves.get(resource) {
            match namespace {
                Some(namespace) => {
                    if let Some(objects) = shelf.objects.get(namespace) {
                        items.extend(objects.values().map(|(_, value)| value.clone()));
                    }
                }
                None => items.extend(
                    shelf.objects.values().flat_map(|o| o.values()).map(|(_, v)| v.clone()),
                ),
            }
        }
        Listing { revision: state.revision, items }
    }

    /// Every resource that holds an object now.
    pub fn resources(&self) -> Vec<Resource> {
        let state = self.read();
        let mut all: Vec<_> = state
            .shelves
            .iter()
            .filter(|(_, shelf)| shelf.objects.values().any(|objects| !objects.is_empty()))
            .map(|(resource, _)| resource.clone())
            .collect();
        all.sort();
        all
    }

    /// Puts a new object; its resourceVersion is set.
    ///
    /// # Errors
    /// [`WriteError::Exists`].
    pub fn create(&self, key: &Key, value: Value) -> Result<Arc<Value>, WriteError> {
        self.change(key, |current| match current {
            Some(_) => Err(WriteError::Exists(key.clone())),
            None => Ok(Some(value)),
        })
    }

    /// Replaces an object; with `expected`, only if it is at that revision. A value that equals
    /// the stored one is not written: no event, same revision (as etcd3 storage upstream).
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Conflict`].
    pub fn update(
        &self,
        key: &Key,
        value: Value,
        expected: Option<u64>,
    ) -> Result<Arc<Value>, WriteError> {
        self.change(key, |current| {
            check(key, current, expected)?;
            Ok(Some(value))
        })
    }

    /// Removes an object; with `expected`, only if it is at that revision. Returns its last
    /// value stamped with the revision of the deletion.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Conflict`].
    pub fn delete(&self, key: &Key, expected: Option<u64>) -> Result<Arc<Value>, WriteError> {
        self.change(key, |current| {
            check(key, current, expected)?;
            Ok(None)
        })
    }

    fn change(
        &self,
        key: &Key,
        decide: impl FnOnce(Option<u64>) -> Result<Option<Value>, WriteError>,
    ) -> Result<Arc<Value>, WriteError> {
        let mut state = self.write();
        let revision = state.revision + 1;
        let start = self.0.start;
        let shelf = state.shelves.entry(key.resource.clone()).or_insert_with(|| Shelf::new(start));
        let current = shelf.get(&key.namespace, &key.name).cloned();
        let next = decide(current.as_ref().map(|(at, _)| *at))?;
        let previous = current.as_ref().map(|(_, value)| value.clone());

        let (change, object) = match (next, &previous) {
            (Some(mut value), _) => {
                if let Some((at, old)) = &current {
                    stamp(&mut value, *at);
                    if value == **old {
                        return Ok(old.clone());
                    }
                }
                stamp(&mut value, revision);
                let value = Arc::new(value);
                shelf
                    .objects
                    .entry(key.namespace.clone())
                    .or_default()
                    .insert(key.name.clone(), (revision, value.clone()));
                let change = if previous.is_some() { Change::Modified } else { Change::Added };
                (change, value)
            }
            (None, Some(old)) => {
                if let Some(objects) = shelf.objects.get_mut(&key.namespace) {
                    objects.remove(&key.name);
                    if objects.is_empty() {
                        shelf.objects.remove(&key.namespace);
                    }
                }
                let mut last = Value::clone(old);
                stamp(&mut last, revision);
                (Change::Deleted, Arc::new(last))
            }
            (None, None) => return Err(WriteError::NotFound(key.clone())),
        };

        while shelf.ring.len() >= self.0.ring {
            if let Some(dropped) = shelf.ring.pop_front() {
                shelf.oldest = dropped.revision;
            }
        }
        shelf.ring.push_back(Arc::new(Event {
            change,
            revision,
            key: key.clone(),
            object: object.clone(),
            previous,
            forms: Mutex::default(),
        }));
        // The dirty map is filled under the write lock so that it sees writes in order.
        if let Some(dirty) = &self.0.dirty {
            let mut dirty = lock(dirty);
            dirty.revision = revision;
            let value = (change != Change::Deleted).then(|| object.clone());
            dirty.objects.insert(key.clone(), value);
            self.0.dirt.notify_all();
        }
        let woken = shelf.signal.clone();
        state.revision = revision;
        drop(state);
        woken.send_replace(revision);
        Ok(object)
    }

    /// Watches a resource (in one namespace or in all) for changes after `from`.
    ///
    /// # Errors
    /// [`Expired`] if `from` is older than the ring remembers, or newer than the store (a
    /// revision of another life: its owner must list again).
    pub fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        from: u64,
    ) -> Result<Watch, Expired> {
        let mut state = self.write();
        let start = self.0.start;
        let newest = state.revision;
        let shelf = state.shelves.entry(resource.clone()).or_insert_with(|| Shelf::new(start));
        if from < shelf.oldest || from > newest {
            return Err(Expired { asked: from, oldest: shelf.oldest });
        }
        Ok(Watch {
            store: self.clone(),
            resource: resource.clone(),
            namespace: namespace.map(Into::into),
            at: from,
            woken: shelf.signal.subscribe(),
            ready: VecDeque::new(),
        })
    }

    /// Lists and watches without a gap.
    pub fn list_watch(&self, resource: &Resource, namespace: Option<&str>) -> (Listing, Watch) {
        loop {
            let listing = self.list(resource, namespace);
            // Only a whole ring of writes between the two calls makes this fail.
            if let Ok(watch) = self.watch(resource, namespace, listing.revision) {
                return (listing, watch);
            }
        }
    }

    /// Waits up to `patience` for unwritten changes and takes them. `None` if the store is not
    /// durable; an empty [`Dirty`] if nothing changed.
    pub fn take_dirty(&self, patience: Duration) -> Option<Dirty> {
        let mut dirty = lock(self.0.dirty.as_ref()?);
        if dirty.objects.is_empty() {
            dirty = self
                .0
                .dirt
                .wait_timeout(dirty, patience)
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .0;
        }
        Some(std::mem::take(&mut *dirty))
    }

    /// Gives back changes that could not be written; newer ones win.
    pub fn return_dirty(&self, back: Dirty) {
        if let Some(dirty) = &self.0.dirty {
            let mut dirty = lock(dirty);
            dirty.revision = dirty.revision.max(back.revision);
            for (key, value) in back.objects {
                dirty.objects.entry(key).or_insert(value);
            }
        }
    }

    /// Wakes whoever waits in [`take_dirty`](Self::take_dirty).
    pub fn wake_writer(&self) {
        self.0.dirt.notify_all();
    }
}

fn check(key: &Key, current: Option<u64>, expected: Option<u64>) -> Result<(), WriteError> {
    match (current, expected) {
        (None, _) => Err(WriteError::NotFound(key.clone())),
        (Some(actual), Some(expected)) if actual != expected => {
            Err(WriteError::Conflict { key: key.clone(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// The revision an object carries.
pub fn revision_of(value: &Value) -> Option<u64> {
    value.get("metadata")?.get("resourceVersion")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
