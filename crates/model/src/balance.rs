//! How a Service spreads its connections, as its annotations say: which way of choosing, and how much each endpoint gets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{Endpoint, NodeName};

/// The annotation that chooses a [`Balance`].
pub const BALANCE_ANNOTATION: &str = "fairway.dev/balance";
/// The annotation that holds [`WeightRule`]s.
pub const WEIGHTS_ANNOTATION: &str = "fairway.dev/weights";

/// The way an endpoint is chosen for a new connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Balance {
    /// By a random number.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// By a hash of the client's address: one client, one endpoint, from every node.
    SourceHash,
    /// By a hash of the client's address and port: the same choice on every node, nothing remembered.
    Maglev,
    /// At random, and less often those that hold more connections of this node.
    LeastConnections,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Random, Self::RoundRobin, Self::SourceHash, Self::Maglev, Self::LeastConnections];

    /// The annotation's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::SourceHash => "source-hash",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
        }
    }

    /// What the annotation's word means.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|balance| balance.as_str() == text)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which endpoints a weight is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointMatch {
    /// `*`: all.
    Any,
    /// `10.244.1.5`, `fd00::5`: the one of this address.
    Address(IpAddr),
    /// `10.244.1.0/24`: those in this range.
    Range(IpNet),
    /// `zone:a`: those in this zone.
    Zone(Arc<str>),
    /// `node:node-2`: those on this node.
    Node(NodeName),
}

/// One entry of the weights annotation: `zone:a=2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightRule {
    /// Whom it is for.
    pub who: EndpointMatch,
    /// 0 to [`WeightRule::MAX`]; 0 takes no new connections while another endpoint can.
    pub weight: u16,
}

impl WeightRule {
    /// The largest weight.
    pub const MAX: u16 = 1000;

    /// Reads one entry, `WHO=WEIGHT`.
    ///
    /// # Errors
    /// What is wrong with it, for a sentence that begins with the entry.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (who, weight) = text.split_once('=').ok_or("has no '='")?;
        let (who, weight) = (who.trim(), weight.trim());
        let plain = !weight.is_empty() && weight.bytes().all(|byte| byte.is_ascii_digit());
        let weight = Some(weight).filter(|_| plain).and_then(|weight| weight.parse().ok());
        let weight =
            weight.filter(|weight| *weight <= Self::MAX).ok_or("has no weight from 0 to 1000")?;
        let who = if who == "*" {
            EndpointMatch::Any
        } else if let Some(zone) = who.strip_prefix("zone:").filter(|zone| !zone.is_empty()) {
            EndpointMatch::Zone(zone.into())
        } else if let Some(node) = who.strip_prefix("node:").filter(|node| !node.is_empty()) {
            EndpointMatch::Node(NodeName::new(node))
        } else if let Ok(address) = who.parse() {
            EndpointMatch::Address(address)
        } else if let Ok(range) = who.parse::<IpNet>() {
            EndpointMatch::Range(range.trunc())
        } else {
            return Err("names no endpoint");
        };
        Ok(Self { who, weight })
    }

    fn is_for(&self, endpoint: &Endpoint<'_>) -> bool {
        match &self.who {
            EndpointMatch::Any => true,
            EndpointMatch::Address(address) => endpoint.address.ip() == *address,
            EndpointMatch::Range(range) => range.contains(&endpoint.address.ip()),
            EndpointMatch::Zone(zone) => endpoint.zone == Some(zone),
            EndpointMatch::Node(node) => endpoint.node == Some(node),
        }
    }

    /// The weight of an endpoint: that of the first entry which is for it, else 1.
    #[must_use]
    pub fn of(rules: &[Self], endpoint: &Endpoint<'_>) -> u16 {
        rules.iter().find(|rule| rule.is_for(endpoint)).map_or(1, |rule| rule.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conditions;

    #[test]
    fn the_first_entry_that_fits_decides() {
        let rules: Vec<WeightRule> =
            "10.244.1.5=3, 10.244.2.0/24=7,zone:a=2,node:node-2=0,fd00::5 = 9,*=4"
                .split(',')
                .map(|entry| WeightRule::parse(entry.trim()).expect("an entry"))
                .collect();
        let node = NodeName::new("node-2");
        let weight = |address: &str, node, zone| {
            let ready = Conditions { ready: true, serving: true, terminating: false };
            let address = std::net::SocketAddr::new(address.parse().expect("an address"), 80);
            let endpoint = Endpoint { address, conditions: ready, node, zone, hints: None };
            WeightRule::of(&rules, &endpoint)
        };
        assert_eq!(weight("10.244.1.5", None, Some("a")), 3);
        assert_eq!(weight("10.244.2.77", Some(&node), Some("a")), 7);
        assert_eq!(weight("10.244.1.6", Some(&node), Some("a")), 2);
        assert_eq!(weight("10.244.1.6", Some(&node), Some("b")), 0);
        assert_eq!(weight("fd00::5", None, None), 9);
        assert_eq!(weight("fd00::6", None, None), 4);
        let unlisted = Endpoint {
            address: "10.0.0.1:80".parse().expect("an address"),
            conditions: Conditions { ready: true, serving: true, terminating: false },
            node: None,
            zone: None,
            hints: None,
        };
        assert_eq!(WeightRule::of(&rules[..3], &unlisted), 1);
    }

    #[test]
    fn what_is_no_entry_says_why() {
        for (text, why) in [
            ("zone:a", "has no '='"),
            ("zone:a=", "has no weight from 0 to 1000"),
            ("*=1001", "has no weight from 0 to 1000"),
            ("*=-1", "has no weight from 0 to 1000"),
            ("*=+1", "has no weight from 0 to 1000"),
            ("*=99999999999999999999", "has no weight from 0 to 1000"),
            ("zone:=1", "names no endpoint"),
            ("web-1=1", "names no endpoint"),
            ("=1", "names no endpoint"),
        ] {
            assert_eq!(WeightRule::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn words_are_read_back() {
        for balance in Balance::ALL {
            assert_eq!(Balance::parse(balance.as_str()), Some(balance));
        }
        assert_eq!(Balance::parse("Random"), None);
    }
}
