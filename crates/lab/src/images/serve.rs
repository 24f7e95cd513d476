//! What the servers share: listening on both families, HTTP/1.1 with keep-alive, and the graceful end: SIGTERM stops
//! accepting, requests in flight are answered, idle connections are closed, exit 0.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::say;

/// How long requests in flight may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(30);

/// What servers answer with.
pub(super) type Answer = Response<Full<Bytes>>;

/// Runs a program that is async on one thread.
pub(super) fn block_on(future: impl Future<Output = i32>) -> i32 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => tokio::task::LocalSet::new().block_on(&runtime, future),
        Err(error) => {
            say(&format!("cannot start: {error}"));
            1
        }
    }
}

/// Sleeps until it is told to end.
pub(super) fn pause() -> i32 {
    block_on(async {
        match stop_signal() {
            Ok(mut stop) => match stop.changed().await {
                Ok(()) | Err(_) => 0,
            },
            Err(error) => {
                say(&format!("cannot wait for signals: {error}"));
                1
            }
        }
    })
}

/// Becomes true on SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
/// Signals cannot be had.
pub(super) fn stop_signal() -> io::Result<watch::Receiver<bool>> {
    let (tx, rx) = watch::channel(false);
    let mut signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::quit())?,
    ];
    tokio::task::spawn_local(async move {
        let [a, b, c] = &mut signals;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
        tx.send_replace(true);
        // kept until the program ends
        std::future::pending::<()>().await;
    });
    Ok(rx)
}

/// Listens on a TCP port, both families when there is IPv6.
///
/// # Errors
/// The port is taken.
pub(super) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

/// Binds a UDP port, both families when there is IPv6.
///
/// # Errors
/// The port is taken.
pub(super) async fn bind_udp(port: u16) -> io::Result<UdpSocket> {
    match UdpSocket::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        bound => bound,
    }
}

/// An address as people know it: IPv4 inside IPv6 is IPv4.
pub(super) fn plain_address(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Serves HTTP until `stop` is true, then drains.
pub(super) async fn http<H, F>(
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    handler: Rc<H>,
) where
    H: Fn(Request<Incoming>, SocketAddr, SocketAddr) -> F + 'static,
    F: Future<Output = Answer> + 'static,
{
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    say(&format!("accept: {error}"));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            // finished ones are forgotten as they end
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|s| *s) => break,
        };
        connections.spawn_local(connection(stream, peer, stop.clone(), handler.clone()));
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        say("some connections did not end in time");
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    peer: SocketAddr,
    mut stop: watch::Receiver<bool>,
    handler: Rc<H>,
) where
    H: Fn(Request<Incoming>, SocketAddr, SocketAddr) -> F + 'static,
    F: Future<Output = Answer> + 'static,
{
    let (Ok(local), Ok(())) = (stream.local_addr(), stream.set_nodelay(true)) else { return };
    let (peer, local) = (plain_address(peer), plain_address(local));
    let service = service_fn(move |request| {
        let answer = handler(request, peer, local);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        _ = stop.wait_for(|s| *s) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // a client that went away is no news
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended");
    }
}

/// An answer with a status, a kind and a text.
pub(super) fn answer(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
