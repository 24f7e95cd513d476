//! Probes: the pure counting ([`Counter`]) and the edges that ask ([`tcp`], [`http`]), from the node's namespace as the kubelet does.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Holds the others back until it succeeded once.
    Startup,
    /// Decides whether the pod gets traffic.
    Readiness,
    /// Decides whether the container is restarted.
    Liveness,
}

impl ProbeKind {
    /// As events name it.
    pub fn name(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
    /// The container's probe of this kind.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// Timing of a probe with the API's defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the container's start to the first probe.
    pub initial_delay: Duration,
    /// Between probes.
    pub period: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Successes in a row that count.
    pub success_threshold: u32,
    /// Failures in a row that count.
    pub failure_threshold: u32,
}

impl Timing {
    /// Of this probe.
    pub fn of(probe: &Probe) -> Timing {
        let seconds = |value: Option<i32>, default: u64| {
            let value = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
            Duration::from_secs(value.unwrap_or(default))
        };
        let times = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Timing {
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: times(probe.success_threshold, 1),
            failure_threshold: times(probe.failure_threshold, 3),
        }
    }
}

/// Counts results in a row. Pure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    last: Option<bool>,
    run: u32,
}

impl Counter {
    /// Takes one result; the verdict when a threshold is reached (again and again while it lasts).
    pub fn record(&mut self, success: bool, timing: &Timing) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let need = if success { timing.success_threshold } else { timing.failure_threshold };
        (self.run >= need).then_some(success)
    }
}

/// Port number of a probe or hook: a number, or the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok()),
    }
}

/// One TCP probe: connects and closes.
///
/// # Errors
/// The words of the event.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    dial(host, port, timeout).await.map(drop)
}

async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let target = address(host, port);
    let fail = |why: &str| format!("dial tcp {target}: {why}");
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(fail("connect: connection refused"))
        }
        Ok(Err(e)) => Err(fail(&e.to_string())),
        Err(_) => Err(fail("i/o timeout")),
    }
}

fn address(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// One HTTP probe or hook: any status from 200 to 399 is a success.
///
/// # Errors
/// The words of the event.
pub async fn http(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    let Some(port) = port(container, &action.port) else {
        return Err(format!("couldn't find port: {:?}", action.port));
    };
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("HTTPS probes are not supported by the lab: use HTTP, tcpSocket or exec".into());
    }
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("http://{}{slash}{path}", address(host, port));
    let get = async {
        let stream = dial(host, port, timeout).await.map_err(|e| format!("Get {url:?}: {e}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("Get {url:?}: {e}"))?;
        let mut request = http::Request::get(format!("{slash}{path}"))
            .header("User-Agent", "kube-probe/1.36")
            .header("Accept", "*/*")
            .header("Connection", "close");
        let headers = action.http_headers.as_deref().unwrap_or_default();
        if !headers.iter().any(|h| h.name.eq_ignore_ascii_case("host")) {
            request = request.header("Host", address(host, port));
        }
        for header in headers {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let mut send = std::pin::pin!(sender.send_request(request));
        let response = tokio::select! {
            biased;
            response = &mut send => response,
            // a connection that closes after its answer has delivered the answer first
            ended = connection => match ended {
                Ok(()) => send.await,
                Err(e) => Err(e),
            },
        };
        let status = response.map_err(|e| format!("Get {url:?}: {e}"))?.status();
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
        }
    };
    tokio::time::timeout(timeout, get).await.unwrap_or_else(|_| {
        Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(success: u32, failure: u32) -> Timing {
        Timing {
            success_threshold: success,
            failure_threshold: failure,
            ..Timing::of(&Probe::default())
        }
    }

    #[test]
    fn thresholds_count_results_in_a_row() {
        let t = timing(2, 3);
        let mut c = Counter::default();
        let results = [true, true, false, false, true, false, false, false, false];
        let got: Vec<_> = results.iter().map(|r| c.record(*r, &t)).collect();
        let no = None;
        assert_eq!(got, [no, Some(true), no, no, no, no, no, Some(false), Some(false)]);
    }

    #[test]
    fn defaults_are_the_apis() {
        let t = Timing::of(&Probe::default());
        assert_eq!(t.period, Duration::from_secs(10));
        assert_eq!(t.timeout, Duration::from_secs(1));
        assert_eq!((t.success_threshold, t.failure_threshold), (1, 3));
    }

    #[test]
    fn named_ports_are_looked_up() {
        let container: Container = serde_json::from_value(serde_json::json!(
            {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
        .unwrap();
        assert_eq!(port(&container, &IntOrString::String("web".into())), Some(8080));
        assert_eq!(port(&container, &IntOrString::String("nope".into())), None);
        assert_eq!(port(&container, &IntOrString::Int(70000)), None);
    }
}
