//! What `iptables-save` prints, read; and what makes `iptables-restore` remove kube-proxy's part of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use model::{Family, Protocol};
use service::Frontend;

/// The kubelet's own chains: they stay.
const KUBELET: [&str; 3] = ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT"];

/// Whether a chain of this name is kube-proxy's.
pub(super) fn is_kube_proxys(chain: &str) -> bool {
    chain.starts_with("KUBE-") && !KUBELET.contains(&chain)
}

/// kube-proxy's part of one table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Part {
    chains: BTreeSet<String>,
    /// Rules of its chains, as appended.
    rules: Vec<String>,
    /// Rules of others' chains that go to its chains, as appended.
    jumps: Vec<String>,
}

/// kube-proxy's part of a listing, by table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    family: Family,
    tables: BTreeMap<String, Part>,
}

impl Saved {
    pub(super) fn parse(text: &str, family: Family) -> Self {
        let mut tables: BTreeMap<String, Part> = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(table) = line.strip_prefix('*') {
                current = table.trim().to_owned();
                continue;
            }
            let part = tables.entry(current.clone()).or_default();
            if let Some(chain) = line.strip_prefix(':').and_then(|it| it.split(' ').next()) {
                if is_kube_proxys(chain) {
                    part.chains.insert(chain.to_owned());
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let chain = rule.split(' ').next().unwrap_or_default();
                if is_kube_proxys(chain) {
                    part.rules.push(rule.to_owned());
                } else if target(rule).is_some_and(is_kube_proxys) {
                    part.jumps.push(rule.to_owned());
                }
            }
        }
        tables.retain(|_, part| !part.chains.is_empty());
        Self { family, tables }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    pub(super) fn chain_count(&self) -> usize {
        self.tables.values().map(|part| part.chains.len()).sum()
    }

    pub(super) fn has_chain(&self, table: &str, chain: &str) -> bool {
        self.tables.get(table).is_some_and(|part| part.chains.contains(chain))
    }

    /// Input of `iptables-restore --noflush`: a transaction per table that takes the jumps out, empties the chains and
    /// removes them. Translation goes first: a filter rule that refuses is still right for what is not translated.
    pub(super) fn removal(&self) -> String {
        let mut text = String::new();
        let order = |name: &&String| (name.as_str() != "nat", (*name).clone());
        let mut names: Vec<&String> = self.tables.keys().collect();
        names.sort_by_key(order);
        for (name, part) in
            names.into_iter().filter_map(|name| Some((name, self.tables.get(name)?)))
        {
            let mut line = |words: &str| {
                writeln!(text, "{words}").expect("invariant: writing to a String cannot fail");
            };
            line(&format!("*{name}"));
            // Naming a chain empties it.
            part.chains.iter().for_each(|chain| line(&format!(":{chain} - [0:0]")));
            part.jumps.iter().for_each(|jump| line(&format!("-D {jump}")));
            part.chains.iter().for_each(|chain| line(&format!("-X {chain}")));
            line("COMMIT");
        }
        text
    }

    /// What is led to endpoints.
    pub(super) fn served(&self) -> BTreeSet<Frontend> {
        let nat = self.tables.get("nat");
        let rules = nat.into_iter().flat_map(|part| &part.rules);
        let leads = |rule: &&String| matches!(target(rule), Some(to) if to.starts_with("KUBE-SVC-") || to.starts_with("KUBE-EXT-") || to.starts_with("KUBE-FW-"));
        rules.filter(leads).filter_map(|rule| frontend(rule, self.family)).collect()
    }
}

/// The word after `-j` or `-g`.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ');
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// What a rule of kube-proxy's Service chains matches, when it is one frontend.
fn frontend(rule: &str, family: Family) -> Option<Frontend> {
    let chain = rule.split(' ').next()?;
    // Comments are quoted and may hold anything.
    let words: Vec<&str> = rule.split('"').step_by(2).flat_map(|part| part.split(' ')).collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1).copied()
    };
    let address = value("-d");
    let protocol = Protocol::parse(&value("-p")?.to_uppercase())?;
    let port: u16 = value("--dport")?.parse().ok()?;
    match address {
        Some(address) => {
            // A range is no frontend: node ports on 127.0.0.0/8, which Fairway serves only where it is told to.
            let range: ipnet::IpNet = address.parse().ok()?;
            let is_one = range.prefix_len() == range.max_prefix_len();
            is_one.then(|| Frontend::Address { address: range.addr(), protocol, port })
        }
        // Only this chain matches ports of this node; others match what comes from or goes to endpoints.
        None if chain == "KUBE-NODEPORTS" => Some(Frontend::NodePort { family, protocol, port }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-NODEPORTS -p tcp -m comment --comment "shop/web -d 1.2.3.4" -m tcp --dport 30080 -j KUBE-EXT-A
-A KUBE-NODEPORTS -d 127.0.0.0/8 -p tcp -m comment --comment "shop/web" -m tcp --dport 30080 -m nfacct --nfacct-name localhost_nps_accepted_pkts -j KUBE-EXT-A
-A KUBE-SEP-B -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m comment --comment "shop/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -m comment --comment "node ports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-A ! -s 10.244.0.0/16 -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP
-A KUBE-SERVICES -d 10.96.0.9/32 -p udp -m comment --comment "d/x has no endpoints" -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;

    #[test]
    fn frontends_are_those_that_lead_somewhere() {
        let saved = Saved::parse(SAVED, Family::V4);
        let words: Vec<String> = saved.served().iter().map(ToString::to_string).collect();
        assert_eq!(words, ["10.96.0.7:80/TCP", "node port 30080/TCP (IPv4)"]);
        assert_eq!(saved.chain_count(), 6);
    }

    #[test]
    fn only_kube_proxys_part_is_removed() {
        let removal = Saved::parse(SAVED, Family::V4).removal();
        let expected = r#"*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-X KUBE-NODEPORTS
-X KUBE-SEP-B
-X KUBE-SERVICES
-X KUBE-SVC-A
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-D OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-X KUBE-SERVICES
COMMIT
*mangle
:KUBE-PROXY-CANARY - [0:0]
-X KUBE-PROXY-CANARY
COMMIT
"#;
        assert_eq!(removal, expected);
    }

    #[test]
    fn other_peoples_rules_are_nothing() {
        assert!(
            Saved::parse("*nat\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\nCOMMIT\n", Family::V4)
                .is_empty()
        );
    }
}
