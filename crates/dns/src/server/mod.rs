//! The server: the edge round the pure middle.
//!
//! | thread | owns | does |
//! |---|---|---|
//! | `dns-udp-N`, one per core | one socket of every address (`SO_REUSEPORT`), a batch of messages | answers what needs no network, from the facts and the caches; the rest goes to `dns-io` |
//! | `dns-io` | a single-threaded runtime | TCP, upstreams and their health, prefetching |
//!
//! The facts and caches are shared behind locks that are held for a batch, not for a query. Work for `dns-io` goes through a
//! bounded channel; when it is full, the client is told SERVFAIL at once.

mod exchange;
mod failures;
mod io;
mod limit;
mod loops;
pub(crate) mod said;
mod stream;
mod sys;
mod udp;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::config::{Block, Config};
use crate::facts::{Facts, Patch, SharedFacts};
use crate::metrics::Metrics;
use crate::name::Name;
use crate::query::{Query, code};
use crate::reply::{Form, Reply, ReplyEdns, write};
use crate::resolve::{Ask, Asker, Step, resolve};
use crate::top::Tops;
use exchange::Upstreams;
use failures::Failures;
use limit::Limiter;
use loops::Probe;

/// Octets sent over UDP at most, unless the configuration says otherwise: they arrive in one piece everywhere.
const UDP_PAYLOAD: u16 = 1232;
/// Questions that may wait for `dns-io`.
const JOBS: usize = 4096;

/// What a server is told beside its configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads for UDP.
    pub threads: usize,
    /// Answers a client address gets per second over UDP, unless it shows that it is where it says (RFC 7873 cookie) ;
    /// none is no limit. Beyond, it is told to come over TCP.
    pub per_client: Option<u32>,
    /// The serial number of its zones goes on from this.
    pub serial: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Seconds since the epoch serve as serial numbers until 2106, and go on in RFC 1982's circle after it.
        Self { threads: cores.min(4), per_client: None, serial: now.as_secs() as u32 }
    }
}

/// A configuration at work: with its caches and what is known of its upstreams.
pub(crate) struct Running {
    pub(crate) config: Config,
    pub(crate) caches: Vec<Option<Arc<Mutex<Cache>>>>,
    pub(crate) upstreams: Vec<Vec<Arc<Upstreams>>>,
    pub(crate) failures: Vec<Option<Failures>>,
    pub(crate) probes: Vec<Option<Probe>>,
    /// One line of each block's zones, for metrics.
    pub(crate) labels: Vec<String>,
}

impl Running {
    /// What is remembered of upstreams that stay is kept from the configuration `before`.
    fn new(config: Config, before: Option<&Self>) -> Self {
        let old = |block: &Block| {
            let before = before?;
            let at = before.config.blocks.iter().position(|it| {
                it.zones == block.zones && it.port == block.port && it.forwards == block.forwards
            })?;
            Some((before, at))
        };
        let cache = |block: &Block| {
            let settings = block.cache.as_ref()?;
            let kept = old(block).and_then(|(before, at)| {
                let same = before.config.blocks[at].cache.as_ref() == Some(settings);
                before.caches[at].clone().filter(|_| same)
            });
            Some(kept.unwrap_or_else(|| Arc::new(Mutex::new(Cache::new(settings.clone())))))
        };
        let upstreams = |block: &Block| match old(block) {
            Some((before, at)) => before.upstreams[at].clone(),
            None => block.forwards.iter().map(|it| Arc::new(Upstreams::new(it))).collect(),
        };
        let label = |zones: &[Name]| match zones.first() {
            Some(zone) if zone.wire().len() > 1 => format!("{zone}."),
            _ => ".".to_owned(),
        };
        Self {
            caches: config.blocks.iter().map(cache).collect(),
            upstreams: config.blocks.iter().map(upstreams).collect(),
            failures: config
                .blocks
                .iter()
                .map(|it| it.errors.as_ref().map(Failures::new))
                .collect(),
            probes: config.blocks.iter().map(Probe::of).collect(),
            labels: config.blocks.iter().map(|block| label(&block.zones)).collect(),
            config,
        }
    }
}

