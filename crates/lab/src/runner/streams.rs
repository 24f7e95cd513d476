//! Edge: exec and attach over WebSocket, subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: every message starts
//! with a channel byte (0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; v5 adds 255: end of a channel). How it ended is
//! a `Status` on channel 3. SPDY is not offered.

mod channels;

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use self::channels::{
    Input, STDERR, STDOUT, Streams, exit_status, failure, next_input, success, upgrade,
};
use super::child;
use super::engine::Engine;
use super::hooks::exec_command;
use super::logs::is_true;
use super::server::{Body, plain, query};
use super::state::{Phase, PodRecord};
use crate::container::attach::{Frame, decode};
use crate::container::shim::open_terminal;
use crate::container::spec::file;

/// Which streams were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Asked {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn asked(query: &[(String, String)]) -> Asked {
    let flag = |name: &str| query.iter().any(|(n, v)| n == name && is_true(v));
    let either = |a: &str, b: &str| flag(a) || flag(b);
    Asked {
        stdin: either("stdin", "input"),
        stdout: either("stdout", "output"),
        stderr: either("stderr", "error"),
        tty: flag("tty"),
    }
}

/// `/exec`: one more program in the container.
pub(super) fn exec(
    engine: &Rc<Engine>,
    record: PodRecord,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let query = query(&request);
    let argv: Vec<String> =
        query.iter().filter(|(n, _)| n == "command").map(|(_, v)| v.clone()).collect();
    if argv.is_empty() {
        return plain(
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 command for the container",
        );
    }
    if !running(&record, container) {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not running ({container})"),
        );
    }
    let asked = asked(&query);
    let (engine, container) = (engine.clone(), container.to_owned());
    upgrade(request, move |socket, _| async move {
        let mut streams = Streams::new(socket, asked).await;
        let status = run_exec(&engine, &record, &container, argv, asked, &mut streams).await;
        streams.finish(status).await;
    })
}

/// `/attach`: the streams of the container's own program.
pub(super) fn attach(
    engine: &Rc<Engine>,
    record: PodRecord,
    container: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    if !running(&record, container) {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not running ({container})"),
        );
    }
    let asked = asked(&query(&request));
    let attempt = record.containers[container].attempt;
    let dir = engine.run.container(&record.uid, container, attempt);
    upgrade(request, move |socket, _| async move {
        let mut streams = Streams::new(socket, asked).await;
        let status = match run_attach(&dir, asked, &mut streams).await {
            Ok(()) => success(),
            Err(error) => failure(&format!("attach: {error}")),
        };
        streams.finish(status).await;
    })
}

fn running(record: &PodRecord, container: &str) -> bool {
    matches!(record.containers.get(container).map(|c| &c.phase), Some(Phase::Running { .. }))
}

