//! What may be typed about network policy: `fairway policy …`.

use std::path::PathBuf;

use clap::Subcommand;

use super::observe::Asked;
use super::{Output, WhichNode};

/// `fairway policy …`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Every policy: how many pods it is about, and what is wrong with it.
    #[command(after_help = "\
With -A the administrator's (ClusterNetworkPolicies), too; their MODE is the tier and the priority.

Exit codes: 0 done, 1 the API cannot be read.

Examples:
  fairway policy list -A -o wide
  fairway policy list -A -o json | jq '.[] | select(.pods == 0)'")]
    List {
        /// Every namespace.
        #[arg(long, short = 'A')]
        all_namespaces: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// One policy in full, with what the rules of this node's kernel counted for it.
    #[command(after_help = "\
PACKETS were the first of a flow and treated by that rule; those after them are not counted. `Denied packets` were
matched by no rule of pods this policy isolates, perhaps together with others. Both are of this node, since the
rules were last written; the agent's metrics count on.

Exit codes: 0 shown, 1 there is no such policy or something cannot be read.

Examples:
  fairway policy show allow-db-access
  fairway policy show shop/allow-db-access --node node-2")]
    Show {
        /// NAME or NAMESPACE/NAME; a NAME no NetworkPolicy has may be a ClusterNetworkPolicy's.
        policy: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Whether a packet passes, by which policy and rule, and what would change that.
    #[command(after_help = "\
The ends are pods or addresses; a Service is judged by the pod behind it, and by that pod's port.

Exit codes: 0 allowed, 1 denied, 2 could not tell.

Examples:
  fairway policy explain frontend db:5432
  fairway policy explain shop/web 192.0.2.7:53/udp -o json
  fairway policy explain 192.0.2.7 shop/web:80/tcp")]
    Explain {
        /// The sender: NAME, NAMESPACE/NAME, or an address.
        from: String,
        /// The receiver, with the port it listens on: END:PORT or END:PORT/PROTOCOL; IPv6 as [ADDRESS]:PORT.
        to: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// On how many nodes a NetworkPolicy is enforced, and up to which revision.
    #[command(after_help = "\
A node enforces a policy when its agent has committed its version; each agent says up to which version it is in a
Lease in kube-system, at most once a second, so this may lag by that much.

Exit codes: 0 enforced on every node, 1 not (yet), 2 could not tell.

Examples:
  fairway policy status allow-db-access
  kubectl apply -f policy.yaml && sleep 2 && fairway policy status shop/allow-db-access")]
    Status {
        /// NAME or NAMESPACE/NAME.
        policy: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// What new or changed policies would change for the connections this node tracks. Nothing is applied.
    #[command(after_help = "\
Connection tracking remembers a flow from seconds (UDP) to days (TCP) after its last packet.

Exit codes: 0 nothing seen would change, 1 something would, 2 could not tell.

Examples:
  fairway policy try -f new.yaml --node node-1
  kubectl get netpol allow-db-access -o yaml | sed s/5432/5433/ | fairway policy try -f -")]
    Try {
        /// Manifests of NetworkPolicies; `-` is standard input.
        #[arg(long = "filename", short = 'f', value_name = "FILE", num_args = 1.., required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        place: WhichNode,
        #[command(flatten)]
        output: Output,
    },
}
