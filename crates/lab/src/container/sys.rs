//! Edge: system calls that have no safe form. Everything here is called by single-threaded processes only (shim, init,
//! exec helper, image programs), which is what makes fork without exec sound.
#![allow(unsafe_code, reason = "fork, clone, execve, signal masks and setns have no safe wrapper")]

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::spec::User;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the child's pid.
    Parent(i32),
}

/// Forks.
///
/// # Errors
/// No process can be made.
pub fn fork() -> io::Result<Forked> {
    clone_into(0)
}

/// Forks into new namespaces (`CLONE_NEW*`).
///
/// # Errors
/// No process can be made, or the kernel or the user's rights do not allow such a namespace.
pub fn clone_into(namespaces: i32) -> io::Result<Forked> {
    let flags = i64::from(namespaces | libc::SIGCHLD);
    // SAFETY: no new stack and no shared memory: the child is a copy, as with fork; this process has one thread, so no
    // lock can be held by another one.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(pid).unwrap_or(-1) {
        0 => Ok(Forked::Child),
        pid if pid > 0 => Ok(Forked::Parent(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Enters namespaces (`CLONE_NEW*`) of a process given by its pidfd, or one given by a namespace file.
///
/// # Errors
/// The process is gone or the namespaces cannot be entered.
pub fn setns(fd: BorrowedFd<'_>, namespaces: i32) -> io::Result<()> {
    // SAFETY: takes a descriptor that is open for the length of the call and plain flags.
    match unsafe { libc::setns(fd.as_raw_fd(), namespaces) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once, without running anything that belongs to the parent's copy.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Sets groups, group and user, in the only order that works.
///
/// # Errors
/// The ids are not allowed.
pub fn become_user(user: &User) -> io::Result<()> {
    if *user == User::default() {
        return Ok(());
    }
    let check = |rc: i32| if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the pointer and length describe a live slice; the others take plain numbers.
    unsafe {
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))
    }
}

/// Replaces this process. Returns only the error.
pub fn execve(program: &Path, argv: &[String], env: &[(String, String)]) -> io::Error {
    match execve_inner(program, argv, env) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn execve_inner(
    program: &Path,
    argv: &[String],
    env: &[(String, String)],
) -> io::Result<Infallible> {
    let c = |s: &str| {
        CString::new(s).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in it"))
    };
    let program = c(&program.to_string_lossy())?;
    let argv = argv.iter().map(|a| c(a)).collect::<io::Result<Vec<_>>>()?;
    let env = env.iter().map(|(k, v)| c(&format!("{k}={v}"))).collect::<io::Result<Vec<_>>>()?;
    let pointers = |list: &[CString]| {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let (argv_ptr, env_ptr) = (pointers(&argv), pointers(&env));
    // SAFETY: NUL-terminated strings in NULL-terminated arrays, alive over the call.
    unsafe { libc::execve(program.as_ptr(), argv_ptr.as_ptr(), env_ptr.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Blocks every signal, so that [`next_signal`] gets them.
pub fn block_signals() {
    // SAFETY: the set is initialised by sigfillset before use.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Waits for the next signal; all are blocked.
pub fn next_signal() -> i32 {
    loop {
        // SAFETY: the set is initialised by sigfillset; no siginfo is asked for.
        let signal = unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut set);
            libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
        };
        if signal > 0 {
            return signal;
        }
    }
}

/// Default dispositions and nothing blocked: what a program expects when it starts.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is a valid disposition for every signal; SIGKILL, SIGSTOP and the C library's own are refused.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Sends a signal to a child of this process.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: plain numbers; a child that is not yet waited for keeps its pid.
    unsafe { libc::kill(pid, signal) };
}

/// Reaps one child without waiting: its pid and raw wait status.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the pointer is to a local.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Waits for one child: its raw wait status.
///
/// # Errors
/// It is not our child.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a local.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Exit code and signal out of a raw wait status; 128 + signal as a shell counts.
pub fn exit_of(status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, Some(signal))
    } else {
        (libc::WEXITSTATUS(status), None)
    }
}

/// Where a program is found: as named when there is a slash in it, else in `PATH`.
///
/// # Errors
/// It is not there, in the words container runtimes use.
pub fn look_up(name: &str, env: &[(String, String)]) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("no command specified".into());
    }
    if name.contains('/') {
        return match std::fs::metadata(name) {
            Ok(meta) if meta.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            Ok(_) => Ok(PathBuf::from(name)),
            Err(_) => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
        };
    }
    let path = env.iter().rev().find(|(k, _)| k == "PATH").map_or(DEFAULT_PATH, |(_, v)| v);
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .find(|p| rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok() && p.is_file())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

/// The `PATH` of a container that sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Sets `lo` up in the network namespace of this thread.
///
/// # Errors
/// There is no right to do so.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain data; the ioctls read and write it and nothing else.
    let rc = unsafe {
        let mut request = std::mem::zeroed::<libc::ifreq>();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves this thread into a new network namespace. Only for a thread that does nothing else.
///
/// # Errors
/// There is no right to do so.
pub fn new_network() -> io::Result<()> {
    // SAFETY: a network namespace is no memory and no descriptor table; nothing of Rust's guarantees depends on it.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor tokio watches.
///
/// # Errors
/// The descriptor cannot be polled, or this is no tokio runtime.
pub fn async_fd(
    fd: std::os::fd::OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: an OwnedFd keeps its descriptor open and the same until it is dropped, which AsyncFd does after
    // deregistering; nobody takes it out or replaces it.
    Ok(unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, interest) }?)
}
