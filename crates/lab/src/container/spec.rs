//! What a container is (written by the runner, read by its shim) and how it is doing (written by the shim).
//!
//! A container's directory holds `spec.json`, `state.json` once it runs, `exit.json` once it ended, `attach.sock` while
//! it runs and `termination-log`. Files are replaced whole, so a reader never sees half of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::process::ProcessId;

/// Where this binary is found inside every container.
pub const PROGRAM_IN_CONTAINER: &str = "/usr/lib/fairway-images";

/// Everything the shim needs to start one container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// 64 hexadecimal digits, the id in `containerID`.
    pub id: String,
    /// For messages and logs: `namespace/pod/container`.
    pub display: String,
    /// The program and its arguments; `argv[0]` is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// When set, `argv[0]` is only a name and this file is executed.
    pub program: Option<PathBuf>,
    /// The whole environment, in order.
    pub env: Vec<(String, String)>,
    /// Working directory; created when missing, as runtimes do.
    pub cwd: String,
    /// UTS host name; `None` leaves the node's (hostNetwork).
    pub hostname: Option<String>,
    /// Network namespace to enter; `None` stays in the shim's own (hostNetwork).
    pub netns: Option<PathBuf>,
    /// Numeric user and group, and additional groups.
    pub user: User,
    /// A terminal instead of three pipes.
    pub tty: bool,
    /// Keep stdin open for `kubectl attach -i`.
    pub stdin: bool,
    /// Close stdin when the first attached client leaves.
    pub stdin_once: bool,
    /// The CRI log file.
    pub log: PathBuf,
    /// Bind mounts, in order.
    pub mounts: Vec<Mount>,
    /// The root is not writable.
    pub read_only_root: bool,
    /// Files the image brings: absolute path in the container, contents.
    pub files: Vec<(String, String)>,
    /// Symbolic links the image brings: absolute path in the container, target.
    pub links: Vec<(String, String)>,
}

/// Numeric ids the program runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Additional groups.
    pub groups: Vec<u32>,
}

/// One bind mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path outside.
    pub source: PathBuf,
    /// Absolute path inside; symbolic links are followed inside.
    pub target: PathBuf,
    /// Not writable through this mount.
    pub read_only: bool,
}

/// The processes of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The shim.
    pub shim: ProcessId,
    /// Pid 1 of the container, by its pid outside.
    pub init: ProcessId,
    /// When the program was executed.
    pub started_at: jiff::Timestamp,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The program could not be started: what the system said.
    pub start_error: Option<String>,
    /// When.
    pub finished_at: jiff::Timestamp,
    /// When it had been started.
    pub started_at: Option<jiff::Timestamp>,
}

/// The first line a shim writes to its stdout: the container runs, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Started {
    /// It runs.
    Running(State),
    /// It could not be made or its program not executed.
    Failed(String),
}

/// Names of the files in a container's directory.
pub mod file {
    /// The [`ContainerSpec`](super::ContainerSpec).
    pub const SPEC: &str = "spec.json";
    /// The [`State`](super::State).
    pub const STATE: &str = "state.json";
    /// The [`Exit`](super::Exit).
    pub const EXIT: &str = "exit.json";
    /// The attach socket.
    pub const ATTACH: &str = "attach.sock";
    /// What the program leaves as its last words.
    pub const TERMINATION: &str = "termination-log";
}

/// Reads a JSON file.
///
/// # Errors
/// It is not there, cannot be read, or is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display())))
}

/// Replaces a JSON file in one step.
///
/// # Errors
/// The directory is not writable or full.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(value)?)?;
    fs::rename(&new, path)
}
