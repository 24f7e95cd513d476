//! A UDP thread: takes a batch, answers what needs no network, sends a batch.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::sys::{self, Batch, Bell};
use super::{Asking, Carrier, Job, Outcome, Running, Shared};
use crate::facts::Facts;
use crate::metrics::Seen;
use crate::query::{Received, code, read};
use crate::reply::{Reply, write, write_refusal};
use crate::resolve::Asker;

/// A socket and the port it answers on.
type Own = (Arc<OwnedFd>, u16);

/// Runs until the server stops.
pub(super) fn run(shared: &Shared, own: usize, bell: &Bell) {
    let mut batch = Batch::new();
    let mut ready = Vec::new();
    let mut turn = own;
    let mut sockets = of_thread(shared, own);
    while !shared.is_stopping() {
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(socket, _)| socket.as_fd()).collect();
        let rang = sys::wait(bell, &fds, &mut ready);
        drop(fds);
        for &at in &ready {
            serve(shared, &sockets[at], &mut batch, &mut turn);
        }
        if rang {
            // What came to a socket that goes is answered before it does.
            for socket in &sockets {
                serve(shared, socket, &mut batch, &mut turn);
            }
            sockets = of_thread(shared, own);
        }
    }
    for socket in &sockets {
        serve(shared, socket, &mut batch, &mut turn);
    }
}

fn of_thread(shared: &Shared, own: usize) -> Vec<Own> {
    let sockets = shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
    let all = sockets.udp.iter();
    all.filter_map(|(address, all)| Some((all.get(own)?.clone(), address.port()))).collect()
}

/// Answers what waits at a socket, up to a few batches, so that others get their turn.
fn serve(shared: &Shared, socket: &Own, batch: &mut Batch, turn: &mut usize) {
    for _ in 0..4 {
        let Ok(count @ 1..) = batch.receive(socket.0.as_fd()) else { return };
        let running = shared.running();
        let since = Instant::now();
        {
            let facts = shared.facts.read().unwrap_or_else(PoisonError::into_inner);
            for at in 0..count {
                *turn = turn.wrapping_add(1);
                one(shared, &running, &facts, socket, batch, at, *turn, since);
            }
        }
        // No room in the socket's buffer: clients ask again.
        drop(batch.send(socket.0.as_fd(), count));
        if count < sys::BATCH {
            return;
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the state of one batch, on the hot path")]
fn one(
    shared: &Shared,
    running: &Arc<Running>,
    facts: &Facts,
    (socket, port): &Own,
    batch: &mut Batch,
    at: usize,
    turn: usize,
    since: Instant,
) {
    let (bytes, client, out) = batch.message(at);
    if client.port() == 0 {
        return;
    }
    let query = match read(bytes) {
        Received::Query(query) => query,
        Received::Refused { id, flags, code } => {
            write_refusal(out, id, flags, code);
            shared.metrics.refused(code);
            return;
        }
        Received::Nothing => return,
    };
    let asker = Asker { address: client.ip(), port: *port };
    if !shared.limiter.admits(client.ip(), since) && !shared.knows_cookie(&query, client.ip()) {
        // Over TCP, or with a cookie, it is who it says. The answer is no longer than the question was.
        let mut form = shared.form(running, None, &query, client.ip(), Carrier::Udp, 0);
        form.limit = 0;
        let has_cookie = query.edns.is_some_and(|edns| edns.cookie.is_some());
        let code = if has_cookie { code::BADCOOKIE } else { code::NOERROR };
        write(out, &query, &Reply::of_code(code), &form);
        out[2] |= 0x02;
        shared.metrics.limited();
        return;
    }
    let (block, outcome) = shared.decide(running, facts, &query, asker, since);
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Wait(ask) => {
            let from = Asking::Udp { socket: socket.clone(), client, port: *port, since };
            let job = Box::new(Job { running: running.clone(), query: query.clone(), ask, from });
            match shared.hand_over(job) {
                Ok(()) => return,
                Err(_) => crate::reply::failure(),
            }
        }
    };
    let form = shared.form(running, block, &query, client.ip(), Carrier::Udp, turn);
    let truncated = write(out, &query, &reply, &form);
    let seen = Seen {
        block,
        carrier: Carrier::Udp,
        client: client.ip(),
        kind: query.kind,
        code: reply.code,
        size: out.len(),
        truncated,
    };
    shared.metrics.answered(&seen, since.elapsed());
    shared.note(running, &query, &seen, &reply, *port, since);
}
