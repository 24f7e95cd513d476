//! One question to the upstreams of one `forward`: over UDP from a port of its own, over TCP where the answer does not fit,
//! over TLS where the configuration says so.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::Shared;
use crate::config::{Forward, Transport};
use crate::query::{QName, kind};
use crate::reply::Reply;
use crate::upstream::{BadAnswer, Health, PATIENCE, Question, Said, is_failure, label, read};

/// Connections kept per upstream.
const IDLE: usize = 8;

/// A connection to an upstream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to which upstream, unused since when.
type Idle = (usize, Instant, Box<dyn Stream>);

/// The upstreams of one `forward` at work.
pub(crate) struct Upstreams {
    forward: Forward,
    health: Mutex<Health>,
    waiting: std::sync::atomic::AtomicUsize,
    tls: Mutex<Option<Arc<rustls::ClientConfig>>>,
    idle: Mutex<Vec<Idle>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("no upstream is known")]
    NoUpstream,
    #[error("too many questions wait for upstreams")]
    TooMany,
    #[error("what is forwarded comes back here")]
    Loop,
    #[error("the upstreams did not answer in time")]
    AllLate,
    #[error("{0} did not answer in time")]
    Late(SocketAddr),
    #[error("{upstream}: {source}")]
    Io { upstream: SocketAddr, source: std::io::Error },
    #[error("{upstream}: {source}")]
    Bad { upstream: SocketAddr, source: BadAnswer },
    #[error("TLS to upstreams: {0}")]
    Tls(String),
}

/// Numbers nobody outside can foresee.
pub(super) fn random() -> u64 {
    // SipHash keyed with the system's randomness, over the time: 64 bits an attacker learns 16 of at a time.
    RandomState::new().hash_one(Instant::now())
}

/// What is to be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a QName,
    pub(crate) kind: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    /// The client asked so, and is answered so by the upstream unless it prefers UDP.
    pub(crate) over_tcp: bool,
}

impl<'a> Wanted<'a> {
    /// Over UDP, without flags.
    pub(crate) fn plain(name: &'a QName, kind: u16) -> Self {
        Self { name, kind, dnssec_ok: false, checking_disabled: false, over_tcp: false }
    }

    fn question(&self) -> Question {
        let numbers = random();
        let (mut coins, mut more) = (random(), random());
        let coin = || {
            let is_heads = coins & 1 == 1;
            coins = coins >> 1 | (more & 1) << 63;
            more = more.rotate_right(1);
            is_heads
        };
        let question = Question::new((numbers >> 24) as u16, self.name, self.kind, coin);
        Question {
            dnssec_ok: self.dnssec_ok,
            checking_disabled: self.checking_disabled,
            ..question
        }
    }
}

impl Upstreams {
    /// Where questions go, for people.
    pub(crate) fn addresses(&self) -> String {
        let all = self.forward.upstreams.iter().map(|it| it.address.to_string());
        all.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn new(forward: &Forward) -> Self {
        let health = Health::new(forward.upstreams.len(), forward.max_fails, forward.policy);
        Self {
            forward: forward.clone(),
            health: Mutex::new(health),
            waiting: std::sync::atomic::AtomicUsize::new(0),
            tls: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks one after the other until one has an answer. The last failure is told when none has.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        question: Wanted<'_>,
    ) -> Result<Reply, ExchangeError> {
        use std::sync::atomic::Ordering::Relaxed;
        let most = self.forward.max_concurrent;
        if most > 0 && self.waiting.load(Relaxed) >= most {
            shared.metrics.rejected();
            return Err(ExchangeError::TooMany);
        }
        self.waiting.fetch_add(1, Relaxed);
        let outcome = self.ask_each(shared, question).await;
        self.waiting.fetch_sub(1, Relaxed);
        outcome
    }

    async fn ask_each(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        wanted: Wanted<'_>,
    ) -> Result<Reply, ExchangeError> {
        let order = {
            let mut health = self.health();
            if health.all_dead() && !self.forward.upstreams.is_empty() {
                shared.metrics.all_broken();
            }
            health.order(|below| (random() % below.max(1) as u64) as usize)
        };
        let mut last = Err(ExchangeError::NoUpstream);
        for at in order {
            let upstream = self.forward.upstreams[at].address;
            let since = Instant::now();
            let question = wanted.question();
            let over_udp = !wanted.over_tcp || self.forward.prefer_udp;
            let asked = timeout(PATIENCE, self.one(at, &question, over_udp)).await;
            match asked.unwrap_or(Err(ExchangeError::Late(upstream))) {
                Ok(reply) => {
                    shared.metrics.asked(&label(upstream), reply.code, since.elapsed());
                    self.health().answered(at);
                    let failed = is_failure(&reply);
                    last = Ok(reply);
                    if !failed {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(target: "dns", %error, "upstream");
                    if self.health().failed(at) {
                        self.clone().watch(shared.clone(), at);
                    }
                    if last.is_err() {
                        last = Err(error);
                    }
                }
            }
        }
        last
    }

    /// Asks an upstream that failed, from time to time, until it lives.
    fn watch(self: Arc<Self>, shared: Arc<Shared>, at: usize) {
        tokio::task::spawn(async move {
            let root = QName::of_wire(&[0]).expect("invariant: the root is a name");
            while !shared.is_stopping() && Arc::strong_count(&self) > 1 {
                sleep(self.forward.health_check).await;
                if !self.health().is_suspect(at) {
                    return;
                }
                let question = Wanted::plain(&root, kind::NS).question();
                match timeout(Duration::from_secs(1), self.one(at, &question, true)).await {
                    // Any answer is a sign of life.
                    Ok(Ok(_)) => return self.health().answered(at),
                    _ => {
                        shared.metrics.unhealthy(&label(self.forward.upstreams[at].address));
                        self.health().failed(at);
                    }
                }
            }
        });
    }

    /// `over_udp`: UDP first, where the upstream takes it.
    async fn one(
        &self,
        at: usize,
        question: &Question,
        over_udp: bool,
    ) -> Result<Reply, ExchangeError> {
        let upstream = &self.forward.upstreams[at];
        if over_udp && upstream.transport == Transport::Plain && !self.forward.force_tcp {
            match exchange_datagrams(upstream.address, question).await? {
                Said::Reply(reply) => return Ok(reply),
                Said::Truncated => {}
            }
        }
        let address = upstream.address;
        // A kept connection may have been closed meanwhile: then a new one is made.
        let kept = self.kept(at);
        if let Some(mut stream) = kept
            && let Ok(reply) = over_stream(address, &mut stream, question).await
        {
            self.keep(at, stream);
            return Ok(reply);
        }
        let mut stream = self.connect(at).await?;
        let reply = over_stream(address, &mut stream, question).await?;
        self.keep(at, stream);
        Ok(reply)
    }

    fn kept(&self, at: usize) -> Option<Box<dyn Stream>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since, _)| since.elapsed() < self.forward.expire);
        let found = idle.iter().rposition(|(of, ..)| *of == at)?;
        Some(idle.swap_remove(found).2)
    }

