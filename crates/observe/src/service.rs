//! `fairway service list` and `show`: what the kernel does for each Service, with the API's names. Pure.

mod text;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use model::{Family, ServiceKey, ServiceType};
use nft::conntrack::Flow;
use serde::Serialize;
use service::Frontend;
use service::listed::{Reached, Unserved};

use crate::facts::Facts;
use crate::kernel::Actual;

pub use text::{list, show};

/// A Service as the kernel serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Its namespace; `None` when the API does not know whose frontends these are.
    pub namespace: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// `spec.type`.
    #[serde(rename = "type")]
    pub kind: Option<&'static str>,
    /// In one word how it is; `Differs` when the API says something else.
    pub state: State,
    /// Open connections through its frontends.
    pub connections: usize,
    /// What clients dial.
    pub frontends: Vec<FrontendView>,
}

/// How a Service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Clients reach endpoints.
    Serving,
    /// No endpoint: clients are refused, or hear nothing.
    NoEndpoints,
    /// The kernel has something the API does not know of.
    Unknown,
    /// Kernel and API say different things.
    Differs,
}

/// One thing clients dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// `ClusterIP`, `ExternalIP`, `LoadBalancer`, `NodePort`; `Address` without the API.
    pub kind: &'static str,
    /// The address; `None` for any of this node's.
    pub address: Option<IpAddr>,
    /// The family of a frontend without address.
    pub family: &'static str,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: String,
    /// The Service port's name.
    pub port_name: Option<String>,
    /// What connections that are led nowhere meet: `Refused`, `Dropped`.
    pub unserved: Option<&'static str>,
    /// Lists of endpoints, each for some clients.
    pub views: Vec<ListView>,
    /// Open connections.
    pub connections: usize,
    /// Where the kernel is not what the API says.
    pub differs: Option<String>,
}

/// The endpoints some clients are led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListView {
    /// For whom: `everyone`, `pods`, `this node`, `others`, or a condition in `nft`'s words.
    pub clients: String,
    /// How one is chosen.
    pub algorithm: String,
    /// For how long a client stays with its endpoint.
    pub affinity_seconds: Option<u64>,
    /// Whose address becomes this node's: `never`, `always`, `from outside the cluster`, or conditions.
    pub masquerade: String,
    /// The chain that translates.
    pub chain: String,
    /// How many slots there are.
    pub slots: usize,
    /// The endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Its slots; the more, the more often it is chosen.
    pub slots: Vec<usize>,
    /// `namespace/name` of its pod.
    pub pod: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Clients that stay with it.
    pub clients: Vec<Client>,
    /// Connections led to it, where the table counts.
    pub chosen: Option<u64>,
}

/// A client with session affinity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Seconds until it is forgotten.
    pub expires_seconds: Option<u64>,
}

/// Whose a frontend is.
#[derive(Clone, Debug)]
struct Owner {
    service: ServiceKey,
    kind: &'static str,
    port: String,
}

