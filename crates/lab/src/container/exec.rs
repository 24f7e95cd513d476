//! Edge: `lab container-exec SPEC`: runs one more program in a running container, for probes, hooks and `kubectl exec`.
//!
//! It joins the namespaces of the container's init, forks (a process enters a pid namespace only through its children)
//! and ends as the program ended. When the helper is killed, the program is killed.

use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::os::fd::AsFd;

use super::init;
use super::process::ProcessId;
use super::spec::User;
use super::sys::{self, Forked};

/// What to run and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container's pid 1.
    pub init: ProcessId,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// Numeric ids.
    pub user: User,
    /// Number of the terminal under the container's `/dev/pts`.
    pub terminal: Option<u32>,
}

/// Exit code when the program is not there, as shells and runtimes have it.
pub const NOT_FOUND: i32 = 127;
/// Exit code when the container is gone or the program cannot be executed.
pub const CANNOT: i32 = 126;

/// Plays the helper: the specification as JSON in the first argument, stdio as inherited.
pub fn main(args: &[String]) -> i32 {
    let spec = args.first().map(|s| serde_json::from_str::<ExecSpec>(s));
    match spec {
        Some(Ok(spec)) => match join_and_run(&spec) {
            Ok(code) => code,
            Err(message) => complain(&message),
        },
        _ => complain("usage: fairway lab container-exec SPEC (started by the pod runner)"),
    }
}

fn complain(message: &str) -> i32 {
    // with nowhere to write to, the exit code has to do
    match writeln!(std::io::stderr(), "{message}") {
        Ok(()) | Err(_) => CANNOT,
    }
}

fn join_and_run(spec: &ExecSpec) -> Result<i32, String> {
    let fd = spec.init.open().ok_or("the container is not running")?;
    let all = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET;
    sys::setns(fd.as_fd(), all).map_err(|e| format!("enter the container: {e}"))?;
    match sys::fork().map_err(|e| format!("fork: {e}"))? {
        Forked::Parent(pid) => {
            // output pipes must end with the program, not with this helper
            let null = std::fs::File::open("/dev/null").map_err(|e| format!("/dev/null: {e}"))?;
            for result in [
                rustix::stdio::dup2_stdin(&null),
                rustix::stdio::dup2_stdout(&null),
                rustix::stdio::dup2_stderr(&null),
            ] {
                result.map_err(|e| format!("close stdio: {e}"))?;
            }
            let status = sys::wait_for(pid).map_err(|e| format!("wait: {e}"))?;
            Ok(sys::exit_of(status).0)
        }
        Forked::Child => {
            let died = set_parent_process_death_signal(Some(Signal::KILL)).is_err();
            let terminal = spec.terminal.map(|n| n.to_string()).unwrap_or_default();
            if died || init::set_up_stdio(&terminal, None).is_err() {
                sys::exit_now(CANNOT);
            }
            let message = init::run(&spec.argv, None, &spec.env, &spec.cwd, &spec.user);
            let missing = message.contains("not found") || message.contains("no such file");
            let code = if missing { NOT_FOUND } else { CANNOT };
            complain(&message);
            sys::exit_now(code)
        }
    }
}
