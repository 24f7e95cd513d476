//! What may be typed about addresses and the network between nodes: `fairway ipam …`, `fairway node …`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::observe::WhichNode;

/// `fairway ipam …`.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// The addresses of this node's pods, or the blocks they come from.
    #[command(after_help = "\
Read from the files the plugin keeps and from this node's links: neither agent nor API is asked.

Exit codes: 0 done, 1 files or kernel cannot be read.

Examples:
  fairway ipam list
  fairway ipam list --blocks
  fairway ipam list -o json | jq '.reserved[] | select(.link == null)'")]
    List {
        /// The blocks of pools this node holds, and how full they are.
        #[arg(long)]
        blocks: bool,
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        output: Output,
    },
    /// Prove reservations against the links of pods: leaked, unreserved, given twice.
    #[command(after_help = "\
The agent does the same when it starts and every five minutes, and mends what it finds. A reservation without
a link counts as leaked after a minute.

Exit codes: 0 clean (or repaired), 1 something differs, 2 could not tell.

Examples:
  fairway ipam check
  fairway ipam check --repair")]
    Check {
        /// Free what is leaked, reserve what is in use.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Give back one address.
    #[command(after_help = "\
Refused while a pod's link is there: its address would be given to another.

Exit codes: 0 given back, 1 refused or not reserved.

Examples:
  fairway ipam release 10.244.1.17")]
    Release {
        /// The address.
        address: IpAddr,
        /// Even while it is in use.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        files: Files,
    },
}

/// Which files.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// The agent's files; those of the agent that runs here, else /var/lib/fairway, unless given.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// `fairway node …`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeListCommand {
    /// The nodes as this one reaches their pods: direct or in which tunnel, MTU, measured round trip.
    #[command(after_help = "\
MODE: here, direct, vxlan, ipip, none (`-o wide` says why). MTU is what a pod's packet may have on the way. ROUND
TRIP is measured: an echo to the other end of the tunnel, or to the node; with --sizes one of exactly that MTU,
which may not be cut: `too big` means that something on the way carries less.

Exit codes: 0 every node is reached and answers, 1 one does not, 2 could not tell.

Examples:
  fairway node list
  fairway node list -o wide --sizes
  fairway node list --node node-1                       a node of a lab")]
    List {
        /// Ask with packets as long as the MTU, too.
        #[arg(long)]
        sizes: bool,
        #[command(flatten)]
        place: WhichNode,
        #[command(flatten)]
        output: Output,
    },
}
