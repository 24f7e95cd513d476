//! What is written to disk about a lab: its specification (survives a reboot) and its run-time record.
//!
//! Both are small JSON files replaced atomically. The specification is what `lab up` needs to bring the same lab back;
//! the record is what `lab status` shows when the control process cannot be asked.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::process::ProcessId;

/// What the lab is: decided at its first `lab up`, kept in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabSpec {
    /// How many nodes.
    pub nodes: u16,
    /// The API server's port on the host's loopback, once it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_port: Option<u16>,
    /// Whether `lab down` keeps the state directory.
    pub persist: bool,
    /// Zones, given to the nodes in turn; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The existing cluster to join, instead of an API server of the lab's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Whether pods of the existing cluster are bound to nodes by the lab.
    #[serde(default)]
    pub bind_pods: bool,
}

/// What plays which part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `fairway agent` of a node.
    Agent,
    /// `fairway lab pod-runner` of a node.
    Runner,
}

impl Role {
    /// `agent` or `runner`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Runner => "runner",
        }
    }
}

/// One supervised process of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// The node it belongs to.
    pub node: String,
    /// Its part.
    pub role: Role,
    /// The process; `None` while it is not running.
    pub process: Option<ProcessId>,
    /// How often the control process had to start it again.
    pub restarts: u32,
    /// `lab node kill` stopped it: it stays down until `lab node restart`.
    pub killed: bool,
}

/// The lab as it runs now, kept in the run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// The specification it was started with.
    pub spec: LabSpec,
    /// The boot this record belongs to.
    pub boot_id: String,
    /// When `lab up` ran, RFC 3339.
    pub started: String,
    /// The control process.
    pub control: ProcessId,
    /// `https://127.0.0.1:6443`; empty until the API server listens.
    pub api_url: String,
    /// Agents and runners, by node.
    pub processes: Vec<ProcessRecord>,
}

/// Where the specification is.
#[must_use]
pub fn spec_file(layout: &Layout) -> PathBuf {
    layout.state_dir().join("lab.json")
}

/// Where the run-time record is.
#[must_use]
pub fn record_file(layout: &Layout) -> PathBuf {
    layout.run_dir().join("lab.json")
}

/// Why a state file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what we wrote.
    #[error("{} is damaged ({source}); `fairway lab down --purge` removes it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// Reads a state file; `None` when it does not exist.
///
/// # Errors
/// When it exists and cannot be read or understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ReadError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| ReadError::Damaged { path: path.to_owned(), source })
}

/// Writes a state file as JSON, replacing it in one step.
///
/// # Errors
/// As the file system's.
pub fn write<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    write_bytes(path, &text, 0o600)
}

/// Writes a file with `mode`, replacing it in one step.
///
/// # Errors
/// As the file system's.
pub fn write_bytes(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The half-written file is of no use; that it cannot be removed either is less worth saying.
        drop(fs::remove_file(&temporary));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_and_damage_is_named() {
        let dir = std::env::temp_dir().join(format!("fairway-state-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = dir.join("lab.json");
        assert_eq!(read::<LabSpec>(&file).unwrap(), None);
        let spec = LabSpec {
            nodes: 3,
            api_port: Some(6443),
            persist: false,
            zones: vec!["a".into()],
            kubeconfig: None,
            bind_pods: false,
        };
        write(&file, &spec).unwrap();
        write(&file, &spec).unwrap();
        assert_eq!(read::<LabSpec>(&file).unwrap(), Some(spec));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");
        fs::write(&file, "{\"nodes\":").unwrap();
        let error = read::<LabSpec>(&file).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains("--purge"), "{error}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
