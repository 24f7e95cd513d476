//! Edge: `lab container-shim DIR`: one small process per container, parent of its init. It owns the container's stdio,
//! log file, attach socket and exit status, so the runner may die and come back without the container noticing.
//!
//! It reads `DIR/spec.json`, writes `DIR/state.json` and one [`Started`] line to stdout, then serves one poll loop until
//! init is gone, and leaves `DIR/exit.json`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use super::attach::{Frame, decode};
use super::init::{self, Link, Stdio};
use super::log::{LogWriter, Stream};
use super::process::ProcessId;
use super::spec::{ContainerSpec, Exit, Started, State, file, read_json, write_json};
use super::sys::{self, Forked};

/// More unsent output than this stops reading the program until the attached client takes it.
const CLIENT_HIGH: usize = 256 << 10;
/// An attached client that takes nothing for this long is cut off.
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
const STDIN_HIGH: usize = 64 << 10;

/// Plays the shim. The exit code is 0 when the container was started, whatever became of it.
pub fn main(args: &[String]) -> i32 {
    let Some(dir) = args.first().map(PathBuf::from) else {
        return report(&Started::Failed("usage: fairway lab container-shim DIR".into()));
    };
    match start(&dir) {
        Ok(mut shim) => {
            let exit = shim.serve();
            match write_json(&dir.join(file::EXIT), &exit) {
                Ok(()) => 0,
                Err(_) => 1,
            }
        }
        Err(message) => report(&Started::Failed(message)),
    }
}

fn report(started: &Started) -> i32 {
    let line = serde_json::to_string(started).unwrap_or_default();
    let told = writeln!(io::stdout(), "{line}");
    i32::from(told.is_err() || matches!(started, Started::Failed(_)))
}

fn context<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|e| format!("{what}: {e}"))
}

struct Shim {
    log: LogWriter,
    outputs: Vec<(Stream, File)>,
    stdin: Option<File>,
    terminal: Option<OwnedFd>,
    stdin_once: bool,
    stdin_queue: VecDeque<u8>,
    close_stdin: bool,
    listener: UnixListener,
    clients: Vec<Client>,
    status: File,
    init: OwnedFd,
    init_pid: i32,
    started_at: Timestamp,
}

struct Client {
    socket: UnixStream,
    input: Vec<u8>,
    output: VecDeque<u8>,
    progress: Instant,
    gave_stdin: bool,
    gone: bool,
}

fn start(dir: &Path) -> Result<Shim, String> {
    let spec: ContainerSpec = context("read spec", read_json(&dir.join(file::SPEC)))?;
    if rustix::process::getpgrp() != rustix::process::getpid() {
        context("new session", rustix::process::setsid())?;
    }
    let log = context("open the container log", LogWriter::open(&spec.log))?;
    if let Some(path) = &spec.netns {
        let ns = context("open the pod's network namespace", File::open(path))?;
        context("enter the pod's network namespace", sys::setns(ns.as_fd(), libc::CLONE_NEWNET))?;
    }
    let stage = dir.join("root");
    context("make the root's directory", std::fs::create_dir_all(&stage))?;
    let pipe = || context("pipe", pipe_with(PipeFlags::CLOEXEC));
    let ((ready_rx, ready_tx), (go_rx, go_tx), (status_rx, status_tx)) =
        (pipe()?, pipe()?, pipe()?);
    let mut outputs = Vec::new();
    let mut stdin = None;
    let mut stdio = None;
    if !spec.tty {
        let ((out_rx, out_tx), (err_rx, err_tx)) = (pipe()?, pipe()?);
        outputs.push((Stream::Stdout, File::from(out_rx)));
        outputs.push((Stream::Stderr, File::from(err_rx)));
        let input = if spec.stdin {
            let (rx, tx) = pipe()?;
            stdin = Some(File::from(tx));
            rx
        } else {
            OwnedFd::from(context("open /dev/null", File::open("/dev/null"))?)
        };
        stdio = Some(Stdio { stdin: input, stdout: out_tx, stderr: err_tx });
    }
    let new = libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | if spec.hostname.is_some() { libc::CLONE_NEWUTS } else { 0 };
    let init_pid = match context("make the container's namespaces", sys::clone_into(new))? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            let link = Link { ready: ready_tx.into(), go: go_rx.into(), status: status_tx.into() };
            drop((outputs, stdin, ready_rx, go_tx, status_rx, log));
            init::main(&spec, &stage, stdio, link)
        }
    };
    drop((ready_tx, go_rx, status_tx, stdio));
    let mut ready = File::from(ready_rx);
    let terminal = handshake(&spec, init_pid, &mut ready, go_tx)?;
    if let Some(master) = &terminal {
        let copy = context("copy the terminal", master.try_clone())?;
        outputs.push((Stream::Stdout, File::from(copy)));
        stdin = Some(context("copy the terminal", master.try_clone())?.into());
    }
    let mut message = String::new();
    context("wait for exec", ready.read_to_string(&mut message))?;
    if !message.is_empty() {
        sys::kill(init_pid, libc::SIGKILL);
        context("end init", sys::wait_for(init_pid))?;
        return Err(message);
    }
    let init = ProcessId::of(init_pid);
    let listener = listen(dir)?;
    for (_, file) in &outputs {
        context("set non-blocking", fcntl_setfl(file, OFlags::NONBLOCK))?;
    }
    if let Some(file) = &stdin {
        context("set non-blocking", fcntl_setfl(file, OFlags::NONBLOCK))?;
    }
    let started_at = Timestamp::now();
    let pidfd = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(init_pid).ok_or("init has no pid")?,
        rustix::process::PidfdFlags::empty(),
    );
    let state = State {
        shim: context("read /proc", ProcessId::me())?,
        // an init that is gone already is a zombie of ours and cannot be mistaken for another process
        init: init.unwrap_or(ProcessId { pid: init_pid, start: 0 }),
        started_at,
    };
    context("write state", write_json(&dir.join(file::STATE), &state))?;
    if report(&Started::Running(state)) != 0 {
        // the runner died meanwhile; the next one finds state.json
    }
    forget_stdio()?;
    Ok(Shim {
        log,
        outputs,
        stdin,
        terminal,
        stdin_once: spec.stdin_once,
        stdin_queue: VecDeque::new(),
        close_stdin: false,
        listener,
        clients: Vec::new(),
        status: File::from(status_rx),
        init: context("open init", pidfd)?,
        init_pid,
        started_at,
    })
}

