//! What the commands and the control process say to each other, as lines of JSON.
//!
//! Two conversations: while a lab comes up the control process reports [`Progress`] on its standard output and `lab up`
//! answers [`DETACH`] once it lets go; later, commands connect to the control socket, write one [`Request`] and read
//! one [`Response`].

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::{ProcessRecord, Role};

/// The line that lets the control process go on without the `lab up` that started it.
pub const DETACH: &str = "detach";

/// A step of coming up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Progress {
    /// Switch, client and nodes are there and connected.
    Network {
        /// How many nodes.
        nodes: u16,
    },
    /// The API server answers.
    Api {
        /// Its address on the host.
        url: String,
        /// Objects found in the state of an earlier run.
        restored: usize,
    },
    /// A node became Ready.
    NodeReady {
        /// Which.
        node: String,
    },
    /// Everything is up.
    Ready,
    /// It did not come up.
    Failed {
        /// One line: what is wrong and what to do.
        message: String,
    },
}

/// A question to the control process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// How are the nodes?
    Status,
    /// Kill a node's processes and keep them down.
    Kill {
        /// Which node.
        node: String,
        /// Which processes.
        roles: Vec<Role>,
    },
    /// Start a node's processes anew.
    Restart {
        /// Which node.
        node: String,
        /// Which processes.
        roles: Vec<Role>,
    },
}

/// The control process's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "camelCase")]
pub enum Response {
    /// Done.
    Done,
    /// It cannot be done.
    Refused {
        /// One line.
        message: String,
    },
    /// Answer to [`Request::Status`].
    Status {
        /// Every node of the lab.
        nodes: Vec<NodeState>,
        /// Agents and runners.
        processes: Vec<ProcessRecord>,
        /// Services in the API.
        services: usize,
    },
}

/// A node as the API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Whether its Ready condition is true.
    pub ready: bool,
    /// Why not, as the condition says; empty when it is.
    pub message: String,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Pods bound to it.
    pub pods: usize,
}

/// Asks the control process at `socket`.
///
/// # Errors
/// When nobody answers there.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_stable() {
        let line = serde_json::to_string(&Progress::NodeReady { node: "node-1".into() }).unwrap();
        assert_eq!(line, r#"{"step":"nodeReady","node":"node-1"}"#);
        let kill = Request::Kill { node: "node-2".into(), roles: vec![Role::Agent] };
        let line = serde_json::to_string(&kill).unwrap();
        assert_eq!(line, r#"{"request":"kill","node":"node-2","roles":["agent"]}"#);
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), kill);
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(ask(Path::new("/run/fairway/no-such.sock"), &Request::Status).is_err());
    }
}
