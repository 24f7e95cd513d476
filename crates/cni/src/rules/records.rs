//! Edge: one file per plugin and attachment that says which rules are its own, in
//! `/run/fairway/cni/<cookie>`. The cookie is the kernel's number of this network namespace, never
//! used twice while the machine runs: nodes of a lab share the directory above and not their rules.
//! `/run` is empty after a reboot, and so is the kernel.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Owner, Wanted};
use crate::CniError;
use crate::environment::Identity;

/// Run-time files, when the configuration does not say.
const RUN_DIR: &str = "/run/fairway";
/// Above the directories of all namespaces.
const DIRECTORY: &str = "cni";
/// Between the parts of a file's name; none of them can hold it but the interface, which is last.
const SEPARATOR: char = '@';
/// A file that is not whole yet.
const UNFINISHED: &str = ".unfinished";
/// Every use is under this file's lock, shared or exclusive.
const LOCK: &str = ".lock";

/// The open directory.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    /// Where plugins keep theirs whose configuration names no directory, if that is another one: the
    /// table is for all of them.
    other: Option<PathBuf>,
}

/// One file, read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    pub(crate) plugin: String,
    pub(crate) network: String,
    pub(crate) identity: Identity,
    pub(crate) wanted: Wanted,
}

impl Record {
    pub(crate) fn is(&self, owner: Owner<'_>) -> bool {
        self.plugin == owner.plugin
            && self.network == owner.network
            && self.identity == *owner.identity
    }

    /// The comment of its elements.
    pub(crate) fn comment(&self) -> String {
        comment(&self.network, &self.identity)
    }
}

/// What elements of an attachment say about themselves.
pub(crate) fn comment(network: &str, identity: &Identity) -> String {
    format!("{network} {} {}", identity.ifname, identity.container_id)
}

/// The lock, as long as this lives.
pub(crate) struct Lock {
    _file: File,
}

impl Records {
    fn of(run_dir: Option<&Path>) -> Result<Self, CniError> {
        let cookie = link::namespace::cookie().map_err(|source| CniError::Io {
            operation: "ask for the namespace's number",
            source,
        })?;
        let below = |run_dir: &Path| run_dir.join(DIRECTORY).join(cookie.to_string());
        let usual = below(Path::new(RUN_DIR));
        let directory = run_dir.map_or_else(|| usual.clone(), below);
        let other = Some(usual).filter(|usual| *usual != directory);
        Ok(Self { directory, other })
    }

    /// The directory of the calling thread's namespace, made if needed.
    pub(crate) fn open(run_dir: Option<&Path>) -> Result<Self, CniError> {
        let records = Self::of(run_dir)?;
        let path = &records.directory;
        fs::create_dir_all(path).map_err(failed("create", path))?;
        Ok(records)
    }

    /// The same, `None` when there is none.
    pub(crate) fn open_existing(run_dir: Option<&Path>) -> Result<Option<Self>, CniError> {
        let records = Self::of(run_dir)?;
        Ok(records.directory.is_dir().then_some(records))
    }

    /// The directory, whether it is there or not.
    pub(crate) fn directory(run_dir: Option<&Path>) -> Result<PathBuf, CniError> {
        Ok(Self::of(run_dir)?.directory)
    }

