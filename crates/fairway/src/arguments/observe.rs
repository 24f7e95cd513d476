//! What may be typed to look at a node: `fairway service …`, `fairway diff`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Name, Output};

/// `fairway service …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// What this node's kernel does for every Service.
    #[command(after_help = "\
Read from the kernel (nf_tables, connection tracking). Names and types come from the API; where it cannot be
reached, frontends are listed by address. STATE: Serving; NoEndpoints; Differs (kernel and API say different
things, `fairway service show` says which, `fairway diff` says all); Unknown (in the kernel, not in the API).

Exit codes: 0 done, 1 the kernel cannot be read.

Examples:
  fairway service list -A -o wide
  fairway service list --node node-1                   a node of a lab
  fairway lab exec node-1 -- fairway service list -A
  fairway service list -A -o json | jq '.[] | select(.state != \"Serving\")'")]
    List {
        /// Every namespace.
        #[arg(long, short = 'A')]
        all_namespaces: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// One Service in full: frontends, slots, endpoints, connections, clients with affinity.
    #[command(after_help = "\
SLOTS are what the kernel chooses among; an endpoint with more of them is chosen more often. CONNECTIONS are
those this node tracks. CHOSEN appears where the table's elements count. `client … stays with …` lists clients
with session affinity, and for how long.

Exit codes: 0 shown, 1 there is no such Service or the kernel cannot be read.

Examples:
  fairway service show web
  fairway service show shop/web --node node-2
  fairway service show 10.96.0.10                      by address, without the API")]
    Show {
        /// NAME, NAMESPACE/NAME, or an address that is dialled.
        service: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// On how many nodes a Service is programmed, and up to which revision.
    #[command(after_help = "\
A node has programmed a Service when its agent has committed the version of the Service and of its newest
EndpointSlice. Each agent says up to which version it is in a Lease in kube-system, at most once a second (less
often beyond 100 nodes), so this may lag by that much. Versions of one API server are compared as numbers, which
Kubernetes promises since 1.35 (KEP-5504).

Exit codes: 0 programmed on every node, 1 not (yet), 2 could not tell.

Examples:
  fairway service status web
  kubectl apply -f web.yaml && fairway service status web --wait
  fairway service status shop/web -o json | jq .programmed")]
    Status {
        /// NAME or NAMESPACE/NAME.
        service: String,
        /// Wait until every node has it.
        #[arg(long)]
        wait: bool,
        /// Longest wait in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
        #[command(flatten)]
        asked: Asked,
    },
}

/// Which namespace, which node, and how to print: of every question about objects.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// The namespace.
    #[arg(long, short = 'n', value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) place: WhichNode,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Which node's kernel, which API.
#[derive(Debug, Args)]
pub(crate) struct WhichNode {
    /// Look at this node of a lab, with the lab's API; without it, at the machine this runs on.
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) lab: Name,
    /// How to reach the API; else $KUBECONFIG, else the service account of the pod this runs in.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The name of this machine's Node object; the host name unless given.
    #[arg(long, env = "NODE_NAME")]
    pub(crate) node_name: Option<String>,
}

/// `fairway diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the operations the agent would send to nf_tables, in nft's words: `+` would come, `-` would go. Right
after a change the agent may not have sent it yet: look twice. What is wanted depends on how the agent was
started: the options of the one that runs here are used (its --config and --without too).

With --from the manifests stand for the API: Services, EndpointSlices, Nodes and ServiceCIDRs in YAML or JSON.

Exit codes: 0 equal, 1 differs, 2 could not tell.

Examples:
  fairway diff
  fairway diff --node node-1
  kubectl get services,endpointslices,nodes,servicecidrs -A -o yaml | fairway diff --from -")]
pub(crate) struct DiffOptions {
    /// Manifests instead of the API; `-` is standard input.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(crate) from: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) place: WhichNode,
}
