//! A client of Services: single requests, and waiting until something is so. An edge: sockets; call inside a namespace.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

/// How long one try may take. Short: a refusal that comes while the kernel still holds the socket is only a hint to its
/// TCP, which would try again after a second.
const TRY: Duration = Duration::from_millis(10);
/// So many answers in a row without an endpoint say that it is out.
const WITHOUT: u32 = 30;

/// Connects, sends a byte, reads which endpoint answered, closes.
pub(crate) fn ask(to: SocketAddrV4) -> io::Result<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&to.into(), TRY)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(&[1])?;
    let mut who = [0; 4];
    stream.read_exact(&mut who)?;
    Ok(who.into())
}

/// Something a client can wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Anybody answers.
    Answers,
    /// This endpoint answers.
    AnswersFrom(Ipv4Addr),
    /// This endpoint does not answer any more, others do.
    LeftOut(Ipv4Addr),
    /// Nobody answers.
    Refuses,
}

/// Waits until it is so: how long after `since`, or `None` when it never was within `patience`.
pub(crate) fn wait(
    to: SocketAddrV4,
    until: Until,
    since: Instant,
    patience: Duration,
) -> Option<Duration> {
    if matches!(until, Until::Answers) {
        return first_connection(to, since, patience);
    }
    // How many tries in a row it was so, and since when.
    let mut row: Option<(u32, Instant)> = None;
    while since.elapsed() < patience {
        let began = Instant::now();
        let answer = ask(to);
        let (holds, needed, at) = match until {
            Until::Answers => (answer.is_ok(), 1, Instant::now()),
            Until::AnswersFrom(who) => (answer.is_ok_and(|from| from == who), 1, Instant::now()),
            Until::LeftOut(who) => (answer.is_ok_and(|from| from != who), WITHOUT, Instant::now()),
            // A try that nobody answered says so of the moment it was sent; giving up on it takes longer.
            Until::Refuses => (answer.is_err(), 3, began),
        };
        if holds {
            let (count, first) = row.unwrap_or((0, at));
            if count + 1 >= needed {
                return Some(first.duration_since(since));
            }
            row = Some((count + 1, first));
            continue;
        }
        row = None;
        sleep(pause(since).saturating_sub(began.elapsed()).max(Duration::from_micros(50)));
    }
    None
}

/// Between tries: short at first, so that little is added to what is measured; longer later, so that little is taken from it.
fn pause(since: Instant) -> Duration {
    let soon = since.elapsed() < Duration::from_millis(200);
    if soon { Duration::from_micros(300) } else { Duration::from_millis(5) }
}

/// Begins a connection every now and then without waiting for the ones before, until one is made.
///
/// Waiting for each would add its time-out to what is measured: TCP may take a refusal for a hint and go on trying.
fn first_connection(to: SocketAddrV4, since: Instant, patience: Duration) -> Option<Duration> {
    let mut tries: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
    while since.elapsed() < patience {
        if let Ok(begun) = begin(to) {
            tries.push_back((Instant::now(), begun));
        }
        let next = Instant::now() + pause(since);
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            let timeout = Timespec::try_from(left).ok()?;
            let mut polled: Vec<_> =
                tries.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::OUT)).collect();
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return None,
            }
            let over: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut over = over.into_iter();
            let mut made = false;
            tries.retain(|(_, fd)| {
                let ended = over.next().unwrap_or(false);
                made |= ended && socket_error(fd).is_ok_and(|outcome| outcome.is_ok());
                !ended
            });
            if made {
                return Some(since.elapsed());
            }
        }
        while tries.front().is_some_and(|(begun, _)| begun.elapsed() > TRY) {
            tries.pop_front();
        }
    }
    None
}

/// Sends the first packet of a connection.
fn begin(to: SocketAddrV4) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}
