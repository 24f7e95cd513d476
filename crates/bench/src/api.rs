//! The API server everybody watches: the embedded one, in this process, or the one a kubeconfig names. An edge.
//!
//! A data plane sits in a namespace without a way out, so it finds the API on its node's loopback: the embedded server
//! listens there itself, a foreign one is reached through a relay of plain TCP that keeps TLS end to end.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use apiserver::auth::User;
use apiserver::server::{Config, Handle, Server};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use link::Namespace;
use serde_json::json;
use tokio::net::TcpStream;

/// Where a data plane finds the API, in its own namespace.
const INSIDE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 6443);
/// The embedded server's only user.
const TOKEN: &str = "fairway-bench";
/// Room for 60,000 Services.
const SERVICE_CIDR: &str = "10.96.0.0/16";

/// The API, while this value lives.
pub(crate) struct Api {
    pub(crate) client: kube::Client,
    /// What a data plane in a namespace is given.
    pub(crate) kubeconfig: PathBuf,
    /// For people: which API this is.
    pub(crate) name: String,
    _server: Option<Handle>,
}

impl Api {
    /// Starts the embedded server for `nodes`, or connects to the one `kubeconfig` names and makes it reachable from them.
    /// Call inside the runtime.
    pub(crate) async fn start(
        kubeconfig: Option<&Path>,
        nodes: &[&Namespace],
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let inside = nodes
            .iter()
            .map(|node| Ok(node.run(|| TcpListener::bind(INSIDE))??))
            .collect::<anyhow::Result<Vec<_>>>()
            .context("cannot listen inside the node's namespace")?;
        let (own, theirs, name, server) = match kubeconfig {
            None => {
                let (own, theirs, server) = embedded(inside)?;
                (own, theirs, "embedded".to_owned(), Some(server))
            }
            Some(path) => {
                let own = Kubeconfig::read_from(path)
                    .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
                let (theirs, server) = relayed(&own, path)?;
                for listener in inside {
                    listener.set_nonblocking(true)?;
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    tokio::spawn(relay(listener, server.clone()));
                }
                (own, theirs, server, None)
            }
        };
        let file = dir.join("kubeconfig");
        fs::write(&file, serde_json::to_vec(&theirs)?)?;
        let config = kube::Config::from_custom_kubeconfig(own, &KubeConfigOptions::default())
            .await
            .context("the kubeconfig cannot be used")?;
        let client = kube::Client::try_from(config).context("no client for the API")?;
        let version = client
            .apiserver_version()
            .await
            .with_context(|| format!("the API at {name} does not answer"))?;
        let name = format!("{name} ({})", version.git_version);
        Ok(Self { client, kubeconfig: file, name, _server: server })
    }
}

/// The embedded server, reached from here and from inside.
fn embedded(inside: Vec<TcpListener>) -> anyhow::Result<(Kubeconfig, Kubeconfig, Handle)> {
    let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on 127.0.0.1")?;
    let address = here.local_addr()?;
    let mut config = Config::in_memory()?;
    config.service_cidrs = vec![SERVICE_CIDR.parse()?];
    config.listeners.push(here);
    config.listeners.extend(inside);
    let user = User::new("fairway-bench", &["system:masters"]);
    config.tokens = HashMap::from([(TOKEN.to_owned(), user)]);
    let authority = BASE64_STANDARD.encode(config.authority.certificate_pem());
    let file = |address: SocketAddr| -> anyhow::Result<Kubeconfig> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {
                "server": format!("https://{address}"), "certificate-authority-data": authority}}],
            "users": [{"name": "bench", "user": {"token": TOKEN}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        }))?)
    };
    let (own, theirs) = (file(address)?, file(INSIDE.into())?);
    Ok((own, theirs, Server::start(config).context("the embedded API server does not start")?))
}

/// The same kubeconfig for the end of the relay, and where the relay leads (`host:port`).
fn relayed(own: &Kubeconfig, path: &Path) -> anyhow::Result<(Kubeconfig, String)> {
    let mut theirs = own.clone();
    let current = own.current_context.as_deref().unwrap_or_default();
    let context = own.contexts.iter().find(|context| context.name == current);
    let cluster = context.and_then(|named| named.context.as_ref()).map(|context| &context.cluster);
    let Some(cluster) = cluster else {
        bail!(
            "{} has no current context; choose one with kubectl config use-context",
            path.display()
        )
    };
    let found = theirs.clusters.iter_mut().find(|named| &named.name == cluster);
    let Some(entry) = found.and_then(|named| named.cluster.as_mut()) else {
        bail!("{} has no cluster {cluster}", path.display())
    };
    let server = entry.server.clone().unwrap_or_default();
    let Some((scheme, host, port)) = split_url(&server) else {
        bail!("{} names no server that can be reached: {server:?}", path.display())
    };
    entry.server = Some(format!("{scheme}://{}:{}", INSIDE.0, INSIDE.1));
    entry.tls_server_name.get_or_insert_with(|| host.to_owned());
    let address =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok((theirs, address))
}

/// Scheme, host without brackets, and port of a URL.
fn split_url(url: &str) -> Option<(&str, &str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let default = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    if let Some((host, after)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = match after.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None => default,
        };
        return Some((scheme, host, port));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((scheme, host, port.parse().ok()?)),
        None => Some((scheme, authority, default)).filter(|(_, host, _)| !host.is_empty()),
    }
}

/// Passes connections on until the runtime ends.
async fn relay(listener: tokio::net::TcpListener, server: String) {
    while let Ok((mut near, _)) = listener.accept().await {
        let server = server.clone();
        tokio::spawn(async move {
            // An API server that is down refuses; so does its relay, by closing.
            if let Ok(mut far) = TcpStream::connect(server).await {
                drop(near.set_nodelay(true).and_then(|()| far.set_nodelay(true)));
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        assert_eq!(split_url("https://10.0.0.1:6443"), Some(("https", "10.0.0.1", 6443)));
        assert_eq!(split_url("https://api.example/k8s/x"), Some(("https", "api.example", 443)));
        assert_eq!(split_url("http://[fd00::1]:80/"), Some(("http", "fd00::1", 80)));
        assert_eq!(split_url("https://[fd00::1]"), Some(("https", "fd00::1", 443)));
        for bad in ["", "10.0.0.1:6443", "https://", "ftp://x", "https://x:port"] {
            assert_eq!(split_url(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_far_end_of_the_relay_still_checks_the_servers_name() {
        let own: Kubeconfig = serde_json::from_value(json!({
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }))
        .unwrap();
        let (theirs, address) = relayed(&own, Path::new("x")).unwrap();
        let cluster = theirs.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(address, "api.example:6443");
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(cluster.tls_server_name.as_deref(), Some("api.example"));
        let nowhere = Kubeconfig { current_context: Some("b".into()), ..own };
        assert!(relayed(&nowhere, Path::new("x")).is_err());
    }
}
