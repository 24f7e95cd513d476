//! Keeps `facts.log` up to date: a little at a time on the agent's thread, the writing itself on a thread of its own. The only
//! clock is the monotonic one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use model::{Change, NodeName, ServiceKey, Snapshot};
use tokio::time::Instant;

use super::{HEADER, Line, encode, put_node, put_pools, put_service, put_service_cidrs};
use crate::worker::Worker;

/// The file.
pub(crate) const FILE: &str = "facts.log";
/// Changes wait this long, so that an object that changes all the time is written once.
const EVERY: Duration = Duration::from_secs(30);
/// The first writing after a start does not wait as long.
const FIRST: Duration = Duration::from_secs(5);
/// Services per piece of work, and the pause after it: commits go first.
const PIECE: usize = 128;
const PAUSE: Duration = Duration::from_millis(20);
/// Appended bytes that are never worth writing everything again.
const SPARE: u64 = 1 << 20;

/// On the writing thread.
struct Disk {
    dir: PathBuf,
    file: Option<File>,
}

/// What a piece is.
enum Write {
    /// The beginning of a new file.
    Begin,
    /// More of the file.
    More { sync: bool },
    /// The end of the first part: from now on the new file counts.
    Whole,
}

impl Disk {
    fn new_file(&self) -> PathBuf {
        self.dir.join(FILE).with_extension("new")
    }

    fn write(&mut self, bytes: &[u8], what: &Write) -> io::Result<()> {
        if let Write::Begin = what {
            self.file = Some(File::create(self.new_file())?);
        }
        let Some(file) = &mut self.file else { return Err(io::Error::other("it is not open")) };
        file.write_all(bytes)?;
        match what {
            Write::Begin | Write::More { sync: false } => Ok(()),
            Write::More { sync: true } => file.sync_data(),
            Write::Whole => {
                file.sync_data()?;
                std::fs::rename(self.new_file(), self.dir.join(FILE))?;
                File::open(&self.dir)?.sync_all()
            }
        }
    }
}

/// What passes between the threads.
#[derive(Debug, Default)]
struct Shared {
    busy: AtomicBool,
    failed: AtomicBool,
    written: AtomicU64,
}

/// Everything that is still to be written of a new file.
#[derive(Debug)]
struct Rewrite {
    services: Vec<ServiceKey>,
    nodes: Vec<NodeName>,
    begun: bool,
}

/// The file and what it lacks.
pub(crate) struct Store {
    disk: Worker<Disk>,
    shared: Arc<Shared>,
    services: BTreeSet<ServiceKey>,
    nodes: BTreeSet<NodeName>,
    service_cidrs: bool,
    pools: bool,
    /// Writing everything is due or under way.
    rewrite: Option<Option<Rewrite>>,
    /// Bytes of the first part; those after it follow from `written`.
    first: u64,
    next: Instant,
}