/// What all threads share.
pub(crate) struct Shared {
    running: RwLock<Arc<Running>>,
    pub(crate) facts: SharedFacts,
    pub(crate) metrics: Metrics,
    pub(crate) tops: Tops,
    pub(crate) limiter: Limiter,
    jobs: mpsc::Sender<Box<Job>>,
    /// Questions `dns-io` has not answered yet.
    waiting: AtomicUsize,
    secret: RandomState,
    started: Instant,
    stopping: AtomicBool,
    sockets: Mutex<Sockets>,
}

/// The sockets, by address.
#[derive(Default)]
struct Sockets {
    /// One per UDP thread.
    udp: BTreeMap<SocketAddr, Vec<Arc<OwnedFd>>>,
    tcp: BTreeMap<SocketAddr, Arc<OwnedFd>>,
    bells: Vec<Arc<sys::Bell>>,
}

/// A question for `dns-io`.
pub(crate) struct Job {
    pub(crate) running: Arc<Running>,
    pub(crate) query: Query,
    pub(crate) ask: Box<Ask>,
    pub(crate) from: Asking,
}

/// Who waits for an answer.
pub(crate) enum Asking {
    /// A client that asked over UDP.
    Udp { socket: Arc<OwnedFd>, client: SocketAddr, port: u16, since: Instant },
    /// One that asked over TCP.
    Tcp { answer: tokio::sync::oneshot::Sender<Reply> },
    /// Nobody: an answer is renewed.
    Nobody,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Udp,
    Tcp,
}

/// What becomes of a question.
pub(crate) enum Outcome {
    Reply(Reply),
    Wait(Box<Ask>),
}

impl Shared {
    pub(crate) fn running(&self) -> Arc<Running> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the facts and the caches say.
    pub(crate) fn decide(
        &self,
        running: &Arc<Running>,
        facts: &Facts,
        query: &Query,
        asker: Asker,
        now: Instant,
    ) -> (Option<usize>, Outcome) {
        if loops::came_back(running, query) {
            return (None, Outcome::Reply(crate::reply::failure()));
        }
        let (block, step) = resolve(&running.config, facts, query, asker);
        let ask = match step {
            Step::Reply(reply) => return (block, Outcome::Reply(reply)),
            Step::Ask(ask) => ask,
        };
        let Some(cache) = running.caches.get(ask.block).and_then(Option::as_ref) else {
            return (block, Outcome::Wait(ask));
        };
        let (hit, verify) = {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            (cache.get(&ask.key, now), cache.settings().stale_verify)
        };
        self.metrics.cache(ask.block, hit.as_ref().map(|hit| hit.reply.as_ref()));
        match hit {
            Some(hit) if !(hit.stale && verify) => {
                let reply = ask.finish(&hit.reply, hit.age);
                if hit.renew {
                    let job = Box::new(Job {
                        running: running.clone(),
                        query: query.clone(),
                        ask: ask.clone(),
                        from: Asking::Nobody,
                    });
                    if self.hand_over(job).is_err() {
                        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                        cache.renewed(&ask.key);
                    }
                    self.metrics.renewing(hit.stale);
                }
                (block, Outcome::Reply(reply))
            }
            _ => (block, Outcome::Wait(ask)),
        }
    }

    /// The answer's form; `over_udp` bounds its size.
    pub(crate) fn form(
        &self,
        running: &Running,
        block: Option<usize>,
        query: &Query,
        client: IpAddr,
        carrier: Carrier,
        turn: usize,
    ) -> Form {
        let block = block.and_then(|block| running.config.blocks.get(block));
        let payload = block.and_then(|block| block.buffer).unwrap_or(UDP_PAYLOAD);
        let cookie = query.edns.and_then(|edns| edns.cookie);
        let cookie = cookie.map(|cookie| {
            let minutes = self.started.elapsed().as_secs() / 60;
            (cookie.client, self.cookie(&cookie.client, client, minutes))
        });
        Form {
            limit: match carrier {
                Carrier::Udp => query.udp_size(payload),
                Carrier::Tcp => usize::from(u16::MAX),
            },
            edns: ReplyEdns { payload, cookie },
            age: 0,
            turn: if block.is_some_and(|block| block.loadbalance) { turn } else { 0 },
        }
    }

