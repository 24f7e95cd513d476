//! What may be typed. Names, defaults and help live here and nowhere else.

mod dns;
mod link;
mod network;
mod node;
mod observe;
mod plugins;
mod policy;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::exec::Target;
use lab::layout::LabName;

pub(crate) use dns::{DnsCommand, QueryOptions, TopOptions};
pub(crate) use link::LinkCommand;
pub(crate) use network::{Files, IpamCommand, NodeListCommand};
pub(crate) use node::{AdoptCommand, AdoptOptions, CleanupOptions, PreflightOptions};
pub(crate) use observe::{DiffOptions, ServiceCommand, WhichNode};
pub(crate) use plugins::CniCommand;
pub(crate) use policy::PolicyCommand;

/// The whole network of a Kubernetes node in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "fairway",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  fairway lab up                      a cluster of namespaces on this machine (root)
  fairway lab demo                    the same, with Services, requests and what happened
  fairway agent --node-name node-1 --kubeconfig /etc/kubernetes/kubelet.conf
  fairway service list -A             what this node's kernel does for every Service

Exit codes: 0 done, 1 failed, 2 or 64 wrong usage; `lab exec` exits as the program it ran.
Logs go to standard error; FAIRWAY_LOG sets how much (error, warn, info, debug, trace)."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep this node's network as the Kubernetes API says (a daemon).
    Agent(Box<AgentOptions>),
    /// What this node's kernel does with Services.
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Who may talk to whom, and why not.
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Addresses of this node's pods.
    Ipam {
        #[command(subcommand)]
        command: IpamCommand,
    },
    /// The nodes as this one reaches them.
    Node {
        #[command(subcommand)]
        command: NodeListCommand,
    },
    /// What the agent would change in the kernel right now.
    Diff(DiffOptions),
    /// What names are, and who asks for them.
    Dns {
        #[command(subcommand)]
        command: DnsCommand,
    },
    /// Whether this node can run Fairway.
    Preflight(PreflightOptions),
    /// Take over from another Service proxy.
    Adopt {
        #[command(subcommand)]
        command: AdoptCommand,
    },
    /// Remove every trace of Fairway from this node.
    Cleanup(CleanupOptions),
    /// A Kubernetes cluster of network namespaces on this machine.
    Lab {
        #[command(subcommand)]
        command: LabCommand,
    },
    /// How a pod is joined to its node.
    Link {
        #[command(subcommand)]
        command: LinkCommand,
    },
    /// The CNI plugins; container runtimes call them with CNI_COMMAND set.
    Cni {
        #[command(subcommand)]
        command: CniCommand,
    },
    /// Print the version.
    Version,
}

/// `fairway agent`.
#[derive(Debug, Args)]
#[command(after_help = "\
Stopping the agent leaves the data path in place. An agent that starts while the API is down serves the last state it knew
(--state-dir), and reaches the API by the addresses it learned, whatever the ClusterIP of the API does.

What the command line says goes before what --config says.

Examples:
  fairway agent --node-name node-1 --kubeconfig /etc/kubernetes/kubelet.conf
  fairway agent --node-name \"$NODE_NAME\"            in a pod: the service account is used
  fairway agent --config /var/lib/kube-proxy/config.conf --without cni,fabric      in place of kube-proxy
  fairway agent --config /var/lib/kube-proxy/config.conf --check                   what of it applies
  curl -s 127.0.0.1:10256/metrics")]
