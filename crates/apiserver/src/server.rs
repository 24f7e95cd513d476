//! The server: listeners, TLS, connections; what a lab starts and stops.
//!
//! Tasks: one per listener, one per connection, all ended by dropping (or stopping) the
//! [`Handle`]. The only file of this crate with sockets, beside `proxy`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::{Authenticator, Authority, AuthorityError, User};
use crate::http::{App, Documents, Pages, handle};
use crate::kinds::Kinds;
use crate::persist::{PersistError, Persistence};
use crate::proxy::PodStreams;
use crate::registry::services::DEFAULT_CIDR;
use crate::registry::{Part, Registry, WriteOptions};
use crate::status::Status;
use crate::store::Store;

/// What a control plane is made of.
pub struct Config {
    /// Bound listeners: the host's loopback, one inside a namespace, …
    pub listeners: Vec<std::net::TcpListener>,
    /// The certificate authority; keep it to keep kubeconfigs good over restarts.
    pub authority: Authority,
    /// More names the server's certificate is good for.
    pub names: Vec<String>,
    /// More addresses the server's certificate is good for.
    pub addresses: Vec<IpAddr>,
    /// Static bearer tokens.
    pub tokens: HashMap<String, User>,
    /// Service address ranges, the primary family first.
    pub service_cidrs: Vec<IpNet>,
    /// Where pods and nodes reach the API: the endpoint of the `kubernetes` Service.
    pub advertise: SocketAddr,
    /// Where state is kept; `None` forgets.
    pub state_file: Option<PathBuf>,
    /// How to reach pods for log, exec and attach.
    pub streams: Option<Arc<dyn PodStreams>>,
}

impl Config {
    /// A control plane in memory with a new authority, Service ranges 10.96.0.0/16 and
    /// fd00:10:96::/112, and no listener yet.
    ///
    /// # Errors
    /// [`AuthorityError`] if no key can be made.
    pub fn in_memory() -> Result<Self, AuthorityError> {
        Ok(Self {
            listeners: Vec::new(),
            authority: Authority::generate()?,
            names: Vec::new(),
            addresses: Vec::new(),
            tokens: HashMap::new(),
            service_cidrs: ["10.96.0.0/16", "fd00:10:96::/112"]
                .iter()
                .filter_map(|cidr| cidr.parse().ok())
                .collect(),
            advertise: SocketAddr::from(([172, 30, 0, 1], 6443)),
            state_file: None,
            streams: None,
        })
    }
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The state file.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// A listener cannot be used.
    #[error("the listener cannot be used: {0}")]
    Listen(#[source] io::Error),
    /// The objects every cluster has cannot be written.
    #[error("writing {what} at start: {status}")]
    Bootstrap {
        /// Which object.
        what: String,
        /// The registry's answer.
        status: Status,
    },
}

/// A running server. Dropping it stops the server at once; [`stop`](Self::stop) does it in peace.
#[derive(Debug)]
pub struct Handle {
    registry: Registry,
    stop: signal::Sender<bool>,
    tasks: JoinSet<()>,
    persistence: Option<Persistence>,
    addresses: Vec<SocketAddr>,
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a control plane's API inside the current tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: Config) -> Result<Handle, StartError> {
        let (store, persistence) = match &config.state_file {
            None => (Store::new(), None),
            Some(path) => {
                let (store, persistence) = Persistence::open(path)?;
                (store, Some(persistence))
            }
        };
        let trouble = persistence.as_ref().map(Persistence::trouble).unwrap_or_default();
        let registry = Registry::new(store, Kinds::builtin(), config.service_cidrs);
        bootstrap(&registry, config.advertise)?;

        let mut names = config.names;
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            names.push(name.into());
        }
        let mut addresses = config.addresses;
        for address in
            ["127.0.0.1", "::1", "172.30.0.1", "fd00:172:30::1", "10.96.0.1", "fd00:10:96::1"]
        {
            addresses.extend(address.parse::<IpAddr>().ok());
        }
        addresses.push(config.advertise.ip());
        let tls = Arc::new(config.authority.server_tls(&names, &addresses)?);

        let (stop, stopping) = signal::channel(false);
        let app = Arc::new(App {
            registry: registry.clone(),
            authenticator: Authenticator::new(config.authority, config.tokens),
            streams: config.streams,
            address: config.advertise.to_string(),
            trouble: trouble.clone(),
            pages: Pages::default(),
            documents: Documents::default(),
            stopping: stopping.clone(),
        });
        let mut tasks = JoinSet::new();
        let mut bound = Vec::new();
        for listener in config.listeners {
            listener.set_nonblocking(true).map_err(StartError::Listen)?;
            let listener = TcpListener::from_std(listener).map_err(StartError::Listen)?;
            bound.push(listener.local_addr().map_err(StartError::Listen)?);
            tasks.spawn(accept(
                listener,
                TlsAcceptor::from(tls.clone()),
                app.clone(),
                stopping.clone(),
            ));
        }
        Ok(Handle { registry, stop, tasks, persistence, addresses: bound })
    }
}

