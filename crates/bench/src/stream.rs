//! One TCP connection between two namespaces, measured: how much it carries, how long a byte takes there and back. An edge: sockets
//! and one thread, which ends when its half is closed or nothing came for a while.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use link::Namespace;

use crate::samples::Samples;

/// After so long without a byte something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is written at once.
const CHUNK: usize = 128 * 1024;

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Joined {
    near: TcpStream,
    far: TcpStream,
}

/// Connects `from` with an address of `at`.
pub(crate) fn join(from: &Namespace, at: &Namespace, address: Ipv4Addr) -> anyhow::Result<Joined> {
    let listener = at.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let to = SocketAddr::from((address, listener.local_addr()?.port()));
    let near = from.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)))??;
    // It is made, so it waits in the listener's queue.
    let (far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    Ok(Joined { near, far })
}

/// Bits a second one connection carries, as the receiver counts them; the first tenth of the time does not count.
pub(crate) fn throughput(joined: Joined, lasts: Duration) -> anyhow::Result<f64> {
    let Joined { mut near, mut far } = joined;
    let began = Instant::now();
    let sender = thread::Builder::new().name("sender".into()).spawn(move || {
        let chunk = vec![0; CHUNK];
        while began.elapsed() < lasts {
            near.write_all(&chunk)?;
        }
        io::Result::Ok(())
    })?;
    let counted_from = began + lasts / 10;
    let mut buffer = vec![0; 8 * CHUNK];
    let (mut bytes, mut last) = (0_u64, counted_from);
    loop {
        let count = far.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let now = Instant::now();
        if now > counted_from {
            bytes += count as u64;
            last = now;
        }
    }
    match sender.join() {
        Ok(sent) => sent?,
        Err(_) => bail!("the sender panicked"),
    }
    if bytes == 0 {
        bail!("nothing arrived");
    }
    Ok(bytes as f64 * 8.0 / last.duration_since(counted_from).as_secs_f64())
}

/// Microseconds one byte takes there and back, again and again.
pub(crate) fn round_trips(joined: Joined, lasts: Duration) -> anyhow::Result<Samples> {
    let Joined { mut near, mut far } = joined;
    let echo = thread::Builder::new().name("echo".into()).spawn(move || {
        let mut byte = [0];
        while far.read(&mut byte)? == 1 {
            far.write_all(&byte)?;
        }
        io::Result::Ok(())
    })?;
    let began = Instant::now();
    let mut samples = Samples::default();
    while began.elapsed() < lasts {
        let sent = Instant::now();
        near.write_all(&[1])?;
        near.read_exact(&mut [0])?;
        samples.add(sent.elapsed().as_secs_f64() * 1e6);
    }
    drop(near);
    match echo.join() {
        Ok(echoed) => echoed?,
        Err(_) => bail!("the echo panicked"),
    }
    Ok(samples)
}
