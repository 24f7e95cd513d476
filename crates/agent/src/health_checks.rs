//! `healthCheckNodePort`: for each such Service a port on the node, on which load balancers ask whether this node has an
//! endpoint of its own for it. Answers, headers and status are kube-proxy's, because load balancers know them.
//!
//! One task per port, owned here and stopped with the Service. A port that is taken is reported on the Service and tried again.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cluster::EventWriter;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use ipnet::IpNet;
use link::kernel::Netlink;
use model::{Change, Kind, NodeName, ObjectRef, Report, Service, ServiceKey, Severity, Snapshot};
use service::{NodePortAddresses, Planner};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::health::Health;
use crate::http::accept;

/// A port that is taken is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");
const OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

/// What one port says.
#[derive(Debug)]
struct Said {
    service: ServiceKey,
    local: AtomicUsize,
}

/// An open port; closed when dropped.
#[derive(Debug)]
struct Open {
    port: u16,
    said: Arc<Said>,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports that are open.
pub(crate) struct HealthChecks {
    node: NodeName,
    addresses: NodePortAddresses,
    health: Arc<Health>,
    events: Arc<EventWriter>,
    open: HashMap<ServiceKey, Open>,
}

impl HealthChecks {
    pub(crate) fn new(
        node: NodeName,
        addresses: NodePortAddresses,
        health: Arc<Health>,
        events: Arc<EventWriter>,
    ) -> Self {
        Self { node, addresses, health, events, open: HashMap::new() }
    }

    /// Brings the ports of the Services that changed up to date.
    pub(crate) fn update(&mut self, snapshot: &Snapshot, planner: &Planner, change: &Change) {
        for key in &change.services {
            self.one(snapshot, planner, key);
        }
    }

    /// Brings all ports up to date.
    pub(crate) fn full(&mut self, snapshot: &Snapshot, planner: &Planner) {
        let mut keys: BTreeSet<ServiceKey> = self.open.keys().cloned().collect();
        keys.extend(planner.health_checks().map(|(key, _)| key.clone()));
        for key in &keys {
            self.one(snapshot, planner, key);
        }
    }

    fn one(&mut self, snapshot: &Snapshot, planner: &Planner, key: &ServiceKey) {
        let Some((check, service)) = planner.health_check(key).zip(snapshot.service(key)) else {
            self.open.remove(key);
            return;
        };
        if let Some(open) = self.open.get(key)
            && open.port == check.port
        {
            open.said.local.store(check.local_endpoints, Ordering::Relaxed);
            return;
        }
        self.open.remove(key);
        let local = AtomicUsize::new(check.local_endpoints);
        let said = Arc::new(Said { service: key.clone(), local });
        let primary = snapshot.node(self.node.as_str()).map(|node| node.internal_ips.clone());
        let task = tokio::spawn(keep(
            check.port,
            Places { wanted: self.addresses.clone(), primary: primary.unwrap_or_default() },
            said.clone(),
            taken(service),
            self.health.clone(),
            self.events.clone(),
        ));
        self.open.insert(key.clone(), Open { port: check.port, said, task });
    }
}

fn taken(service: &Service) -> Report {
    Report {
        object: ObjectRef { kind: Kind::Service, key: service.key.clone(), uid: service.uid },
        severity: Severity::Warning,
        reason: "HealthCheckPortTaken",
        message: String::new(),
        hint: "free the port on that node, or let the API give the Service another healthCheckNodePort".into(),
    }
}

/// Where to listen.
struct Places {
    wanted: NodePortAddresses,
    primary: Vec<IpAddr>,
}

impl Places {
    fn addresses(&self) -> Vec<IpAddr> {
        match &self.wanted {
            NodePortAddresses::All => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            NodePortAddresses::Primary => first_of_each(&self.primary),
            NodePortAddresses::Ranges(ranges) => own_addresses()
                .into_iter()
                .filter(|address| ranges.iter().any(|range: &IpNet| range.contains(address)))
                .collect(),
        }
    }
}

fn first_of_each(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let of = |v4: bool| addresses.iter().copied().find(move |address| address.is_ipv4() == v4);
    of(true).into_iter().chain(of(false)).collect()
}

/// The addresses this node has; none when the kernel does not say.
fn own_addresses() -> Vec<IpAddr> {
    let listed = Netlink::open().and_then(|mut kernel| kernel.addresses(None));
    listed.unwrap_or_default().iter().map(|address| address.network.addr()).collect()
}

/// Opens the port, again and again if need be, and serves it.
async fn keep(
    port: u16,
    places: Places,
    said: Arc<Said>,
    mut report: Report,
    health: Arc<Health>,
    events: Arc<EventWriter>,
) {
    let listeners = loop {
        match open(&places.addresses(), port).await {
            Ok(listeners) => break listeners,
            Err(why) => {
                report.message = format!("healthCheckNodePort {port} cannot be opened: {why}");
                tracing::warn!(service = %said.service, port, why, "a health check port is not open");
                events.write(report.clone());
            }
        }
        tokio::time::sleep(RETRY).await;
    };
    tracing::info!(service = %said.service, port, "health check port open");
    let serving = listeners.into_iter().map(|listener| {
        let (said, health) = (said.clone(), health.clone());
        accept(listener, move |_| answer(&said, health.healthy().is_ok()))
    });
    futures::future::join_all(serving).await;
}

async fn open(addresses: &[IpAddr], port: u16) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        let place = SocketAddr::new(*address, port);
        let listener = match TcpListener::bind(place).await {
            // A kernel without IPv6.
            Err(error)
                if place.ip() == Ipv6Addr::UNSPECIFIED
                    && error.kind() != std::io::ErrorKind::AddrInUse =>
            {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
            }
            outcome => outcome,
        };
        listeners.push(listener.map_err(|error| format!("{place}: {error}"))?);
    }
    if listeners.is_empty() {
        return Err("the node has no address that node ports are served on".into());
    }
    Ok(listeners)
}

fn answer(said: &Said, healthy: bool) -> Response<Full<Bytes>> {
    let local = said.local.load(Ordering::Relaxed);
    let (namespace, name) = (said.service.namespace(), said.service.name());
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    let ready = local > 0 && healthy;
    *response.status_mut() = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(local));
    response
}