impl Handle {
    /// The registry: for controllers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where the listeners are bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Why persistence is in trouble, if it is.
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.persistence.as_ref()?.trouble();
        trouble.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Ends watches, waits up to two seconds for requests under way, writes what is unwritten.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(2), all).await.is_err() {
            self.tasks.abort_all();
        }
        if let Some(persistence) = self.persistence.take() {
            persistence.close();
        }
    }
}

/// Takes connections until the server stops, and sees them to their end.
async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    app: Arc<App>,
    mut stopping: signal::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let told = stopping.clone();
    loop {
        tokio::select! {
            () = told_to_stop(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            taken = listener.accept() => match taken {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, tls.clone(), app.clone(), told.clone()));
                }
                Err(error) => {
                    // Out of descriptors, mostly: those under way will give some back.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Ends when the server is told to stop (or is gone).
pub(crate) async fn told_to_stop(stopping: &mut signal::Receiver<bool>) {
    if stopping.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the server was dropped");
    }
}

/// Time a client has for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

async fn connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    app: Arc<App>,
    mut stopping: signal::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake");
            return;
        }
        Err(_) => return,
    };
    let user = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| app.authenticator.certificate(chain.first()?));
    let service = service_fn(move |request| handle(app.clone(), user.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .max_concurrent_streams(1000);
    builder.http1().timer(TokioTimer::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut told = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = told_to_stop(&mut stopping), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Writes the objects every cluster has: its first namespaces, the range of its Services and the
/// `kubernetes` Service with its endpoints.
fn bootstrap(registry: &Registry, advertise: SocketAddr) -> Result<(), StartError> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = json!({"metadata": {"name": name}});
        ensure(registry, "", "namespaces", "", namespace, |_| false)?;
    }
    let ranges: Vec<String> = registry.service_cidrs().iter().map(IpNet::to_string).collect();
    ensure(
        registry,
        "networking.k8s.io",
        "servicecidrs",
        "",
        json!({"metadata": {"name": DEFAULT_CIDR}, "spec": {"cidrs": ranges}}),
        |_| false,
    )?;
    let family = if advertise.is_ipv6() { "IPv6" } else { "IPv4" };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    ensure(
        registry,
        "",
        "services",
        "default",
        json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": first_address(registry, advertise.is_ipv6()),
                "ipFamilyPolicy": "SingleStack",
                "ipFamilies": [family],
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.port()}],
            },
        }),
        // The Service keeps its address; only its target follows the server.
        |old| old.pointer("/spec/ports/0/targetPort") != Some(&json!(advertise.port())),
    )?;
    let ip = advertise.ip().to_string();
    let subsets = json!([{
        "addresses": [{"ip": ip}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    }]);
    ensure(
        registry,
        "",
        "endpoints",
        "default",
        json!({
            "metadata": {"name": "kubernetes",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": subsets,
        }),
        |old| old["subsets"] != subsets,
    )?;
    let endpoints = json!([{"addresses": [ip], "conditions": {"ready": true}}]);
    let ports = json!([{"name": "https", "port": advertise.port(), "protocol": "TCP"}]);
    ensure(
        registry,
        "discovery.k8s.io",
        "endpointslices",
        "default",
        json!({
            "metadata": {"name": "kubernetes",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        }),
        |old| {
            old.pointer("/endpoints/0/addresses") != endpoints.pointer("/0/addresses")
                || old.pointer("/ports/0/port") != ports.pointer("/0/port")
        },
    )
}

/// The first address of the Service range of a family: the `kubernetes` Service's, by custom.
fn first_address(registry: &Registry, v6: bool) -> Value {
    registry
        .service_cidrs()
        .iter()
        .find(|cidr| matches!(cidr, IpNet::V6(_)) == v6)
        .and_then(|cidr| cidr.hosts().find(|host| *host != cidr.network()))
        .map_or(Value::Null, |host| host.to_string().into())
}

/// Creates an object that is not there, replaces one that is `stale` (keeping its metadata).
fn ensure(
    registry: &Registry,
    group: &str,
    plural: &str,
    namespace: &str,
    object: Value,
    stale: impl Fn(&Value) -> bool,
) -> Result<(), StartError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let failed =
        |status| StartError::Bootstrap { what: format!("{plural} {namespace}/{name}"), status };
    let mut place = registry.place(group, plural, namespace, &name).map_err(failed)?;
    match registry.get(&place) {
        Err(_) => {
            place.name.clear();
            registry.create(&place, object, &WriteOptions::default()).map_err(failed)?;
        }
        Ok(old) if stale(&old) => {
            registry
                .change(&place, Part::Main, &WriteOptions::default(), |old| {
                    let mut new = object.clone();
                    new["metadata"] = old["metadata"].clone();
                    if let Some(spec) = old.get("spec") {
                        let ports = new["spec"]["ports"].clone();
                        new["spec"] = spec.clone();
                        new["spec"]["ports"] = ports;
                    }
                    Ok(new)
                })
                .map_err(failed)?;
        }
        Ok(_) => {}
    }
    Ok(())
}

/// What persistence complains about, shared with the health paths.
pub(crate) type Trouble = Arc<Mutex<Option<String>>>;
