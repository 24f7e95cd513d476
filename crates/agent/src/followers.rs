//! What follows the facts beside the table: the file they are kept in, the ports load balancers ask on, the addresses of the
//! API. All cost what changed.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{Change, NodeName, Snapshot, SnapshotWriter};
use service::Planner;
use tokio::time::Instant;

use crate::api_servers::Learner;
use crate::health_checks::HealthChecks;
use crate::names::Names;
use crate::state::{self, Store};

/// Facts from disk are used when the API has not given its own within this …
const WAIT: Duration = Duration::from_secs(3);
/// … or this, when the kernel still has a table: it is at least as new as the file.
const WAIT_PROGRAMMED: Duration = Duration::from_secs(60);
/// A stopping agent writes for no longer than this.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// The followers.
pub(crate) struct Followers {
    store: Store,
    checks: HealthChecks,
    learner: Learner,
    names: Option<Names>,
    node: NodeName,
    file: PathBuf,
    /// When the facts on disk may be used; none once they were looked at, or were not needed.
    disk: Option<Instant>,
    /// The kernel was found to have a table, and was given time.
    waited: bool,
}

impl Followers {
    pub(crate) fn new(
        state_dir: &Path,
        checks: HealthChecks,
        learner: Learner,
        names: Option<Names>,
        node: NodeName,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            store: Store::start(state_dir)?,
            checks,
            learner,
            names,
            node,
            file: state_dir.join(state::FILE),
            disk: Some(Instant::now() + WAIT),
            waited: false,
        })
    }

    /// These facts changed.
    pub(crate) fn changed(&mut self, snapshot: &Snapshot, change: &Change) {
        self.store.note(change);
        self.learner.update(snapshot, change);
        if let Some(names) = &mut self.names {
            names.changing(snapshot, Some(change));
        }
    }

    /// Anything may have changed, and these certainly did.
    pub(crate) fn full(&mut self, snapshot: &Snapshot, change: &Change) {
        self.disk = None;
        self.store.note(change);
        self.learner.full(snapshot);
        if let Some(names) = &mut self.names {
            names.changing(snapshot, None);
        }
    }

    /// The kernel does what these facts mean.
    pub(crate) fn committed(&mut self, snapshot: &Snapshot) {
        if let Some(names) = &mut self.names {
            names.committed(snapshot);
        }
    }

    /// What the facts mean was worked out anew, for what `change` names or, without it, for everything.
    pub(crate) fn planned(
        &mut self,
        snapshot: &Snapshot,
        planner: &Planner,
        change: Option<&Change>,
    ) {
        match change.filter(|change| change.nodes.is_empty()) {
            Some(change) => self.checks.update(snapshot, planner, change),
            None => self.checks.full(snapshot, planner),
        }
    }

    /// When there is something to do here.
    pub(crate) fn due(&self) -> Option<Instant> {
        let files = match self.disk {
            Some(at) => Some(at),
            None => self.store.due(),
        };
        let names = self.names.as_ref().and_then(Names::due);
        files.into_iter().chain(names).min()
    }

    /// Keeps the file up to date, a piece at a time.
    pub(crate) fn step(&mut self, snapshot: &Snapshot) {
        if self.disk.is_none() {
            self.store.step(snapshot);
        }
        if let Some(names) = &mut self.names {
            names.step(snapshot, &self.node);
        }
    }

    /// The API said that it cannot be reached: no need to wait longer.
    pub(crate) fn api_failed(&mut self) {
        if !self.waited {
            self.disk = self.disk.map(|at| at.min(Instant::now()));
        }
    }

    /// Whether the facts on disk are wanted now. `programmed` says whether the kernel still has a table.
    pub(crate) async fn wants_disk(&mut self, programmed: impl AsyncFnOnce() -> bool) -> bool {
        if self.disk.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        if !self.waited && programmed().await {
            tracing::warn!("the API does not answer; the kernel keeps what it has");
            self.name_from_disk();
            self.waited = true;
            self.disk = Some(Instant::now() + WAIT_PROGRAMMED);
            return false;
        }
        self.disk = None;
        true
    }

    /// The kernel does what the facts on disk say, so their names are true.
    fn name_from_disk(&mut self) {
        if self.names.is_none() {
            return;
        }
        let mut writer = SnapshotWriter::default();
        let loaded = self.read(&mut writer);
        if let Some(names) = self.names.as_mut().filter(|_| loaded) {
            names.changing(writer.snapshot(), None);
            names.committed(writer.snapshot());
        }
    }

    /// The facts on disk, given to the writer as if they had been listed; `false` when there are none to use.
    pub(crate) fn load(&mut self, writer: &mut SnapshotWriter) -> bool {
        self.disk = None;
        self.read(writer)
    }

    fn read(&self, writer: &mut SnapshotWriter) -> bool {
        let file = match File::open(&self.file) {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "no facts on disk; waiting for the API");
                return false;
            }
        };
        match state::read(BufReader::new(file)) {
            Ok((facts, cut)) => {
                let (services, nodes) = facts.counts();
                if let Some(line) = cut {
                    tracing::warn!(file = %self.file.display(), line, "damaged from this line on; what comes before is used");
                }
                tracing::warn!(
                    services,
                    nodes,
                    "the API does not answer; going by the last facts, from disk"
                );
                for event in facts.events() {
                    writer.apply(event);
                }
                true
            }
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "the facts on disk are not used; waiting for the API");
                false
            }
        }
    }

    /// The agent stops.
    pub(crate) async fn finish(&mut self, snapshot: &Snapshot) {
        if let Some(names) = &mut self.names {
            names.finish().await;
        }
        if self.disk.is_none() {
            self.store.finish(snapshot, LAST_WRITE).await;
        }
    }
}