    /// Our half of a cookie (RFC 9018's layout; its hash is keyed with a secret of this process).
    fn cookie(&self, client: &[u8; 8], address: IpAddr, minutes: u64) -> [u8; 16] {
        let minutes = minutes as u32;
        let mut cookie = [0; 16];
        cookie[0] = 1;
        cookie[4..8].copy_from_slice(&minutes.to_be_bytes());
        let hash = self.secret.hash_one((client, address, minutes));
        cookie[8..].copy_from_slice(&hash.to_be_bytes());
        cookie
    }

    /// Whether a client proves with its cookie that it is at this address.
    pub(crate) fn knows_cookie(&self, query: &Query, client: IpAddr) -> bool {
        let Some(cookie) = query.edns.and_then(|edns| edns.cookie) else { return false };
        let Some(server) = cookie.server else { return false };
        let Some(made) = server.bytes().get(4..8).and_then(|four| <[u8; 4]>::try_from(four).ok())
        else {
            return false;
        };
        let (made, now) =
            (u64::from(u32::from_be_bytes(made)), self.started.elapsed().as_secs() / 60);
        // An hour, as RFC 9018 §4.3 has it.
        made <= now
            && now - made <= 60
            && server.bytes() == self.cookie(&cookie.client, client, made)
    }

    /// Gives a job to `dns-io`; gives it back when there is no room.
    pub(crate) fn hand_over(&self, job: Box<Job>) -> Result<(), Box<Job>> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job) => job,
        })?;
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Answers somebody who waited.
    pub(crate) fn deliver(&self, job: Box<Job>, said: &Reply, age: u32) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let reply = job.ask.finish(said, age);
        match job.from {
            Asking::Nobody => {}
            Asking::Tcp { answer } => drop(answer.send(reply)),
            Asking::Udp { socket, client, port, since } => {
                use std::os::fd::AsFd as _;
                let block = Some(job.ask.block);
                let form = self.form(
                    &job.running,
                    block,
                    &job.query,
                    client.ip(),
                    Carrier::Udp,
                    usize::from(job.query.id),
                );
                let mut out = Vec::with_capacity(512);
                let truncated = write(&mut out, &job.query, &reply, &form);
                drop(sys::send_to(socket.as_fd(), &out, client));
                let seen = crate::metrics::Seen {
                    block,
                    carrier: Carrier::Udp,
                    client: client.ip(),
                    kind: job.query.kind,
                    code: reply.code,
                    size: out.len(),
                    truncated,
                };
                self.metrics.answered(&seen, since.elapsed());
                self.note(&job.running, &job.query, &seen, &reply, port, since);
            }
        }
    }

    /// The query log and the list of those who ask most.
    pub(crate) fn note(
        &self,
        running: &Running,
        query: &Query,
        seen: &crate::metrics::Seen,
        reply: &Reply,
        port: u16,
        since: Instant,
    ) {
        self.tops.count(query, seen.client, reply.code);
        let Some(block) = seen.block.and_then(|block| running.config.blocks.get(block)) else {
            return;
        };
        if reply.code == code::SERVFAIL {
            self.metrics.error();
        }
        let Some(log) = &block.log else { return };
        said::line(self, log, query, seen, reply, port, since);
    }
}

