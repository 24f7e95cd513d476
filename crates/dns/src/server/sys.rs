//! The system calls of the UDP path. All `unsafe` of the crate is here.
#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and socket options are only offered as unsafe")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Messages taken or given with one system call.
pub(crate) const BATCH: usize = 64;
/// Octets of a query over UDP; longer ones are cut, and then format errors.
const QUERY: usize = 1024;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket address as the kernel wants it.
#[derive(Clone, Copy)]
struct Raw {
    storage: libc::sockaddr_in6,
    length: libc::socklen_t,
}

impl Raw {
    fn none() -> Self {
        // SAFETY: plain data; all zero is a value of it. sockaddr_in6 is the longest address there is here.
        let storage = unsafe { zeroed() };
        Self { storage, length: size_of::<libc::sockaddr_in6>() as libc::socklen_t }
    }

    fn of(address: SocketAddr) -> Self {
        let mut raw = Self::none();
        match address {
            SocketAddr::V4(v4) => {
                let inner = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_in is shorter than sockaddr_in6, and both are plain data of the same alignment.
                unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_in>().write(inner) };
                raw.length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                raw.storage.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.storage.sin6_port = v6.port().to_be();
                raw.storage.sin6_addr.s6_addr = v6.ip().octets();
                raw.storage.sin6_scope_id = v6.scope_id();
            }
        }
        raw
    }

    fn address(&self) -> SocketAddr {
        if i32::from(self.storage.sin6_family) == libc::AF_INET {
            // SAFETY: the kernel wrote a sockaddr_in, as the family says.
            let v4 = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            return SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into();
        }
        let v6 = &self.storage;
        let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
        SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into()
    }
}

fn option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an int, and its size is passed.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) })?;
    Ok(())
}

/// A bound socket of this kind (`SOCK_DGRAM`, `SOCK_STREAM`); several may have one address, and the address may be one this
/// node does not have yet.
fn bound(kind: i32, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: plain system call; the descriptor is owned at once.
    let fd = unsafe {
        let fd = check(libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0))?;
        OwnedFd::from_raw_fd(fd)
    };
    let raw_fd = fd.as_raw_fd();
    option(raw_fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    match address.ip() {
        IpAddr::V4(_) => option(raw_fd, libc::SOL_IP, libc::IP_FREEBIND, 1)?,
        IpAddr::V6(_) => {
            option(raw_fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
            option(raw_fd, libc::SOL_IPV6, libc::IPV6_FREEBIND, 1)?;
        }
    }
    if kind == libc::SOCK_STREAM {
        // A listener that follows another one at once.
        option(raw_fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    let raw = Raw::of(address);
    // SAFETY: the address and its length belong together.
    check(unsafe { libc::bind(raw_fd, (&raw const raw.storage).cast(), raw.length) })?;
    Ok(fd)
}

/// A UDP socket that takes its share of what comes to an address.
pub(crate) fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = bound(libc::SOCK_DGRAM, address)?;
    let raw = fd.as_raw_fd();
    // What comes while a batch is answered waits; without the right to force it, what the system allows.
    let size = 4 << 20;
    option(raw, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, size)
        .or_else(|_| option(raw, libc::SOL_SOCKET, libc::SO_RCVBUF, size))?;
    Ok(fd)
}

/// A TCP listener.
pub(crate) fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = bound(libc::SOCK_STREAM, address)?;
    // SAFETY: plain system call on a socket of ours.
    check(unsafe { libc::listen(fd.as_raw_fd(), 1024) })?;
    Ok(fd)
}

/// Sends one message, without waiting for room.
pub(crate) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    let raw = Raw::of(to);
    // SAFETY: pointer and length describe `bytes`; the address and its length belong together.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            (&raw const raw.storage).cast(),
            raw.length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What wakes a thread that waits.
#[derive(Debug)]
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: plain system call; the descriptor is owned at once.
        unsafe {
            let fd = check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?;
            Ok(Self(OwnedFd::from_raw_fd(fd)))
        }
    }

    pub(crate) fn ring(&self) {
        let one = 1u64;
        // SAFETY: eight octets of an integer. It fails only when it rings already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    fn quiet(&self) {
        let mut count = 0u64;
        // SAFETY: room for eight octets.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

/// Waits for the bell or any of the sockets, and says which sockets have something; true when the bell rang.
pub(crate) fn wait(bell: &Bell, sockets: &[BorrowedFd<'_>], ready: &mut Vec<usize>) -> bool {
    let poll = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let bell_fd = bell.0.as_raw_fd();
    let mut all: Vec<libc::pollfd> =
        std::iter::once(bell_fd).chain(sockets.iter().map(AsRawFd::as_raw_fd)).map(poll).collect();
    ready.clear();
    // SAFETY: pointer and length describe `all`.
    let count = unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, 1000) };
    if count <= 0 {
        return false;
    }
    ready.extend((0..sockets.len()).filter(|at| all[at + 1].revents != 0));
    let rang = all[0].revents != 0;
    if rang {
        bell.quiet();
    }
    rang
}