impl Store {
    /// Starts the writing thread. A file that is there is replaced with the first writing.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        let disk = Disk { dir: dir.to_owned(), file: None };
        Ok(Self {
            disk: Worker::start("facts", disk)?,
            shared: Arc::default(),
            services: BTreeSet::new(),
            nodes: BTreeSet::new(),
            service_cidrs: false,
            pools: false,
            rewrite: Some(None),
            first: 0,
            next: Instant::now() + FIRST,
        })
    }

    /// These facts changed.
    pub(crate) fn note(&mut self, change: &Change) {
        self.services.extend(change.services.iter().cloned());
        self.nodes.extend(change.nodes.iter().cloned());
        self.service_cidrs |= change.service_cidrs;
        self.pools |= !change.pools.is_empty() || !change.blocks.is_empty();
    }

    /// When [`Self::step`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.is_behind().then_some(self.next)
    }

    fn is_behind(&self) -> bool {
        let changed =
            !self.services.is_empty() || !self.nodes.is_empty() || self.service_cidrs || self.pools;
        self.rewrite.is_some() || changed
    }

    /// Hands the next piece to the writing thread, if it is time.
    pub(crate) fn step(&mut self, snapshot: &Snapshot) {
        if self.is_behind() && Instant::now() >= self.next {
            self.piece(snapshot);
        }
    }

    fn piece(&mut self, snapshot: &Snapshot) {
        if self.shared.busy.load(Ordering::Acquire) {
            self.next = Instant::now() + PAUSE;
            return;
        }
        if self.shared.failed.swap(false, Ordering::AcqRel) {
            // What is in the file is not known; the next try waits its time.
            self.rewrite = Some(None);
            self.next = Instant::now() + EVERY;
            return;
        }
        let written = self.shared.written.load(Ordering::Acquire);
        let appended = written.saturating_sub(self.first);
        if self.rewrite.is_none() && appended > self.first.max(SPARE) {
            self.rewrite = Some(None);
        }
        let mut bytes = Vec::new();
        let what = match &mut self.rewrite {
            Some(rewrite) => {
                let rewrite = rewrite.get_or_insert_with(|| {
                    self.services.clear();
                    self.nodes.clear();
                    self.service_cidrs = false;
                    self.pools = false;
                    Rewrite {
                        services: snapshot.keys().cloned().collect(),
                        nodes: snapshot.nodes().map(|node| node.name.clone()).collect(),
                        begun: false,
                    }
                });
                let what = rewrite.piece(snapshot, &mut bytes);
                if let Write::Whole = what {
                    self.rewrite = None;
                    self.first = written + bytes.len() as u64;
                } else if let Write::Begin = what {
                    self.shared.written.store(0, Ordering::Release);
                }
                what
            }
            None => self.changes(snapshot, &mut bytes),
        };
        let done = !self.is_behind();
        self.next = Instant::now() + if done { EVERY } else { PAUSE };
        self.hand_over(bytes, what);
    }

    /// The next changes.
    fn changes(&mut self, snapshot: &Snapshot, bytes: &mut Vec<u8>) -> Write {
        for _ in 0..PIECE {
            let Some(key) = self.services.pop_first() else { break };
            put_service(bytes, snapshot, &key);
        }
        if self.services.is_empty() {
            for name in std::mem::take(&mut self.nodes) {
                put_node(bytes, snapshot, &name);
            }
            if std::mem::take(&mut self.service_cidrs) {
                put_service_cidrs(bytes, snapshot);
            }
            if std::mem::take(&mut self.pools) {
                put_pools(bytes, snapshot);
            }
        }
        Write::More { sync: self.services.is_empty() }
    }

    fn hand_over(&self, bytes: Vec<u8>, what: Write) {
        let shared = self.shared.clone();
        shared.busy.store(true, Ordering::Release);
        let sent = self.disk.cast(move |disk| {
            match disk.write(&bytes, &what) {
                Ok(()) => drop(shared.written.fetch_add(bytes.len() as u64, Ordering::AcqRel)),
                Err(error) => {
                    let file = disk.dir.join(FILE);
                    tracing::warn!(file = %file.display(), %error, "the facts are not kept; a start without the API would lack them");
                    disk.file = None;
                    shared.failed.store(true, Ordering::Release);
                }
            }
            shared.busy.store(false, Ordering::Release);
        });
        if !sent {
            self.shared.failed.store(true, Ordering::Release);
            self.shared.busy.store(false, Ordering::Release);
        }
    }

    /// Writes what is missing now: the agent stops. Gives up after `most`.
    pub(crate) async fn finish(&mut self, snapshot: &Snapshot, most: Duration) {
        let until = Instant::now() + most;
        while Instant::now() < until {
            if self.shared.busy.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else if self.is_behind() && !self.shared.failed.load(Ordering::Acquire) {
                self.piece(snapshot);
            } else {
                return;
            }
        }
    }
}

impl Rewrite {
    fn piece(&mut self, snapshot: &Snapshot, bytes: &mut Vec<u8>) -> Write {
        if !self.begun {
            self.begun = true;
            bytes.extend_from_slice(HEADER.as_bytes());
            return Write::Begin;
        }
        let rest = self.services.len().saturating_sub(PIECE);
        for key in self.services.drain(rest..) {
            put_service(bytes, snapshot, &key);
        }
        if !self.services.is_empty() {
            return Write::More { sync: false };
        }
        for name in self.nodes.drain(..) {
            put_node(bytes, snapshot, &name);
        }
        put_service_cidrs(bytes, snapshot);
        put_pools(bytes, snapshot);
        encode(bytes, &Line::Whole);
        Write::Whole
    }
}
