//! Edge: child processes without a reaper thread: spawned by the standard library, awaited through pidfds, their pipes
//! read by tokio. Also waits for processes that are not our children (adopted shims).

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

/// Output kept of one program and stream.
const MAX_OUTPUT: u64 = 1 << 20;

/// What a program that ran to its end left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its stdout, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Its stderr, at most 1 MiB.
    pub stderr: Vec<u8>,
}

/// Waits until the process behind a pidfd is gone.
///
/// # Errors
/// The descriptor is not a pidfd.
pub async fn gone(fd: OwnedFd) -> io::Result<()> {
    let fd = crate::container::sys::async_fd(fd, tokio::io::Interest::READABLE)?;
    drop(fd.readable().await?);
    Ok(())
}

/// The pidfd of a child that was not waited for yet.
///
/// # Errors
/// The kernel is older than 5.3.
pub fn pidfd(child: &std::process::Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the child has no pid"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Runs a program to its end, at most `limit` long (then it is killed and the result is `TimedOut`).
///
/// # Errors
/// It cannot be started, or took too long.
pub async fn output(mut command: Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let fd = pidfd(&child)?;
    let killer = Killer(Some(pidfd(&child)?));
    let stdin = child.stdin.take().map(|p| pipe::Sender::from_owned_fd(p.into()));
    let stdout = child.stdout.take().map(|p| pipe::Receiver::from_owned_fd(p.into()));
    let stderr = child.stderr.take().map(|p| pipe::Receiver::from_owned_fd(p.into()));
    let write = async {
        if let Some(stdin) = stdin {
            match stdin?.write_all(input).await {
                // a program may end without reading what it was given
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
        }
        Ok(())
    };
    let all = async { tokio::try_join!(write, read(stdout), read(stderr), gone(fd)) };
    let (_, stdout, stderr, ()) = match tokio::time::timeout(limit, all).await {
        Ok(done) => done?,
        Err(_) => {
            drop(killer);
            let status = child.wait()?;
            let message = format!("took longer than {limit:?} and was killed ({status})");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
    };
    let status = child.wait()?;
    killer.forget();
    Ok(Output { status, stdout, stderr })
}

async fn read(pipe: Option<io::Result<pipe::Receiver>>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let mut pipe = pipe?;
        (&mut pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
        // what is over is read and dropped, so that the program does not block
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// Kills the process when dropped: a probe that was cancelled leaves nothing running.
#[derive(Debug)]
pub struct Killer(Option<OwnedFd>);

impl Killer {
    /// For this pidfd.
    pub fn new(fd: OwnedFd) -> Killer {
        Killer(Some(fd))
    }
    /// It ended by itself.
    pub fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        let killed = self.0.take().map(|fd| pidfd_send_signal(fd, Signal::KILL));
        if let Some(Err(error)) = killed
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, "cannot kill a helper process");
        }
    }
}
