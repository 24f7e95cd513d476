//! `agnhost`: the test image of Kubernetes, as far as network tests use it: `netexec`, `pause`, `serve-hostname`,
//! `connect`, `porter`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpStream, UdpSocket};

use super::say;
use super::serve::{self, Answer, answer, plain_address};
use crate::runner::server::decode;

const TEXT: &str = "text/plain; charset=utf-8";
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// Plays `agnhost`.
pub(super) fn main(args: &[String]) -> i32 {
    let rest = args.get(1..).unwrap_or_default();
    match args.first().map(String::as_str) {
        None | Some("pause") => serve::pause(),
        Some("netexec") => serve::block_on(netexec(flags(rest))),
        Some("serve-hostname") => serve::block_on(serve_hostname(flags(rest))),
        Some("connect") => serve::block_on(connect(rest.to_vec())),
        Some("porter") => serve::block_on(porter()),
        Some(other) => {
            say(&format!(
                "agnhost {other:?} is not played here; there are netexec, pause, serve-hostname, connect, porter"
            ));
            2
        }
    }
}

/// `--name=value`, `--name value`, `-name=value`; a name alone is `true`.
fn flags(args: &[String]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else { continue };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = args.next_if(|next| !next.starts_with('-')).cloned();
                (name.to_owned(), value.unwrap_or_else(|| "true".into()))
            }
        };
        found.insert(name, value);
    }
    found
}

fn port(flags: &BTreeMap<String, String>, name: &str, default: i32) -> Option<u16> {
    let value = flags.get(name).and_then(|v| v.parse().ok()).unwrap_or(default);
    u16::try_from(value).ok().filter(|p| *p != 0)
}

pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

struct NetExec {
    ready: Cell<bool>,
    exit: tokio::sync::mpsc::Sender<(i32, Duration)>,
}

async fn netexec(flags: BTreeMap<String, String>) -> i32 {
    let stop = match serve::stop_signal() {
        Ok(stop) => stop,
        Err(error) => {
            say(&format!("cannot wait for signals: {error}"));
            return 1;
        }
    };
    let http_port = port(&flags, "http-port", 8080).unwrap_or(8080);
    let udp_port = port(&flags, "udp-port", 8081);
    let delay = flags.get("delay-shutdown").and_then(|d| d.parse().ok()).unwrap_or(0);
    let listener = match serve::listen(http_port).await {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("listen tcp :{http_port}: {error}"));
            return 1;
        }
    };
    if let Some(udp_port) = udp_port {
        match serve::bind_udp(udp_port).await {
            Ok(socket) => drop(tokio::task::spawn_local(udp(socket))),
            Err(error) => {
                say(&format!("listen udp :{udp_port}: {error}"));
                return 1;
            }
        }
    }
    say(&format!("Started HTTP server on port {http_port}"));
    let (exit, mut asked) = tokio::sync::mpsc::channel(1);
    let state = Rc::new(NetExec { ready: Cell::new(true), exit });
    let stopped = state.clone();
    let mut notice = stop.clone();
    let (late_tx, late) = tokio::sync::watch::channel(false);
    tokio::task::spawn_local(async move {
        if notice.wait_for(|s| *s).await.is_ok() {
            stopped.ready.set(false);
            tokio::time::sleep(Duration::from_secs(delay)).await;
            late_tx.send_replace(true);
        }
        std::future::pending::<()>().await;
    });
    let handler = move |request: Request<Incoming>, peer, local| {
        let state = state.clone();
        async move { state.answer(request, peer, local).await }
    };
    tokio::select! {
        () = serve::http(listener, late, Rc::new(handler)) => 0,
        Some((code, wait)) = asked.recv() => {
            tokio::time::sleep(wait.max(Duration::from_millis(20))).await;
            code
        }
    }
}

