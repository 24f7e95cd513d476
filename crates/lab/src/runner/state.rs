//! What the runner knows about a pod, and keeps on disk: one `pod.json` per pod, enough to adopt it after a crash and
//! enough for `cleanup` to remove it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::container::process::ProcessId;
use crate::container::spec::{read_json, write_json};

/// One pod as it is on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The sandbox's id, 64 hexadecimal digits (`CNI_CONTAINERID`).
    pub sandbox_id: String,
    /// The pod's network namespace; `None` with hostNetwork.
    pub netns: Option<PathBuf>,
    /// What the plugins are told beside their configuration, by capability; DEL gets what ADD got.
    #[serde(default)]
    pub capabilities: serde_json::Map<String, serde_json::Value>,
    /// How the sandbox is doing.
    pub sandbox: Sandbox,
    /// The pod's addresses, as the CNI plugin gave them.
    pub ips: Vec<IpAddr>,
    /// The CNI result of ADD, `prevResult` of DEL.
    pub cni_result: Option<serde_json::Value>,
    /// `status.startTime`.
    pub start_time: Timestamp,
    /// Every container by name, init containers included.
    pub containers: BTreeMap<String, ContainerRecord>,
}

/// The pod's network namespace and addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Sandbox {
    /// Not there; made again at `retry_at`.
    Absent {
        /// Not before this; `None` means at once.
        retry_at: Option<Timestamp>,
        /// Failures in a row.
        failures: u32,
    },
    /// Being made.
    Creating {
        /// Failures in a row before this attempt.
        failures: u32,
    },
    /// Containers may start.
    Ready,
    /// Being removed.
    Destroying,
    /// Removed for good.
    Gone,
}

/// One container as it is on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Restarts so far; also the name of its directory and log.
    pub attempt: u32,
    /// The id of this attempt.
    pub id: String,
    /// What it is doing.
    pub phase: Phase,
    /// How the attempt before ended.
    pub last: Option<Ended>,
    /// The readiness probe's word, true when there is no such probe.
    pub ready: bool,
    /// The startup probe's and postStart hook's word.
    pub started: bool,
    /// Seconds to wait after the next exit.
    pub backoff: u32,
    /// Failed image pulls in a row.
    pub pull_failures: u32,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Not started; why.
    Waiting {
        /// `ContainerCreating`, `ErrImagePull`, `CreateContainerConfigError` and the like.
        reason: String,
        /// For people.
        message: Option<String>,
        /// Tried again at this time; `None` means as soon as its turn comes.
        retry_at: Option<Timestamp>,
    },
    /// Its shim is being started.
    Starting,
    /// It runs.
    Running {
        /// When its program was executed.
        started_at: Timestamp,
        /// Its shim.
        shim: ProcessId,
        /// Its pid 1.
        init: ProcessId,
        /// It was asked to end.
        stopping: bool,
    },
    /// It ended.
    Exited(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// Termination message.
    pub message: Option<String>,
    /// When it had started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The id of that attempt.
    pub id: String,
}

impl PodRecord {
    /// A pod just seen.
    pub fn new(uid: &str, namespace: &str, name: &str, now: Timestamp) -> PodRecord {
        PodRecord {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            sandbox_id: new_id(),
            netns: None,
            capabilities: serde_json::Map::new(),
            sandbox: Sandbox::Absent { retry_at: None, failures: 0 },
            ips: Vec::new(),
            cni_result: None,
            start_time: now,
            containers: BTreeMap::new(),
        }
    }

    /// The container's record, made when it is asked for first.
    pub fn container(&mut self, name: &str) -> &mut ContainerRecord {
        self.containers.entry(name.to_owned()).or_default()
    }
}

impl ContainerRecord {
    /// A container that was never tried.
    pub fn new() -> ContainerRecord {
        ContainerRecord {
            attempt: 0,
            id: String::new(),
            phase: Phase::Waiting {
                reason: "ContainerCreating".into(),
                message: None,
                retry_at: None,
            },
            last: None,
            ready: false,
            started: false,
            backoff: 0,
            pull_failures: 0,
        }
    }

    /// Whether there is (or may be) a process.
    pub fn busy(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running { .. })
    }
}

impl Default for ContainerRecord {
    fn default() -> Self {
        ContainerRecord::new()
    }
}

/// The places of one runner's files.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Below this directory.
    pub fn new(path: &Path) -> RunDir {
        RunDir(path.to_owned())
    }
    /// Pid and start time of the runner itself.
    pub fn runner(&self) -> PathBuf {
        self.0.join("runner.json")
    }
    /// All pods.
    pub fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }
    /// One pod's directory.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }
    /// One pod's record.
    pub fn record(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("pod.json")
    }
    /// Files bound into every container of the pod: hosts, hostname, resolv.conf.
    pub fn etc(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("etc")
    }
    /// A volume's directory.
    pub fn volume(&self, uid: &str, volume: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(volume)
    }
    /// One attempt of one container.
    pub fn container(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(attempt.to_string())
    }
    /// The log of one attempt.
    pub fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// Keeps a record.
    ///
    /// # Errors
    /// The disk is full or the directory gone.
    pub fn save(&self, record: &PodRecord) -> io::Result<()> {
        write_json(&self.record(&record.uid), record)
    }

    /// Every pod that is on disk; a record that cannot be read is reported by its directory's name.
    pub fn load(&self) -> (Vec<PodRecord>, Vec<String>) {
        let mut records = Vec::new();
        let mut broken = Vec::new();
        let entries = std::fs::read_dir(self.pods()).into_iter().flatten().flatten();
        for entry in entries {
            match read_json(&entry.path().join("pod.json")) {
                Ok(record) => records.push(record),
                Err(_) => broken.push(entry.file_name().to_string_lossy().into_owned()),
            }
        }
        (records, broken)
    }
}

/// 64 random hexadecimal digits.
pub fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    let filled = std::fs::File::open("/dev/urandom")
        .and_then(|mut f| io::Read::read_exact(&mut f, &mut bytes));
    if filled.is_err() {
        // no random numbers: time and pid are unique enough for one machine
        let seed = Timestamp::now().as_nanosecond() ^ (i128::from(std::process::id()) << 64);
        bytes[..16].copy_from_slice(&seed.to_be_bytes());
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
