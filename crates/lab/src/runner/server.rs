//! Edge: the runner's unix socket with the kubelet's paths: `/healthz`, `/containerLogs/{ns}/{pod}/{container}`,
//! `/exec/…`, `/attach/…`. The API server passes connections through byte for byte.
//!
//! Tasks: one accept loop (owned by the runner), one per connection, one per stream; they end with their connection.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::engine::Engine;
use super::logs::{self, LogQuery};
use super::state::{Phase, PodRecord};
use super::streams;

/// What is sent.
pub(super) type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A whole body.
pub(super) fn full(text: impl Into<Bytes>) -> Body {
    let frame = Frame::data(text.into());
    StreamBody::new(futures::stream::once(async move { Ok(frame) }).boxed())
}

/// An answer in plain text.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Makes the socket, replacing one a dead runner left.
///
/// # Errors
/// The directory is not writable or the path too long.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(path)
}

/// Serves until cancelled.
pub async fn serve(engine: Rc<Engine>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let engine = engine.clone();
                tokio::task::spawn_local(connection(engine, stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the runner's socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(engine: Rc<Engine>, stream: UnixStream) {
    let service = service_fn(move |request| {
        let engine = engine.clone();
        async move { Ok::<_, Infallible>(answer(&engine, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a stream connection ended");
    }
}

async fn answer(engine: &Rc<Engine>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["healthz"] => plain(StatusCode::OK, "ok"),
        [verb @ ("containerLogs" | "exec" | "attach"), namespace, pod, container] => {
            let Some(record) = engine.record(namespace, pod) else {
                return plain(
                    StatusCode::NOT_FOUND,
                    format!("pod \"{pod}\" does not run on this node"),
                );
            };
            if !record.containers.contains_key(*container) {
                let text = format!(
                    "container {container} in pod {pod} is waiting to start, or there is no such container"
                );
                return plain(StatusCode::BAD_REQUEST, text);
            }
            match *verb {
                "containerLogs" if request.method() == Method::GET => {
                    container_logs(engine, &record, container, &request)
                }
                "containerLogs" => plain(StatusCode::METHOD_NOT_ALLOWED, "use GET"),
                "exec" => streams::exec(engine, record, container, request),
                _ => streams::attach(engine, record, container, request),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "no such path"),
    }
}

/// The query of a URI, decoded, in order.
pub(super) fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let text = request.uri().query().unwrap_or_default();
    text.split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                index += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        index += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn container_logs(
    engine: &Rc<Engine>,
    record: &PodRecord,
    container: &str,
    request: &Request<Incoming>,
) -> Response<Body> {
    let asked = match LogQuery::parse(&query(request), Timestamp::now()) {
        Ok(asked) => asked,
        Err(message) => return plain(StatusCode::BAD_REQUEST, message),
    };
    let known = &record.containers[container];
    let path = if asked.previous {
        let before =
            known.attempt.checked_sub(1).map(|a| engine.run.log(&record.uid, container, a));
        match before.filter(|p| p.exists()) {
            Some(path) => path,
            None => {
                let text = format!(
                    "previous terminated container {container:?} in pod {:?} not found",
                    record.name
                );
                return plain(StatusCode::BAD_REQUEST, text);
            }
        }
    } else {
        let path = engine.run.log(&record.uid, container, known.attempt);
        let before =
            known.attempt.checked_sub(1).map(|a| engine.run.log(&record.uid, container, a));
        match (path.exists(), before.filter(|p| p.exists()), &known.phase) {
            (true, ..) => path,
            (false, Some(before), _) => before,
            (false, None, Phase::Waiting { reason, .. }) => {
                let text = format!(
                    "container {container:?} in pod {:?} is waiting to start: {reason}",
                    record.name
                );
                return plain(StatusCode::BAD_REQUEST, text);
            }
            (false, None, _) => {
                let text = format!(
                    "container {container:?} in pod {:?} is waiting to start: ContainerCreating",
                    record.name
                );
                return plain(StatusCode::BAD_REQUEST, text);
            }
        }
    };
    let (tx, rx) = mpsc::channel(8);
    let (engine, record, name, attempt) =
        (engine.clone(), record.clone(), container.to_owned(), known.attempt);
    tokio::task::spawn_local(async move {
        let done = || {
            let now =
                engine.record(&record.namespace, &record.name).filter(|r| r.uid == record.uid);
            now.and_then(|r| r.containers.get(&name).cloned())
                .is_none_or(|c| c.attempt != attempt || !c.busy())
        };
        if let Err(error) = logs::send(path, asked, tx, done).await {
            tracing::debug!(%error, "a log stream ended");
        }
    });
    let frames = futures::stream::unfold(rx, |mut rx| async move {
        rx.recv().await.map(|bytes| (Ok(Frame::data(bytes)), rx))
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()));
    let kind = header::HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