pub(crate) struct AgentOptions {
    /// The name of this node's Node object; without it the configuration's, else the host's name.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// A KubeProxyConfiguration, as kube-proxy reads it, or the ConfigMap with one in it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Say what becomes of every field of --config, and do nothing (exit code 1 when a value is bad).
    #[arg(long, requires = "config")]
    pub(crate) check: bool,
    /// How to reach the API; without it, the service account of the pod this runs in.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Addresses of API servers, tried in this order instead of the one the kubeconfig or the pod's environment names.
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "FAIRWAY_API_SERVER")]
    pub(crate) api_server: Vec<String>,
    /// What of the node's network is left to others: an existing network plugin (cni), its routes too (fabric).
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub(crate) without: Vec<Part>,
    /// How packets for pods cross to other nodes whose ranges are in no IPPool: never, vxlan, vxlan-cross-subnet, ipip,
    /// ipip-cross-subnet. Of a range in an IPPool the pool decides.
    #[arg(long, value_name = "HOW", default_value = "never")]
    pub(crate) encapsulation: agent::Encapsulation,
    /// VXLAN's network number; the same on all nodes.
    #[arg(long, value_name = "VNI", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub(crate) vxlan_vni: u32,
    /// VXLAN's UDP port; the same on all nodes.
    #[arg(long, value_name = "PORT", default_value = "4789", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// MTU of pods; found from the links unless given.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    pub(crate) mtu: Option<u32>,
    /// Where pods' addresses come from; the same on all nodes.
    #[arg(long, value_enum, value_name = "SOURCE", default_value = "node-cidr")]
    pub(crate) ipam: AddressSource,
    /// Ranges of cluster addresses, besides those of ServiceCIDR objects (for API servers before 1.33).
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cidr: Vec<ipnet::IpNet>,
    /// Run-time files.
    #[arg(long, value_name = "DIR", default_value = "/run/fairway")]
    pub(crate) run_dir: PathBuf,
    /// Files that survive a reboot: addresses given to pods, the last facts, the API's addresses.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/fairway")]
    pub(crate) state_dir: PathBuf,
    /// Where the container runtime looks for CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Where /healthz, /livez, /readyz, /status and /metrics are served [default: the configuration's, else 127.0.0.1:10256].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) health_addr: Option<SocketAddr>,
    /// Answer the cluster's DNS on this node.
    #[arg(long)]
    pub(crate) dns: bool,
    /// The Service whose cluster addresses pods ask at.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-dns", value_parser = object_key, requires = "dns")]
    pub(crate) dns_service: model::ObjectKey,
    /// Where DNS is answered beside those addresses: other nodes come here while their agent is away. Port 53 unless given.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = dns_address, requires = "dns")]
    pub(crate) dns_listen: Vec<SocketAddr>,
    /// What to answer and whom to ask, as CoreDNS reads it; without it, what kubeadm writes.
    #[arg(long, value_name = "FILE", requires = "dns")]
    pub(crate) corefile: Option<PathBuf>,
    /// The cluster's domains, where there is no --corefile.
    #[arg(long, value_name = "DOMAIN", value_delimiter = ',', default_value = "cluster.local")]
    pub(crate) cluster_domain: Vec<String>,
    /// Answers a client gets per second over UDP; beyond, it must come over TCP or with a cookie.
    #[arg(long, value_name = "COUNT", requires = "dns")]
    pub(crate) dns_rate_limit: Option<u32>,
    /// Where /metrics is served instead [default: the configuration's, else with health].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_addr: Option<SocketAddr>,
}

/// Where pods' addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AddressSource {
    /// The node's spec.podCIDRs.
    NodeCidr,
    /// Blocks of IPPools (crd.projectcalico.org), taken when they are needed.
    Pools,
}

/// An address with a port, or port 53 of one.
fn dns_address(text: &str) -> Result<SocketAddr, String> {
    let alone = || text.parse::<std::net::IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| alone()).map_err(|_| {
        "an address is needed, with or without a port: 10.0.0.1, [fd00::1]:53".to_owned()
    })
}

fn object_key(text: &str) -> Result<model::ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(model::ObjectKey::new(namespace, name))
        }
        _ => Err("write NAMESPACE/NAME".into()),
    }
}

/// What may be left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The CNI configuration: another network plugin connects the pods.
    Cni,
    /// Routes to other nodes, NAT of pods leaving the cluster, and the CNI configuration.
    Fabric,
    /// NetworkPolicies: another network plugin enforces them, or nobody does.
    Policy,
}