/// Waits for the root, then opens the terminal inside it (its number is what init needs to know).
fn handshake(
    spec: &ContainerSpec,
    init_pid: i32,
    ready: &mut File,
    go: OwnedFd,
) -> Result<Option<OwnedFd>, String> {
    let mut first = [0; 1];
    let got = context("wait for the root", ready.read(&mut first))?;
    if got == 0 || first[0] != b'R' {
        let mut message = String::from_utf8_lossy(&first[..got]).into_owned();
        context("wait for the root", ready.read_to_string(&mut message))?;
        context("end init", sys::wait_for(init_pid))?;
        if message.is_empty() {
            message = "the container's init ended before its root was ready".into();
        }
        return Err(message);
    }
    let mut go = File::from(go);
    if !spec.tty {
        return Ok(None);
    }
    let (master, number) = context("open a terminal", open_terminal(init_pid))?;
    context("tell the terminal", write!(go, "{number}"))?;
    Ok(Some(master))
}

/// Opens a new terminal in the `/dev/pts` of the container whose pid 1 (or any process) is given: the master side and
/// the number of the other one.
///
/// # Errors
/// The container is gone or out of terminals.
pub fn open_terminal(init_pid: i32) -> io::Result<(OwnedFd, u32)> {
    let path = format!("/proc/{init_pid}/root/dev/pts/ptmx");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(CWD, path, flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let number = name.to_string_lossy().rsplit('/').next().and_then(|n| n.parse().ok());
    let number = number.ok_or_else(|| io::Error::other("the terminal has no number"))?;
    Ok((master, number))
}

/// Binds the attach socket by way of a descriptor: a socket path may not be longer than 107 bytes.
fn listen(dir: &Path) -> Result<UnixListener, String> {
    let at = context("open the container's directory", File::open(dir))?;
    let path = format!("/proc/self/fd/{}/{}", at.as_raw_fd(), file::ATTACH);
    let listener = context("listen for attach", UnixListener::bind(path))?;
    context("listen for attach", listener.set_nonblocking(true))?;
    Ok(listener)
}

/// Lets go of the runner's pipes, so that nobody waits for their end.
fn forget_stdio() -> Result<(), String> {
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = context("open /dev/null", null)?;
    context("close stdin", rustix::stdio::dup2_stdin(&null))?;
    context("close stdout", rustix::stdio::dup2_stdout(&null))?;
    context("close stderr", rustix::stdio::dup2_stderr(&null))
}

impl Shim {
    /// Serves until the container is gone.
    fn serve(&mut self) -> Exit {
        while !self.turn() {}
        let waited = sys::wait_for(self.init_pid);
        let mut raw = [0; 4];
        let (code, signal) = match (self.status.read_exact(&mut raw), waited) {
            (Ok(()), _) => sys::exit_of(i32::from_ne_bytes(raw)),
            (Err(_), Ok(status)) => sys::exit_of(status),
            (Err(_), Err(_)) => (255, None),
        };
        let mut index = 0;
        while index < self.outputs.len() {
            if !self.take_output(index) {
                index += 1;
            }
        }
        let now = Timestamp::now();
        // a full disk loses the last line, never the exit status
        if self.log.flush(now).is_err() {
            self.clients.retain(|c| !c.gone);
        }
        let until = Instant::now() + Duration::from_secs(2);
        for client in &mut self.clients {
            client.drain(until);
        }
        Exit {
            code,
            signal,
            start_error: None,
            finished_at: now,
            started_at: Some(self.started_at),
        }
    }

    /// One round of poll; `true` when init is gone.
    fn turn(&mut self) -> bool {
        let full = self.clients.iter().any(|c| c.output.len() > CLIENT_HIGH);
        let mut fds = vec![
            PollFd::new(&self.init, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let outputs_at = fds.len();
        let outputs = if full { 0 } else { self.outputs.len() };
        for (_, output) in &self.outputs[..outputs] {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        let clients_at = fds.len();
        let thirsty = self.stdin_queue.len() < STDIN_HIGH;
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, thirsty);
            flags.set(PollFlags::OUT, !client.output.is_empty());
            fds.push(PollFd::new(&client.socket, flags));
        }
        let stdin_at = fds.len();
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.stdin_queue.is_empty()) {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let timeout = full.then_some(&second);
        if poll(&mut fds, timeout).is_err() {
            return false;
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let happened = |index: usize| events.get(index).is_some_and(|e| !e.is_empty());

        for index in (0..outputs).rev() {
            if happened(outputs_at + index) {
                self.take_output(index);
            }
        }
        for index in 0..stdin_at - clients_at {
            if happened(clients_at + index) {
                self.serve_client(index, events[clients_at + index]);
            }
        }
        let patience = |c: &Client| c.output.is_empty() || c.progress.elapsed() < CLIENT_PATIENCE;
        let once = self.stdin_once && self.terminal.is_none();
        self.close_stdin |= once && self.clients.iter().any(|c| c.gone && c.gave_stdin);
        self.clients.retain(|c| !c.gone && patience(c));
        self.feed_stdin();
        if happened(1) {
            self.accept();
        }
        happened(0)
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if socket.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    socket,
                    input: Vec::new(),
                    output: VecDeque::new(),
                    progress: Instant::now(),
                    gave_stdin: false,
                    gone: false,
                });
            }
        }
    }

    /// Reads what one output has; `true` when it ended and was removed.
    fn take_output(&mut self, index: usize) -> bool {
        let mut buffer = [0; 32 << 10];
        loop {
            let (stream, output) = &mut self.outputs[index];
            let stream = *stream;
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    // a full disk loses log lines, never the program
                    let logged = self.log.write(stream, &buffer[..n], Timestamp::now());
                    if logged.is_err() && self.clients.is_empty() {
                        continue;
                    }
                    let frame = match stream {
                        Stream::Stdout => Frame::Stdout(buffer[..n].to_vec()),
                        Stream::Stderr => Frame::Stderr(buffer[..n].to_vec()),
                    };
                    let bytes = if self.clients.is_empty() { Vec::new() } else { frame.encode() };
                    for client in &mut self.clients {
                        client.send(&bytes);
                    }
                    if self.clients.iter().any(|c| c.output.len() > CLIENT_HIGH) {
                        return false;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // a terminal says EIO when its last holder is gone
                Err(_) => break,
            }
        }
        self.outputs.remove(index);
        true
    }

    fn serve_client(&mut self, index: usize, events: PollFlags) {
        let client = &mut self.clients[index];
        if events.contains(PollFlags::OUT) {
            client.flush();
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut buffer = [0; 16 << 10];
        match client.socket.read(&mut buffer) {
            Ok(0) => client.gone = true,
            Ok(n) => client.input.extend_from_slice(&buffer[..n]),
            Err(e) => client.gone |= e.kind() != io::ErrorKind::WouldBlock,
        }
        loop {
            match decode(&mut client.input) {
                Ok(None) => break,
                Ok(Some(Frame::Stdin(bytes))) => {
                    client.gave_stdin = true;
                    self.stdin_queue.extend(bytes);
                }
                Ok(Some(Frame::CloseStdin)) => self.close_stdin |= self.terminal.is_none(),
                Ok(Some(Frame::Resize { width, height })) => {
                    let size =
                        Winsize { ws_col: width, ws_row: height, ws_xpixel: 0, ws_ypixel: 0 };
                    // a terminal that is gone needs no size
                    if let Some(Err(_)) = self.terminal.as_ref().map(|t| tcsetwinsize(t, size)) {
                        self.terminal = None;
                    }
                }
                Ok(Some(_)) | Err(_) => {
                    client.gone = true;
                    break;
                }
            }
        }
    }

    fn feed_stdin(&mut self) {
        let Some(stdin) = &mut self.stdin else {
            self.stdin_queue.clear();
            return;
        };
        while !self.stdin_queue.is_empty() {
            let (head, _) = self.stdin_queue.as_slices();
            match stdin.write(head) {
                Ok(n) => drop(self.stdin_queue.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.stdin_queue.clear();
                    self.stdin = None;
                    return;
                }
            }
        }
        if self.close_stdin {
            self.stdin = None;
        }
    }
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        if self.output.is_empty() {
            self.progress = Instant::now();
        }
        self.output.extend(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            let (head, _) = self.output.as_slices();
            match self.socket.write(head) {
                Ok(n) => {
                    self.output.drain(..n);
                    self.progress = Instant::now();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    /// Sends the rest before the shim ends, for as long as there is time.
    fn drain(&mut self, until: Instant) {
        while !self.output.is_empty() && !self.gone && Instant::now() < until {
            self.flush();
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
