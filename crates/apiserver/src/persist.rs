//! The state file: written behind the store by a thread of its own, read once at start.
//!
//! A request never waits for the disk: changes are coalesced and committed a few milliseconds
//! later. If the disk refuses (full, gone), memory keeps everything, the trouble is reported
//! where people look (`/readyz?verbose`, log, `Handle::trouble`) and the writes are tried again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use crate::server::Trouble;
use crate::store::{Dirty, Key, Resource, Store};

/// `group/plural\0namespace\0name` → the object's JSON.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
/// `revision` → the newest revision on disk.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// Changes of this long are put into one commit.
const GATHER: Duration = Duration::from_millis(5);
/// Pause after a commit that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// Opening or reading failed: no permission, in use, torn, not a state file.
    #[error("state file {path}: {source}. Move it away to start empty")]
    File {
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
    /// An entry makes no sense.
    #[error("state file {path}: entry {entry:?} is damaged. Move the file away to start empty")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry's key.
        entry: String,
    },
    /// The writer's thread cannot be started.
    #[error("state file {path}: no thread to write it: {source}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// The writer of a state file.
#[derive(Debug)]
pub struct Persistence {
    store: Store,
    trouble: Trouble,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn entry(key: &Key) -> String {
    let Resource { group, plural } = &key.resource;
    format!("{group}/{plural}\0{}\0{}", key.namespace, key.name)
}

fn parse_entry(text: &str) -> Option<Key> {
    let mut parts = text.split('\0');
    let (group, plural) = parts.next()?.split_once('/')?;
    let key = Key::new(&Resource::new(group, plural), parts.next()?, parts.next()?);
    parts.next().is_none().then_some(key)
}

impl Persistence {
    /// Opens or makes a state file and returns the store it holds.
    ///
    /// # Errors
    /// [`PersistError`]; the file is left as it is.
    pub fn open(path: &Path) -> Result<(Store, Self), PersistError> {
        let file = |source: redb::Error| PersistError::File {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let database = Database::create(path).map_err(|error| file(error.into()))?;
        let (revision, objects) = load(&database).map_err(|error| match error {
            LoadError::Database(source) => file(*source),
            LoadError::Entry(entry) => PersistError::Entry { path: path.to_owned(), entry },
        })?;
        let store = Store::restore(revision, objects);
        let trouble = Trouble::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (store, trouble, stop) = (store.clone(), trouble.clone(), stop.clone());
            std::thread::Builder::new()
                .name("state-file".into())
                .spawn(move || write_behind(&database, &store, &trouble, &stop))
                .map_err(|source| PersistError::Thread { path: path.to_owned(), source })?
        };
        let persistence = Self { store: store.clone(), trouble, stop, thread: Some(thread) };
        Ok((store, persistence))
    }

    /// Why writing fails, while it fails.
    pub fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }

    /// Writes what is unwritten and closes the file.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Persistence {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.store.wake_writer();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the state file panicked");
        }
    }
}