fn query(request: &Request<Incoming>) -> BTreeMap<String, String> {
    let text = request.uri().query().unwrap_or_default();
    text.split('&')
        .filter(|p| !p.is_empty())
        .map(|p| p.split_once('=').unwrap_or((p, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

impl NetExec {
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Answer {
        let query = query(&request);
        let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        let ok = |text: String| answer(StatusCode::OK, TEXT, text);
        let bad = |text: String| answer(StatusCode::BAD_REQUEST, TEXT, text);
        match request.uri().path() {
            "/" => ok(format!("NOW: {}", jiff::Timestamp::now())),
            "/hostname" | "/hostName" => ok(hostname()),
            "/clientip" => ok(peer.to_string()),
            "/serverip" => ok(local.to_string()),
            "/echo" => {
                let code = get("code").parse().ok().and_then(|c| StatusCode::from_u16(c).ok());
                answer(code.unwrap_or(StatusCode::OK), TEXT, get("msg").to_owned())
            }
            "/header" => {
                let value = request.headers().get(get("key")).and_then(|v| v.to_str().ok());
                ok(value.unwrap_or_default().to_owned())
            }
            "/healthz" | "/readyz" if self.ready.get() => ok(String::new()),
            "/healthz" | "/readyz" => answer(StatusCode::PRECONDITION_FAILED, TEXT, ""),
            "/dial" => match self.dial(&query).await {
                Ok(text) => answer(StatusCode::OK, "application/json", text),
                Err(text) => bad(text),
            },
            path @ ("/exit" | "/shutdown") => {
                let code = get("code").parse().unwrap_or(0);
                let wait = duration(get("wait")).or_else(|| duration(get("timeout")));
                let told = self.exit.try_send((code, wait.unwrap_or_default()));
                ok(if path == "/exit" && told.is_ok() { "exiting".into() } else { String::new() })
            }
            path => {
                let known = "/clientip /dial /echo /exit /header /healthz /hostname /readyz /serverip /shutdown";
                answer(
                    StatusCode::NOT_FOUND,
                    TEXT,
                    format!("{path} is not served; there are {known}\n"),
                )
            }
        }
    }

    async fn dial(&self, query: &BTreeMap<String, String>) -> Result<String, String> {
        let need = |name: &str| {
            query.get(name).filter(|v| !v.is_empty()).cloned().ok_or(format!("missing {name}"))
        };
        let (host, request) =
            (need("host")?, need("request").unwrap_or_else(|_| "hostname".into()));
        let port: u16 = need("port")?.parse().map_err(|_| "invalid port parameter".to_owned())?;
        let protocol = query.get("protocol").map_or("http", String::as_str).to_lowercase();
        let tries: u32 = query
            .get("tries")
            .map_or(Ok(1), |t| t.parse())
            .map_err(|_| "invalid tries".to_owned())?;
        if !matches!(protocol.as_str(), "http" | "udp") {
            return Err(format!("unsupported protocol {protocol:?}: http and udp are"));
        }
        let mut replies = Vec::new();
        let mut errors = Vec::new();
        for _ in 0..tries.min(10_000) {
            let one = async {
                match protocol.as_str() {
                    "udp" => udp_ask(&host, port, &request).await,
                    _ => {
                        http_get(&host, port, &format!("/{}", request.trim_start_matches('/')))
                            .await
                    }
                }
            };
            match tokio::time::timeout(DIAL_LIMIT, one).await {
                Ok(Ok(reply)) => replies.push(reply),
                Ok(Err(error)) => errors.push(error),
                Err(_) => errors.push("i/o timeout".into()),
            }
        }
        let mut out = serde_json::Map::new();
        if !replies.is_empty() || errors.is_empty() {
            out.insert("responses".into(), json!(replies));
        }
        if !errors.is_empty() {
            out.insert("errors".into(), json!(errors));
        }
        Ok(serde_json::Value::Object(out).to_string())
    }
}

/// `5s`, `100ms`, `1m` or plain seconds.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

async fn udp_ask(host: &str, port: u16, request: &str) -> Result<String, String> {
    let target = tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?.next();
    let target = target.ok_or("no address")?;
    let local = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(local).await.map_err(|e| e.to_string())?;
    socket.connect(target).await.map_err(|e| e.to_string())?;
    socket.send(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut buffer = vec![0; 64 << 10];
    let n = socket.recv(&mut buffer).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&buffer[..n]).trim().to_owned())
}

/// GET over a connection of its own.
pub(super) async fn http_get(host: &str, port: u16, path: &str) -> Result<String, String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let stream = TcpStream::connect((host, port)).await.map_err(|e| fail(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
    let request = Request::get(path)
        .header("Host", format!("{host}:{port}"))
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| fail(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let body = Limited::new(response.into_body(), 1 << 20).collect().await;
        Ok(String::from_utf8_lossy(&body.map_err(|e| e.to_string())?.to_bytes()).into_owned())
    };
    let (reply, _) = tokio::join!(exchange, connection);
    reply
}

async fn udp(socket: UdpSocket) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok((n, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let text = String::from_utf8_lossy(&buffer[..n]).trim().to_owned();
        let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let reply = match verb.to_lowercase().as_str() {
            "hostname" => hostname(),
            "echo" => rest.to_owned(),
            "clientip" => plain_address(peer).to_string(),
            "" => continue,
            other => format!("unknown command {other:?}; there are hostname, echo, clientip"),
        };
        if let Err(error) = socket.send_to(reply.as_bytes(), peer).await {
            say(&format!("udp reply to {peer}: {error}"));
        }
    }
}

async fn serve_hostname(flags: BTreeMap<String, String>) -> i32 {
    let Ok(stop) = serve::stop_signal() else { return 1 };
    let number = port(&flags, "port", 9376).unwrap_or(9376);
    if flags.contains_key("udp") {
        let socket = match serve::bind_udp(number).await {
            Ok(socket) => socket,
            Err(error) => {
                say(&format!("listen udp :{number}: {error}"));
                return 1;
            }
        };
        let mut stop = stop;
        let mut buffer = [0; 2048];
        loop {
            tokio::select! {
                got = socket.recv_from(&mut buffer) => {
                    if let Ok((_, peer)) = got
                        && let Err(error) = socket.send_to(hostname().as_bytes(), peer).await
                    {
                        say(&format!("udp reply: {error}"));
                    }
                }
                _ = stop.changed() => return 0,
            }
        }
    }
    let listener = match serve::listen(number).await {
        Ok(listener) => listener,
        Err(error) => {
            say(&format!("listen tcp :{number}: {error}"));
            return 1;
        }
    };
    let handler = |_: Request<Incoming>, _, _| async { answer(StatusCode::OK, TEXT, hostname()) };
    serve::http(listener, stop, Rc::new(handler)).await;
    0
}

/// `connect HOST:PORT [--timeout=D] [--protocol=tcp|udp]`: exit 0, or the reason on stderr (`REFUSED`, `TIMEOUT`, `DNS`,
/// `OTHER`) and exit 1.
async fn connect(args: Vec<String>) -> i32 {
    let flags = flags(&args);
    let Some(target) = args.iter().find(|a| !a.starts_with('-') && a.contains(':')) else {
        say("usage: agnhost connect HOST:PORT [--timeout=5s] [--protocol=tcp|udp]");
        return 2;
    };
    let limit = flags.get("timeout").and_then(|t| duration(t)).unwrap_or(DIAL_LIMIT);
    let Ok(mut found) = tokio::net::lookup_host(target.as_str()).await else {
        say(&format!("DNS: lookup {target}"));
        return 1;
    };
    let Some(address) = found.next() else {
        say(&format!("DNS: lookup {target}"));
        return 1;
    };
    let attempt = async {
        if flags.get("protocol").is_some_and(|p| p == "udp") {
            return udp_ask(&address.ip().to_string(), address.port(), "hostname").await.map(drop);
        }
        match TcpStream::connect(address).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Err("REFUSED".into()),
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => Err("TIMEOUT".into()),
            Err(e) => Err(format!("OTHER: {e}")),
        }
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(())) => 0,
        Ok(Err(reason)) => {
            say(&reason);
            1
        }
        Err(_) => {
            say("TIMEOUT");
            1
        }
    }
}

/// Serves the value of every `SERVE_PORT_N` on port N.
async fn porter() -> i32 {
    let Ok(stop) = serve::stop_signal() else { return 1 };
    let mut tasks = Vec::new();
    for (name, text) in std::env::vars() {
        let Some(number) = name.strip_prefix("SERVE_PORT_").and_then(|n| n.parse::<u16>().ok())
        else {
            continue;
        };
        match serve::listen(number).await {
            Ok(listener) => {
                let handler = move |_: Request<Incoming>, _, _| {
                    let text = text.clone();
                    async move { answer(StatusCode::OK, TEXT, text) }
                };
                tasks.push(tokio::task::spawn_local(serve::http(
                    listener,
                    stop.clone(),
                    Rc::new(handler),
                )));
            }
            Err(error) => {
                say(&format!("listen tcp :{number}: {error}"));
                return 1;
            }
        }
    }
    let mut stop = stop;
    let waited = stop.wait_for(|s| *s).await.is_ok();
    futures::future::join_all(tasks).await;
    i32::from(!waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_in_every_form() {
        let args: Vec<String> = ["netexec", "--http-port=80", "--udp-port", "81", "-x", "--y"]
            .map(str::to_owned)
            .into();
        let found = flags(&args);
        assert_eq!(port(&found, "http-port", 8080), Some(80));
        assert_eq!(port(&found, "udp-port", 8081), Some(81));
        assert_eq!(port(&found, "sctp-port", -1), None);
        assert_eq!(found["x"], "true");
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("2"), Some(Duration::from_secs(2)));
        assert_eq!(duration("x"), None);
    }
}
