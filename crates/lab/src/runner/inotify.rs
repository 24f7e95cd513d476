//! Edge: tells when something in a directory or about a file changed.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// Changes of one directory or file.
#[derive(Debug)]
pub struct Changes(AsyncFd<std::os::fd::OwnedFd>);

impl Changes {
    /// Watches a directory (files made, moved, written, removed in it) or a file (written).
    ///
    /// # Errors
    /// It is not there, or the user's inotify instances are used up.
    pub fn of(path: &Path) -> io::Result<Changes> {
        let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE_SELF;
        add_watch(&fd, path, flags)?;
        Ok(Changes(crate::container::sys::async_fd(fd, tokio::io::Interest::READABLE)?))
    }

    /// Waits for a change; several at once count as one.
    ///
    /// # Errors
    /// The watch is broken.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable_mut().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(ready.get_inner(), &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => break,
                Err(e) => return Err(e.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
