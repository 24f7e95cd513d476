//! `fairway policy …`: what policies say, joined with what a node's kernel counted; who may talk to whom and why; what a policy
//! would change. Judged by the same planner the agent has.

mod listed;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use model::{NodeName, ObjectKey, Pod, Snapshot};
use nft::conntrack::Flow;
use policy::{By, Direction, Finding, Planner, Traffic};
use print::Format;
use serde::Serialize;

use crate::facts::Facts;
pub use listed::{PolicyView, RuleView, list, show, views};

/// One end, as it was typed: a pod or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pod: Option<ObjectKey>,
    node: Option<NodeName>,
    host_network: bool,
    addresses: Vec<IpAddr>,
}

/// Finds what was typed: an address, `NAME` or `NAMESPACE/NAME` of a pod.
///
/// # Errors
/// When there is no such pod, or it has no address.
pub fn end(facts: &Facts, typed: &str, namespace: &str) -> anyhow::Result<End> {
    let snapshot = facts.snapshot();
    if let Ok(address) = typed.parse::<IpAddr>() {
        let owner = snapshot.pods().find(|pod| pod.own_addresses().any(|one| one == address));
        return Ok(End {
            pod: owner.map(|pod| pod.key.clone()),
            node: owner.and_then(|pod| pod.node.clone()),
            host_network: false,
            addresses: vec![address],
        });
    }
    let (namespace, name) = typed.split_once('/').unwrap_or((namespace, typed));
    let key = ObjectKey::new(namespace, name);
    let Some(pod) = snapshot.pod(&key) else {
        bail!("there is no pod {key}; `kubectl get pods -n {namespace}` shows what there is");
    };
    let addresses: Vec<IpAddr> = pod.addresses.iter().collect();
    if addresses.is_empty() {
        bail!("pod {key} has no address yet");
    }
    Ok(End { pod: Some(key), node: pod.node.clone(), host_network: pod.host_network, addresses })
}

/// The answer of `fairway policy explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether the packet passes.
    pub allowed: bool,
    /// From where.
    pub from: String,
    /// To where.
    pub to: String,
    /// `TCP/80`.
    pub port: String,
    /// What the sender's rules say, then the receiver's.
    pub sides: Vec<Side>,
}

/// What one end's rules say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// `egress` of the sender or `ingress` of the receiver.
    pub direction: &'static str,
    /// Whose.
    pub end: String,
    /// Whether they let it pass.
    pub allowed: bool,
    /// By whom.
    pub because: String,
    /// What would change it.
    pub to_change: String,
}

/// Judges packets by the policies of every node, one planner each, made when first asked.
#[derive(Debug, Default)]
pub struct Judges(HashMap<NodeName, Planner>);

impl Judges {
    fn of(&mut self, snapshot: &Snapshot, node: &NodeName) -> &Planner {
        self.0.entry(node.clone()).or_insert_with(|| {
            let mut planner = Planner::new(node.clone());
            planner.full(snapshot);
            planner
        })
    }

    /// What the rules of both ends say.
    fn findings(
        &mut self,
        snapshot: &Snapshot,
        traffic: &Traffic,
        nodes: [Option<&NodeName>; 2],
    ) -> Vec<Finding> {
        let [from, to] = nodes;
        let egress = from.and_then(|node| self.of(snapshot, node).judge(traffic).egress);
        let ingress = to.and_then(|node| self.of(snapshot, node).judge(traffic).ingress);
        egress.into_iter().chain(ingress).collect()
    }
}