    fn lock(&self, exclusive: bool) -> Result<Lock, CniError> {
        let path = self.directory.join(LOCK);
        let mut options = File::options();
        options.create(true).truncate(false).write(true).read(true);
        loop {
            let file = match options.open(&path) {
                // The last record's owner took the directory away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let directory = &self.directory;
                    fs::create_dir_all(directory).map_err(failed("create", directory))?;
                    continue;
                }
                other => other.map_err(failed("open", &path))?,
            };
            let locked = if exclusive { file.lock() } else { file.lock_shared() };
            locked.map_err(failed("lock", &path))?;
            // Or took it away while this one waited for the lock.
            if file.metadata().map_err(failed("stat", &path))?.nlink() > 0 {
                return Ok(Lock { _file: file });
            }
        }
    }

    pub(crate) fn lock_shared(&self) -> Result<Lock, CniError> {
        self.lock(false)
    }

    pub(crate) fn lock_exclusive(&self) -> Result<Lock, CniError> {
        self.lock(true)
    }

    fn path(&self, owner: Owner<'_>) -> PathBuf {
        let Identity { container_id, ifname } = owner.identity;
        let parts = [owner.plugin, owner.network, container_id, ifname];
        self.directory.join(parts.join(&SEPARATOR.to_string()))
    }

    /// Writes an owner's record, whole or not at all.
    pub(crate) fn write(&self, owner: Owner<'_>, wanted: &Wanted) -> Result<(), CniError> {
        let path = self.path(owner);
        // Several write at once under a shared lock: each has its own draft.
        let draft = self.directory.join(format!("{UNFINISHED}{}", std::process::id()));
        let draft = draft.with_extension(thread_number());
        let text = serde_json::to_vec(wanted).unwrap_or_default();
        fs::write(&draft, text).map_err(failed("write", &draft))?;
        fs::rename(&draft, &path).map_err(failed("create", &path))
    }

    /// Removes an owner's record and gives what it said.
    pub(crate) fn take(&self, owner: Owner<'_>) -> Result<Option<Wanted>, CniError> {
        let path = self.path(owner);
        let wanted = read(&path)?;
        if wanted.is_some() {
            self.remove_file(&path)?;
        }
        Ok(wanted)
    }

    /// Removes a record; gone already is fine.
    pub(crate) fn remove_file(&self, path: &Path) -> Result<(), CniError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// All records. A file that cannot be read as one is left alone and out.
    pub(crate) fn all(&self) -> Result<Vec<Record>, CniError> {
        let mut all = Vec::new();
        for directory in [Some(&self.directory), self.other.as_ref()].into_iter().flatten() {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("read", directory)(error)),
            };
            for entry in entries {
                all.extend(record(&entry.map_err(failed("read", directory))?)?);
            }
        }
        Ok(all)
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        let record = |entry: fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
        !fs::read_dir(&self.directory)
            .is_ok_and(|mut entries| entries.any(|it| it.is_ok_and(record)))
    }

    /// Leaves nothing behind when nothing is left.
    pub(crate) fn remove_directory_if_empty(&self) {
        let Ok(_lock) = self.lock_exclusive() else { return };
        if self.is_empty() {
            // Drafts are of writers that died: a living one holds the lock. The lock's file last: who
            // waits for it sees that it is gone and begins anew.
            for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
                if entry.file_name() != LOCK {
                    drop(fs::remove_file(entry.path()));
                }
            }
            drop(fs::remove_file(self.directory.join(LOCK)));
            drop(fs::remove_dir(&self.directory));
        }
    }
}

/// A record's content; `None` when it is gone or none of ours.
fn read(path: &Path) -> Result<Option<Wanted>, CniError> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Distinct for threads of one process.
fn thread_number() -> String {
    rustix::thread::gettid().as_raw_nonzero().to_string()
}

/// A file as a record, when it is one.
fn record(entry: &fs::DirEntry) -> Result<Option<Record>, CniError> {
    let file = entry.file_name();
    let Some(name) = file.to_str().filter(|name| !name.starts_with('.')) else { return Ok(None) };
    let mut parts = name.splitn(4, SEPARATOR).map(str::to_owned);
    let (Some(plugin), Some(network), Some(container_id), Some(ifname)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Ok(None);
    };
    let path = entry.path();
    let wanted = read(&path)?;
    let identity = Identity { container_id, ifname };
    Ok(wanted.map(|wanted| Record { path, plugin, network, identity, wanted }))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CniError {
    let path = path.to_owned();
    move |source| CniError::File { operation, path, source }
}
