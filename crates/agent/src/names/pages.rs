//! The pages a Corefile asks for: `health`, `ready` and `prometheus`, each at its own address, with CoreDNS's paths and words.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dns::{Config, Server};
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::http::{accept, of_kind, text};

/// The listeners; dropping it closes them.
#[derive(Debug, Default)]
pub(super) struct Pages {
    open: BTreeMap<SocketAddr, AbortHandle>,
    tasks: JoinSet<()>,
    /// The end is near.
    is_leaving: Arc<AtomicBool>,
    lameduck: Duration,
}

impl Pages {
    /// Serves what the configuration asks for and nothing else. A page whose address is taken is told of, and is not there.
    pub(super) fn serve(&mut self, config: &Config, server: &Arc<Server>) {
        let blocks = &config.blocks;
        let health = blocks.iter().filter_map(|it| it.health);
        self.lameduck = health.clone().map(|it| it.lameduck).max().unwrap_or_default();
        let all = health.map(|it| it.address);
        let all = all.chain(blocks.iter().filter_map(|it| it.ready));
        let wanted: Vec<SocketAddr> =
            all.chain(blocks.iter().filter_map(|it| it.prometheus)).collect();
        self.open.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for address in wanted {
            if self.open.contains_key(&address) {
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    let page = page(server.clone(), self.is_leaving.clone());
                    let task = self.tasks.spawn(accept(listener, page));
                    self.open.insert(address, task);
                }
                Err(error) => tracing::warn!(
                    %address, %error,
                    "a page the Corefile asks for (health, ready or prometheus) is not served; give it another address there"
                ),
            }
        }
    }

    /// From now on it says that the server is not well; for how long that is to be seen.
    pub(super) fn leave(&self) -> Duration {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.lameduck
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Each address has all of them: who asks for one at another's finds it.
fn page(
    server: Arc<Server>,
    is_leaving: Arc<AtomicBool>,
) -> impl Fn(&http::Request<hyper::body::Incoming>) -> Response<Full<Bytes>> + Clone {
    move |request| {
        let is_well = !is_leaving.load(Ordering::Relaxed);
        let said = |well: bool| match well {
            true => text(StatusCode::OK, "OK".into()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "NOT OK".into()),
        };
        match request.uri().path() {
            "/health" => said(is_well),
            "/ready" => said(is_well && server.is_ready()),
            "/metrics" => of_kind("text/plain; version=0.0.4; charset=utf-8", server.metrics()),
            _ => text(StatusCode::NOT_FOUND, "there is /health, /ready and /metrics\n".into()),
        }
    }
}