/// Whether a packet passes, by which rule, and what would change that.
///
/// # Errors
/// When the ends have no addresses of one family.
pub fn explain(
    facts: &Facts,
    (from_typed, from): (&str, &End),
    (to_typed, to): (&str, &End),
    (protocol, port): (model::Protocol, u16),
) -> anyhow::Result<Explanation> {
    let family = |address: &IpAddr| address.is_ipv4();
    let pair = from.addresses.iter().find_map(|source| {
        let other = to.addresses.iter().find(|to| family(to) == family(source))?;
        Some((*source, *other))
    });
    let (source, destination) = pair.with_context(|| {
        format!("{from_typed} and {to_typed} have no addresses of the same family")
    })?;
    let traffic = Traffic { source, destination, protocol: protocol.number(), port };
    let snapshot = facts.snapshot();
    let mut sides = Vec::new();
    let same_node = from.node.is_some() && from.node == to.node;
    let is_node = |end: &End| {
        end.host_network
            || snapshot.nodes().any(|node| node.internal_ips.contains(&end.addresses[0]))
    };
    if same_node && (from.host_network || to.host_network) {
        // What a node and its own pods say to each other passes, whatever the policies.
        let because = "traffic between a node and its own pods always passes".to_owned();
        for (direction, typed) in [("egress", from_typed), ("ingress", to_typed)] {
            sides.push(Side {
                direction,
                end: typed.to_owned(),
                allowed: true,
                because: because.clone(),
                to_change: "nothing in a NetworkPolicy".to_owned(),
            });
        }
    } else {
        let nodes = [from, to].map(|end| end.node.as_ref().filter(|_| !end.host_network));
        let findings = Judges::default().findings(snapshot, &traffic, nodes);
        let ends = [(Direction::Egress, from_typed, from), (Direction::Ingress, to_typed, to)];
        for (direction, typed, end) in ends {
            let found = findings.iter().find(|finding| finding.direction == direction);
            sides.push(match found {
                Some(finding) => side(finding),
                None => Side {
                    direction: direction.as_str(),
                    end: end.pod.as_ref().map_or(typed.to_owned(), ToString::to_string),
                    allowed: true,
                    because: if is_node(end) {
                        "it is in the host's network, of which NetworkPolicies say nothing".into()
                    } else {
                        "it is no pod of this cluster".into()
                    },
                    to_change: "nothing in a NetworkPolicy".into(),
                },
            });
        }
    }
    Ok(Explanation {
        allowed: sides.iter().all(|side| side.allowed),
        from: named(from_typed, from, source),
        to: named(to_typed, to, destination),
        port: format!("{protocol}/{port}"),
        sides,
    })
}

fn named(typed: &str, end: &End, address: IpAddr) -> String {
    match &end.pod {
        Some(pod) => format!("{pod} ({address})"),
        None => typed.to_owned(),
    }
}

fn side(finding: &Finding) -> Side {
    let (direction, pod) = (finding.direction, &finding.pod);
    let (because, to_change) = match &finding.by {
        By::NotIsolated => (
            format!("no policy isolates {pod} for {direction}"),
            format!("a NetworkPolicy in {} that selects it for {direction}", pod.namespace()),
        ),
        By::Itself => ("a pod always reaches itself".into(), "nothing".into()),
        By::Rule(origin) => {
            (format!("rule {origin} allows it"), format!("remove or narrow {origin}"))
        }
        By::Denied(origin) => (
            format!("rule {origin} of the administrator denies it"),
            format!("a rule before {origin} that accepts it"),
        ),
        By::Isolation { policies, audit, nearest } => {
            let list: Vec<String> = policies.iter().map(ToString::to_string).collect();
            let verb = if *audit { "would deny it (audit only)" } else { "deny it" };
            let because =
                format!("none of the rules of {} allows it: they {verb}", list.join(", "));
            let change = match nearest {
                Some(nearest) => format!("nearest is {nearest}"),
                None => format!("add a rule for it; {} has none for {direction}", list.join(", ")),
            };
            (because, change)
        }
    };
    Side {
        direction: direction.as_str(),
        end: pod.to_string(),
        allowed: finding.allows(),
        because,
        to_change,
    }
}

/// Prints an explanation.
///
/// # Errors
/// When the format cannot be written.
pub fn print_explanation(said: &Explanation, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(said, format)? {
        return Ok(text);
    }
    let verdict = if said.allowed { "allowed" } else { "denied" };
    let mut text = format!("{verdict}: {} -> {} {}\n", said.from, said.to, said.port);
    for side in &said.sides {
        let mark = if side.allowed { "passes" } else { "denied" };
        text.push_str(&format!("  {} of {}: {mark}, {}\n", side.direction, side.end, side.because));
        text.push_str(&format!("    to change it: {}\n", side.to_change));
    }
    Ok(text)
}