/// Room for the messages of one system call, made once.
pub(crate) struct Batch {
    queries: Box<[[u8; QUERY]; BATCH]>,
    from: Box<[Raw; BATCH]>,
    lengths: [usize; BATCH],
    /// Answers; an empty one is not sent.
    pub(crate) answers: Box<[Vec<u8>; BATCH]>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            queries: Box::new([[0; QUERY]; BATCH]),
            from: Box::new([Raw::none(); BATCH]),
            lengths: [0; BATCH],
            answers: Box::new([const { Vec::new() }; BATCH]),
        }
    }

    /// Takes what is there without waiting; how many messages.
    pub(crate) fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: plain data; all zero is a value of both.
        let (mut parts, mut heads): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        for at in 0..BATCH {
            parts[at] =
                libc::iovec { iov_base: self.queries[at].as_mut_ptr().cast(), iov_len: QUERY };
            self.from[at] = Raw::none();
            let head = &mut heads[at].msg_hdr;
            head.msg_iov = &raw mut parts[at];
            head.msg_iovlen = 1;
            head.msg_name = (&raw mut self.from[at].storage).cast();
            head.msg_namelen = self.from[at].length;
        }
        // SAFETY: every head points to a buffer, an iovec and an address that live until after the call.
        let count = check(unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                heads.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        })?;
        let count = usize::try_from(count).unwrap_or(0);
        for (at, head) in heads.iter().enumerate().take(count) {
            self.lengths[at] = (head.msg_len as usize).min(QUERY);
            self.from[at].length = head.msg_hdr.msg_namelen;
            self.answers[at].clear();
        }
        Ok(count)
    }

    /// A message that came, from whom, and where its answer goes.
    pub(crate) fn message(&mut self, at: usize) -> (&[u8], SocketAddr, &mut Vec<u8>) {
        let query = &self.queries[at][..self.lengths[at]];
        (query, self.from[at].address(), &mut self.answers[at])
    }

    /// Sends the answers to the first `count` messages; those the kernel has no room for are dropped.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>, count: usize) -> io::Result<()> {
        // SAFETY: plain data; all zero is a value of both.
        let (mut parts, mut heads): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let mut filled = 0;
        for at in 0..count {
            let answer = &mut self.answers[at];
            if answer.is_empty() {
                continue;
            }
            parts[filled] =
                libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
            let head = &mut heads[filled].msg_hdr;
            head.msg_iov = &raw mut parts[filled];
            head.msg_iovlen = 1;
            head.msg_name = (&raw mut self.from[at].storage).cast();
            head.msg_namelen = self.from[at].length;
            filled += 1;
        }
        let mut sent = 0;
        while sent < filled {
            // SAFETY: the heads from `sent` on point to answers, iovecs and addresses that live until after the call.
            let result = unsafe {
                libc::sendmmsg(
                    fd.as_raw_fd(),
                    heads[sent..].as_mut_ptr(),
                    (filled - sent) as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            match check(result) {
                Ok(count) => sent += usize::try_from(count).unwrap_or(0).max(1),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // Nobody there: that one is lost, the others are not.
                Err(_) => sent += 1,
            }
        }
        Ok(())
    }
}
