//! Edge: exec and attach over WebSocket, subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: every message starts
//! with a channel byte (0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; v5 adds 255: end of a channel). How it ended is
//! a `Status` on channel 3. SPDY is not offered.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::rc::Rc;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::child;
use super::engine::Engine;
use super::hooks::exec_command;
use super::logs::is_true;
use super::server::{Body, full, plain, query};
use super::state::{Phase, PodRecord};
use crate::container::attach::{Frame, decode};
use crate::container::shim::open_terminal;
use crate::container::spec::file;

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

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

/// Answers the handshake and hands the connection to `serve`.
fn upgrade<F>(
    mut request: Request<Incoming>,
    serve: impl FnOnce(Socket, &'static str) -> F + 'static,
) -> Response<Body>
where
    F: Future<Output = ()>,
{
    let get = |name: header::HeaderName| {
        let all = request.headers().get_all(name);
        all.iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",").to_lowercase()
    };
    if !get(header::UPGRADE).contains("websocket") {
        let text = "exec and attach are spoken over WebSocket (v5.channel.k8s.io); SPDY is not offered: use kubectl 1.29 \
                    or newer, with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true before 1.31";
        return plain(StatusCode::BAD_REQUEST, text);
    }
    let offered = get(header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = [V5, V4].into_iter().find(|p| offered.split(',').any(|o| o.trim() == *p));
    let Some(chosen) = chosen else {
        let text =
            format!("none of the subprotocols {offered:?} is spoken here; there are {V5} and {V4}");
        return plain(StatusCode::BAD_REQUEST, text);
    };
    let key =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes()));
    let Some(key) = key else {
        return plain(StatusCode::BAD_REQUEST, "the WebSocket handshake has no key");
    };
    let pending: OnUpgrade = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        match pending.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                serve(socket, chosen).await;
            }
            Err(error) => tracing::debug!(%error, "an upgrade did not happen"),
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, chosen)
        .body(full(""));
    response.unwrap_or_else(|e| plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// What a client sent.
enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(u16, u16),
    /// It is gone.
    Gone,
}

struct Streams {
    output: SplitSink<Socket, Message>,
    input: SplitStream<Socket>,
}

impl Streams {
    async fn new(socket: Socket, asked: Asked) -> Streams {
        let (output, input) = socket.split();
        let mut streams = Streams { output, input };
        // an empty message tells the client that the streams are there
        let first = match asked {
            Asked { stdout: true, .. } => STDOUT,
            Asked { stderr: true, tty: false, .. } => STDERR,
            _ => ERROR,
        };
        streams.send(first, &[]).await;
        streams
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> bool {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        self.output.send(Message::binary(message)).await.is_ok()
    }

    async fn finish(mut self, status: Value) {
        let told = self.send(ERROR, status.to_string().as_bytes()).await;
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if told && self.output.send(Message::Close(Some(close))).await.is_ok() {
            // the client's own close, so that it never sees a reset instead of our last words
            let rest = async { while let Some(Ok(_)) = self.input.next().await {} };
            let waited = tokio::time::timeout(std::time::Duration::from_secs(2), rest).await;
            tracing::trace!(clean = waited.is_ok(), "stream closed");
        }
    }
}

/// The next thing a client sends; cancel-safe.
async fn next_input(input: &mut SplitStream<Socket>) -> Input {
    loop {
        let bytes = match input.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Input::Gone,
            Some(Ok(_)) => continue,
        };
        match bytes.first() {
            Some(&STDIN) if bytes.len() > 1 => return Input::Stdin(bytes.slice(1..)),
            Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => return Input::CloseStdin,
            Some(&RESIZE) => {
                let size: Value = serde_json::from_slice(&bytes[1..]).unwrap_or_default();
                let side = |n: &str| size[n].as_u64().and_then(|v| u16::try_from(v).ok());
                if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
                    return Input::Resize(width, height);
                }
            }
            _ => {}
        }
    }
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn failure(message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "InternalError", "code": 500})
}

/// The status of a program that ended with this code.
fn exit_status(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
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
