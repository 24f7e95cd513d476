//! Requests to answers: routing, authentication, negotiation, headers.
//!
//! Decides what a request is and hands it to a room: `read` (get, list), `write` (create, update,
//! patch, delete), `watch`, `proxy` (log, exec, attach), `meta` (health, version, discovery,
//! OpenAPI), `review` (questions about oneself and tokens).

mod delete;
mod meta;
mod read;
mod review;
mod write;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WARNING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::watch as signal;

pub(crate) use meta::Documents;
pub(crate) use read::{Pages, Selection, partial};

use crate::auth::{Authenticator, User};
use crate::kinds::{Kind, Served, Verbs};
use crate::proxy::PodStreams;
use crate::registry::{Place, Registry};
use crate::request::accept::{self, Form, Syntax};
use crate::request::{Query, Route, Target};
use crate::status::Status;

/// A response body.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Larger bodies are refused, as upstream does (3 MiB).
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Everything a request may need.
pub(crate) struct App {
    pub(crate) registry: Registry,
    pub(crate) authenticator: Authenticator,
    pub(crate) streams: Option<Arc<dyn PodStreams>>,
    /// `172.30.0.1:6443`: what `/api` tells.
    pub(crate) address: String,
    /// Why persistence is in trouble, if it is.
    pub(crate) trouble: Arc<Mutex<Option<String>>>,
    pub(crate) pages: Pages,
    pub(crate) documents: Documents,
    /// Turns true when the server stops: watches end.
    pub(crate) stopping: signal::Receiver<bool>,
}

/// A parsed, authenticated request.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) user: User,
    pub(crate) request: Request<Incoming>,
}

/// A resource that was asked for.
pub(crate) struct Resource {
    pub(crate) kind: Arc<Kind>,
    pub(crate) served: Served,
    pub(crate) target: Target,
}

impl Resource {
    /// The place of the named object.
    pub(crate) fn place(&self) -> Place {
        Place {
            kind: self.kind.clone(),
            namespace: self.target.namespace.clone().unwrap_or_default(),
            name: self.target.name.clone().unwrap_or_default(),
        }
    }

    /// An object in the version asked for.
    pub(crate) fn present(&self, object: &Arc<Value>) -> Arc<Value> {
        present(&self.kind, &self.served, object)
    }
}

/// An object in a served version; the same value if that is how it is stored.
pub(crate) fn present(kind: &Kind, served: &Served, object: &Arc<Value>) -> Arc<Value> {
    if served.group == kind.group && served.version == kind.storage_version {
        return object.clone();
    }
    let mut out = Value::clone(object);
    if let Err(error) = crate::convert::convert(&mut out, &served.api_version()) {
        tracing::error!(%error, "a stored object does not convert");
        return object.clone();
    }
    Arc::new(out)
}

/// Answers a request. Never fails: failures are Status answers.
pub(crate) async fn handle(
    app: Arc<App>,
    certificate: Option<User>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let yaml = matches!(accept_form(request.headers()), Ok((_, Syntax::Yaml)));
    Ok(match answer(app, certificate, request).await {
        Ok(response) => response,
        Err(status) => failure(&status, if yaml { Syntax::Yaml } else { Syntax::Json }),
    })
}

async fn answer(
    app: Arc<App>,
    certificate: Option<User>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let route = Route::parse(&path)?;
    if let Route::Other(steps) = &route
        && let Some(response) =
            meta::open(&app, &steps.iter().map(String::as_str).collect::<Vec<_>>(), &query)
    {
        return Ok(response);
    }
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = match header {
        Some(header) => app.authenticator.header(&app.registry, header),
        None => certificate,
    }
    .ok_or_else(Status::unauthorized)?;
    let asked = Asked {
        method: request.method().clone(),
        headers: request.headers().clone(),
        query,
        user,
        request,
    };
    match route {
        Route::Object(target) => resource(app, asked, target).await,
        route if asked.method == Method::GET || asked.method == Method::HEAD => {
            meta::documents(&app, &asked, &route)
        }
        _ => Err(Status::method_not_allowed()),
    }
}

async fn resource(app: Arc<App>, asked: Asked, target: Target) -> Result<Response<Body>, Status> {
    let kind = app
        .registry
        .kinds()
        .served(&target.group, &target.version, &target.resource)
        .ok_or_else(Status::no_such_resource)?;
    let served = kind
        .served_as(&target.group, &target.version)
        .cloned()
        .ok_or_else(Status::no_such_resource)?;
    if target.namespace.is_some() != kind.namespaced {
        let lists_all = kind.namespaced && target.name.is_none();
        let cluster_scoped_in_namespace = !kind.namespaced;
        if cluster_scoped_in_namespace || !(lists_all && asked.method == Method::GET) {
            return Err(Status::no_such_resource());
        }
    }
    let resource = Resource { kind, served, target };
    let warning = resource.served.deprecated.clone();
    let mut response = dispatch(app, asked, resource).await?;
    if let Some(text) = warning {
        warn(response.headers_mut(), [text]);
    }
    Ok(response)
}

