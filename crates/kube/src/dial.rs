//! Dials the API servers: all known ways, the next one started while the last has not answered yet; the first that completes
//! its TLS handshake is taken. An edge: sockets live here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::servers::{ApiServers, Candidate};
use crate::stream::Stream;

/// The next way is tried when the one before has not answered within this.
const STAGGER: Duration = Duration::from_millis(250);
/// One way, resolved, connected and shaken hands with, may take this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that is gone is noticed after about this long of silence on the wire, whatever the silence of the protocol.
const KEEPALIVE: Duration = Duration::from_secs(15);
const GONE: Duration = Duration::from_secs(30);

/// Makes connections for an HTTP client. The address of the request is ignored: what is dialled are the servers.
#[derive(Clone)]
pub(crate) struct Dialler {
    servers: ApiServers,
    /// `None` for plain HTTP.
    tls: Option<TlsConnector>,
    silence: Duration,
}

impl Dialler {
    pub(crate) fn new(servers: ApiServers, tls: Option<ClientConfig>, silence: Duration) -> Self {
        Self { servers, tls: tls.map(|config| TlsConnector::from(Arc::new(config))), silence }
    }
}

impl tower_service::Service<Uri> for Dialler {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.dial().await.map(TokioIo::new) })
    }
}

impl Dialler {
    async fn dial(self) -> io::Result<Stream> {
        let candidates = self.servers.candidates();
        let mut running: FuturesUnordered<_> = (0u32..)
            .zip(&candidates)
            .map(|(place, candidate)| {
                let one = self.one(candidate);
                async move {
                    sleep(STAGGER * place).await;
                    let outcome = timeout(PATIENCE, one).await.unwrap_or_else(|_| {
                        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
                    });
                    (candidate, outcome)
                }
            })
            .collect();
        let mut failures = Vec::new();
        while let Some((candidate, outcome)) = running.next().await {
            match outcome {
                Ok(stream) => {
                    self.servers.answered(candidate);
                    return Ok(stream);
                }
                Err(error) => {
                    self.servers.failed(candidate);
                    failures.push(format!("{candidate}: {error}"));
                }
            }
        }
        Err(io::Error::other(format!("no API server answers ({})", failures.join("; "))))
    }

    async fn one(&self, candidate: &Candidate) -> io::Result<Stream> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::plain(connect(candidate).await?, self.silence));
        };
        let mut last = io::Error::other("no name to check its certificate against");
        for name in &candidate.names {
            let Ok(name) = ServerName::try_from(name.clone()) else { continue };
            // A refused certificate ends the connection, so every name needs one of its own.
            let stream = connect(candidate).await?;
            match tls.connect(name, stream).await {
                Ok(stream) => return Ok(Stream::tls(stream, self.silence)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn connect(candidate: &Candidate) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((candidate.host.as_str(), candidate.port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                let keepalive =
                    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                socket.set_tcp_keepalive(&keepalive)?;
                socket.set_tcp_user_timeout(Some(GONE))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
