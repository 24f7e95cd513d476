//! The thread `dns-io`: TCP, and questions for upstreams. The same question asked by many is asked once.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::exchange::{ExchangeError, Wanted};
use super::{Asking, Job, Shared, loops, stream};
use crate::cache::Key;
use crate::query::code;
use crate::reply::{Reply, failure};
use crate::upstream::DEADLINE;

/// What the thread is told.
pub(super) enum Control {
    /// Accept connections here and nowhere else.
    Listeners(BTreeMap<SocketAddr, Arc<OwnedFd>>),
    /// Look whether what is forwarded comes back.
    Look,
    /// End.
    Stop,
}

/// A question that is being asked: of which configuration, block and `forward`.
type Asked = (usize, usize, usize, Key);

/// Those who wait for the same answer.
type Waiting = Arc<Mutex<HashMap<Asked, Vec<Box<Job>>>>>;

/// Runs until told to stop.
pub(super) fn run(
    shared: &Arc<Shared>,
    mut jobs: mpsc::Receiver<Box<Job>>,
    mut orders: mpsc::Receiver<Control>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        tracing::error!("DNS has no runtime for TCP and upstreams: no descriptors left?");
        return;
    };
    runtime.block_on(async {
        let waiting = Waiting::default();
        let mut listeners: HashMap<SocketAddr, AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Control::Listeners(wanted)) => {
                        listeners.retain(|address, task| {
                            let stays = wanted.contains_key(address);
                            if !stays {
                                task.abort();
                            }
                            stays
                        });
                        for (address, socket) in wanted {
                            if listeners.contains_key(&address) {
                                continue;
                            }
                            match listener(&socket) {
                                Ok(listener) => {
                                    let task = stream::accept(shared.clone(), listener, address.port());
                                    listeners.insert(address, tasks.spawn(task));
                                }
                                Err(error) => tracing::warn!(%address, %error, "no DNS over TCP"),
                            }
                        }
                        // Only who answers can be asked.
                        loops::look(shared, &shared.running());
                    }
                    Some(Control::Look) => loops::look(shared, &shared.running()),
                    Some(Control::Stop) | None => return,
                },
                job = jobs.recv() => match job {
                    Some(job) => start(shared, &waiting, job),
                    None => return,
                },
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    });
}

fn listener(socket: &OwnedFd) -> std::io::Result<TcpListener> {
    TcpListener::from_std(socket.as_fd().try_clone_to_owned()?.into())
}

/// Asks, or waits with those who asked before.
fn start(shared: &Arc<Shared>, waiting: &Waiting, job: Box<Job>) {
    let ask = &job.ask;
    let of = Arc::as_ptr(&job.running) as usize;
    let asked: Asked = (of, ask.block, ask.forward, ask.key.clone());
    {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = waiting.get_mut(&asked) {
            others.push(job);
            return;
        }
        waiting.insert(asked.clone(), Vec::new());
    }
    let (shared, waiting) = (shared.clone(), waiting.clone());
    tokio::task::spawn(async move {
        let (said, age) = fetch(&shared, &job).await;
        let others = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&asked);
        for job in std::iter::once(job).chain(others.into_iter().flatten()) {
            shared.deliver(job, &said, age);
        }
    });
}

/// The answer of the upstreams, remembered; where there is none, an old one, else a failure.
async fn fetch(shared: &Arc<Shared>, job: &Job) -> (Arc<Reply>, u32) {
    let (running, ask) = (&job.running, &job.ask);
    let upstreams = &running.upstreams[ask.block][ask.forward];
    let cache = running.caches.get(ask.block).and_then(Option::as_ref);
    let wanted = Wanted {
        name: &ask.name,
        kind: ask.kind,
        dnssec_ok: ask.key.dnssec_ok,
        checking_disabled: ask.key.checking_disabled,
        over_tcp: matches!(job.from, Asking::Tcp { .. }),
    };
    let asked = if running.probes[ask.block].as_ref().is_some_and(loops::Probe::is_loop) {
        Err(ExchangeError::Loop)
    } else {
        let asked = timeout(DEADLINE, upstreams.ask(shared, wanted)).await;
        asked.unwrap_or(Err(ExchangeError::AllLate))
    };
    let reply = asked.unwrap_or_else(|error| {
        if let Some(failures) = &running.failures[ask.block] {
            let kind = crate::text::kind_name(ask.kind);
            failures.note(&format!("2 {}. {kind}: {error}", ask.name));
        }
        failure()
    });
    let reply = Arc::new(reply);
    let Some(cache) = cache else { return (reply, 0) };
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if reply.code == code::SERVFAIL
        && let Some(hit) = cache.get(&ask.key, now)
        && hit.reply.code != code::SERVFAIL
    {
        cache.renewed(&ask.key);
        shared.metrics.renewing(true);
        return (hit.reply, hit.age);
    }
    cache.put(ask.key.clone(), reply.clone(), now);
    cache.renewed(&ask.key);
    (reply, 0)
}
