//! Names, paths and addresses of a lab: where everything it owns is to be found. Pure; touches nothing.
//!
//! Everything a lab makes on the machine carries the lab's name in one of the ways below, so that a later command can
//! find it without having been told: namespaces under `/run/netns`, run-time files under `/run/fairway/labs/<lab>`,
//! files that survive a reboot under `/var/lib/fairway/labs/<lab>`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Run-time files of every lab; gone after a reboot.
pub const RUN_ROOT: &str = "/run/fairway/labs";
/// Files that survive a reboot, of every lab.
pub const STATE_ROOT: &str = "/var/lib/fairway/labs";
/// Where named network namespaces live (iproute2's place, so `ip netns` sees them).
pub const NETNS_ROOT: &str = "/run/netns";

/// The API server's port inside the lab, and the first one tried on the host's loopback.
pub const API_PORT: u16 = 6443;
/// The switch's address: the nodes' and the client's gateway, and where nodes and pods find the API server.
pub const SWITCH_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The switch's IPv6 address.
pub const SWITCH_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1);
/// The address of the client outside the cluster.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 2);
/// The client's IPv6 address.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 2);
/// Prefix length of the node network, IPv4.
pub const NODE_PREFIX_V4: u8 = 16;
/// Prefix length of the node network, IPv6.
pub const NODE_PREFIX_V6: u8 = 64;

/// Pod addresses of the cluster, IPv4 (each node gets a /24).
pub const POD_CIDR_V4: &str = "10.244.0.0/16";
/// Pod addresses of the cluster, IPv6 (each node gets a /64).
pub const POD_CIDR_V6: &str = "fd00:10:244::/56";
/// Service addresses, IPv4.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";
/// Service addresses, IPv6.
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";

/// Where pods ask for names: the Service `kube-system/kube-dns`, as kubeadm chooses it.
pub const CLUSTER_DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The same, IPv6.
pub const CLUSTER_DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa);

/// Most nodes one lab can have: the last octet of `172.30.1.N` and the /24s of the pod CIDR.
pub const MAX_NODES: u16 = 250;

/// Why a text is not a lab's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a lab name: use 1 to 20 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
)]
pub struct BadLabName {
    given: String,
}

/// A lab's name: a DNS label of at most 20 characters.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabName {
    type Err = BadLabName;
    fn from_str(text: &str) -> Result<Self, BadLabName> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = text.as_bytes();
        let edges = [bytes.first(), bytes.last()];
        let ok = (1..=20).contains(&bytes.len())
            && bytes.iter().all(|c| inner(*c))
            && edges.iter().all(|c| c.is_some_and(|c| *c != b'-'));
        if ok { Ok(Self(text.to_owned())) } else { Err(BadLabName { given: text.to_owned() }) }
    }
}

impl TryFrom<String> for LabName {
    type Error = BadLabName;
    fn try_from(text: String) -> Result<Self, BadLabName> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node's place in the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// `node-1`, `node-2`, …
    pub name: String,
    /// Its address on the switch: `172.30.1.N`.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on the switch: `fd00:172:30::1:N`.
    pub v6: Ipv6Addr,
}

impl NodePlan {
    /// The `number`th node, counted from 1; `number` is at most [`MAX_NODES`].
    #[must_use]
    pub fn new(number: u16) -> Self {
        let octet = u8::try_from(number).unwrap_or(u8::MAX);
        Self {
            name: format!("node-{number}"),
            v4: Ipv4Addr::new(172, 30, 1, octet),
            v6: Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 1, number),
        }
    }

    /// All nodes of a lab with `count` nodes.
    #[must_use]
    pub fn all(count: u16) -> Vec<Self> {
        (1..=count).map(Self::new).collect()
    }
}

/// Where one lab's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    name: LabName,
}

impl Layout {
    /// The layout of the lab called `name`.
    #[must_use]
    pub fn new(name: LabName) -> Self {
        Self { name }
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// Run-time files: sockets, logs, kubeconfigs, process records.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN_ROOT).join(self.name.as_str())
    }

