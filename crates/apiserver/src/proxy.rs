//! Logs, exec and attach: the request goes through to the runner of the pod's node.
//!
//! The runner plays the kubelet and speaks HTTP/1.1 on a unix socket with the kubelet's paths.
//! Answers pass as they are; an upgraded connection (WebSocket) is copied byte for byte. SPDY is
//! not spoken: kubectl 1.31 and later ask for WebSocket first, 1.29 and 1.30 with
//! `KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true`.

use std::path::PathBuf;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::http::{App, Body, full};
use crate::registry::Place;
use crate::request::Query;
use crate::status::Status;

/// Where the pods of a node can be reached.
pub trait PodStreams: Send + Sync + 'static {
    /// The unix socket of the runner on a node; `None` if the node has none.
    fn socket(&self, node: &str) -> Option<PathBuf>;
}

fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The containers of a pod, init containers last.
fn containers(pod: &Value) -> Vec<&str> {
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .filter_map(|list| pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array))
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect()
}

/// Which container is meant: the one asked for, the annotated default, or the only one.
fn container(pod: &Value, name: &str, asked: &str) -> Result<String, Status> {
    let all = containers(pod);
    if !asked.is_empty() {
        return if all.contains(&asked) {
            Ok(asked.to_owned())
        } else {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")))
        };
    }
    let default = pod
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get("kubectl.kubernetes.io/default-container"))
        .and_then(Value::as_str)
        .filter(|default| all.contains(default));
    let regular: Vec<&str> = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    match (default, regular.as_slice()) {
        (Some(default), _) => Ok(default.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

/// Refuses what the kubelet would refuse, in its words.
fn ready(
    pod: &Value,
    name: &str,
    container: &str,
    sub: &str,
    previous: bool,
) -> Result<(), Status> {
    let state = ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|list| pod.pointer(&format!("/status/{list}")).and_then(Value::as_array))
        .flatten()
        .find(|status| status["name"] == container);
    let Some(status) = state else {
        return Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: ContainerCreating"
        )));
    };
    let ended = status.pointer("/lastState/terminated").is_some();
    if previous && !ended {
        return Err(Status::bad_request(format!(
            "previous terminated container {container:?} in pod {name:?} not found"
        )));
    }
    if let Some(waiting) = status.pointer("/state/waiting") {
        if sub == "log" && !ended {
            let reason = match waiting["reason"].as_str() {
                None | Some("") => "ContainerCreating",
                Some(reason) => reason,
            };
            let message = waiting["message"].as_str().unwrap_or_default();
            let why = match reason {
                "ErrImagePull" | "ImagePullBackOff" => {
                    "trying and failing to pull image".to_owned()
                }
                "ContainerCreating" | "PodInitializing" => reason.to_owned(),
                _ if message.is_empty() => reason.to_owned(),
                _ => format!("{reason}: {message}"),
            };
            return Err(Status::bad_request(format!(
                "container {container:?} in pod {name:?} is waiting to start: {why}"
            )));
        }
        if sub != "log" {
            return Err(Status::internal(format!(
                "unable to upgrade connection: container not found ({container:?})"
            )));
        }
    }
    Ok(())
}