/// `fairway lab …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Bring a lab up: nodes, an outside client, an API server.
    #[command(after_help = "\
Stays in the foreground until Ctrl-C unless --detach is given. An API port that is taken by another lab is
passed over; one asked for with --api-port is not.

A lab that died (a crash, a reboot) finds its objects again at the next `lab up`.

Examples:
  fairway lab up
  fairway lab up --nodes 5 --name big --detach
  fairway lab up --nodes 4 --zones a,b
  fairway lab up --kubeconfig /etc/kubernetes/admin.conf   # nodes for a cluster that is there
  export KUBECONFIG=$(fairway lab kubeconfig --path)")]
    Up(UpOptions),
    /// Take a lab down; nothing stays behind.
    #[command(after_help = "\
A lab brought up with --persist keeps its objects on disk (/var/lib/fairway/labs/<lab>); --purge removes them too.
Of a cluster joined with --kubeconfig the lab's Nodes are deleted; --purge gives up on that when its API is gone.
A lab that does not exist is not an error.

Examples:
  fairway lab down
  fairway lab down --all --purge")]
    Down {
        #[command(flatten)]
        name: Name,
        /// Every lab of this machine.
        #[arg(long)]
        all: bool,
        /// The kept objects of a --persist lab too.
        #[arg(long)]
        purge: bool,
    },
    /// Show a lab: nodes, agents, runners, memory.
    #[command(after_help = "\
Examples:
  fairway lab status -o wide
  fairway lab status -o json | jq '.nodes[].agent.residentBytes'")]
    Status {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        output: Output,
    },
    /// Show all labs of this machine.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Print a lab's kubeconfig.
    #[command(after_help = "\
Examples:
  fairway lab kubeconfig > lab.kubeconfig
  export KUBECONFIG=$(fairway lab kubeconfig --path)")]
    Kubeconfig {
        #[command(flatten)]
        name: Name,
        /// Print where it is instead.
        #[arg(long)]
        path: bool,
    },
    /// Run a program of this machine inside a lab.
    #[command(after_help = "\
The program sees the place's network, host name and /etc/hosts; files are this machine's. Terminal, signals
and exit code are the program's own. Inside a pod's container (its files, its processes): `kubectl exec`.

Examples:
  fairway lab exec node-1 -- ip route
  fairway lab exec client -- curl -s node-2:30000
  fairway lab exec pod/default/web-0 -- tcpdump -ni eth0
  fairway lab exec node-1 -- nft list map inet fairway slot4")]
    Exec {
        #[command(flatten)]
        name: Name,
        /// node-1, client, switch, pod/NAME or pod/NAMESPACE/NAME.
        target: Target,
        /// The program and its arguments, after --.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Break a node and repair it.
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Bring a lab up, use it, say what happened, take it down.
    #[command(after_help = "\
Exits 1 when anything did not go as it should. Uses kubectl for the commands it shows when it is installed.")]
    Demo {
        /// The lab's name.
        #[arg(long, default_value = "demo")]
        name: LabName,
    },
    /// A lab's control process; started by `lab up`.
    #[command(hide = true)]
    Control {
        #[arg(long)]
        name: LabName,
        #[arg(long)]
        api_port: Option<u16>,
    },
    /// Plays the kubelet on one node; started by the control process.
    #[command(hide = true)]
    PodRunner(PodRunnerOptions),
    /// Becomes a program inside a namespace; used by the control process.
    #[command(hide = true)]
    Enter {
        #[arg(long)]
        net: PathBuf,
        #[arg(long)]
        hostname: Option<String>,
        #[arg(long)]
        hosts: Option<PathBuf>,
        #[arg(long)]
        resolv: Option<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// `fairway lab up`.
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    #[command(flatten)]
    pub(crate) name: Name,
    /// How many nodes (0 to 250; 0 is an API without nodes); 3 unless the lab was kept with another number.
    #[arg(long)]
    pub(crate) nodes: Option<u16>,
    /// Return when all nodes are Ready; the lab goes on.
    #[arg(long, short = 'd')]
    pub(crate) detach: bool,
    /// The API's port on 127.0.0.1; the first free one from 6443 unless given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) api_port: Option<u16>,
    /// `lab down` keeps the objects; the next `lab up` finds them.
    #[arg(long)]
    pub(crate) persist: bool,
    /// Zones, given to the nodes in turn as label topology.kubernetes.io/zone.
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub(crate) zones: Vec<String>,
    /// Join the cluster of this kubeconfig instead of bringing an API server: its controllers do the work, its scheduler
    /// binds pods to the lab's nodes, and `lab down` takes the nodes away again.
    #[arg(long, value_name = "FILE", conflicts_with = "api_port")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// With --kubeconfig: the lab binds pods to nodes, because that cluster has no scheduler.
    #[arg(long, requires = "kubeconfig")]
    pub(crate) bind_pods: bool,
    /// Print errors only.
    #[arg(long, short = 'q')]
    pub(crate) quiet: bool,
}

/// `fairway lab node …`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// kill -9 of a node's agent and runner; they stay down, pods and data path stay.
    Kill(NodeOptions),
    /// Start a node's agent and runner anew, dead or alive.
    Restart(NodeOptions),
}

