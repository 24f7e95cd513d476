//! Network namespaces: make, name, find, enter, remove.
//!
//! Names live under `/run/netns` exactly as `ip netns` keeps them, so both tools see the same ones.
//! Entering happens on a thread made for it, which ends inside; only [`Namespace::visit`] moves the
//! calling thread, and back. This is the only module that calls `setns` or `unshare`.
#![allow(unsafe_code, reason = "setns before exec needs Command::pre_exec")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

/// Where named namespaces are mounted.
pub const NAMESPACE_DIR: &str = "/run/netns";

/// Why a namespace could not be made, found, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Not a file name.
    #[error("`{name}` cannot name a network namespace; use letters, digits, `-`, `_` and `.`")]
    BadName {
        /// The name given.
        name: String,
    },
    /// The name is taken.
    #[error("network namespace `{name}` exists already")]
    Exists {
        /// The name given.
        name: String,
    },
    /// There is none of that name or path.
    #[error("there is no network namespace at {}", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file exists but is not a network namespace.
    #[error("{} is not a network namespace", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    System {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    path: PathBuf,
}

impl Namespace {
    /// Makes a namespace called `name`, with its loopback link still down.
    ///
    /// # Errors
    /// [`NamespaceError::Exists`] when the name is taken; [`NamespaceError::System`] without
    /// CAP_SYS_ADMIN.
    pub fn create(name: &str) -> Result<Self, NamespaceError> {
        let path = path_of(name)?;
        prepare_directory()?;
        let created = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
        if let Err(error) = created {
            return Err(if error.kind() == io::ErrorKind::AlreadyExists {
                NamespaceError::Exists { name: name.to_owned() }
            } else {
                system("create", &path, error)
            });
        }
        let made = on_thread(|| {
            // SAFETY: only the network namespace of a thread that does nothing else afterwards.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)
        });
        match made {
            Ok(Ok(())) => Self::open_path(&path),
            Ok(Err(errno)) => {
                let removed = fs::remove_file(&path);
                if let Err(error) = removed {
                    tracing::warn!(path = %path.display(), %error, "namespace file left behind");
                }
                Err(system("make a network namespace at", &path, errno.into()))
            }
            Err(error) => Err(system("start a thread for", &path, error)),
        }
    }

    /// Opens the namespace of that name.
    ///
    /// # Errors
    /// [`NamespaceError::NotFound`] when there is none.
    pub fn open(name: &str) -> Result<Self, NamespaceError> {
        Self::open_path(&path_of(name)?)
    }

