//! Edge: bytes between a listener inside the lab and the existing API server. Knows nothing of what they mean.
//!
//! Tasks: one per listener, which owns those of its connections.

use std::net::TcpListener as StdListener;
use std::time::Duration;

use anyhow::Context;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Takes a listener made in another namespace into the current tokio runtime.
///
/// # Errors
/// As the kernel's.
pub fn adopt(listener: StdListener) -> anyhow::Result<TcpListener> {
    listener.set_nonblocking(true).context("cannot use a listener")?;
    TcpListener::from_std(listener).context("cannot use a listener")
}

/// Relays every connection of `listener` to `target` (host, port), resolved anew each time; ends when cancelled.
pub async fn run(listener: TcpListener, target: (String, u16)) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(relay(stream, target.clone()))),
                Err(error) => {
                    warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(mut inside: TcpStream, (host, port): (String, u16)) {
    let connect = TcpStream::connect((host.as_str(), port));
    let mut outside = match tokio::time::timeout(CONNECT_WITHIN, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return warn!(%error, host, port, "the API server cannot be reached"),
        Err(_) => return warn!(host, port, "the API server does not take a connection"),
    };
    let prompt = inside.set_nodelay(true).and_then(|()| outside.set_nodelay(true));
    if let Err(error) = prompt {
        debug!(%error, "no TCP_NODELAY");
    }
    if let Err(error) = copy_bidirectional(&mut inside, &mut outside).await {
        debug!(%error, "a relayed connection ended");
    }
}