async fn dispatch(
    app: Arc<App>,
    asked: Asked,
    resource: Resource,
) -> Result<Response<Body>, Status> {
    let method = asked.method.clone();
    if resource.kind.verbs == Verbs::CreateOnly {
        return if method == Method::POST && resource.target.name.is_none() {
            review::ask(&app, asked, &resource).await
        } else {
            Err(Status::method_not_allowed())
        };
    }
    let sub = resource.target.subresource.clone().unwrap_or_default();
    match (sub.as_str(), resource.target.name.is_some()) {
        ("", false) => match method {
            Method::GET | Method::HEAD => read::collection(&app, &asked, resource),
            Method::POST => write::create(&app, asked, &resource).await,
            Method::DELETE => delete::delete_collection(&app, asked, &resource).await,
            _ => Err(Status::method_not_allowed()),
        },
        ("", true) => match method {
            Method::GET | Method::HEAD => read::object(&app, &asked, resource),
            Method::PUT => write::update(&app, asked, &resource, "").await,
            Method::PATCH => write::patch(&app, asked, &resource, "").await,
            Method::DELETE => delete::delete(&app, asked, &resource).await,
            _ => Err(Status::method_not_allowed()),
        },
        ("status", _) if resource.served.status => match method {
            Method::GET | Method::HEAD => read::object(&app, &asked, resource),
            Method::PUT => write::update(&app, asked, &resource, "status").await,
            Method::PATCH => write::patch(&app, asked, &resource, "status").await,
            _ => Err(Status::method_not_allowed()),
        },
        ("scale", _) if resource.served.scale.is_some() => {
            write::scale(&app, asked, &resource).await
        }
        _ if resource.kind.group.is_empty() => core(app, asked, &resource, &sub).await,
        _ => Err(unserved(&resource, &sub)),
    }
}

/// The subresources only kinds of the core group have.
async fn core(
    app: Arc<App>,
    asked: Asked,
    resource: &Resource,
    sub: &str,
) -> Result<Response<Body>, Status> {
    match (resource.kind.kind.as_str(), sub, &asked.method) {
        ("Pod", "log", &Method::GET)
        | ("Pod", "exec" | "attach", &(Method::GET | Method::POST)) => {
            crate::proxy::pod(&app, asked.request, &asked.query, &resource.place(), sub).await
        }
        ("Pod", "binding", &Method::POST) => write::bind(&app, asked, resource).await,
        ("Pod", "eviction", &Method::POST) => write::evict(&app, asked, resource).await,
        ("Namespace", "finalize", &Method::PUT) => {
            write::update(&app, asked, resource, "finalize").await
        }
        ("ServiceAccount", "token", &Method::POST) => review::token(&app, asked, resource).await,
        ("Pod", "log" | "exec" | "attach" | "binding" | "eviction", _)
        | ("Namespace", "finalize", _)
        | ("ServiceAccount", "token", _) => Err(Status::method_not_allowed()),
        _ => Err(unserved(resource, sub)),
    }
}

fn unserved(resource: &Resource, sub: &str) -> Status {
    let mut status = Status::no_such_resource();
    status.message = format!(
        "the server could not find the requested resource: {} has no subresource {sub:?} here",
        resource.kind.qualified_plural()
    );
    status
}

pub(crate) fn accept_form(headers: &HeaderMap) -> Result<(Form, Syntax), Status> {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept::form(header)
}

/// Reads a body, at most [`BODY_LIMIT`] bytes of it.
///
/// What comes after the limit is read and dropped for a while before the refusal: a connection closed
/// with bytes unread resets, and the client would see a broken connection instead of the answer.
pub(crate) async fn read_body(request: Request<Incoming>) -> Result<Bytes, Status> {
    let mut body = request.into_body();
    match Limited::new(&mut body, BODY_LIMIT).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let rest = async {
                let mut dropped = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    dropped += frame.data_ref().map_or(0, Bytes::len);
                    if dropped > 8 * BODY_LIMIT {
                        break;
                    }
                }
            };
            drop(tokio::time::timeout(Duration::from_secs(5), rest).await);
            Err(Status::too_large(BODY_LIMIT))
        }
        Err(error) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// A whole body at once.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with a value.
pub(crate) fn respond(code: u16, value: &Value, syntax: Syntax) -> Response<Body> {
    match syntax {
        Syntax::Json => json_bytes(code, serde_json::to_vec(value).unwrap_or_default()),
        Syntax::Yaml => {
            let text = serde_saphyr::to_string(value).unwrap_or_default();
            with_type(code, "application/yaml", text.into())
        }
    }
}

/// An answer with JSON that is written already.
pub(crate) fn json_bytes(code: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    with_type(code, "application/json", bytes.into())
}

/// An answer with a media type.
pub(crate) fn with_type(code: u16, media: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A Status answer.
pub(crate) fn failure(status: &Status, syntax: Syntax) -> Response<Body> {
    let mut response = respond(status.code, &status.to_json(), syntax);
    if status.code == 429 || status.code == 503 {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Adds `Warning` headers (RFC 7234 §5.5, code 299), as kubectl prints them.
pub(crate) fn warn(headers: &mut HeaderMap, texts: impl IntoIterator<Item = String>) {
    for text in texts {
        let escaped: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{escaped}\"").as_bytes()) {
            headers.append(WARNING, value);
        }
    }
}