/// Everything the kernel serves and the API wants served, by namespace and name; what belongs to nobody comes last.
/// `desired` is the table as it should be, where that is known.
#[must_use]
pub fn views(
    actual: &Actual,
    facts: Option<&Facts>,
    desired: Option<&nft::Table>,
) -> Vec<ServiceView> {
    let kernel = actual.table.as_ref().map(service::listed::read).unwrap_or_default();
    let wanted = desired.map(service::listed::read);
    let owners = facts.map(owners).unwrap_or_default();
    let flows = Connections::new(&actual.flows);
    let nothing = Reached::default();
    let mut all: BTreeMap<Option<ServiceKey>, Vec<FrontendView>> = BTreeMap::new();
    let missing = wanted.iter().flatten().filter(|(frontend, _)| !kernel.contains_key(frontend));
    let missing = missing.map(|(frontend, _)| (frontend, &nothing));
    for (frontend, reached) in kernel.iter().chain(missing) {
        let owner = owners.get(frontend);
        let mut view = view::frontend(frontend, reached, actual, facts, &flows);
        view.kind =
            owner.map_or(if view.address.is_some() { "Address" } else { "NodePort" }, |o| o.kind);
        view.port_name = owner.map(|owner| owner.port.clone()).filter(|name| !name.is_empty());
        view.differs = wanted.as_ref().and_then(|all| view::differs(reached, all.get(frontend)));
        // Without names every frontend stands for itself.
        all.entry(owner.map(|owner| owner.service.clone())).or_default().push(view);
    }
    let (nobodys, owned): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| key.is_none());
    let mut services: Vec<ServiceView> = owned
        .into_iter()
        .map(|(key, frontends)| {
            let service = facts.zip(key.as_ref()).and_then(|(it, key)| it.snapshot().service(key));
            let kind = service.map(|service| type_word(service.kind));
            let key = key.as_ref();
            whole(key.map(|it| it.namespace()), key.map(|it| it.name()), kind, frontends)
        })
        .collect();
    for frontend in nobodys.into_iter().flat_map(|(_, frontends)| frontends) {
        let mut one = whole(None, None, None, vec![frontend]);
        if facts.is_some() && one.state != State::Differs {
            one.state = State::Unknown;
        }
        services.push(one);
    }
    services
}

fn whole(
    namespace: Option<&str>,
    name: Option<&str>,
    kind: Option<&'static str>,
    mut frontends: Vec<FrontendView>,
) -> ServiceView {
    let order = |view: &FrontendView| match view.kind {
        "ClusterIP" => 0,
        "ExternalIP" => 1,
        "LoadBalancer" => 2,
        _ => 3,
    };
    frontends.sort_by_key(order);
    let state = if frontends.iter().any(|frontend| frontend.differs.is_some()) {
        State::Differs
    } else if frontends.iter().all(|frontend| frontend.views.is_empty()) {
        State::NoEndpoints
    } else {
        State::Serving
    };
    ServiceView {
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        kind,
        state,
        connections: frontends.iter().map(|frontend| frontend.connections).sum(),
        frontends,
    }
}

fn type_word(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    }
}

/// Whose each frontend is, as the API says; the older Service has a contested one.
fn owners(facts: &Facts) -> HashMap<Frontend, Owner> {
    let mut services: Vec<_> = facts.snapshot().services().filter(|it| it.is_served()).collect();
    services.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    let mut owners = HashMap::new();
    for service in services {
        for port in &service.ports {
            let mut add = |kind, frontend| {
                owners.entry(frontend).or_insert_with(|| Owner {
                    service: service.key.clone(),
                    kind,
                    port: port.name.to_string(),
                });
            };
            let protocol = port.protocol;
            let at = |address| Frontend::Address { address, protocol, port: port.port };
            for family in Family::BOTH {
                if let Some(address) = service.cluster_ips.of(family) {
                    add("ClusterIP", at(address));
                }
                if let Some(number) = port.node_port {
                    add("NodePort", Frontend::NodePort { family, protocol, port: number.get() });
                }
            }
            if let Some(external) = &service.external {
                external.addresses.iter().for_each(|address| add("ExternalIP", at(*address)));
                external.ingress.iter().for_each(|it| add("LoadBalancer", at(it.address)));
            }
        }
    }
    owners
}

fn unserved_word(unserved: Unserved) -> &'static str {
    match unserved {
        Unserved::Refused => "Refused",
        Unserved::Dropped => "Dropped",
    }
}

/// Open connections by what was dialled and where it led.
struct Connections(HashMap<(Frontend, SocketAddr), usize>);

impl Connections {
    fn new(flows: &[Flow]) -> Self {
        let mut counts = HashMap::new();
        for flow in flows.iter().filter(|flow| flow.is_redirected() && !flow.is_closed) {
            for frontend in Frontend::dialled_by(flow).into_iter().flatten() {
                *counts.entry((frontend, flow.answered_by())).or_default() += 1;
            }
        }
        Self(counts)
    }

    fn of(&self, frontend: &Frontend, endpoint: SocketAddr) -> usize {
        self.0.get(&(*frontend, endpoint)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
