//! Edge: pid 1 of a container. Makes the root, starts the program as pid 2, reaps whatever is orphaned, hands signals on,
//! and reports the program's wait status to the shim. It ends when the program ends, and the kernel ends the rest.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid};

use super::rootfs;
use super::spec::{ContainerSpec, User};
use super::sys::{self, Forked};

/// Stdio of the program, made by the shim before the namespaces were.
#[derive(Debug)]
pub struct Stdio {
    /// Its stdin.
    pub stdin: OwnedFd,
    /// Its stdout.
    pub stdout: OwnedFd,
    /// Its stderr.
    pub stderr: OwnedFd,
}

/// The pipes between init and its shim.
#[derive(Debug)]
pub struct Link {
    /// To the shim: `R` when the root is ready, then nothing but an error text; closed by the program's exec.
    pub ready: File,
    /// From the shim: the number of the terminal, one line (empty: none).
    pub go: File,
    /// To the shim: the program's raw wait status, 4 bytes.
    pub status: File,
}

/// Plays pid 1. Never returns.
pub fn main(spec: &ContainerSpec, stage: &Path, stdio: Option<Stdio>, mut link: Link) -> ! {
    sys::block_signals();
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        sys::exit_now(1);
    }
    let program = match prepare(spec, stage, stdio, &mut link) {
        Ok(pid) => pid,
        Err(message) => {
            // nobody else is there to tell when the shim does not listen
            if link.ready.write_all(message.as_bytes()).is_err() {
                sys::exit_now(2);
            }
            sys::exit_now(1);
        }
    };
    drop(link.ready);
    drop(link.go);
    loop {
        match sys::next_signal() {
            libc::SIGCHLD => {
                while let Some((pid, status)) = sys::reap() {
                    if pid == program {
                        let told = link.status.write_all(&status.to_ne_bytes());
                        sys::exit_now(i32::from(told.is_err()));
                    }
                }
            }
            signal => sys::kill(program, signal),
        }
    }
}

fn prepare(
    spec: &ContainerSpec,
    stage: &Path,
    stdio: Option<Stdio>,
    link: &mut Link,
) -> Result<i32, String> {
    if let Some(name) = &spec.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(|e| format!("set host name: {e}"))?;
    }
    rootfs::enter(spec, stage).map_err(|e| e.to_string())?;
    link.ready.write_all(b"R").map_err(|e| format!("shim is gone: {e}"))?;
    let mut terminal = String::new();
    link.go.read_to_string(&mut terminal).map_err(|e| format!("shim is gone: {e}"))?;
    match sys::fork().map_err(|e| format!("fork: {e}"))? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            let message = program(spec, terminal.trim(), stdio);
            if link.ready.write_all(message.as_bytes()).is_err() {
                sys::exit_now(126);
            }
            sys::exit_now(127);
        }
    }
}

fn program(spec: &ContainerSpec, terminal: &str, stdio: Option<Stdio>) -> String {
    match set_up_stdio(terminal, stdio) {
        Ok(()) => {}
        Err(e) => return format!("stdio: {e}"),
    }
    run(&spec.argv, spec.program.as_deref(), &spec.env, &spec.cwd, &spec.user)
}

/// Makes stdio the process's own: a new session, the terminal as its controlling one when there is one.
pub(super) fn set_up_stdio(terminal: &str, stdio: Option<Stdio>) -> std::io::Result<()> {
    setsid()?;
    if terminal.is_empty() {
        if let Some(stdio) = stdio {
            rustix::stdio::dup2_stdin(&stdio.stdin)?;
            rustix::stdio::dup2_stdout(&stdio.stdout)?;
            rustix::stdio::dup2_stderr(&stdio.stderr)?;
        }
        return Ok(());
    }
    let path = format!("/dev/pts/{terminal}");
    let tty = openat(CWD, path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    ioctl_tiocsctty(&tty)?;
    rustix::stdio::dup2_stdin(&tty)?;
    rustix::stdio::dup2_stdout(&tty)?;
    rustix::stdio::dup2_stderr(&tty)?;
    Ok(())
}

/// Becomes the program; returns why not.
pub(super) fn run(
    argv: &[String],
    program: Option<&Path>,
    env: &[(String, String)],
    cwd: &str,
    user: &User,
) -> String {
    if let Err(e) = rustix::process::chdir(cwd) {
        return format!("chdir to cwd ({cwd:?}): {e}");
    }
    let name = argv.first().map_or("", String::as_str);
    let path = match program.map_or_else(|| sys::look_up(name, env), |p| Ok(p.to_owned())) {
        Ok(path) => path,
        Err(message) => return message,
    };
    if let Err(e) = sys::become_user(user) {
        return format!("setuid {}: {e}", user.uid);
    }
    sys::reset_signals();
    format!("exec {}: {}", path.display(), sys::execve(&path, argv, env))
}
