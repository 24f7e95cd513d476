//! One frontend: what was read from the rules, joined with connections, clients and pods. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use model::Family;
use nft::Name;
use service::Frontend;
use service::listed::{Choice, List, Masquerade, Reached};

use super::{Client, Connections, EndpointView, FrontendView, ListView, unserved_word};
use crate::facts::Facts;
use crate::kernel::Actual;

pub(super) fn frontend(
    frontend: &Frontend,
    reached: &Reached,
    actual: &Actual,
    facts: Option<&Facts>,
    flows: &Connections,
) -> FrontendView {
    let address = match frontend {
        Frontend::Address { address, .. } => Some(*address),
        Frontend::NodePort { .. } => None,
    };
    let mut views: Vec<ListView> = Vec::new();
    for list in &reached.lists {
        let view = list_view(frontend, list, !views.is_empty(), actual, facts, flows);
        // Pods and the node itself are told apart by the rules and led to the same list.
        let twin = views.iter_mut().find(|earlier| {
            (&earlier.endpoints, &earlier.algorithm) == (&view.endpoints, &view.algorithm)
                && view.clients != "others"
        });
        match twin {
            Some(earlier) => {
                if earlier.masquerade != view.masquerade {
                    let first = format!("{} ({})", earlier.masquerade, earlier.clients);
                    earlier.masquerade = format!("{first}, {} ({})", view.masquerade, view.clients);
                }
                earlier.clients = format!("{}, {}", earlier.clients, view.clients);
            }
            None => views.push(view),
        }
    }
    let endpoints: BTreeSet<SocketAddr> = endpoints(reached);
    FrontendView {
        kind: "",
        address,
        family: if frontend.family() == Family::V4 { "IPv4" } else { "IPv6" },
        port: frontend.port(),
        protocol: frontend.protocol().to_string(),
        port_name: None,
        unserved: reached.unserved.map(unserved_word),
        views,
        connections: endpoints.iter().map(|endpoint| flows.of(frontend, *endpoint)).sum(),
        differs: None,
    }
}

fn endpoints(reached: &Reached) -> BTreeSet<SocketAddr> {
    let slots = reached.lists.iter().flat_map(|list| &list.slots);
    slots.map(|slot| slot.endpoint).collect()
}

