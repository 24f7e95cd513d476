//! `fairway cni install DIR`: the plugins under their own names, as links to this program.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::Plugin;

/// What was laid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The links, by plugin name.
    pub made: Vec<PathBuf>,
    /// Links that were there already.
    pub kept: Vec<PathBuf>,
}

/// Why it could not be laid.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file of that name is somebody else's.
    #[error("{} is there and is not a link to this program; move it away, or give --replace", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Lays one link per plugin into `dir`, each to `program`. Files of other programs are left alone
/// unless `replace`; nothing is changed when one is in the way.
///
/// # Errors
/// [`InstallError`].
pub fn install(dir: &Path, program: &Path, replace: bool) -> Result<Installed, InstallError> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::File { operation, path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let program = program.canonicalize().map_err(failed("find", program))?;
    let links = Plugin::ALL.map(|plugin| dir.join(plugin.name()));
    let (mut made, mut kept) = (Vec::new(), Vec::new());
    for link in links {
        match std::fs::symlink_metadata(&link) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => made.push(link),
            Err(error) => return Err(failed("look at", &link)(error)),
            // The program itself may lie here under its own name.
            Ok(_) if link.canonicalize().is_ok_and(|target| target == program) => kept.push(link),
            Ok(_) if replace => made.push(link),
            Ok(_) => return Err(InstallError::Taken { path: link }),
        }
    }
    for link in &made {
        // By rename: a runtime that executes it meanwhile finds the old file or the new one.
        let draft = dir.join(format!(".{}.new", link.file_name().unwrap_or_default().display()));
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &draft)(error));
            }
            _ => {}
        }
        symlink(&program, &draft).map_err(failed("create", &draft))?;
        std::fs::rename(&draft, link).map_err(failed("create", link))?;
    }
    Ok(Installed { made, kept })
}