enum LoadError {
    Database(Box<redb::Error>),
    Entry(String),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

fn load(database: &Database) -> Result<(u64, Vec<(Key, Value)>), LoadError> {
    // Makes the tables, so that a new file reads like an empty one.
    let write = database.begin_write()?;
    write.open_table(OBJECTS)?;
    write.open_table(NUMBERS)?;
    write.commit()?;
    let read = database.begin_read()?;
    let revision =
        read.open_table(NUMBERS)?.get("revision")?.map_or(1, |revision| revision.value());
    let mut objects = Vec::new();
    for row in read.open_table(OBJECTS)?.iter()? {
        let (name, bytes) = row?;
        let damaged = || LoadError::Entry(name.value().replace('\0', "/"));
        let key = parse_entry(name.value()).ok_or_else(damaged)?;
        let value = serde_json::from_slice(bytes.value()).map_err(|_| damaged())?;
        objects.push((key, value));
    }
    Ok((revision, objects))
}

fn write_behind(database: &Database, store: &Store, trouble: &Trouble, stop: &AtomicBool) {
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let patience = if stopping { Duration::ZERO } else { PAUSE };
        let Some(mut dirty) = store.take_dirty(patience) else { return };
        if dirty.objects.is_empty() {
            if stopping {
                return;
            }
            continue;
        }
        if !stopping {
            std::thread::sleep(GATHER);
            if let Some(more) = store.take_dirty(Duration::ZERO) {
                dirty.revision = dirty.revision.max(more.revision);
                dirty.objects.extend(more.objects);
            }
        }
        let mut state = trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match commit(database, &dirty) {
            Ok(()) => {
                if state.take().is_some() {
                    tracing::info!("the state file is written again");
                }
            }
            Err(error) => {
                let why = format!(
                    "{} objects are in memory but not on disk: {error}",
                    dirty.objects.len()
                );
                if state.as_ref().is_none() {
                    tracing::warn!(
                        "state file: {why}; free space or fix the disk, it is tried again"
                    );
                }
                *state = Some(why);
                drop(state);
                store.return_dirty(dirty);
                if stopping {
                    return;
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn commit(database: &Database, dirty: &Dirty) -> Result<(), Box<redb::Error>> {
    let boxed = |error: redb::Error| Box::new(error);
    let write = database.begin_write().map_err(|e| boxed(e.into()))?;
    {
        let mut objects = write.open_table(OBJECTS).map_err(|e| boxed(e.into()))?;
        for (key, value) in &dirty.objects {
            let name = entry(key);
            match value {
                Some(value) => {
                    let bytes = serde_json::to_vec(value).unwrap_or_default();
                    objects.insert(name.as_str(), bytes.as_slice()).map_err(|e| boxed(e.into()))?;
                }
                None => {
                    objects.remove(name.as_str()).map_err(|e| boxed(e.into()))?;
                }
            }
        }
        let mut numbers = write.open_table(NUMBERS).map_err(|e| boxed(e.into()))?;
        numbers.insert("revision", dirty.revision).map_err(|e| boxed(e.into()))?;
    }
    write.commit().map_err(|e| boxed(e.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(name: &str) -> PathBuf {
        let uid = crate::registry::identity::uid();
        std::env::temp_dir().join(format!("fairway-persist-{name}-{uid}.redb"))
    }

    fn key(name: &str) -> Key {
        Key::new(&Resource::new("apps", "deployments"), "default", name)
    }

    #[test]
    fn what_was_written_is_there_again_and_revisions_go_on() {
        let path = file("again");
        let revision = {
            let (store, persistence) = Persistence::open(&path).unwrap();
            for name in ["a", "b", "c"] {
                store.create(&key(name), json!({"metadata": {"name": name}})).unwrap();
            }
            store.update(&key("a"), json!({"metadata": {"name": "a"}, "x": 1}), None).unwrap();
            store.delete(&key("b"), None).unwrap();
            persistence.close();
            store.revision()
        };
        let (store, persistence) = Persistence::open(&path).unwrap();
        assert_eq!(store.revision(), revision);
        let names: Vec<_> = store
            .list(&key("a").resource, None)
            .items
            .iter()
            .map(|o| (o["metadata"]["name"].clone(), o["x"].clone()))
            .collect();
        assert_eq!(names, [(json!("a"), json!(1)), (json!("c"), Value::Null)]);
        // A watch from before the restart is told to list again, one from its end is not.
        assert!(store.watch(&key("a").resource, None, revision - 1).is_err());
        assert!(store.watch(&key("a").resource, None, revision).is_ok());
        persistence.close();
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_torn_file_is_reported_and_left_alone() {
        let path = file("torn");
        std::fs::write(&path, b"this is no state file").unwrap();
        let error = Persistence::open(&path).unwrap_err().to_string();
        assert!(error.contains("Move it away") && error.contains("torn"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"this is no state file");
        std::fs::remove_file(path).unwrap();
    }
}
