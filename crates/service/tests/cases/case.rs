//! A case as data, and the files it is read from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use model::Family;
use serde_json::Value;
use service::{Config, LocalTraffic, NodePortAddresses};

/// The nodes of every case: this one, and a neighbour in another zone.
pub(crate) const NODES: &str = r#"
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: west}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 172.30.1.1}, {type: InternalIP, address: "fd00:172:30::101"}]}
---
kind: Node
metadata: {name: node-2, labels: {topology.kubernetes.io/zone: east}}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
"#;

/// The node's own addresses; the second pair is on another link.
pub(crate) const NODE_ADDRESSES: [&str; 4] =
    ["172.30.1.1", "fd00:172:30::101", "172.31.1.1", "fd00:172:31::101"];

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// A pod of this node (its last byte).
    Pod(u8),
    /// A pod of another node.
    FarPod(u8),
    /// This node.
    Node,
    /// A machine outside the cluster.
    Outside,
}

impl Source {
    fn parse(text: &str) -> Self {
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?} is no pod"));
        match text {
            "node" => Self::Node,
            "outside" => Self::Outside,
            _ => match text.split_once('-') {
                Some(("pod", which)) => Self::Pod(number(which)),
                Some(("far", which)) => Self::FarPod(number(which)),
                _ => panic!("{text:?} is no source"),
            },
        }
    }

    /// The address it dials `to` from.
    pub(crate) fn address(self, to: IpAddr) -> IpAddr {
        let family = Family::of(to);
        match (self, family) {
            (Self::Pod(which), family) => pod(1, which, family),
            (Self::FarPod(which), family) => pod(2, which, family),
            (Self::Node, _) if is_of_node(to) => to,
            (Self::Node, Family::V4) => Ipv4Addr::new(172, 30, 1, 1).into(),
            (Self::Node, Family::V6) => {
                Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0x101).into()
            }
            (Self::Outside, Family::V4) => Ipv4Addr::new(172, 30, 0, 2).into(),
            (Self::Outside, Family::V6) => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 2).into(),
        }
    }

    /// The link of the node it comes in by.
    pub(crate) fn link(self) -> String {
        match self {
            Self::Pod(which) => format!("pod{which}"),
            Self::FarPod(which) => format!("far{which}"),
            Self::Node => String::new(),
            Self::Outside => "eth0".to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(which) => write!(f, "pod-{which}"),
            Self::FarPod(which) => write!(f, "far-{which}"),
            Self::Node => f.write_str("node"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

/// A pod's address.
pub(crate) fn pod(node: u8, which: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, node, which).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, which.into()).into(),
    }
}

/// Whether the node has this address.
pub(crate) fn is_of_node(address: IpAddr) -> bool {
    address.is_loopback() || NODE_ADDRESSES.iter().any(|own| own.parse() == Ok(address))
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// One of these answers; `true` if it sees the node's address instead of the client's.
    Answer(BTreeMap<SocketAddr, bool>),
    /// The client is told at once.
    Refused,
    /// Silence.
    Dropped,
    /// It is none of ours.
    Untouched,
}

/// One packet and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) from: Source,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) expect: Expect,
}

impl Probe {
    /// `pod-9 -> 10.96.0.10:80 = 10.244.1.5:8080 10.244.2.5:8080*`; `/udp`, `/sctp` or `/icmp` behind the port.
    fn parse(line: &str) -> Self {
        let (from, rest) = line.split_once(" -> ").unwrap_or_else(|| panic!("no -> in {line:?}"));
        let (to, expect) = rest.split_once(" = ").unwrap_or_else(|| panic!("no = in {line:?}"));
        let (to, protocol) = to.split_once('/').unwrap_or((to, "tcp"));
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            "icmp" => 1,
            other => panic!("{other:?} is no protocol"),
        };
        let address = |text: &str| -> SocketAddr {
            text.parse().unwrap_or_else(|_| panic!("{text:?} in {line:?} is no address"))
        };
        let expect = match expect.trim() {
            "refused" => Expect::Refused,
            "dropped" => Expect::Dropped,
            "untouched" => Expect::Untouched,
            list => Expect::Answer(
                list.split_whitespace()
                    .map(|text| match text.strip_suffix('*') {
                        Some(text) => (address(text), true),
                        None => (address(text), false),
                    })
                    .collect(),
            ),
        };
        Self { from: Source::parse(from.trim()), to: address(to), protocol, expect }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}/{} must be {:?}", self.from, self.to, self.protocol, self.expect)
    }
}

/// A cluster, and what becomes of packets in it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) objects: String,
    pub(crate) probes: Vec<Probe>,
}

/// The files of `crates/service/cases`.
pub(crate) fn special() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = std::fs::read_dir(&root).expect("the directory of cases");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| read(path)).collect()
}

/// One file: a document of kind `Case` opens a case, the objects of its cluster follow.
fn read(path: &Path) -> Vec<Case> {
    let text = std::fs::read_to_string(path).expect("a readable case");
    let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut cases: Vec<Case> = Vec::new();
    for document in text.split("\n---\n") {
        let parsed: Value = serde_saphyr::from_str(document)
            .unwrap_or_else(|error| panic!("{}: {error}\n{document}", path.display()));
        if parsed["kind"] != "Case" {
            let case = cases.last_mut().expect("a case comes first");
            case.objects.push_str("---\n");
            case.objects.push_str(document);
            case.objects.push('\n');
            continue;
        }
        let probes = parsed["probes"].as_str().expect("probes");
        let lines = probes.lines().filter(|line| !line.trim().is_empty());
        let name = parsed["name"].as_str().expect("a name");
        cases.push(Case {
            name: format!("{file}: {name}"),
            config: config(&parsed["config"]),
            objects: NODES.to_owned(),
            probes: lines.map(Probe::parse).collect(),
        });
    }
    cases
}

fn config(value: &Value) -> Config {
    let cidrs = |value: &Value| {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|cidr| cidr.as_str().unwrap().parse().expect("a CIDR")).collect()
    };
    let mut config = Config::default();
    for (field, value) in value.as_object().into_iter().flatten() {
        match field.as_str() {
            "podCidrs" => config.pod_cidrs = cidrs(value),
            "serviceCidrs" => config.service_cidrs = cidrs(value),
            "masqueradeAll" => config.masquerade_all = value.as_bool().unwrap(),
            "localhostNodePorts" => config.localhost_node_ports = value.as_bool().unwrap(),
            "bridge" => {
                config.local_traffic = LocalTraffic::Bridge(value.as_str().unwrap().to_owned());
            }
            "interfacePrefix" => {
                let prefix = value.as_str().unwrap().to_owned();
                config.local_traffic = LocalTraffic::InterfacePrefix(prefix);
            }
            "localTraffic" => {
                assert_eq!(value, "nodeCidrs");
                config.local_traffic = LocalTraffic::NodeCidrs;
            }
            "nodePortAddresses" if value == "primary" => {
                config.node_port_addresses = NodePortAddresses::Primary;
            }
            "nodePortAddresses" => {
                config.node_port_addresses = NodePortAddresses::Ranges(cidrs(value));
            }
            other => panic!("{other:?} is not configured"),
        }
    }
    config
}
