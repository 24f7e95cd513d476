//! A connection to the API, plain or TLS, that fails when the other side says nothing for too long. A watch hears a bookmark
//! every minute, so silence means a server that hangs, or a path that swallows packets, without anybody closing anything.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::client::TlsStream;

#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Stream {
    wire: Wire,
    silence: Duration,
    /// Set while a read waits.
    until: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Stream {
    pub(crate) fn plain(stream: TcpStream, silence: Duration) -> Self {
        Self::new(Wire::Plain(stream), silence)
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>, silence: Duration) -> Self {
        Self::new(Wire::Tls(Box::new(stream)), silence)
    }

    fn new(wire: Wire, silence: Duration) -> Self {
        Self { wire, silence, until: Box::pin(sleep(silence)), waiting: false }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = match &mut this.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_read(context, into),
        };
        if read.is_ready() {
            this.waiting = false;
            return read;
        }
        if !this.waiting {
            this.waiting = true;
            this.until.as_mut().reset(Instant::now() + this.silence);
        }
        ready!(this.until.as_mut().poll(context));
        this.waiting = false;
        let said = format!("the API server said nothing for {:?}", this.silence);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, said)))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(context),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
