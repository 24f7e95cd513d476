//! Where the API may be reached: addresses given, addresses learned, and which of them answered last. Pure but for the lock
//! around it; dialling is the room `dial`.
//!
//! The ClusterIP of the API works only once a proxy has programmed it, and here that proxy is us. So an agent needs a way in
//! that does not depend on itself: addresses given by hand, or the endpoints of the Service `default/kubernetes` remembered
//! from its last life.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;

/// The name every API server's certificate carries.
const CLUSTER_NAME: &str = "kubernetes.default.svc";

/// One way to an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// A host name or an address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Names its certificate may have; one suffices.
    pub(crate) names: Vec<String>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

#[derive(Debug)]
struct State {
    given: Vec<Candidate>,
    learned: Vec<SocketAddr>,
    /// The candidate that answered last.
    good: Option<Candidate>,
}

/// The addresses of the API servers; clones share them.
#[derive(Clone, Debug)]
pub struct ApiServers {
    state: Arc<Mutex<State>>,
    /// The name learned addresses are checked against first.
    name: Arc<str>,
}

/// An address of the API that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is no address of an API server; write https://HOST:PORT or HOST:PORT")]
pub struct BadServer {
    /// As given.
    pub address: String,
}

impl ApiServers {
    /// The servers given, in order of preference; `name` overrides the name their certificates are checked against.
    pub(crate) fn new(given: &[Uri], name: Option<&str>) -> Self {
        let candidates: Vec<Candidate> =
            given.iter().filter_map(|uri| candidate(uri, name)).collect();
        let first = candidates.first().map_or(CLUSTER_NAME, |first| first.host.as_str());
        let name: Arc<str> = name.unwrap_or(first).into();
        let state = State { given: candidates, learned: Vec::new(), good: None };
        Self { state: Arc::new(Mutex::new(state)), name }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the learned addresses: the endpoints of the Service `default/kubernetes`. They are tried when what was given
    /// does not answer. An empty list changes nothing: an API server that leaves says so before it is gone.
    pub fn learn(&self, addresses: &[SocketAddr]) {
        if !addresses.is_empty() {
            self.with(|state| state.learned = addresses.to_vec());
        }
    }

    /// The learned addresses.
    #[must_use]
    pub fn learned(&self) -> Vec<SocketAddr> {
        self.with(|state| state.learned.clone())
    }

    /// All ways, the one that answered last first.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let learned = |address: &SocketAddr| {
            let host = address.ip().to_string();
            let mut names = vec![self.name.to_string(), host.clone(), CLUSTER_NAME.to_owned()];
            names.dedup();
            Candidate { host, port: address.port(), names }
        };
        self.with(|state| {
            let mut all: Vec<Candidate> = state.good.iter().cloned().collect();
            for one in state.given.iter().cloned().chain(state.learned.iter().map(learned)) {
                if !all.iter().any(|known| (&known.host, known.port) == (&one.host, one.port)) {
                    all.push(one);
                }
            }
            all
        })
    }

    /// This one answered.
    pub(crate) fn answered(&self, candidate: &Candidate) {
        self.with(|state| state.good = Some(candidate.clone()));
    }

    /// This one did not; it keeps its place among the others.
    pub(crate) fn failed(&self, candidate: &Candidate) {
        self.with(|state| {
            state.good.take_if(|good| good == candidate);
        });
    }
}

fn candidate(uri: &Uri, name: Option<&str>) -> Option<Candidate> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
    let names = vec![name.unwrap_or(&host).to_owned()];
    Some(Candidate { host, port, names })
}

/// Reads an address given by hand; without a scheme it is https.
///
/// # Errors
/// [`BadServer`].
pub(crate) fn parse(text: &str) -> Result<Uri, BadServer> {
    let bad = || BadServer { address: text.to_owned() };
    let text = text.trim();
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri: Uri = whole.parse().map_err(|_| bad())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https" | "http"), Some(host)) if !host.is_empty() => Ok(uri),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(servers: &ApiServers) -> Vec<String> {
        servers.candidates().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_one_that_answered_comes_first_and_nobody_twice() {
        let given = [parse("https://10.96.0.1").unwrap(), parse("[fd00::1]:6443").unwrap()];
        let servers = ApiServers::new(&given, None);
        servers.learn(&["172.30.1.1:6443".parse().unwrap(), "10.96.0.1:443".parse().unwrap()]);
        assert_eq!(hosts(&servers), ["10.96.0.1:443", "[fd00::1]:6443", "172.30.1.1:6443"]);
        let third = servers.candidates()[2].clone();
        assert_eq!(third.names, ["10.96.0.1", "172.30.1.1", CLUSTER_NAME]);
        servers.answered(&third);
        assert_eq!(hosts(&servers), ["172.30.1.1:6443", "10.96.0.1:443", "[fd00::1]:6443"]);
        servers.failed(&third);
        assert_eq!(hosts(&servers)[0], "10.96.0.1:443");
        servers.learn(&[]);
        assert_eq!(servers.learned().len(), 2, "an empty list teaches nothing");
    }

    #[test]
    fn addresses_given_by_hand() {
        assert_eq!(parse("api.example").unwrap().to_string(), "https://api.example/");
        assert_eq!(parse("http://127.0.0.1:8080").unwrap().port_u16(), Some(8080));
        for bad in ["", "ftp://x", "https://", "a b"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