    /// Opens the namespace a file stands for (`/run/netns/x`, `/proc/7/ns/net`).
    ///
    /// # Errors
    /// [`NamespaceError::NotFound`], or [`NamespaceError::NotANamespace`] when the file is
    /// something else — as the mount point left by an interrupted creation is.
    pub fn open_path(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                NamespaceError::NotFound { path: path.to_owned() }
            } else {
                system("open", path, error)
            }
        })?;
        let kind = rustix::fs::fstatfs(&file).map_err(|e| system("stat", path, e.into()))?.f_type;
        if i128::from(kind) != i128::from(libc::NSFS_MAGIC) {
            return Err(NamespaceError::NotANamespace { path: path.to_owned() });
        }
        Ok(Self { fd: file.into(), path: path.to_owned() })
    }

    /// Opens the namespace a process is in.
    ///
    /// # Errors
    /// [`NamespaceError::NotFound`] when there is no such process.
    pub fn of_pid(pid: u32) -> Result<Self, NamespaceError> {
        Self::open_path(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// Opens the namespace of the calling thread.
    ///
    /// # Errors
    /// [`NamespaceError::System`] where `/proc` is missing.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The names under `/run/netns` that begin with `prefix`, sorted.
    ///
    /// # Errors
    /// [`NamespaceError::System`] when the directory cannot be read; a missing one is empty.
    pub fn list(prefix: &str) -> Result<Vec<String>, NamespaceError> {
        let directory = Path::new(NAMESPACE_DIR);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(system("read", directory, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| system("read", directory, error))?;
            if let Ok(name) = entry.file_name().into_string()
                && name.starts_with(prefix)
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes the name. The namespace itself ends with the last process, socket or open file that
    /// holds it. Returns whether there was one.
    ///
    /// # Errors
    /// [`NamespaceError::System`] when the kernel refuses.
    pub fn delete(name: &str) -> Result<bool, NamespaceError> {
        let path = path_of(name)?;
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // EINVAL: the file is there, nothing is mounted on it (an interrupted creation).
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(system("unmount", &path, errno.into())),
        }
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(system("remove", &path, error)),
        }
    }

    /// The file it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the namespace: equal for two handles of one namespace.
    ///
    /// # Errors
    /// [`NamespaceError::System`] when the handle cannot be examined.
    pub fn id(&self) -> Result<(u64, u64), NamespaceError> {
        let error = |error| system("stat", &self.path, error);
        let file = File::from(self.fd.try_clone().map_err(error)?);
        let stat = file.metadata().map_err(error)?;
        Ok((stat.dev(), stat.ino()))
    }

    /// Runs `work` inside the namespace, on a thread of its own, and returns its value. A panic in
    /// `work` goes on in the caller.
    ///
    /// # Errors
    /// [`NamespaceError::System`] when the thread cannot be made or may not enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        let entered = on_thread(|| {
            enter(self.fd.as_fd())?;
            Ok::<T, io::Error>(work())
        });
        match entered {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(system("enter", &self.path, error)),
            Err(error) => Err(system("start a thread for", &self.path, error)),
        }
    }

    /// Runs `work` inside the namespace on the calling thread, which returns before this does. For
    /// short-lived programs of one thread, where a second thread's start is most of the cost; a
    /// program with worker threads uses [`Self::run`].
    ///
    /// # Errors
    /// [`NamespaceError::System`] when the thread may not enter.
    ///
    /// # Panics
    /// Aborts the process when the thread cannot go back: it must not go on in the wrong namespace.
    pub fn visit<T>(&self, work: impl FnOnce() -> T) -> Result<T, NamespaceError> {
        struct Return(Namespace);
        impl Drop for Return {
            fn drop(&mut self) {
                if enter(self.0.fd.as_fd()).is_err() {
                    std::process::abort();
                }
            }
        }
        let home = Return(Self::current()?);
        enter(self.fd.as_fd()).map_err(|error| system("enter", &self.path, error))?;
        let value = work();
        drop(home);
        Ok(value)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel's number of the calling thread's network namespace: never used twice until a reboot,
/// unlike the inode (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// What the system says: an older kernel.
#[allow(unsafe_code, reason = "one getsockopt(2) rustix has no function for")]
pub fn cookie() -> io::Result<u64> {
    let kind = rustix::net::SocketType::DGRAM;
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the buffer is as long as `length` says, and both live until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Starting a process inside a namespace.
pub trait CommandInNamespace {
    /// The process enters `namespace` between fork and exec. The handle is duplicated: the
    /// namespace may be dropped before the spawn.
    ///
    /// # Errors
    /// When the handle cannot be duplicated.
    fn in_namespace(&mut self, namespace: &Namespace) -> io::Result<&mut Self>;
}

impl CommandInNamespace for Command {
    fn in_namespace(&mut self, namespace: &Namespace) -> io::Result<&mut Self> {
        let fd = namespace.fd.try_clone()?;
        // SAFETY: the closure makes one system call and neither allocates nor takes a lock, which
        // is what a child between fork and exec may do.
        Ok(unsafe { self.pre_exec(move || enter(fd.as_fd())) })
    }
}

/// Moves the calling thread. Private on purpose: see [`Namespace::run`].
fn enter(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
    Ok(())
}

/// A thread per call: what it does to its namespaces ends with it.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        match thread.spawn_scoped(scope, work)?.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Makes `/run/netns` a shared mount of its own, so that a namespace mounted or unmounted here is
/// mounted or unmounted in every mount namespace (as `ip netns add` does).
fn prepare_directory() -> Result<(), NamespaceError> {
    let directory = Path::new(NAMESPACE_DIR);
    fs::create_dir_all(directory).map_err(|error| system("create", directory, error))?;
    let share = || {
        rustix::mount::mount_change(
            directory,
            MountPropagationFlags::SHARED | MountPropagationFlags::REC,
        )
    };
    // The lock keeps two first users from stacking two mounts; `ip netns` takes the same one.
    let lock = File::open(directory).map_err(|error| system("open", directory, error))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| system("lock", directory, e.into()))?;
    match share() {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(directory, directory)
                .map_err(|e| system("bind", directory, e.into()))?;
            share().map_err(|e| system("share", directory, e.into()))
        }
        Err(errno) => Err(system("share", directory, errno.into())),
    }
}

fn path_of(name: &str) -> Result<PathBuf, NamespaceError> {
    let fits = !name.is_empty()
        && name.len() <= 200
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if fits {
        Ok(Path::new(NAMESPACE_DIR).join(name))
    } else {
        Err(NamespaceError::BadName { name: name.to_owned() })
    }
}

fn system(operation: &'static str, path: &Path, source: io::Error) -> NamespaceError {
    NamespaceError::System { operation, path: path.to_owned(), source }
}

/// The number the kernel puts into `IFLA_NET_NS_FD`.
pub(crate) fn raw(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}
