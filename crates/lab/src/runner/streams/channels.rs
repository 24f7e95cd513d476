//! The channels of exec and attach: the WebSocket handshake, messages that start with a channel byte, and the `Status`
//! that says how it ended. Knows nothing of containers.

use std::future::Future;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

use super::Asked;
use crate::runner::server::{Body, full, plain};

pub(super) const V5: &str = "v5.channel.k8s.io";
pub(super) const V4: &str = "v4.channel.k8s.io";
pub(super) const STDIN: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const RESIZE: u8 = 4;
pub(super) const CLOSE: u8 = 255;

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Answers the handshake and hands the connection to `serve`.
pub(super) fn upgrade<F>(
    mut request: Request<Incoming>,
    serve: impl FnOnce(Socket, &'static str) -> F + 'static,
) -> Response<Body>
where
    F: Future<Output = ()>,
{
    let get = |name: header::HeaderName| {
        let all = request.headers().get_all(name);
        all.iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",").to_lowercase()
    };
    if !get(header::UPGRADE).contains("websocket") {
        let text = "exec and attach are spoken over WebSocket (v5.channel.k8s.io); SPDY is not offered: use kubectl 1.29 \
                    or newer, with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true before 1.31";
        return plain(StatusCode::BAD_REQUEST, text);
    }
    let offered = get(header::SEC_WEBSOCKET_PROTOCOL);
    let chosen = [V5, V4].into_iter().find(|p| offered.split(',').any(|o| o.trim() == *p));
    let Some(chosen) = chosen else {
        let text =
            format!("none of the subprotocols {offered:?} is spoken here; there are {V5} and {V4}");
        return plain(StatusCode::BAD_REQUEST, text);
    };
    let key =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes()));
    let Some(key) = key else {
        return plain(StatusCode::BAD_REQUEST, "the WebSocket handshake has no key");
    };
    let pending: OnUpgrade = hyper::upgrade::on(&mut request);
    tokio::task::spawn_local(async move {
        match pending.await {
            Ok(upgraded) => {
                let io = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                serve(socket, chosen).await;
            }
            Err(error) => tracing::debug!(%error, "an upgrade did not happen"),
        }
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::UPGRADE, "websocket")
        .header(header::CONNECTION, "Upgrade")
        .header(header::SEC_WEBSOCKET_ACCEPT, key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, chosen)
        .body(full(""));
    response.unwrap_or_else(|e| plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

/// What a client sent.
pub(super) enum Input {
    Stdin(Bytes),
    CloseStdin,
    Resize(u16, u16),
    /// It is gone.
    Gone,
}

pub(super) struct Streams {
    output: SplitSink<Socket, Message>,
    pub(super) input: SplitStream<Socket>,
}

impl Streams {
    pub(super) async fn new(socket: Socket, asked: Asked) -> Streams {
        let (output, input) = socket.split();
        let mut streams = Streams { output, input };
        // an empty message tells the client that the streams are there
        let first = match asked {
            Asked { stdout: true, .. } => STDOUT,
            Asked { stderr: true, tty: false, .. } => STDERR,
            _ => ERROR,
        };
        streams.send(first, &[]).await;
        streams
    }

    pub(super) async fn send(&mut self, channel: u8, bytes: &[u8]) -> bool {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(channel);
        message.extend_from_slice(bytes);
        self.output.send(Message::binary(message)).await.is_ok()
    }

    pub(super) async fn finish(mut self, status: Value) {
        let told = self.send(ERROR, status.to_string().as_bytes()).await;
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        if told && self.output.send(Message::Close(Some(close))).await.is_ok() {
            // the client's own close, so that it never sees a reset instead of our last words
            let rest = async { while let Some(Ok(_)) = self.input.next().await {} };
            let waited = tokio::time::timeout(std::time::Duration::from_secs(2), rest).await;
            tracing::trace!(clean = waited.is_ok(), "stream closed");
        }
    }
}

/// The next thing a client sends; cancel-safe.
pub(super) async fn next_input(input: &mut SplitStream<Socket>) -> Input {
    loop {
        let bytes = match input.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => Bytes::copy_from_slice(text.as_bytes()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Input::Gone,
            Some(Ok(_)) => continue,
        };
        match bytes.first() {
            Some(&STDIN) if bytes.len() > 1 => return Input::Stdin(bytes.slice(1..)),
            Some(&CLOSE) if bytes.get(1) == Some(&STDIN) => return Input::CloseStdin,
            Some(&RESIZE) => {
                let size: Value = serde_json::from_slice(&bytes[1..]).unwrap_or_default();
                let side = |n: &str| size[n].as_u64().and_then(|v| u16::try_from(v).ok());
                if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
                    return Input::Resize(width, height);
                }
            }
            _ => {}
        }
    }
}

pub(super) fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

pub(super) fn failure(message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "InternalError", "code": 500})
}

/// The status of a program that ended with this code.
pub(super) fn exit_status(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}
