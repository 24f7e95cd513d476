//! A netlink socket: open, send one buffer, receive datagrams. All `unsafe` of the crate is here.
#![allow(unsafe_code, reason = "netlink sockets need calls libc only offers as unsafe")]

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A socket of family `NETLINK_NETFILTER`, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
    send_buffer: usize,
    receive_buffer: usize,
    receive: Vec<u8>,
}

const SEND_BUFFER: usize = 1 << 20;
const RECEIVE_BUFFER: i32 = 8 << 20;
/// The kernel fills at most 32 KiB of a dump at once, and single messages stay below.
const DATAGRAM: usize = 256 << 10;
/// Datagrams taken with one system call where each is one short message.
const MANY: usize = 64;

impl Socket {
    pub(crate) fn open() -> io::Result<Self> {
        Self::with_flags(0)
    }

    pub(crate) fn nonblocking() -> io::Result<Self> {
        Self::with_flags(libc::SOCK_NONBLOCK)
    }

    fn with_flags(flags: i32) -> io::Result<Self> {
        // SAFETY: plain system call; the descriptor is owned at once.
        let fd = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let mut socket =
            Self { fd, port: 0, send_buffer: 0, receive_buffer: 0, receive: vec![0; DATAGRAM] };
        // SAFETY: sockaddr_nl is plain data, and the lengths passed are its size.
        unsafe {
            let mut address: libc::sockaddr_nl = zeroed();
            address.nl_family = libc::AF_NETLINK as u16;
            let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            let raw = socket.fd.as_raw_fd();
            if libc::bind(raw, (&raw const address).cast(), length) < 0
                || libc::getsockname(raw, (&raw mut address).cast(), &raw mut length) < 0
            {
                return Err(io::Error::last_os_error());
            }
            socket.port = address.nl_pid;
        }
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        socket.buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
        socket.buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER as i32)?;
        socket.send_buffer = SEND_BUFFER;
        socket.receive_buffer = socket.size_of_receive_buffer();
        Ok(socket)
    }

    /// The address the kernel knows this socket by.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Bytes of answers that can wait, by the kernel's own count.
    pub(crate) fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    fn size_of_receive_buffer(&self) -> usize {
        let (mut size, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: the option's value is an int, and the length passed is its size.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw mut size).cast(),
                &raw mut length,
            )
        };
        if result < 0 { 0 } else { usize::try_from(size).unwrap_or(0) }
    }

    pub(crate) fn join(&self, group: u32) -> io::Result<()> {
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group.cast_signed())
    }

    /// Messages whose sender is one of these ports are dropped before they take room here. A datagram of events is of one
    /// transaction, so its first header tells (`nft_commit_notify` in the kernel's nf_tables_api.c).
    pub(crate) fn refuse_from(&self, ports: &[u32]) -> io::Result<()> {
        /// Where `nlmsg_pid` is in `struct nlmsghdr`.
        const PORT: u32 = 12;
        let statement = |code: u32, k| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, PORT)];
        for (at, port) in ports.iter().enumerate() {
            // Past the ports that follow and the verdict that takes it. A load is in network byte order, netlink in the machine's.
            let drop = u8::try_from(ports.len() - at)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            let compare = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, port.to_be());
            program.push(libc::sock_filter { jt: drop, ..compare });
        }
        program.extend([u32::MAX, 0].map(|taken| statement(libc::BPF_RET | libc::BPF_K, taken)));
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: the program outlives the call, and the length passed is that of the structure that points to it.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Force needs CAP_NET_ADMIN in the initial user namespace; without it the ordinary limit applies.
    fn buffer(&self, force: i32, plain: i32, bytes: i32) -> io::Result<()> {
        self.option(libc::SOL_SOCKET, force, bytes)
            .or_else(|_| self.option(libc::SOL_SOCKET, plain, bytes))
    }

    fn option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        // SAFETY: the option's value is an int, and its size is passed.
        let result = unsafe {
            let length = size_of::<i32>() as libc::socklen_t;
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), length)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a whole buffer as one datagram; the kernel has done what it says when this returns.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() + 4096 > self.send_buffer {
            let wanted = i32::try_from(bytes.len() + 4096).unwrap_or(i32::MAX);
            self.buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted)?;
            self.send_buffer = wanted as usize;
        }
        loop {
            // SAFETY: the pointer and length describe `bytes`.
            let sent =
                unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Receives one datagram; `None` when there is none and `wait` is false.
    pub(crate) fn receive(&mut self, wait: bool) -> io::Result<Option<&[u8]>> {
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            let (pointer, length) = (self.receive.as_mut_ptr(), self.receive.len());
            // SAFETY: the pointer and length describe the receive buffer.
            let received =
                unsafe { libc::recv(self.fd.as_raw_fd(), pointer.cast(), length, flags) };
            if let Ok(received) = usize::try_from(received) {
                return Ok(Some(&self.receive[..received]));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        }
    }

    /// Receives what is there, each datagram at most 4 KiB long, and says how many it took; 0 when there is none left.
    pub(crate) fn receive_many(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<usize> {
        let room = self.receive.len() / MANY;
        let base = self.receive.as_mut_ptr();
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: room }; MANY];
        // SAFETY: msghdr and mmsghdr are plain data for which zero means absent.
        let mut headers: [libc::mmsghdr; MANY] = unsafe { zeroed() };
        for (at, (part, header)) in parts.iter_mut().zip(&mut headers).enumerate() {
            // SAFETY: `MANY` parts of `room` bytes lie within the receive buffer.
            part.iov_base = unsafe { base.add(at * room) }.cast();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = loop {
            // SAFETY: the headers describe disjoint parts of the receive buffer, which outlives the call.
            let count = unsafe {
                libc::recvmmsg(
                    self.fd.as_raw_fd(),
                    headers.as_mut_ptr(),
                    MANY as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if let Ok(count) = usize::try_from(count) {
                break count;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(0),
                _ => return Err(error),
            }
        };
        for (at, header) in headers.iter().take(count).enumerate() {
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            take(&self.receive[at * room..at * room + header.msg_len as usize]);
        }
        Ok(count)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}
