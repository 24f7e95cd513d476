//! Kernel settings under `/proc/sys/net`. A file there shows the namespace of the thread that opens
//! it: call from [`crate::Namespace::run`] to reach another one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Not a name below `net.`.
    #[error("`{name}` is not a network setting; write it as net.ipv4.ip_forward or with slashes")]
    BadName {
        /// The name given.
        name: String,
    },
    /// The kernel has no such setting: feature absent, or the link is gone.
    #[error("the kernel has no setting {name}")]
    NotFound {
        /// The name given.
        name: String,
    },
    /// Reading or writing failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    System {
        /// `read` or `write`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said; read-only `/proc` shows here.
        source: io::Error,
    },
}

/// Reads a setting of the calling thread's namespace. Names take slashes, or dots when no part of
/// them contains one: `net/ipv4/conf/eth0.5/rp_filter`, `net.ipv4.ip_forward`.
///
/// # Errors
/// See [`SysctlError`].
pub fn read(name: &str) -> Result<String, SysctlError> {
    let path = path_of(name)?;
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(error) => Err(failed("read", name, path, error)),
    }
}

/// Writes a setting of the calling thread's namespace unless it has that value. Returns whether
/// something was written.
///
/// # Errors
/// See [`SysctlError`].
pub fn ensure(name: &str, value: &str) -> Result<bool, SysctlError> {
    if read(name)? == value {
        return Ok(false);
    }
    let path = path_of(name)?;
    match fs::write(&path, value) {
        Ok(()) => Ok(true),
        Err(error) => Err(failed("write", name, path, error)),
    }
}

/// The name of a per-interface setting: `net/<family>/conf/<link>/<key>`.
pub fn interface(family: &str, link: &str, key: &str) -> String {
    format!("net/{family}/conf/{link}/{key}")
}

fn path_of(name: &str) -> Result<PathBuf, SysctlError> {
    let slashed = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let plain = slashed.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain && slashed.starts_with("net/") && !slashed.contains('\0') {
        Ok(Path::new("/proc/sys").join(slashed))
    } else {
        Err(SysctlError::BadName { name: name.to_owned() })
    }
}

fn failed(operation: &'static str, name: &str, path: PathBuf, source: io::Error) -> SysctlError {
    if source.kind() == io::ErrorKind::NotFound {
        SysctlError::NotFound { name: name.to_owned() }
    } else {
        SysctlError::System { operation, path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_net() {
        for bad in ["kernel.panic", "net/../kernel/panic", "net//x", "", "net", "/net/ipv4"] {
            assert!(matches!(read(bad), Err(SysctlError::BadName { .. })), "{bad}");
        }
        assert!(matches!(read("net.ipv4.no_such"), Err(SysctlError::NotFound { .. })));
        assert_eq!(interface("ipv4", "eth0.5", "rp_filter"), "net/ipv4/conf/eth0.5/rp_filter");
    }
}
