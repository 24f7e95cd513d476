//! Policies as they are listed and shown: those of namespaces and, after them, the administrator's; with what a node counted.

use model::{
    ClusterPeer, ClusterPolicy, ClusterPort, Kind, Labels, NetworkPolicy, ObjectKey, Pod,
    PolicyAction, PolicyPeer, PolicyPort, PolicyTier,
};
use nft::kernel::LiveRule;
use policy::Direction;
use print::{Format, NONE};
use serde::Serialize;

use crate::facts::Facts;

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Its namespace; none for the administrator's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Which pods, as `kubectl -l` reads it.
    pub selector: String,
    /// How many pods of the cluster it is about.
    pub pods: usize,
    /// `Admin` or `Baseline` of the administrator's, with the priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
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
    /// `allow`, or of the administrator's `accept`, `deny` or `pass`.
    pub action: &'static str,
    /// With whom.
    pub peers: Vec<String>,
    /// On which ports.
    pub ports: Vec<String>,
    /// Packets that would open a flow and were treated by it, on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
}

/// Every policy, by namespace and name, the administrator's last; with `counted`, what this node's rules counted.
#[must_use]
pub fn views(facts: &Facts, counted: Option<&[LiveRule]>) -> Vec<PolicyView> {
    let snapshot = facts.snapshot();
    let mut views: Vec<PolicyView> =
        snapshot.network_policies().map(|policy| view(facts, policy, counted)).collect();
    views.extend(snapshot.cluster_policies().map(|policy| of_cluster(facts, policy, counted)));
    let key = |view: &PolicyView| (view.tier.is_some(), view.namespace.clone(), view.name.clone());
    views.sort_by_key(key);
    views
}

/// What both kinds say of themselves.
struct Said<'a> {
    facts: &'a Facts,
    key: &'a ObjectKey,
    kind: Kind,
    counted: Option<&'a [LiveRule]>,
}

impl Said<'_> {
    fn rule(
        &self,
        direction: Direction,
        index: usize,
        action: &'static str,
        (peers, ports): (Vec<String>, Vec<String>),
    ) -> RuleView {
        let comment = format!("{} {direction}[{index}]", self.key);
        let packets = self.counted.map(|rules| sum(rules, |it| it == comment));
        RuleView { direction: direction.as_str(), index, action, peers, ports, packets }
    }

    /// How many pods these are, and what is wrong.
    fn pods(&self, selects: impl Fn(&Pod) -> bool) -> (usize, Vec<String>) {
        let snapshot = self.facts.snapshot();
        let pods = snapshot.pods().filter(|pod| !pod.host_network && selects(pod)).count();
        let about = self
            .facts
            .reports
            .iter()
            .filter(|report| report.object.kind == self.kind && report.object.key == *self.key);
        let mut findings: Vec<String> = about
            .map(|report| format!("{}: {}; {}", report.reason, report.message, report.hint))
            .collect();
        if pods == 0 {
            let field = if self.kind == Kind::NetworkPolicy { "podSelector" } else { "subject" };
            findings.push(format!("SelectsNothing: no pod has these labels; check {field}"));
        }
        (pods, findings)
    }
}

