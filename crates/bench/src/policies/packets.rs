//! Packets whose fate must not change, one connection that must live, and who hears them. An edge: sockets and threads; the
//! listeners end with the process and hold nothing but their sockets.
//!
//! Every packet leaves a port of its own, so each is a new flow to the kernel and judged by itself.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use link::Namespace;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// Where packets are heard.
pub(super) const PORT: u16 = 8081;
/// Where a connection that lives long is answered byte by byte.
const ECHO: u16 = 8082;
/// Different kinds of packets that can be told apart.
pub(super) const KINDS: usize = 8;
/// After so long without an answer a connection is broken.
const BROKEN: Duration = Duration::from_secs(2);

/// From whom to whom, and whether it may.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    pub(super) allowed: bool,
}

/// How many packets of each kind arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Ear(Arc<[AtomicU64; KINDS]>);

impl Ear {
    /// Listens in `namespace` from now on.
    pub(super) fn open(namespace: &Namespace) -> anyhow::Result<Self> {
        let ear = Self::default();
        let socket = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        let heard = ear.clone();
        thread::Builder::new().name("ear".into()).spawn(move || {
            let mut kind = [0];
            loop {
                if let Ok((1, _)) = socket.recv_from(&mut kind)
                    && let Some(count) = heard.0.get(usize::from(kind[0]))
                {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        })?;
        Ok(ear)
    }

    /// So many of this kind until now.
    pub(super) fn heard(&self, kind: usize) -> u64 {
        self.0[kind].load(Ordering::Relaxed)
    }
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) allowed: u64,
    pub(super) lost: u64,
    pub(super) denied: u64,
    pub(super) passed: u64,
    /// Times the connection that must live did not.
    pub(super) broken: u64,
}

/// While `work` runs: sends a packet for every pair every so often, and talks over one connection of the first pair.
pub(super) fn probe<T>(
    client: &Namespace,
    ear: &Ear,
    pairs: &[Pair],
    every: Duration,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Fate)> {
    let before: Vec<u64> = (0..pairs.len()).map(|kind| ear.heard(kind)).collect();
    let stop = AtomicBool::new(false);
    let (outcome, sent, broken) = thread::scope(|scope| {
        let sender = scope.spawn(|| client.run(|| send(pairs, every, &stop)));
        let talker = scope.spawn(|| client.run(|| talk(pairs[0].from, pairs[0].to, &stop)));
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let broken = talker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (outcome, sent, broken)
    });
    let (sent, broken) = (sent?, broken?);
    // What is under way arrives.
    thread::sleep(Duration::from_millis(300));
    let mut fate = Fate { broken, ..Fate::default() };
    for (kind, pair) in pairs.iter().enumerate() {
        let heard = ear.heard(kind) - before[kind];
        if pair.allowed {
            fate.allowed += sent[kind];
            fate.lost += sent[kind].saturating_sub(heard);
        } else {
            fate.denied += sent[kind];
            fate.passed += heard;
        }
    }
    Ok((outcome?, fate))
}

fn send(pairs: &[Pair], every: Duration, stop: &AtomicBool) -> Vec<u64> {
    let mut sent = vec![0; pairs.len()];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for (kind, pair) in pairs.iter().enumerate() {
            sent[kind] += u64::from(one(pair.from, pair.to, kind as u8).is_ok());
        }
        next += every;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    sent
}

/// Sends one packet; call inside the sender's namespace.
pub(super) fn one(from: Ipv4Addr, to: Ipv4Addr, kind: u8) -> io::Result<()> {
    UdpSocket::bind((from, 0))?.send_to(&[kind], (to, PORT)).map(drop)
}

/// Answers every byte with itself in `backend` from now on.
pub(super) fn echo(backend: &Namespace) -> anyhow::Result<()> {
    let listener = backend.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO)))??;
    thread::Builder::new().name("echo".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = move || {
                let mut byte = [0];
                let (mut from, mut to) = (&stream, &stream);
                while from.read_exact(&mut byte).and_then(|()| to.write_all(&byte)).is_ok() {}
            };
            // Without a thread nobody answers, and that is seen.
            drop(thread::Builder::new().name("echo".into()).spawn(answer));
        }
    })?;
    Ok(())
}

/// Says a byte and hears it, all the time over one connection: how often it broke.
fn talk(from: Ipv4Addr, to: Ipv4Addr, stop: &AtomicBool) -> u64 {
    let mut broken = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = dial(from, to) else {
            broken += 1;
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let said = stream.write_all(&[1]).and_then(|()| stream.read_exact(&mut [0]));
            if said.is_err() {
                broken += 1;
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    broken
}

fn dial(from: Ipv4Addr, to: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(BROKEN))?;
    // How long the kernel tries a connection, too.
    stream.set_write_timeout(Some(BROKEN))?;
    connect(&stream, &SocketAddrV4::new(to, ECHO))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
