//! `/healthz`, `/livez`, `/readyz`, `/status` and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cluster::Applied;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::health::Health;
use crate::metrics::Metrics;

/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS: usize = 32;
/// A client that says nothing for this long is cut off.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) node: String,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether metrics are served here; with a listener of their own they are not shown to who asks for health.
    pub(crate) metrics_here: bool,
    pub(crate) applied: watch::Receiver<Option<Applied>>,
    /// The DNS server, if this agent is one.
    pub(crate) dns: Option<Arc<dns::Server>>,
}

/// Serves the agent's own pages until dropped.
pub(crate) async fn serve(listener: TcpListener, served: Served) {
    accept(listener, move |request| answer(request, &served)).await;
}

/// Serves what `answer` says until dropped.
pub(crate) async fn accept(
    listener: TcpListener,
    answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + 'static,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let answer = answer.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "serving a connection");
            }
        });
    }
}

fn answer(request: &Request<Incoming>, served: &Served) -> Response<Full<Bytes>> {
    let Served { health, metrics, .. } = served;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served here\n".into());
    }
    let verdict = |outcome: Result<(), String>| match outcome {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    match request.uri().path() {
        "/healthz" => of_proxy(health.may_be_chosen(), health, true),
        "/livez" => of_proxy(health.alive(), health, false),
        "/readyz" => verdict(health.ready()),
        "/status" => of_kind("application/json", status(served).to_string()),
        "/metrics" if served.metrics_here => {
            of_kind("application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.text())
        }
        "/dns/metrics" if served.dns.is_some() => {
            let metrics = served.dns.as_ref().map(|dns| dns.metrics()).unwrap_or_default();
            of_kind("text/plain; version=0.0.4; charset=utf-8", metrics)
        }
        "/dns/top" if served.dns.is_some() => {
            let top = served.dns.as_ref().map(|dns| dns.top()).unwrap_or_default();
            of_kind("application/json", top_json(&top).to_string())
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /healthz, /livez, /readyz, /status and /metrics, and with DNS /dns/metrics and /dns/top\n".into(),
        ),
    }
}

/// Who asks most, for what, and what of it is not there.
fn top_json(top: &dns::top::Top) -> serde_json::Value {
    let list = |counts: &[dns::top::Count]| {
        let lines =
            counts.iter().map(|(what, count)| serde_json::json!({"what": what, "queries": count}));
        lines.collect::<Vec<_>>()
    };
    serde_json::json!({
        "clients": list(&top.clients),
        "names": list(&top.names),
        "missing": list(&top.missing),
    })
}

/// Where this node stands: ready and healthy or why not, and up to which version of the API its kernel follows.
fn status(served: &Served) -> serde_json::Value {
    let why = |outcome: Result<(), String>| outcome.err();
    serde_json::json!({
        "node": served.node,
        "notReady": why(served.health.ready()),
        "unhealthy": why(served.health.healthy()),
        "applied": *served.applied.borrow(),
    })
}

/// Health as kube-proxy says it: load balancers read it, and people who replaced kube-proxy. `/healthz` fails while the node
/// is leaving (KEP-3836), `/livez` does not.
fn of_proxy(
    outcome: Result<(), String>,
    health: &Health,
    says_eligible: bool,
) -> Response<Full<Bytes>> {
    let now = SystemTime::now();
    let updated = now - health.behind_for().unwrap_or_default();
    let time =
        |at: SystemTime| jiff::Timestamp::try_from(at).map(|at| at.to_string()).unwrap_or_default();
    let mut body = serde_json::json!({"lastUpdated": time(updated), "currentTime": time(now)});
    if says_eligible {
        body["nodeEligible"] = health.is_eligible().into();
    }
    let status = if outcome.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if let Err(why) = outcome {
        body["reason"] = why.into();
    }
    let mut response = of_kind("application/json", body.to_string());
    *response.status_mut() = status;
    let nosniff = http::HeaderValue::from_static("nosniff");
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

pub(crate) fn of_kind(kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

pub(crate) fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