/// Which node, which of its processes.
#[derive(Debug, Args)]
pub(crate) struct NodeOptions {
    #[command(flatten)]
    pub(crate) name: Name,
    /// The node: node-1, …
    pub(crate) node: String,
    /// Leave the pod runner alone.
    #[arg(long)]
    pub(crate) agent_only: bool,
}

/// Which lab.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The lab's name.
    #[arg(
        long = "name",
        id = "name",
        value_name = "LAB",
        default_value = "lab",
        env = "FAIRWAY_LAB_NAME"
    )]
    pub(crate) lab: LabName,
}

/// How to print.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<OutputFormat>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `fairway lab pod-runner`.
#[derive(Debug, Args)]
pub(crate) struct PodRunnerOptions {
    #[arg(long)]
    pub(crate) lab: LabName,
    #[arg(long)]
    pub(crate) node_name: String,
    #[arg(long)]
    pub(crate) kubeconfig: PathBuf,
    #[arg(long)]
    pub(crate) run_dir: PathBuf,
    #[arg(long, required = true)]
    pub(crate) node_ip: Vec<IpAddr>,
    #[arg(long)]
    pub(crate) kubelet: Option<SocketAddr>,
    #[arg(long, value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    #[arg(long)]
    pub(crate) cni_conf_dir: PathBuf,
    #[arg(long)]
    pub(crate) socket: PathBuf,
    #[arg(long)]
    pub(crate) cluster_dns: Vec<IpAddr>,
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs_own() {
        let parsed = Arguments::try_parse_from([
            "fairway", "lab", "exec", "--name", "x", "pod/ns/a", "--", "sh", "-c", "exit 3",
        ]);
        let Ok(Arguments {
            command: Command::Lab { command: LabCommand::Exec { name, target, command } },
        }) = parsed
        else {
            panic!("{parsed:?}");
        };
        assert_eq!(name.lab.as_str(), "x");
        assert_eq!(target, Target::Pod { namespace: "ns".into(), name: "a".into() });
        assert_eq!(command, ["sh", "-c", "exit 3"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["fairway"][..],
            &["fairway", "lab", "up", "--name", "Not A Name"],
            &["fairway", "lab", "up", "--api-port", "0"],
            &["fairway", "lab", "exec", "node-1"],
            &["fairway", "lab", "exec", "nowhere", "--", "true"],
            &["fairway", "lab", "status", "-o", "xml"],
        ] {
            assert!(Arguments::try_parse_from(words).is_err(), "{words:?}");
        }
    }
}
