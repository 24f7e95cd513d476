//! `fairway policy …`: what policies say, joined with what a node's kernel counted; who may talk to whom and why; what a policy
//! would change. Judged by the same planner the agent has.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use model::{
    NetworkPolicy, NodeName, ObjectKey, Pod, PolicyPeer, PolicyPort, PolicyRule, Snapshot,
};
use nft::conntrack::Flow;
use nft::kernel::LiveRule;
use policy::{By, Direction, Finding, Planner, Traffic};
use print::{Format, NONE};
use serde::Serialize;

use crate::facts::Facts;

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Which pods, as `kubectl -l` reads it.
    pub selector: String,
    /// How many pods of the cluster it isolates.
    pub pods: usize,
    /// `enforce` or `audit`.
    pub mode: &'static str,
    /// What becomes of connections it denies: `cut` or `drain`.
    pub established: &'static str,
    /// Its rules; none of a direction it says nothing about.
    pub rules: Vec<RuleView>,
    /// The directions it isolates.
    pub directions: Vec<&'static str>,
    /// Packets that opened a flow and were denied or audited by pods' rules of which this policy is one, on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied_packets: Option<u64>,
    /// What is wrong with it.
    pub findings: Vec<String>,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Its place, from 0.
    pub index: usize,
    /// With whom.
    pub peers: Vec<String>,
    /// On which ports.
    pub ports: Vec<String>,
    /// Packets that opened a flow it allowed, on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_packets: Option<u64>,
}

/// Every policy, by namespace and name; with `counted`, what this node's rules counted.
#[must_use]
pub fn views(facts: &Facts, counted: Option<&[LiveRule]>) -> Vec<PolicyView> {
    let snapshot = facts.snapshot();
    let mut views: Vec<PolicyView> =
        snapshot.network_policies().map(|policy| view(facts, policy, counted)).collect();
    views.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    views
}

fn view(facts: &Facts, policy: &NetworkPolicy, counted: Option<&[LiveRule]>) -> PolicyView {
    let snapshot = facts.snapshot();
    let key = policy.key.to_string();
    let mut rules = Vec::new();
    let mut directions = Vec::new();
    for (direction, said) in
        [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
    {
        let Some(said) = said else { continue };
        directions.push(direction.as_str());
        for (index, rule) in said.iter().enumerate() {
            let comment = format!("{key} {direction}[{index}]");
            rules.push(RuleView {
                direction: direction.as_str(),
                index,
                peers: peers(rule),
                ports: ports(rule),
                allowed_packets: counted.map(|rules| sum(rules, |it| it == comment)),
            });
        }
    }
    let selects = |pod: &&Pod| {
        pod.key.namespace() == policy.key.namespace()
            && !pod.host_network
            && policy.pods.matches(&pod.labels)
    };
    let pods = snapshot.pods().filter(selects).count();
    let about = facts.reports.iter().filter(|report| {
        report.object.kind == model::Kind::NetworkPolicy && report.object.key == policy.key
    });
    let mut findings: Vec<String> = about
        .map(|report| format!("{}: {}; {}", report.reason, report.message, report.hint))
        .collect();
    if pods == 0 {
        findings.push("SelectsNothing: no pod has these labels; check podSelector".to_owned());
    }
    let denied =
        |comment: &str| !comment.contains('[') && comment.split(' ').any(|policy| policy == key);
    PolicyView {
        namespace: policy.key.namespace().to_owned(),
        name: policy.key.name().to_owned(),
        generation: policy.generation,
        selector: policy.pods.to_string(),
        pods,
        mode: if policy.audit { "audit" } else { "enforce" },
        established: if policy.drain { "drain" } else { "cut" },
        rules,
        directions,
        denied_packets: counted.map(|rules| sum(rules, denied)),
        findings,
    }
}

fn sum(rules: &[LiveRule], is_it: impl Fn(&str) -> bool) -> u64 {
    let ours = rules.iter().filter(|rule| policy::is_ours(&rule.chain));
    let counted = ours.filter(|rule| rule.comment.as_deref().is_some_and(&is_it));
    counted.filter_map(|rule| rule.counter).map(|counter| counter.packets).sum()
}

fn peers(rule: &PolicyRule) -> Vec<String> {
    let Some(peers) = &rule.peers else { return vec!["everybody".to_owned()] };
    let word = |peer: &PolicyPeer| match peer {
        PolicyPeer::Pods { namespaces: None, pods } => format!("pods {pods}"),
        PolicyPeer::Pods { namespaces: Some(namespaces), pods } => {
            format!("pods {pods} in namespaces {namespaces}")
        }
        PolicyPeer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        PolicyPeer::Block { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} except {}", except.join(" "))
        }
    };
    peers.iter().map(word).collect()
}

