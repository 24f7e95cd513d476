//! What the node itself must offer: rights, settings, a free port, an API that knows it. An edge.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::Check;
use crate::processes;

/// Bits of `CapEff`.
const CAPABILITIES: [(u32, &str, bool); 3] =
    [(12, "CAP_NET_ADMIN", true), (21, "CAP_SYS_ADMIN", true), (13, "CAP_NET_RAW", false)];

/// Settings the agent makes.
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
];

/// What the API said about this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Api {
    /// Nobody asked.
    NotAsked,
    /// It does not answer, or refuses.
    Unreachable(String),
    /// It answers and has no Node of this name.
    NoNode(String),
    /// The Node.
    Node {
        /// Its name.
        name: String,
        /// Its internal addresses.
        addresses: Vec<IpAddr>,
        /// Its pod CIDRs.
        pod_cidrs: Vec<String>,
    },
}

pub(super) fn capabilities() -> Vec<Check> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let missing: Vec<_> =
        CAPABILITIES.iter().filter(|(bit, ..)| effective >> bit & 1 == 0).collect();
    let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
    let advice = "run it as root; a pod needs them in securityContext.capabilities.add";
    vec![match (missing.is_empty(), missing.iter().any(|(.., needed)| *needed)) {
        (true, _) => Check::pass("capabilities", "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_NET_RAW"),
        (false, true) => {
            Check::fail("capabilities", format!("without {}", names.join(", ")), advice)
        }
        (false, false) => {
            Check::warn("capabilities", format!("without {}", names.join(", ")), advice)
        }
    }]
}

pub(super) fn settings() -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, wanted) in SETTINGS {
        let dotted = name.replace('/', ".");
        let check = match link::sysctl::read(name) {
            Ok(value) if value == wanted => continue,
            Ok(value) => match fs::OpenOptions::new()
                .write(true)
                .open(Path::new("/proc/sys").join(name))
            {
                Ok(_) => Check::pass(
                    "settings",
                    format!("{dotted} is {value}, the agent makes it {wanted}"),
                ),
                Err(error) => Check::fail(
                    "settings",
                    format!("{dotted} is {value} and cannot be written ({error})"),
                    format!("set {dotted}={wanted} in /etc/sysctl.d, or mount /proc/sys writable"),
                ),
            },
            // A kernel without IPv6 needs no setting for it.
            Err(_) if name.starts_with("net/ipv6") => continue,
            Err(error) => Check::fail("settings", error.to_string(), "use a kernel with IPv4"),
        };
        checks.push(check);
    }
    if checks.is_empty() {
        checks.push(Check::pass("settings", "packets are forwarded"));
    }
    checks
}

/// Whether the agent's own port is free, or the agent's.
pub(super) fn port(address: SocketAddr) -> Check {
    const NAME: &str = "health port";
    if TcpListener::bind(address).is_ok() {
        return Check::pass(NAME, format!("{address} is free"));
    }
    match status_at(address) {
        Some(node) => Check::pass(NAME, format!("{address} is Fairway's agent of {node}")),
        None => {
            let who = processes::kube_proxies();
            let who = who.first().map_or_else(|| "somebody".to_owned(), processes::Process::words);
            Check::fail(
                NAME,
                format!("{address} is taken by {who}"),
                "give the agent another one with --health-addr, or stop who has it",
            )
        }
    }
}

/// The node an agent that listens there says it is.
fn status_at(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: fairway\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n")?.1;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    status.get("applied")?;
    Some(status.get("node")?.as_str()?.to_owned())
}

pub(super) fn api(api: &Api) -> Vec<Check> {
    const API: &str = "API";
    const NODE: &str = "Node object";
    let reachable = Check::pass(API, "answers");
    match api {
        Api::NotAsked => vec![Check::warn(
            API,
            "not asked: no kubeconfig",
            "give --kubeconfig, the one the agent will use",
        )],
        Api::Unreachable(why) => vec![Check::fail(
            API,
            why.clone(),
            "check the address and the certificates in the kubeconfig, and that this node reaches it",
        )],
        Api::NoNode(name) => vec![
            reachable,
            Check::fail(
                NODE,
                format!("the API has no Node {name}"),
                "give --node-name; it must be the name the kubelet registered",
            ),
        ],
        Api::Node { name, addresses, pod_cidrs } => {
            let mut checks = vec![reachable];
            let own = own_addresses();
            checks.push(if addresses.iter().any(|address| own.contains(address)) {
                Check::pass(NODE, format!("{name} has this machine's address"))
            } else {
                Check::fail(
                    NODE,
                    format!("no InternalIP of {name} is an address of this machine"),
                    "give --node-name of this machine, or the kubelet --node-ip",
                )
            });
            checks.push(if pod_cidrs.is_empty() {
                Check::warn(
                    "pod CIDRs",
                    format!("{name} has none"),
                    "pods are joined only with them: kube-controller-manager --allocate-node-cidrs --cluster-cidr",
                )
            } else {
                Check::pass("pod CIDRs", pod_cidrs.join(", "))
            });
            checks
        }
    }
}

fn own_addresses() -> Vec<IpAddr> {
    let listed = link::kernel::Netlink::open().and_then(|mut kernel| kernel.addresses(None));
    listed.unwrap_or_default().iter().map(|address| address.network.addr()).collect()
}