/// Passes a log, exec or attach request on.
pub(crate) async fn pod(
    app: &App,
    mut request: Request<Incoming>,
    query: &Query,
    place: &Place,
    sub: &str,
) -> Result<Response<Body>, Status> {
    let pod = app.registry.get(place)?;
    let name = &place.name;
    let container = container(&pod, name, query.get("container"))?;
    let node = str_at(&pod, "/spec/nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    ready(&pod, name, &container, sub, query.flag("previous"))?;
    let upgrade = request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .map(str::to_ascii_lowercase);
    match (sub, upgrade.as_deref()) {
        ("log", _) | (_, Some("websocket")) => {}
        (_, Some(other)) => {
            return Err(Status::bad_request(format!(
                "{other} streams are not served here, only WebSocket: use kubectl 1.31 or later, or 1.29/1.30 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true"
            )));
        }
        (_, None) => return Err(Status::bad_request("Upgrade request required")),
    }
    let Some(socket) = app.streams.as_ref().and_then(|streams| streams.socket(node)) else {
        return Err(Status::unavailable(format!(
            "node {node:?} of pod {name:?} has no pod runner to ask"
        )));
    };
    let stream = UnixStream::connect(&socket).await.map_err(|error| {
        Status::unavailable(format!("the pod runner of node {node:?} does not answer: {error}"))
    })?;

    let path = if sub == "log" { "containerLogs" } else { sub };
    let rest = request.uri().query().unwrap_or_default();
    let rest: Vec<&str> = rest.split('&').filter(|pair| !pair.starts_with("container=")).collect();
    let uri = format!("/{path}/{}/{name}/{container}?{}", place.namespace, rest.join("&"));
    let uri: Uri = uri.parse().map_err(Status::internal)?;
    let mut outgoing = Request::builder().method("GET").uri(uri).header(HOST, "localhost");
    for (key, value) in request.headers() {
        if upgrade.is_some()
            && (key == CONNECTION || key == UPGRADE || key.as_str().starts_with("sec-websocket-"))
        {
            outgoing = outgoing.header(key, value);
        }
    }
    let outgoing = outgoing.body(Empty::<bytes::Bytes>::new()).map_err(Status::internal)?;

    let failed = |error: hyper::Error| {
        Status::unavailable(format!("the pod runner of node {node:?} does not answer: {error}"))
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // Ends with the connection: when either side closes, or when the answer is read.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a pod runner");
        }
    });
    let mut answer = sender.send_request(outgoing).await.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = answer.into_parts();
        parts.headers.remove(CONNECTION);
        parts.headers.remove(http::header::TRANSFER_ENCODING);
        // A runner that dies in the middle of a log ends the log; the sender lives in the body
        // so that the connection does.
        let body = body.into_data_stream_of(sender);
        return Ok(Response::from_parts(parts, body));
    }
    let theirs = hyper::upgrade::on(&mut answer);
    let ours = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match tokio::try_join!(ours, theirs) {
            Ok((ours, theirs)) => {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
                    tracing::debug!(%error, "an exec stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "an exec stream did not start"),
        }
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (key, value) in answer.headers() {
        response.headers_mut().append(key, value.clone());
    }
    Ok(response)
}

/// The answer's body, as ours, keeping something alive while it is read.
trait Through {
    fn into_data_stream_of<K: Send + 'static>(self, keep: K) -> Body;
}

impl Through for Incoming {
    fn into_data_stream_of<K: Send + 'static>(self, keep: K) -> Body {
        let stream = futures::stream::unfold((self, keep), |(mut body, keep)| async move {
            match body.frame().await? {
                Ok(frame) => Some((Ok::<_, std::convert::Infallible>(frame), (body, keep))),
                Err(error) => {
                    tracing::debug!(%error, "an answer of a pod runner broke off");
                    None
                }
            }
        });
        http_body_util::StreamBody::new(stream).boxed_unsync()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_is_found_or_named() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&pod, "web", "b"), Ok("b".into()));
        assert_eq!(
            container(&pod, "web", "").unwrap_err().message,
            "a container name must be specified for pod web, choose one of: [a b]"
        );
        assert_eq!(
            container(&pod, "web", "x").unwrap_err().message,
            "container x is not valid for pod web"
        );
        let waiting = json!({"status": {"containerStatuses": [
            {"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}}]}});
        assert_eq!(
            ready(&waiting, "web", "a", "log", false).unwrap_err().message,
            "container \"a\" in pod \"web\" is waiting to start: ContainerCreating"
        );
        let running =
            json!({"status": {"containerStatuses": [{"name": "a", "state": {"running": {}}}]}});
        assert_eq!(ready(&running, "web", "a", "exec", false), Ok(()));
    }
}