    fn keep(&self, at: usize, stream: Box<dyn Stream>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.iter().filter(|(of, ..)| *of == at).count() < IDLE {
            idle.push((at, Instant::now(), stream));
        }
    }

    async fn connect(&self, at: usize) -> Result<Box<dyn Stream>, ExchangeError> {
        let upstream = &self.forward.upstreams[at];
        let io = |source| ExchangeError::Io { upstream: upstream.address, source };
        let stream = TcpStream::connect(upstream.address).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        if upstream.transport == Transport::Plain {
            return Ok(Box::new(stream));
        }
        let config = self.tls_config()?;
        let name = match &self.forward.tls_name {
            Some(name) => rustls::pki_types::ServerName::try_from(name.clone())
                .map_err(|error| ExchangeError::Tls(format!("tls_servername {name:?}: {error}")))?,
            None => rustls::pki_types::ServerName::IpAddress(upstream.address.ip().into()),
        };
        let connector = tokio_rustls::TlsConnector::from(config);
        Ok(Box::new(connector.connect(name, stream).await.map_err(io)?))
    }

    fn tls_config(&self) -> Result<Arc<rustls::ClientConfig>, ExchangeError> {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject as _;
        const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
        let mut made = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*made {
            return Ok(config.clone());
        }
        let file = self.forward.tls_ca.as_deref().unwrap_or(std::path::Path::new(SYSTEM));
        let cannot = |why: &dyn std::fmt::Display| {
            ExchangeError::Tls(format!("cannot read authorities from {}: {why}", file.display()))
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|it| cannot(&it))? {
            let certificate = certificate.map_err(|it| cannot(&it))?;
            // A system's list has some a strict reader does not take; the others count.
            drop(roots.add(certificate));
        }
        if roots.is_empty() {
            return Err(cannot(&"there are none in it"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ExchangeError::Tls(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        *made = Some(config.clone());
        Ok(config)
    }
}

/// A socket of its own per question: the kernel draws its port, and only the upstream's address can reach it.
async fn exchange_datagrams(
    upstream: SocketAddr,
    question: &Question,
) -> Result<Said, ExchangeError> {
    let io = |source| ExchangeError::Io { upstream, source };
    let any: SocketAddr = if upstream.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await.map_err(io)?;
    socket.connect(upstream).await.map_err(io)?;
    socket.send(&question.wire()).await.map_err(io)?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(io)?;
        match read(question, &buffer[..length]) {
            Ok(said) => return Ok(said),
            // Somebody guesses; the right answer is still to come.
            Err(BadAnswer::Unasked) => {}
            Err(source) => return Err(ExchangeError::Bad { upstream, source }),
        }
    }
}

async fn over_stream(
    upstream: SocketAddr,
    stream: &mut Box<dyn Stream>,
    question: &Question,
) -> Result<Reply, ExchangeError> {
    let io = |source| ExchangeError::Io { upstream, source };
    let wire = question.wire();
    let mut framed = u16::try_from(wire.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
    framed.extend_from_slice(&wire);
    stream.write_all(&framed).await.map_err(io)?;
    stream.flush().await.map_err(io)?;
    let length = stream.read_u16().await.map_err(io)?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.map_err(io)?;
    match read(question, &buffer) {
        Ok(Said::Reply(reply)) => Ok(reply),
        Ok(Said::Truncated) => Err(ExchangeError::Bad { upstream, source: BadAnswer::Malformed }),
        Err(source) => Err(ExchangeError::Bad { upstream, source }),
    }
}
