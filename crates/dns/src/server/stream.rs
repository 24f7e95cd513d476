//! DNS over TCP (RFC 7766): messages with their length in front, answered in any order, connections bounded in number and
//! in time.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Asking, Carrier, Job, Outcome, Shared};
use crate::metrics::Seen;
use crate::query::{Query, Received, read};
use crate::reply::{failure, write, write_refusal};
use crate::resolve::Asker;

/// Connections at one address.
const CONNECTIONS: usize = 1024;
/// A connection that is silent for so long is closed (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// Questions of one connection answered at a time.
const PIPELINED: usize = 64;

/// Accepts connections until dropped.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener, port: u16) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    drop(serve(shared, stream, client, port).await);
                    drop(permit);
                });
            }
            // No descriptors: a moment later there may be some.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    client: SocketAddr,
    port: u16,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let (answers, mut ready) = tokio::sync::mpsc::channel::<Vec<u8>>(PIPELINED);
    let writing = tokio::spawn(async move {
        while let Some(answer) = ready.recv().await {
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes();
            let framed = [length.as_slice(), &answer].concat();
            if to.write_all(&framed).await.is_err() {
                return;
            }
        }
    });
    let mut turn = usize::from(client.port());
    loop {
        let Ok(Ok(length)) = timeout(IDLE, from.read_u16()).await else { break };
        let mut message = vec![0; usize::from(length)];
        match timeout(IDLE, from.read_exact(&mut message)).await {
            Ok(Ok(_)) => {}
            _ => break,
        }
        // Room for its answer first: who does not read gets no more work done.
        let Ok(place) = answers.clone().reserve_owned().await else { break };
        turn = turn.wrapping_add(1);
        let since = Instant::now();
        let query = match read(&message) {
            Received::Query(query) => query,
            Received::Refused { id, flags, code } => {
                let mut out = Vec::new();
                write_refusal(&mut out, id, flags, code);
                place.send(out);
                continue;
            }
            Received::Nothing => break,
        };
        let running = shared.running();
        let asker = Asker { address: client.ip(), port };
        let (block, outcome) = {
            let facts = shared.facts.read().unwrap_or_else(PoisonError::into_inner);
            shared.decide(&running, &facts, &query, asker, since)
        };
        let finish =
            Finish { shared: shared.clone(), running: running.clone(), client, port, since, turn };
        match outcome {
            Outcome::Reply(reply) => drop(place.send(finish.write(block, &query, &reply))),
            Outcome::Wait(ask) => {
                let (answer, waiting) = oneshot::channel();
                let block = Some(ask.block);
                let from = Asking::Tcp { answer };
                let job = Box::new(Job { running, query: query.clone(), ask, from });
                if shared.hand_over(job).is_err() {
                    place.send(finish.write(block, &query, &failure()));
                    continue;
                }
                tokio::spawn(async move {
                    let reply = waiting.await.unwrap_or_else(|_| failure());
                    place.send(finish.write(block, &query, &reply));
                });
            }
        }
    }
    drop(answers);
    drop(writing.await);
    Ok(())
}

struct Finish {
    shared: Arc<Shared>,
    running: Arc<super::Running>,
    client: SocketAddr,
    port: u16,
    since: Instant,
    turn: usize,
}

impl Finish {
    fn write(&self, block: Option<usize>, query: &Query, reply: &crate::reply::Reply) -> Vec<u8> {
        let client = self.client.ip();
        let form = self.shared.form(&self.running, block, query, client, Carrier::Tcp, self.turn);
        let mut out = Vec::with_capacity(512);
        let truncated = write(&mut out, query, reply, &form);
        let seen = Seen {
            block,
            carrier: Carrier::Tcp,
            client,
            kind: query.kind,
            code: reply.code,
            size: out.len(),
            truncated,
        };
        self.shared.metrics.answered(&seen, self.since.elapsed());
        self.shared.note(&self.running, query, &seen, reply, self.port, self.since);
        out
    }
}