async fn run_exec(
    engine: &Engine,
    record: &PodRecord,
    container: &str,
    argv: Vec<String>,
    asked: Asked,
    streams: &mut Streams,
) -> Value {
    let ran = if asked.tty {
        exec_tty(engine, record, container, argv, streams).await
    } else {
        exec_pipes(engine, record, container, argv, asked, streams).await
    };
    match ran {
        Ok(code) => exit_status(code),
        Err(message) => failure(&message),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Reads a pipe to its end, into a bounded channel.
async fn pump(mut from: impl AsyncRead + Unpin, channel: u8, to: mpsc::Sender<(u8, Vec<u8>)>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.send((channel, buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn exec_pipes(
    engine: &Engine,
    record: &PodRecord,
    container: &str,
    argv: Vec<String>,
    asked: Asked,
    streams: &mut Streams,
) -> Result<i32, String> {
    let mut command = exec_command(engine, record, container, argv, None)?;
    command.stdin(if asked.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().map_err(text)?;
    let killer = child::Killer::new(child::pidfd(&process).map_err(text)?);
    let gone = child::gone(child::pidfd(&process).map_err(text)?);
    let sender = |p: std::process::ChildStdin| pipe::Sender::from_owned_fd(p.into());
    let mut stdin = process.stdin.take().map(sender).transpose().map_err(text)?;
    let stdout = process.stdout.take().ok_or("no stdout")?;
    let stderr = process.stderr.take().ok_or("no stderr")?;
    let stdout = pipe::Receiver::from_owned_fd(stdout.into()).map_err(text)?;
    let stderr = pipe::Receiver::from_owned_fd(stderr.into()).map_err(text)?;
    let (tx, mut outputs) = mpsc::channel(8);
    let pumps = super::engine::Task::spawn({
        let (first, second) = (pump(stdout, STDOUT, tx.clone()), pump(stderr, STDERR, tx));
        async move {
            futures::join!(first, second);
        }
    });
    tokio::pin!(gone);
    let (mut ended, mut drained) = (false, false);
    let mut client = true;
    while !(ended && drained) {
        tokio::select! {
            output = outputs.recv(), if !drained => match output {
                Some((channel, bytes)) => {
                    let wanted = if channel == STDOUT { asked.stdout } else { asked.stderr };
                    if wanted && !streams.send(channel, &bytes).await {
                        return Err("the client is gone".into());
                    }
                }
                None => drained = true,
            },
            waited = &mut gone, if !ended => {
                waited.map_err(text)?;
                ended = true;
                // a background child may hold the pipes: what is there now is sent, then it is over
                let grace = tokio::time::sleep(std::time::Duration::from_millis(200));
                tokio::pin!(grace);
                loop {
                    tokio::select! {
                        output = outputs.recv() => match output {
                            Some((channel, bytes)) => {
                                let wanted = if channel == STDOUT { asked.stdout } else { asked.stderr };
                                if wanted && !streams.send(channel, &bytes).await {
                                    return Err("the client is gone".into());
                                }
                            }
                            None => break,
                        },
                        () = &mut grace => break,
                    }
                }
                drained = true;
            }
            input = next_input(&mut streams.input), if client => match input {
                Input::Stdin(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && pipe.write_all(&bytes).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Input::CloseStdin => stdin = None,
                Input::Resize(..) => {}
                // v4 has no other way to end stdin; the program still gets to finish
                Input::Gone => {
                    stdin = None;
                    client = false;
                    if !asked.stdout && !asked.stderr {
                        continue;
                    }
                    return Err("the client is gone".into());
                }
            },
        }
    }
    drop(pumps);
    killer.forget();
    let status = process.wait().map_err(text)?;
    Ok(status.code().unwrap_or(137))
}

/// A terminal's master side.
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    async fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                Ok(result) => return result,
                Err(_) => continue,
            }
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                bytes = &bytes[written?..];
            }
        }
        Ok(())
    }
}

async fn exec_tty(
    engine: &Engine,
    record: &PodRecord,
    container: &str,
    argv: Vec<String>,
    streams: &mut Streams,
) -> Result<i32, String> {
    let Some(Phase::Running { init, .. }) = record.containers.get(container).map(|c| &c.phase)
    else {
        return Err(format!("container not running ({container})"));
    };
    let (master, number) = open_terminal(init.pid).map_err(|e| format!("open a terminal: {e}"))?;
    // held open until the program has it, so that the master does not read an end too early
    let slave = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/root/dev/pts/{number}", init.pid))
        .ok();
    let mut command = exec_command(engine, record, container, argv, Some(number))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().map_err(text)?;
    let killer = child::Killer::new(child::pidfd(&process).map_err(text)?);
    let gone = child::gone(child::pidfd(&process).map_err(text)?);
    fcntl_setfl(&master, OFlags::NONBLOCK | OFlags::RDWR).map_err(text)?;
    let both = tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE;
    let terminal = Terminal(crate::container::sys::async_fd(master, both).map_err(text)?);
    tokio::pin!(gone);
    let mut buffer = vec![0; 32 << 10];
    let mut ended = false;
    loop {
        tokio::select! {
            biased;
            read = terminal.read(&mut buffer) => match read {
                Ok(n) if n > 0 => {
                    if !streams.send(STDOUT, &buffer[..n]).await {
                        return Err("the client is gone".into());
                    }
                }
                // EIO: nobody holds the other side any more
                _ => break,
            },
            waited = &mut gone, if !ended => {
                waited.map_err(text)?;
                ended = true;
            }
            () = async {}, if ended => break,
            input = next_input(&mut streams.input) => match input {
                Input::Stdin(bytes) => {
                    // a program that reads nothing must not stop its output
                    let limit = std::time::Duration::from_secs(5);
                    if let Ok(Err(error)) = tokio::time::timeout(limit, terminal.write(&bytes)).await {
                        tracing::debug!(%error, "input is lost");
                    }
                }
                Input::Resize(width, height) => {
                    let size = Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
                    if let Err(error) = tcsetwinsize(terminal.0.get_ref(), size) {
                        tracing::debug!(%error, "the terminal keeps its size");
                    }
                }
                Input::CloseStdin => {}
                Input::Gone => return Err("the client is gone".into()),
            },
        }
    }
    drop(slave);
    if !ended {
        gone.await.map_err(text)?;
    }
    killer.forget();
    let status = process.wait().map_err(text)?;
    Ok(status.code().unwrap_or(137))
}

async fn run_attach(
    dir: &std::path::Path,
    asked: Asked,
    streams: &mut Streams,
) -> std::io::Result<()> {
    let at = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{}", at.as_raw_fd(), file::ATTACH);
    let (mut from, mut to) = UnixStream::connect(path).await?.into_split();
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 32 << 10];
    loop {
        tokio::select! {
            read = from.read(&mut chunk) => {
                let n = read?;
                if n == 0 {
                    return Ok(());
                }
                buffer.extend_from_slice(&chunk[..n]);
                while let Some(frame) = decode(&mut buffer).map_err(std::io::Error::other)? {
                    let sent = match frame {
                        Frame::Stdout(bytes) if asked.stdout => streams.send(STDOUT, &bytes).await,
                        Frame::Stderr(bytes) if asked.stderr => streams.send(STDERR, &bytes).await,
                        _ => true,
                    };
                    if !sent {
                        return Ok(());
                    }
                }
            }
            input = next_input(&mut streams.input) => {
                let frame = match input {
                    Input::Stdin(bytes) if asked.stdin => Frame::Stdin(bytes.to_vec()),
                    Input::CloseStdin if asked.stdin => Frame::CloseStdin,
                    Input::Resize(width, height) => Frame::Resize { width, height },
                    Input::Gone => return Ok(()),
                    _ => continue,
                };
                to.write_all(&frame.encode()).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exit_codes_become_the_status_kubectl_reads() {
        assert_eq!(exit_status(0)["status"], "Success");
        let failed = exit_status(3);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }

    #[test]
    fn flags_are_true_or_1() {
        let q =
            |t: &str| vec![(t.to_owned(), "true".to_owned()), ("tty".to_owned(), "0".to_owned())];
        assert_eq!(asked(&q("stdin")), Asked { stdin: true, ..Asked::default() });
        assert_eq!(asked(&q("output")), Asked { stdout: true, ..Asked::default() });
    }
}
