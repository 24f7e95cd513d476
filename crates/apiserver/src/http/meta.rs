//! Health, version, discovery and OpenAPI.

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};

use super::{App, Asked, Body, json_bytes, respond, with_type};
use crate::request::accept::{Discovery, Syntax, discovery};
use crate::request::{Query, Route};
use crate::status::Status;
use crate::{discovery, openapi};

/// OpenAPI documents by path, with the generation of the kinds they describe.
#[derive(Default)]
pub(crate) struct Documents(Mutex<HashMap<String, (u64, Bytes)>>);

/// The version this server claims: the API it is made from.
pub(crate) const MINOR: &str = "36";

/// Paths that need no user.
pub(super) fn open(app: &App, steps: &[&str], query: &Query) -> Option<Response<Body>> {
    match steps {
        ["healthz" | "livez" | "readyz"] | ["healthz" | "livez" | "readyz", "ping"] => {
            Some(health(app, steps[0], query))
        }
        ["version"] => Some(respond(
            200,
            &json!({
                "major": "1",
                "minor": MINOR,
                "gitVersion": format!("v1.{MINOR}.0-fairway"),
                "gitCommit": "",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "",
                "compiler": "rustc",
                "platform": "linux/amd64",
            }),
            Syntax::Json,
        )),
        _ => None,
    }
}

/// Trouble with persistence shows, but does not make the server unready: nothing in memory is
/// lost, and an unready API would take the network's truth away.
fn health(app: &App, what: &str, query: &Query) -> Response<Body> {
    let trouble = app.trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    let text = match (query.has("verbose"), trouble) {
        (false, None) => "ok".to_owned(),
        (true, None) => {
            format!("[+]ping ok\n[+]store ok\n[+]persistence ok\n{what} check passed\n")
        }
        (_, Some(why)) => format!(
            "[+]ping ok\n[+]store ok\n[!]persistence degraded: {why}\n{what} check passed\n"
        ),
    };
    with_type(200, "text/plain; charset=utf-8", text.into())
}

/// Documents for authenticated users.
pub(super) fn documents(app: &App, asked: &Asked, route: &Route) -> Result<Response<Body>, Status> {
    let kinds = app.registry.kinds();
    let header =
        asked.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let answer = |value: &Value| respond(200, value, Syntax::Json);
    let found = match route {
        Route::CoreVersions | Route::Groups => {
            let core = *route == Route::CoreVersions;
            match discovery(header) {
                Discovery::Aggregated(form) => {
                    let mut response = answer(&discovery::aggregated(kinds, core, form));
                    let media = if form == "v2" {
                        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
                    } else {
                        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
                    };
                    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
                    return Ok(response);
                }
                Discovery::Legacy if core => Some(discovery::core_versions(&app.address)),
                Discovery::Legacy => Some(discovery::group_list(kinds)),
            }
        }
        Route::Group(group) => discovery::group(kinds, group),
        Route::Resources(group, version) => discovery::resource_list(kinds, group, version),
        Route::Other(steps) => {
            let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
            return other(app, &steps, header);
        }
        Route::Object(_) => None,
    };
    found.map(|value| answer(&value)).ok_or_else(Status::no_such_resource)
}

fn other(app: &App, steps: &[&str], accept: &str) -> Result<Response<Body>, Status> {
    let kinds = app.registry.kinds();
    match steps {
        [] => {
            let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
            if let Some(groups) = discovery::group_list(kinds)["groups"].as_array() {
                for group in groups {
                    paths.push(format!("/apis/{}", group["name"].as_str().unwrap_or_default()));
                    for version in group["versions"].as_array().into_iter().flatten() {
                        let version = version["groupVersion"].as_str().unwrap_or_default();
                        paths.push(format!("/apis/{version}"));
                    }
                }
            }
            paths.extend(
                ["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
                    .map(String::from),
            );
            Ok(respond(200, &json!({"paths": paths}), Syntax::Json))
        }
        ["openapi", "v2"] => {
            if accept.contains(V2_PROTOBUF) && !accept.contains("json") {
                // The name clients ask by is no legal media type; the answer carries a legal one.
                let media = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
                return Ok(with_type(200, media, v2_protobuf()));
            }
            if !accept.is_empty() && !accept.contains("json") && !accept.contains("*/*") {
                return Err(Status::not_acceptable(&["application/json"]));
            }
            document(app, "v2", || Some(openapi::v2(&kinds.all())))
        }
        ["openapi", "v3"] => document(app, "v3", || Some(openapi::v3_index(&kinds.all()))),
        ["openapi", "v3", path @ ..] => {
            let path = path.join("/");
            document(app, &format!("v3/{path}"), || openapi::v3(&kinds.all(), &path))
        }
        _ => Err(Status::no_such_resource()),
    }
}

/// The form of OpenAPI v2 that kubectl up to 1.28 asks for, and only that.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The v2 document in protobuf form without its definitions: kubectl 1.27 insists on having one,
/// then patches built-in kinds by its own Go types and validates by the v3 documents. (Clients
/// older than that would look for definitions here and find none.)
fn v2_protobuf() -> Bytes {
    let text = |number: u8, text: &[u8]| {
        let mut out = vec![number << 3 | 2, u8::try_from(text.len()).unwrap_or_default()];
        out.extend_from_slice(text);
        out
    };
    let version = format!("v1.{MINOR}.0");
    let info = [text(1, b"Kubernetes"), text(2, version.as_bytes())].concat();
    [text(1, b"2.0"), text(2, &info)].concat().into()
}

fn document(
    app: &App,
    path: &str,
    make: impl FnOnce() -> Option<Value>,
) -> Result<Response<Body>, Status> {
    let generation = app.registry.kinds().generation();
    let mut cache = app.documents.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some((at, bytes)) = cache.get(path)
        && *at == generation
    {
        return Ok(json_bytes(200, bytes.clone()));
    }
    let value = make().ok_or_else(Status::no_such_resource)?;
    let bytes = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
    cache.insert(path.to_owned(), (generation, bytes.clone()));
    Ok(json_bytes(200, bytes))
}