fn view(facts: &Facts, policy: &NetworkPolicy, counted: Option<&[LiveRule]>) -> PolicyView {
    let said = Said { facts, key: &policy.key, kind: Kind::NetworkPolicy, counted };
    let mut rules = Vec::new();
    let mut directions = Vec::new();
    for (direction, list) in
        [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
    {
        let Some(list) = list else { continue };
        directions.push(direction.as_str());
        for (index, rule) in list.iter().enumerate() {
            let peers = words(rule.peers.as_deref(), "everybody", peer);
            let ports = words(rule.ports.as_deref(), "every port", port);
            rules.push(said.rule(direction, index, "allow", (peers, ports)));
        }
    }
    let (pods, findings) = said.pods(|pod| {
        pod.key.namespace() == policy.key.namespace() && policy.pods.matches(&pod.labels)
    });
    let key = policy.key.to_string();
    let denied =
        |comment: &str| !comment.contains('[') && comment.split(' ').any(|policy| policy == key);
    PolicyView {
        namespace: policy.key.namespace().to_owned(),
        name: policy.key.name().to_owned(),
        generation: policy.generation,
        selector: policy.pods.to_string(),
        pods,
        tier: None,
        mode: if policy.audit { "audit" } else { "enforce" },
        established: if policy.drain { "drain" } else { "cut" },
        rules,
        directions,
        denied_packets: counted.map(|rules| sum(rules, denied)),
        findings,
    }
}

fn of_cluster(facts: &Facts, policy: &ClusterPolicy, counted: Option<&[LiveRule]>) -> PolicyView {
    let said = Said { facts, key: &policy.key, kind: Kind::ClusterNetworkPolicy, counted };
    let mut rules = Vec::new();
    let mut directions = Vec::new();
    for (direction, list) in
        [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
    {
        if !list.is_empty() {
            directions.push(direction.as_str());
        }
        for (index, rule) in list.iter().enumerate() {
            let peers = words(rule.peers.as_deref(), "everybody", |peer| match peer {
                ClusterPeer::Peer(peer) => self::peer(peer),
                ClusterPeer::Nodes(nodes) => format!("nodes {nodes}"),
            });
            let ports = words(rule.ports.as_deref(), "every port", |port| match port {
                ClusterPort::Port(port) => self::port(port),
                ClusterPort::Named(name) => format!("{name} of any protocol"),
            });
            let action = match rule.action {
                PolicyAction::Accept => "accept",
                PolicyAction::Deny => "deny",
                PolicyAction::Pass => "pass",
            };
            rules.push(said.rule(direction, index, action, (peers, ports)));
        }
    }
    let snapshot = facts.snapshot();
    let (pods, findings) = said.pods(|pod| {
        let namespace = snapshot.namespace(&ObjectKey::new("", pod.key.namespace()));
        let of = namespace.map_or_else(Labels::default, |namespace| namespace.labels.clone());
        policy.namespaces.matches(&of) && policy.pods.matches(&pod.labels)
    });
    let denied = rules.iter().filter(|rule| rule.action == "deny").filter_map(|rule| rule.packets);
    let tier = match policy.tier {
        PolicyTier::Admin => "Admin",
        PolicyTier::Baseline => "Baseline",
    };
    PolicyView {
        namespace: String::new(),
        name: policy.key.name().to_owned(),
        generation: policy.generation,
        selector: format!("{} in namespaces {}", policy.pods, policy.namespaces),
        pods,
        tier: Some(format!("{tier} {}", policy.priority)),
        mode: "enforce",
        established: "cut",
        denied_packets: counted.map(|_| denied.sum()),
        rules,
        directions,
        findings,
    }
}

fn sum(rules: &[LiveRule], is_it: impl Fn(&str) -> bool) -> u64 {
    let ours = rules.iter().filter(|rule| policy::is_ours(&rule.chain));
    let counted = ours.filter(|rule| rule.comment.as_deref().is_some_and(&is_it));
    counted.filter_map(|rule| rule.counter).map(|counter| counter.packets).sum()
}

fn words<T>(list: Option<&[T]>, all: &str, word: impl Fn(&T) -> String) -> Vec<String> {
    match list {
        None => vec![all.to_owned()],
        Some(list) => list.iter().map(word).collect(),
    }
}

fn peer(peer: &PolicyPeer) -> String {
    match peer {
        PolicyPeer::Pods { namespaces: None, pods } => format!("pods {pods}"),
        PolicyPeer::Pods { namespaces: Some(namespaces), pods } => {
            format!("pods {pods} in namespaces {namespaces}")
        }
        PolicyPeer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        PolicyPeer::Block { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} except {}", except.join(" "))
        }
    }
}

fn port(port: &PolicyPort) -> String {
    match port {
        PolicyPort::Range(protocol, 0, u16::MAX) => format!("all of {protocol}"),
        PolicyPort::Range(protocol, first, last) if first == last => format!("{protocol}/{first}"),
        PolicyPort::Range(protocol, first, last) => format!("{protocol}/{first}-{last}"),
        PolicyPort::Named(protocol, name) => format!("{protocol}/{name}"),
    }
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
            view.tier.clone().unwrap_or_else(|| view.mode.to_owned()),
            view.findings.len().to_string(),
        ];
        if all_namespaces {
            let none = view.namespace.is_empty();
            row.insert(0, if none { NONE.to_owned() } else { view.namespace.clone() });
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
        ("Name", format!("{}/{}", view.namespace, view.name).trim_start_matches('/').to_owned()),
        ("Selector", view.selector.clone()),
        ("Pods", view.pods.to_string()),
        ("Directions", view.directions.join(",")),
        ("Mode", view.tier.clone().unwrap_or_else(|| view.mode.to_owned())),
        ("Established", view.established.to_owned()),
        ("Generation", view.generation.to_string()),
        ("Denied packets", counted(view.denied_packets)),
    ]);
    if !view.rules.is_empty() {
        let row = |rule: &RuleView| {
            vec![
                format!("{}[{}]", rule.direction, rule.index),
                rule.action.to_owned(),
                rule.peers.join(" | "),
                rule.ports.join(", "),
                counted(rule.packets),
            ]
        };
        let rows: Vec<Vec<String>> = view.rules.iter().map(row).collect();
        text.push('\n');
        text.push_str(&print::table(&["RULE", "ACTION", "PEERS", "PORTS", "PACKETS"], &rows));
    }
    for finding in &view.findings {
        text.push_str(&format!("\n{finding}\n"));
    }
    Ok(text)
}
