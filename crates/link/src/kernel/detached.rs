//! Removing a link without waiting for the kernel's own housekeeping.
//!
//! The kernel answers a removal only after a grace period in which nobody can still hold the device
//! (`rcu_barrier` in `netdev_run_todo`): 10 to 25 ms in which the link has long been gone for
//! everybody: out of the lists, its name free, its routes and neighbours flushed, its end announced
//! to listeners. That waiting is done by a helper that shares the address space, owns copies of the
//! descriptors and nothing else; this side returns with the announcement. Once the announcement is
//! out nothing can stop the removal, whatever happens to either process.

#![allow(unsafe_code, reason = "one clone(2); see the SAFETY comments")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::NetlinkError;
use super::socket::{parse, split};
use crate::LinkIndex;

/// RTNLGRP_LINK (linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
/// The helper makes three system calls on it.
const STACK_BYTES: usize = 32 * 1024;
/// After this the announcement is taken for lost, and the kernel's own answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
const RECEIVE_BYTES: usize = 32 * 1024;

/// What the helper is given.
struct Errand {
    socket: RawFd,
    request: Vec<u8>,
}

/// Asks the kernel to remove the link of that index in the calling thread's namespace. `Ok(None)` when
/// it is gone, the errno when the kernel refused.
pub(super) fn remove(index: LinkIndex) -> Result<Option<i32>, NetlinkError> {
    let failed = |operation| move |source| NetlinkError::Socket { operation, source };
    let open = || -> io::Result<netlink_sys::Socket> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_cap_ack(true)?;
        Ok(socket)
    };
    let events = open().map_err(failed("open"))?;
    events.add_membership(GROUP_LINK).map_err(failed("open"))?;
    let requests = open().map_err(failed("open"))?;
    // SAFETY: the helper runs `errand` on a stack of its own and shares this address space, so all it
    // reads must outlive it: stack and errand are leaked (some 32 KiB, in a program that ends after
    // this). It makes system calls without libc's errno, which would be this thread's, allocates
    // nothing, takes no lock and ends by itself. Its descriptors are copies (no CLONE_FILES).
    let helper = unsafe {
        let stack: &'static mut [u8] = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
        let top = stack.as_mut_ptr_range().end.map_addr(|at| at & !15);
        let errand =
            Box::leak(Box::new(Errand { socket: requests.as_raw_fd(), request: request(index) }));
        libc::clone(run, top.cast(), libc::CLONE_VM, std::ptr::from_mut(errand).cast())
    };
    if helper < 0 {
        return Err(failed("start a helper for")(io::Error::last_os_error()));
    }
    let outcome = wait(&events, &requests, index);
    // SAFETY: plain system call. The helper has ended or will; who lives on has no zombie of it.
    unsafe { libc::waitpid(helper, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
    outcome
}

/// Closes a socket whose closing takes long, without waiting for it: the last close of an nf_tables
/// socket waits until what was deleted by anybody is freed, a grace period of 10 to 25 ms. A helper
/// keeps a copy of this one descriptor for a moment longer than this side, so the slow close is the
/// helper's. For short-lived programs: each call leaves some 32 KiB.
pub fn close_later(socket: impl AsFd) {
    // SAFETY: as in `remove`. The descriptor named is this process's, copied into the helper's table.
    let helper = unsafe {
        let stack: &'static mut [u8] = Box::leak(vec![0_u8; STACK_BYTES].into_boxed_slice());
        let top = stack.as_mut_ptr_range().end.map_addr(|at| at & !15);
        let kept = Box::leak(Box::new(socket.as_fd().as_raw_fd()));
        libc::clone(keep, top.cast(), libc::CLONE_VM, std::ptr::from_mut(kept).cast())
    };
    drop(socket);
    if helper > 0 {
        // SAFETY: plain system call, as in `remove`.
        unsafe { libc::waitpid(helper, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
    }
}

/// The helper of [`close_later`]. It lets go of all descriptors but the one: others are locks that
/// somebody waits for. Woken too early it closes first, and the other side waits after all.
extern "C" fn keep(kept: *mut c_void) -> libc::c_int {
    // SAFETY: `close_later` leaked a descriptor at this address; it is this process's own copy; the
    // calls set no errno when they succeed, and rustix calls the kernel directly.
    unsafe {
        let kept = *kept.cast::<RawFd>();
        if kept > 0 {
            libc::syscall(libc::SYS_close_range, 0, kept - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, kept + 1, libc::c_uint::MAX, 0);
    }
    let _slept = rustix::thread::nanosleep(&HELD);
    0
}

/// Long enough for the other side to close its own.
const HELD: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

fn request(index: LinkIndex) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut message = NetlinkMessage::from(Message::DelLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The helper: lets go of the standard streams, whose ends the runtime waits for, and asks.
extern "C" fn run(errand: *mut c_void) -> libc::c_int {
    // SAFETY: `remove` leaked a whole `Errand` at this address; the descriptors are this process's own
    // copies; rustix calls the kernel directly.
    unsafe {
        let errand = &*errand.cast::<Errand>();
        for stream in 0..3 {
            rustix::io::close(stream);
        }
        let socket = BorrowedFd::borrow_raw(errand.socket);
        // What the kernel says is read on the other side.
        let _answered = rustix::net::send(socket, &errand.request, rustix::net::SendFlags::empty());
    }
    0
}

/// Until the link's end is announced, or the kernel answers.
fn wait(
    events: &netlink_sys::Socket,
    requests: &netlink_sys::Socket,
    index: LinkIndex,
) -> Result<Option<i32>, NetlinkError> {
    let failed = |source| NetlinkError::Socket { operation: "receive from", source };
    let until = Instant::now() + PATIENCE;
    let mut buffer = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        // SAFETY: the descriptors are open as long as the sockets live.
        let (announced, answered) = unsafe {
            (
                BorrowedFd::borrow_raw(events.as_raw_fd()),
                BorrowedFd::borrow_raw(requests.as_raw_fd()),
            )
        };
        let mut both =
            [PollFd::new(&announced, PollFlags::IN), PollFd::new(&answered, PollFlags::IN)];
        let left = until.saturating_duration_since(Instant::now());
        // With the announcement lost, the answer comes in any case.
        let (of, timeout) = if left.is_zero() {
            (&mut both[1..], None)
        } else {
            (&mut both[..], Timespec::try_from(left).ok())
        };
        match rustix::event::poll(of, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        if let Some(answer) = read(requests, &mut buffer, |message| match &message.payload {
            NetlinkPayload::Error(answer) => {
                Some(answer.code.map(|code| code.get().saturating_neg()))
            }
            _ => None,
        })? {
            return Ok(answer);
        }
        let is_it = |message: &NetlinkMessage<Message>| match &message.payload {
            NetlinkPayload::InnerMessage(Message::DelLink(link)) => {
                // A port that leaves its bridge is announced in the same words, of family AF_BRIDGE.
                (link.header.index == index
                    && link.header.interface_family == netlink_packet_route::AddressFamily::Unspec)
                    .then_some(())
            }
            _ => None,
        };
        if read(events, &mut buffer, is_it)?.is_some() {
            return Ok(None);
        }
    }
}

/// What is there to read, without waiting: the first message `pick` takes.
fn read<T>(
    socket: &netlink_sys::Socket,
    buffer: &mut Vec<u8>,
    pick: impl Fn(&NetlinkMessage<Message>) -> Option<T>,
) -> Result<Option<T>, NetlinkError> {
    loop {
        buffer.clear();
        match socket.recv(buffer, libc::MSG_DONTWAIT) {
            Ok(_) => {}
            // Lost announcements: the kernel's answer will do.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                return Err(NetlinkError::Socket { operation: "receive from", source });
            }
        }
        for bytes in split(buffer)? {
            // Announcements about other links may hold what the decoder does not know.
            if let Ok(message) = parse(bytes)
                && let Some(found) = pick(&message)
            {
                return Ok(Some(found));
            }
        }
    }
}