/// What the kernel has and should not, and the other way round.
pub(super) fn differs(actual: &Reached, wanted: Option<&Reached>) -> Option<String> {
    let Some(wanted) = wanted else {
        return Some("the API wants no such frontend".to_owned());
    };
    if actual == wanted {
        return None;
    }
    if *actual == Reached::default() {
        return Some("the kernel lacks this frontend".to_owned());
    }
    let (have, want) = (endpoints(actual), endpoints(wanted));
    let words = |only: Vec<&SocketAddr>| {
        only.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let lacks = words(want.difference(&have).collect());
    let extra = words(have.difference(&want).collect());
    let said = |what: &str, which: String| (!which.is_empty()).then(|| format!("{what} {which}"));
    let all: Vec<String> = [said("the kernel lacks", lacks), said("the kernel still has", extra)]
        .into_iter()
        .flatten()
        .collect();
    // The planner may have given the same endpoints other slots when this table was made.
    if all.is_empty() {
        let shape = |reached: &Reached| {
            let lists = reached.lists.iter();
            let lists: Vec<_> = lists
                .map(|list| {
                    (list.choice, list.affinity_seconds, list.clients.clone(), list.slots.len())
                })
                .collect();
            (lists, reached.unserved)
        };
        return (shape(actual) != shape(wanted)).then(|| "other rules than wanted".to_owned());
    }
    Some(all.join("; "))
}

fn list_view(
    frontend: &Frontend,
    list: &List,
    is_later: bool,
    actual: &Actual,
    facts: Option<&Facts>,
    flows: &Connections,
) -> ListView {
    let mut endpoints: Vec<EndpointView> = Vec::new();
    for (number, slot) in list.slots.iter().enumerate() {
        let at = match endpoints.iter().position(|earlier| earlier.endpoint == slot.endpoint) {
            Some(at) => at,
            None => {
                let behind = facts.and_then(|facts| facts.behind.get(&slot.endpoint.ip()));
                endpoints.push(EndpointView {
                    endpoint: slot.endpoint,
                    slots: Vec::new(),
                    pod: behind.and_then(|behind| behind.pod.clone()),
                    node: behind.and_then(|behind| behind.node.clone()),
                    connections: flows.of(frontend, slot.endpoint),
                    clients: Vec::new(),
                    chosen: None,
                });
                endpoints.len() - 1
            }
        };
        let Some(view) = endpoints.get_mut(at) else { continue };
        view.slots.push(number);
        if let Some(set) = &slot.clients {
            view.clients.extend(clients(frontend, set, actual));
        }
        let live = actual.live.get(&slot.element.0);
        let element = live.and_then(|all| all.iter().find(|it| it.key == slot.element.1));
        if let Some(count) = element.and_then(|element| element.counter) {
            // A nat chain sees the first packet of a connection only: packets are connections.
            *view.chosen.get_or_insert(0) += count.packets;
        }
    }
    let chain = list.chain.to_string();
    let algorithm = match list.choice {
        _ if chain.contains("maglev") => "maglev",
        Choice::Random => "random",
        Choice::RoundRobin => "round-robin",
        Choice::SourceHash => "source-hash",
        Choice::FlowHash => "flow-hash",
        Choice::Only => "single",
    };
    ListView {
        clients: who(list, is_later),
        algorithm: algorithm.to_owned(),
        affinity_seconds: list.affinity_seconds,
        masquerade: masquerade(&list.masquerade),
        chain,
        slots: list.slots.len(),
        endpoints,
    }
}

fn who(list: &List, is_later: bool) -> String {
    if list.clients.is_empty() {
        return if is_later { "others" } else { "everyone" }.to_owned();
    }
    let word = |condition: &String| match condition.as_str() {
        "ip saddr @pod-cidrs4" | "ip6 saddr @pod-cidrs6" => "pods".to_owned(),
        "fib saddr type local" => "this node".to_owned(),
        other => other.to_owned(),
    };
    list.clients.iter().map(word).collect::<Vec<_>>().join(" and ")
}

fn masquerade(masquerade: &Masquerade) -> String {
    let word = |condition: &String| match condition.as_str() {
        "ip saddr != @pod-cidrs4" | "ip6 saddr != @pod-cidrs6" => {
            "from outside the cluster".to_owned()
        }
        other => other.to_owned(),
    };
    match masquerade {
        Masquerade::Never => "never".to_owned(),
        Masquerade::Always => "always".to_owned(),
        Masquerade::When(all) => all.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

/// Clients of a set that dialled this frontend: keys are the client's address, then the frontend.
fn clients(frontend: &Frontend, set: &Name, actual: &Actual) -> Vec<Client> {
    let length = if frontend.family() == Family::V4 { 4 } else { 16 };
    let mut rest = Vec::new();
    if let Frontend::Address { address, .. } = frontend {
        match address {
            IpAddr::V4(address) => rest.extend(address.octets()),
            IpAddr::V6(address) => rest.extend(address.octets()),
        }
    }
    rest.extend([frontend.protocol().number(), 0, 0, 0]);
    rest.extend(frontend.port().to_be_bytes());
    rest.extend([0, 0]);
    let live = actual.live.get(set).into_iter().flatten();
    let mut clients: Vec<Client> = live
        .filter_map(|element| {
            let (client, dialled) = element.key.as_bytes().split_at_checked(length)?;
            let address = match <[u8; 4]>::try_from(client) {
                Ok(v4) => IpAddr::from(v4),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(client).ok()?),
            };
            let expires_seconds = element.expires_ms.map(|ms| ms / 1000);
            (dialled == rest).then_some(Client { address, expires_seconds })
        })
        .collect();
    clients.sort_by_key(|client| client.address);
    clients
}
