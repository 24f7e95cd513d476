//! One command at a time changes a lab: a `flock` on its run directory.
//!
//! The lock is on the directory itself, so taking a lab down leaves no lock file behind; and the kernel drops it when
//! its holder dies, however it dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Held while a command changes the lab.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Makes `directory` when it is missing and locks it, waiting for another command to finish.
///
/// # Errors
/// When the directory cannot be made or opened.
pub fn create_and_lock(directory: &Path) -> io::Result<Lock> {
    loop {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        if let Some(lock) = lock(directory)? {
            return Ok(lock);
        }
    }
}

/// Locks `directory`, waiting for another command to finish; `None` when it does not exist (any more).
///
/// # Errors
/// When the directory cannot be opened.
pub fn lock(directory: &Path) -> io::Result<Option<Lock>> {
    loop {
        let file = match File::open(directory) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        flock(&file, FlockOperation::LockExclusive)?;
        // The one we waited for may have removed the directory, and a third may have made a new one.
        let locked = file.metadata()?;
        match fs::metadata(directory) {
            Ok(there) if there.ino() == locked.ino() && there.dev() == locked.dev() => {
                return Ok(Some(Lock { _directory: file }));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn the_second_waits_and_sees_the_directory_gone() {
        let dir = std::env::temp_dir().join(format!("fairway-lock-{}", std::process::id()));
        let held = create_and_lock(&dir).unwrap();
        let (sender, receiver) = mpsc::channel();
        let theirs = dir.clone();
        let thread = std::thread::spawn(move || sender.send(lock(&theirs).unwrap().is_some()));
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
        fs::remove_dir(&dir).unwrap();
        drop(held);
        assert!(!receiver.recv_timeout(Duration::from_secs(5)).unwrap());
        thread.join().unwrap().unwrap();
        assert!(lock(&dir).unwrap().is_none());
    }
}