/// A flow seen, whose fate policies decide.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// From where: a pod, or an address.
    pub from: String,
    /// To where.
    pub to: String,
    /// `TCP/80`.
    pub port: String,
    /// How many connections.
    pub connections: usize,
    /// Whether it passes now.
    pub allowed_now: bool,
    /// Whether it would.
    pub allowed_then: bool,
    /// Why, then.
    pub because: String,
}

/// What these flows' fates are by the policies known, as far as pods are concerned.
#[must_use]
pub fn fates(
    facts: &Facts,
    flows: &[Flow],
) -> BTreeMap<(String, String, String), (usize, bool, String)> {
    let snapshot = facts.snapshot();
    let mut owners: HashMap<IpAddr, &Pod> = HashMap::new();
    for pod in snapshot.pods() {
        owners.extend(pod.own_addresses().map(|address| (address, pod)));
    }
    let mut judges = Judges::default();
    let mut fates: BTreeMap<_, (usize, bool, String)> = BTreeMap::new();
    for flow in flows {
        let (source, destination) = (flow.original.source, flow.reply.source);
        let pods = [source, destination].map(|address| owners.get(&address).copied());
        if pods.iter().all(Option::is_none) {
            continue;
        }
        let own =
            |address: IpAddr| snapshot.nodes().any(|node| node.internal_ips.contains(&address));
        if own(source) || own(destination) {
            continue;
        }
        let protocol = flow.original.protocol;
        let traffic = Traffic { source, destination, protocol, port: flow.reply.source_port };
        let nodes = pods.map(|pod| pod.and_then(|pod| pod.node.as_ref()));
        let findings = judges.findings(snapshot, &traffic, nodes);
        let denied = findings.iter().find(|finding| !finding.allows());
        let because = denied.map(|finding| side(finding).because).unwrap_or_default();
        let name = |address: IpAddr, pod: Option<&Pod>| {
            pod.map_or_else(|| address.to_string(), |pod| pod.key.to_string())
        };
        let port = match model::Protocol::from_number(protocol) {
            Some(protocol) => format!("{protocol}/{}", traffic.port),
            None => format!("protocol {protocol}"),
        };
        let key = (name(source, pods[0]), name(destination, pods[1]), port);
        fates.entry(key).or_insert((0, denied.is_none(), because)).0 += 1;
    }
    fates
}

/// The flows whose fate differs between two states of the policies.
#[must_use]
pub fn changes(
    now: &BTreeMap<(String, String, String), (usize, bool, String)>,
    then: &BTreeMap<(String, String, String), (usize, bool, String)>,
) -> Vec<Changed> {
    let both = now.iter().filter_map(|(key, before)| Some((key, before, then.get(key)?)));
    let changed = both.filter(|(_, before, after)| before.1 != after.1);
    changed
        .map(|((from, to, port), before, after)| Changed {
            from: from.clone(),
            to: to.clone(),
            port: port.clone(),
            connections: before.0,
            allowed_now: before.1,
            allowed_then: after.1,
            because: if after.1 { "it would be allowed".to_owned() } else { after.2.clone() },
        })
        .collect()
}

/// Prints what would change.
///
/// # Errors
/// When the format cannot be written.
pub fn print_changes(
    changed: &[Changed],
    looked_at: usize,
    format: Format,
) -> anyhow::Result<String> {
    if let Some(text) = print::data(&changed, format)? {
        return Ok(text);
    }
    if changed.is_empty() {
        return Ok(format!("none of the {looked_at} flows seen on this node would change\n"));
    }
    let word = |allowed| if allowed { "allowed" } else { "denied" }.to_owned();
    let row = |it: &Changed| {
        vec![
            it.from.clone(),
            it.to.clone(),
            it.port.clone(),
            it.connections.to_string(),
            word(it.allowed_now),
            word(it.allowed_then),
            it.because.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = changed.iter().map(row).collect();
    Ok(print::table(&["FROM", "TO", "PORT", "CONNECTIONS", "NOW", "THEN", "BECAUSE"], &rows))
}