    /// Files that survive a reboot: the object store and the certificate authority.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(self.name.as_str())
    }

    /// The administrator's kubeconfig (mode 0600).
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.run_dir().join("kubeconfig")
    }

    /// The control process's socket: status, node kill, node restart.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    /// What the control process logs.
    #[must_use]
    pub fn control_log(&self) -> PathBuf {
        self.run_dir().join("control.log")
    }

    /// `/etc/hosts` of the nodes and the client.
    #[must_use]
    pub fn hosts_file(&self) -> PathBuf {
        self.run_dir().join("hosts")
    }

    /// `/etc/resolv.conf` of the nodes and the client.
    #[must_use]
    pub fn resolv_file(&self) -> PathBuf {
        self.run_dir().join("resolv.conf")
    }

    /// One node's run-time files.
    #[must_use]
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.run_dir().join("nodes").join(node)
    }

    /// One node's state that survives a reboot.
    #[must_use]
    pub fn node_state_dir(&self, node: &str) -> PathBuf {
        self.state_dir().join("nodes").join(node)
    }

    /// Where a node's pod runner serves logs, exec and attach.
    #[must_use]
    pub fn runner_socket(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("runner.sock")
    }

    /// Where a node's agent writes the CNI configuration and its runner reads it.
    #[must_use]
    pub fn cni_conf_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("cni")
    }

    /// Name of the switch's network namespace.
    #[must_use]
    pub fn switch_namespace(&self) -> String {
        format!("fairway-{}-switch", self.name)
    }

    /// Name of the outside client's network namespace.
    #[must_use]
    pub fn client_namespace(&self) -> String {
        format!("fairway-{}-client", self.name)
    }

    /// Name of a node's network namespace.
    #[must_use]
    pub fn node_namespace(&self, node: &str) -> String {
        format!("fairway-{}-{node}", self.name)
    }

    /// Name of a pod's network namespace: the first twelve hexadecimal digits of its uid.
    #[must_use]
    pub fn pod_namespace(&self, uid: &str) -> String {
        let short: String = uid.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        format!("fairway-{}-pod-{short}", self.name)
    }

    /// Whether a namespace under `/run/netns` belongs to this lab, and not to another whose name begins alike.
    #[must_use]
    pub fn owns_namespace(&self, namespace: &str) -> bool {
        let Some(rest) = namespace
            .strip_prefix("fairway-")
            .and_then(|rest| rest.strip_prefix(self.name.as_str()))
            .and_then(|rest| rest.strip_prefix('-'))
        else {
            return false;
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let hex = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_hexdigit());
        rest == "switch"
            || rest == "client"
            || rest.strip_prefix("node-").is_some_and(digits)
            || rest.strip_prefix("pod-").is_some_and(hex)
    }
}

/// `/etc/hosts` as every node and the client see it.
#[must_use]
pub fn hosts_file(nodes: &[NodePlan]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    let mut line = |address: &dyn fmt::Display, name: &str| {
        writeln!(text, "{address} {name}").expect("invariant: writing to a String cannot fail");
    };
    line(&SWITCH_V4, "switch api");
    line(&SWITCH_V6, "switch api");
    line(&CLIENT_V4, "client");
    line(&CLIENT_V6, "client");
    for node in nodes {
        line(&node.v4, &node.name);
        line(&node.v6, &node.name);
    }
    text
}

/// `/etc/resolv.conf` of nodes and client: there is no resolver outside the cluster, names are in `/etc/hosts`.
pub const RESOLV_CONF: &str = "# A lab node has no resolver of its own: node names are in /etc/hosts.\noptions timeout:1 attempts:1\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::new(name.parse().unwrap())
    }

    #[test]
    fn names_are_short_dns_labels() {
        for good in ["lab", "a", "a-b", "0", "a2345678901234567890"] {
            assert!(good.parse::<LabName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", "a b", "a23456789012345678901", "ä"] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lab_owns_its_namespaces_and_no_others() {
        let lab = layout("x");
        for own in ["switch", "client", "node-1", "node-250", "pod-0af3"] {
            assert!(lab.owns_namespace(&format!("fairway-x-{own}")), "{own}");
        }
        assert!(lab.owns_namespace(&lab.pod_namespace("3f2e1d0c-aaaa-bbbb-cccc-000000000000")));
        for foreign in
            ["fairway-x", "fairway-x-", "fairway-x-node-", "fairway-x-node-1a", "x-switch"]
        {
            assert!(!lab.owns_namespace(foreign), "{foreign}");
        }
        // Labs whose names begin with ours.
        for other in ["x-node-1", "x-pod-ab", "x-switch", "xy"] {
            let other = layout(other);
            for namespace in [
                other.switch_namespace(),
                other.client_namespace(),
                other.node_namespace("node-1"),
                other.pod_namespace("abcdef01"),
            ] {
                assert!(!lab.owns_namespace(&namespace), "{namespace}");
                assert!(other.owns_namespace(&namespace), "{namespace}");
            }
        }
    }

    #[test]
    fn nodes_count_from_one() {
        let nodes = NodePlan::all(3);
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes[0].name, "node-1");
        assert_eq!(nodes[2].v4, Ipv4Addr::new(172, 30, 1, 3));
        assert_eq!(nodes[2].v6.to_string(), "fd00:172:30::1:3");
        assert!(hosts_file(&nodes).contains("172.30.1.2 node-2\n"));
    }
}
