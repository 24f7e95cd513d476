//! Where the network between nodes is measured: three nodes on two subnets, an agent and a pod on each. An edge: makes namespaces
//! and links, starts processes.
//!
//! ```text
//!   router: near (a bridge) 172.30.1.254/24, far 172.31.1.254/24
//!     ├─ near ─ node-1 172.30.1.1 ═ pod 10.244.1.2
//!     ├─ near ─ node-2 172.30.1.2 ═ pod 10.244.2.2
//!     └─ far ── node-3 172.31.1.3 ═ pod 10.244.3.2
//! ```
//! The agents have a real API and the pods come from the real plugin, so the way of a packet is that of a cluster, NAT table and
//! connection tracking included; only network policy is left out. The namespaces have no names and end with this process.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use link::kernel::Netlink;
use link::namespace::CommandInNamespace as _;
use link::{Address, Bridge, Change, LinkEnd, LinkSettings, Namespace, Veth, sysctl};
use serde_json::{Value, json};

use crate::process::{Process, get};
use crate::world::{index, settle_in, unnamed};

/// The router's links and addresses: a bridge two nodes are ports of, and a node's own link. A bridge cuts large tunnelled packets
/// that are routed out of it into small ones in software, which is nothing a mode should be charged for.
const NEAR: (&str, Ipv4Addr) = ("near", Ipv4Addr::new(172, 30, 1, 254));
const FAR: (&str, Ipv4Addr) = ("far", Ipv4Addr::new(172, 31, 1, 254));
/// Name, link at the router, address and range of pods of the nodes.
const PLACES: [(&str, (&str, Ipv4Addr), Ipv4Addr, &str); 3] = [
    ("node-1", NEAR, Ipv4Addr::new(172, 30, 1, 1), "10.244.1.0/24"),
    ("node-2", NEAR, Ipv4Addr::new(172, 30, 1, 2), "10.244.2.0/24"),
    ("node-3", FAR, Ipv4Addr::new(172, 31, 1, 3), "10.244.3.0/24"),
];
/// Where an agent says how it is.
const HEALTH: &str = "127.0.0.1:10256";
/// How long an agent may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The namespaces, wired.
#[derive(Debug)]
pub(crate) struct Site {
    agents: Vec<Process>,
    _router: Namespace,
    pub(crate) nodes: Vec<Namespace>,
    pub(crate) pods: Vec<Namespace>,
}

/// A pod that was attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) address: Ipv4Addr,
    pub(crate) mtu: u32,
}

impl Site {
    /// Makes and wires the namespaces.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let router = unnamed("router")?;
        router.run(|| sysctl::ensure("net/ipv4/ip_forward", "1"))??;
        let mut wire = Netlink::in_namespace(&router)?;
        let bridge =
            Bridge { name: NEAR.0.to_owned(), mac: None, mtu: None, multicast_snooping: false };
        wire.apply(&[
            Change::AddBridge(bridge),
            Change::SetLink(NEAR.0.into(), LinkSettings::up()),
        ])?;
        let bridge = index(&mut wire, NEAR.0)?;
        let (mut nodes, mut pods) = (Vec::new(), Vec::new());
        for (name, link, address, _) in PLACES {
            let node = unnamed(name)?;
            let port = if link == NEAR { name } else { link.0 };
            let veth =
                Veth::new(LinkEnd::named(port), LinkEnd::named("eth0")).peer_in(node.as_fd());
            let veth = if link == NEAR { veth.master(bridge) } else { veth };
            wire.apply(&[Change::AddVeth(veth), Change::SetLink(port.into(), LinkSettings::up())])?;
            settle_in(&node, address, link.1)?;
            nodes.push(node);
            pods.push(unnamed("pod")?);
        }
        for (name, gateway) in [NEAR, FAR] {
            let device = index(&mut wire, name)?;
            let address = Address::new(device, IpNet::new(gateway.into(), 24)?);
            wire.apply(&[Change::AddAddress(address)])?;
        }
        Ok(Self { agents: Vec::new(), _router: router, nodes, pods })
    }

    /// Makes the Nodes in the API.
    pub(crate) async fn tell(client: &kube::Client) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(client.clone());
        for (name, _, address, range) in PLACES {
            let node = serde_json::from_value(json!({
                "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
            }))?;
            nodes.create(&PostParams::default(), &node).await.context("cannot make a Node")?;
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address.to_string()}]}});
            let patch = Patch::Merge(&status);
            nodes.patch_status(name, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Starts the agents and attaches the pods.
    pub(crate) fn settle(
        &mut self,
        binary: &Path,
        kubeconfig: &Path,
        encapsulation: &str,
        dir: &Path,
    ) -> anyhow::Result<Vec<Attached>> {
        for ((name, ..), node) in PLACES.iter().zip(&self.nodes) {
            let home = dir.join(name);
            fs::create_dir_all(&home)?;
            let mut command = Command::new(binary);
            command.args(["agent", "--node-name", name, "--without", "policy"]);
            command.args(["--encapsulation", encapsulation, "--health-addr", HEALTH]);
            command.arg("--kubeconfig").arg(kubeconfig);
            for (option, part) in
                [("--run-dir", "run"), ("--state-dir", "state"), ("--cni-conf-dir", "cni")]
            {
                command.arg(option).arg(home.join(part));
            }
            self.agents.push(Process::start(command, node, &home.join("log"))?);
        }
        let health: SocketAddr = HEALTH.parse()?;
        for (agent, node) in self.agents.iter_mut().zip(&self.nodes) {
            while get(node, health, "/readyz").is_err() {
                agent.check()?;
                if agent.started.elapsed() > PATIENCE {
                    bail!("not ready within {PATIENCE:?}: {}", agent.last_words());
                }
                sleep(Duration::from_millis(20));
            }
        }
        (0..PLACES.len()).map(|at| self.attach(at, binary, dir)).collect()
    }

    /// What a container runtime does: the plugin's ADD, with the configuration the agent wrote.
    fn attach(&self, at: usize, binary: &Path, dir: &Path) -> anyhow::Result<Attached> {
        let file: PathBuf = dir.join(PLACES[at].0).join("cni/10-fairway.conflist");
        let list: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
        let mut conf = list["plugins"][0].clone();
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        let pod = self.pods[at].as_fd().as_raw_fd();
        let mut command = Command::new(binary);
        command
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("bench-{at}"))
            .env("CNI_NETNS", format!("/proc/{}/fd/{pod}", std::process::id()))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.in_namespace(&self.nodes[at])?;
        let mut child = command.spawn().context("cannot start the plugin")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(conf.to_string().as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("the plugin says: {said}");
        }
        let answer: Value = serde_json::from_str(&said)?;
        let address = answer["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        let mtu = conf["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok());
        Ok(Attached {
            address: address.context("the plugin gave no address")?.parse()?,
            mtu: mtu.context("the configuration has no MTU")?,
        })
    }
}