/// A server that runs; dropping it ends it.
pub struct Server {
    shared: Arc<Shared>,
    control: mpsc::Sender<io::Control>,
    threads: Vec<JoinHandle<()>>,
    udp_threads: usize,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts the threads, in the calling thread's network namespace. It answers nowhere yet: see [`Self::listen`].
    ///
    /// # Errors
    /// When threads or descriptors are not to be had.
    pub fn start(config: Config, settings: &Settings) -> std::io::Result<Self> {
        let (jobs, waiting) = mpsc::channel(JOBS);
        let (control, orders) = mpsc::channel(16);
        let udp_threads = settings.threads.max(1);
        let bells = (0..udp_threads).map(|_| sys::Bell::new().map(Arc::new));
        let bells = bells.collect::<std::io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            running: RwLock::new(Arc::new(Running::new(config, None))),
            facts: Arc::new(RwLock::new(Facts::from_serial(settings.serial))),
            metrics: Metrics::new(),
            tops: Tops::new(),
            limiter: Limiter::new(settings.per_client),
            jobs,
            waiting: AtomicUsize::new(0),
            secret: RandomState::new(),
            started: Instant::now(),
            stopping: AtomicBool::new(false),
            sockets: Mutex::new(Sockets { bells: bells.clone(), ..Sockets::default() }),
        });
        let mut server = Self { shared, control, threads: Vec::new(), udp_threads };
        let shared = server.shared.clone();
        let thread = std::thread::Builder::new().name("dns-io".into());
        server.threads.push(thread.spawn(move || io::run(&shared, waiting, orders))?);
        for (at, bell) in bells.into_iter().enumerate() {
            let shared = server.shared.clone();
            let thread = std::thread::Builder::new().name(format!("dns-udp-{at}"));
            server.threads.push(thread.spawn(move || udp::run(&shared, at, &bell))?);
        }
        Ok(server)
    }

    /// Answers at these addresses and at no others. An address need not be this node's yet.
    ///
    /// # Errors
    /// The first address that cannot be had; the others are answered.
    pub fn listen(&self, addresses: &[SocketAddr]) -> Result<(), ListenError> {
        let mut failed = None;
        let mut sockets = self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.udp.retain(|address, _| addresses.contains(address));
        sockets.tcp.retain(|address, _| addresses.contains(address));
        for &address in addresses {
            let cannot = |source| ListenError { address, source };
            if let Entry::Vacant(vacant) = sockets.udp.entry(address) {
                let all = (0..self.udp_threads).map(|_| sys::udp(address).map(Arc::new));
                match all.collect::<std::io::Result<Vec<_>>>() {
                    Ok(all) => {
                        vacant.insert(all);
                    }
                    Err(source) => drop(failed.get_or_insert(cannot(source))),
                }
            }
            if let Entry::Vacant(vacant) = sockets.tcp.entry(address) {
                match sys::tcp(address) {
                    Ok(listener) => {
                        vacant.insert(Arc::new(listener));
                    }
                    Err(source) => drop(failed.get_or_insert(cannot(source))),
                }
            }
        }
        sockets.bells.iter().for_each(|bell| bell.ring());
        let tcp = sockets.tcp.clone();
        drop(sockets);
        drop(self.control.try_send(io::Control::Listeners(tcp)));
        failed.map_or(Ok(()), Err)
    }

    /// Takes another configuration. The cache of a server block whose upstreams and cache stay the same stays.
    pub fn reconfigure(&self, config: Config) {
        let running = Arc::new(Running::new(config, Some(&self.shared.running())));
        *self.shared.running.write().unwrap_or_else(PoisonError::into_inner) = running;
        drop(self.control.try_send(io::Control::Look));
    }

    /// Takes away what will not be so: before the kernel does.
    pub fn retract(&self, patch: &Patch) {
        self.shared.facts.write().unwrap_or_else(PoisonError::into_inner).retract(patch);
    }

    /// Tells what is so: after the kernel does it.
    pub fn publish(&self, patch: Patch) {
        self.shared.facts.write().unwrap_or_else(PoisonError::into_inner).publish(patch);
    }

    /// How many questions wait for upstreams.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Whether it knows the cluster, so that its answers are true.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.facts.read().unwrap_or_else(PoisonError::into_inner).is_ready()
    }

    /// Its metrics under the names CoreDNS has for them, in Prometheus' text form.
    #[must_use]
    pub fn metrics(&self) -> String {
        let running = self.shared.running();
        let mut caches = Vec::new();
        for (cache, label) in running.caches.iter().zip(&running.labels) {
            if let Some(cache) = cache {
                let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
                caches.push((label.as_str(), cache.counts(), cache.evictions()));
            }
        }
        self.shared.metrics.text(&running.labels, &caches)
    }

    /// Who asks most, for what, and what is not there.
    #[must_use]
    pub fn top(&self) -> crate::top::Top {
        let facts = self.shared.facts.read().unwrap_or_else(PoisonError::into_inner);
        self.shared.tops.read(|address| facts.pod_at(address).map(ToString::to_string))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let sockets = self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.bells.iter().for_each(|bell| bell.ring());
        drop(sockets);
        drop(self.control.try_send(io::Control::Stop));
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// An address that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot answer DNS at {address}: {source}; if another DNS server runs there, stop it or choose another address"
)]
pub struct ListenError {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}