fn ports(rule: &PolicyRule) -> Vec<String> {
    let Some(ports) = &rule.ports else { return vec!["every port".to_owned()] };
    let word = |port: &PolicyPort| match port {
        PolicyPort::Range(protocol, 0, u16::MAX) => format!("all of {protocol}"),
        PolicyPort::Range(protocol, first, last) if first == last => format!("{protocol}/{first}"),
        PolicyPort::Range(protocol, first, last) => format!("{protocol}/{first}-{last}"),
        PolicyPort::Named(protocol, name) => format!("{protocol}/{name}"),
    };
    ports.iter().map(word).collect()
}

/// `fairway policy list`.
///
/// # Errors
/// When the format cannot be written.
pub fn list(views: &[PolicyView], format: Format, all_namespaces: bool) -> anyhow::Result<String> {
    if let Some(text) = print::data(&views, format)? {
        return Ok(text);
    }
    let wide = format == Format::Wide;
    let mut header = vec!["NAME", "PODS", "DIRECTIONS", "RULES", "MODE", "FINDINGS"];
    if all_namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.push("SELECTOR");
    }
    let row = |view: &PolicyView| {
        let mut row = vec![
            view.name.clone(),
            view.pods.to_string(),
            view.directions.join(","),
            view.rules.len().to_string(),
            view.mode.to_owned(),
            view.findings.len().to_string(),
        ];
        if all_namespaces {
            row.insert(0, view.namespace.clone());
        }
        if wide {
            row.push(view.selector.clone());
        }
        row
    };
    let rows: Vec<Vec<String>> = views.iter().map(row).collect();
    Ok(print::table(&header, &rows))
}

/// `fairway policy show`.
///
/// # Errors
/// When the format cannot be written.
pub fn show(view: &PolicyView, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(view, format)? {
        return Ok(text);
    }
    let counted = |packets: Option<u64>| packets.map_or(NONE.to_owned(), |it| it.to_string());
    let mut text = print::key_values(&[
        ("Name", format!("{}/{}", view.namespace, view.name)),
        ("Selector", view.selector.clone()),
        ("Pods", view.pods.to_string()),
        ("Directions", view.directions.join(",")),
        ("Mode", view.mode.to_owned()),
        ("Established", view.established.to_owned()),
        ("Generation", view.generation.to_string()),
        ("Denied packets", counted(view.denied_packets)),
    ]);
    if !view.rules.is_empty() {
        let row = |rule: &RuleView| {
            vec![
                format!("{}[{}]", rule.direction, rule.index),
                rule.peers.join(" | "),
                rule.ports.join(", "),
                counted(rule.allowed_packets),
            ]
        };
        let rows: Vec<Vec<String>> = view.rules.iter().map(row).collect();
        text.push('\n');
        text.push_str(&print::table(&["RULE", "PEERS", "PORTS", "ALLOWED PACKETS"], &rows));
    }
    for finding in &view.findings {
        text.push_str(&format!("\n{finding}\n"));
    }
    Ok(text)
}

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
