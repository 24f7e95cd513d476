//! What the workers of all pods share, and the register of pods: who runs here, by uid and by name.
//!
//! Tasks, all on one thread: one [worker](super::pod) and one status writer per pod (owned by the register through
//! abort-on-drop handles), the event writer, the stream server. Records live in `RefCell`s never borrowed over an await.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus};
use tokio::sync::watch;

use super::events::{EventSink, Note};
use super::lookup::Lookup;
use super::state::{PodRecord, RunDir};
use super::{RunnerConfig, pod};

/// Shared by every pod's worker.
#[derive(Debug)]
pub struct Engine {
    /// The configuration.
    pub config: RunnerConfig,
    /// Where run state is kept.
    pub run: RunDir,
    /// This binary, for shims and exec helpers.
    pub exe: PathBuf,
    /// Objects pods refer to.
    pub lookup: Lookup,
    /// Events.
    pub events: EventSink,
    /// Writes statuses and removes pods; `None` in tests of the engine alone.
    pub api: Option<super::api::PodApi>,
    /// Whether a CNI configuration is there.
    pub network: watch::Receiver<bool>,
    pods: RefCell<HashMap<String, Entry>>,
    adopted: RefCell<BTreeMap<String, PodRecord>>,
}

/// What a worker is told about its pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The newest version.
    pub pod: Arc<Pod>,
    /// The object is gone from the API (force deletion): take everything down, there is nothing to write to.
    pub vanished: bool,
}

#[derive(Debug)]
struct Entry {
    wanted: watch::Sender<Wanted>,
    record: Rc<RefCell<PodRecord>>,
    status: watch::Receiver<Option<PodStatus>>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct Task(tokio::task::AbortHandle);

impl Task {
    /// Starts it on this thread.
    pub fn spawn(future: impl Future<Output = ()> + 'static) -> Task {
        Task(tokio::task::spawn_local(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Edges an engine works with.
#[derive(Debug)]
pub struct Edges {
    /// Objects pods refer to.
    pub lookup: Lookup,
    /// Events.
    pub events: EventSink,
    /// Statuses and deletions.
    pub api: Option<super::api::PodApi>,
    /// Whether a CNI configuration is there.
    pub network: watch::Receiver<bool>,
}

impl Engine {
    /// An engine that adopts what an earlier one left on disk.
    ///
    /// # Errors
    /// The run dir cannot be made, or this binary not be found.
    pub fn new(config: RunnerConfig, edges: Edges) -> std::io::Result<Rc<Engine>> {
        let run = RunDir::new(&config.run_dir);
        std::fs::create_dir_all(run.pods())?;
        let (records, broken) = run.load();
        for uid in broken {
            // without a record nothing was started yet
            tracing::warn!(uid, "a pod's directory without a readable record is removed");
            std::fs::remove_dir_all(run.pod(&uid))?;
        }
        let Edges { lookup, events, api, network } = edges;
        Ok(Rc::new(Engine {
            config,
            run,
            exe: std::env::current_exe()?,
            lookup,
            events,
            api,
            network,
            pods: RefCell::default(),
            adopted: RefCell::new(records.into_iter().map(|r| (r.uid.clone(), r)).collect()),
        }))
    }

    /// A pod as the API has it now: a new one gets a worker (and what is still running of it), a known one is updated.
    pub fn apply(self: &Rc<Self>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let wanted = Wanted { pod: Arc::new(pod), vanished: false };
        if let Some(entry) = self.pods.borrow().get(&uid) {
            entry.wanted.send_replace(wanted);
            return;
        }
        let adopted = self.adopted.borrow_mut().remove(&uid);
        if adopted.is_none() && ended(&wanted.pod) {
            return;
        }
        let meta = &wanted.pod.metadata;
        let is_adopted = adopted.is_some();
        let record = adopted.unwrap_or_else(|| {
            let name = meta.name.as_deref().unwrap_or_default();
            let namespace = meta.namespace.as_deref().unwrap_or("default");
            PodRecord::new(&uid, namespace, name, Timestamp::now())
        });
        let record = Rc::new(RefCell::new(record));
        let (wanted_tx, wanted_rx) = watch::channel(wanted);
        let (status_tx, status) = watch::channel(None);
        let entry = Entry { wanted: wanted_tx, record: record.clone(), status };
        self.pods.borrow_mut().insert(uid.clone(), entry);
        let engine = self.clone();
        tokio::task::spawn_local(async move {
            pod::run(engine.clone(), wanted_rx, record, status_tx, is_adopted).await;
            engine.pods.borrow_mut().remove(&uid);
        });
    }

    /// The API has no such pod any more.
    pub fn vanish(&self, uid: &str) {
        if let Some(entry) = self.pods.borrow().get(uid) {
            entry.wanted.send_modify(|w| w.vanished = true);
        }
    }

    /// The API's list is complete: what is not in it is gone, adopted or not.
    pub async fn only(self: &Rc<Self>, uids: &[String]) {
        let gone: Vec<String> =
            self.pods.borrow().keys().filter(|u| !uids.contains(u)).cloned().collect();
        gone.iter().for_each(|uid| self.vanish(uid));
        let orphans = std::mem::take(&mut *self.adopted.borrow_mut());
        for (_, record) in orphans {
            pod::discard(self, &record).await;
        }
    }

    /// The record of a pod by name.
    pub fn record(&self, namespace: &str, name: &str) -> Option<PodRecord> {
        let pods = self.pods.borrow();
        let records = pods.values().map(|e| e.record.borrow());
        // of a deleted pod and its successor of the same name, the successor
        records
            .filter(|r| r.namespace == namespace && r.name == name)
            .max_by_key(|r| r.start_time)
            .map(|r| r.clone())
    }

    /// The object of a pod by uid.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.borrow().get(uid).map(|e| e.wanted.borrow().pod.clone())
    }

    /// The status of a pod by uid, as it changes.
    pub fn status(&self, uid: &str) -> Option<watch::Receiver<Option<PodStatus>>> {
        self.pods.borrow().get(uid).map(|e| e.status.clone())
    }

    /// How many pods there are here.
    pub fn len(&self) -> usize {
        self.pods.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells something about a pod or one of its containers.
    pub fn tell(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let meta = &pod.metadata;
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: container.map(|c| format!("spec.containers{{{c}}}")),
        };
        self.events.tell(Note { about, warning, reason, message });
    }
}

/// A pod that was over before this runner saw it.
fn ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && matches!(phase, Some("Succeeded" | "Failed"))
}
