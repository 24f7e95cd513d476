//! What may be typed to look at one pod's link: `fairway link show`.

use clap::Subcommand;

use super::{Output, WhichNode};

/// `fairway link …`.
#[derive(Debug, Subcommand)]
pub(crate) enum LinkCommand {
    /// How a pod is joined to its node: both ends, addresses, routes, counters.
    #[command(after_help = "\
Run it on the pod's node, or name a node of a lab. What the pod sends is what the node's end receives; DROPPED counts
both directions of an end.

Exit codes: 0 shown, 1 no such link here, or the kernel cannot be read.

Examples:
  fairway link show pod/default/web-0
  fairway link show pod/default/web-0 --node node-1     a node of a lab
  fairway link show fw0123456789abc -o json | jq '.[0].node.received.dropped'")]
    Show {
        /// pod/NAMESPACE/NAME, or the name of the node's end.
        target: String,
        #[command(flatten)]
        place: WhichNode,
        #[command(flatten)]
        output: Output,
    },
}
