//! What may be typed. Names, defaults and help live here and nowhere else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What Fairway promises, measured in namespaces of its own; nothing of the machine is changed.
#[derive(Debug, Parser)]
#[command(
    name = "fairway-bench",
    version,
    max_term_width = 110,
    after_help = "\
Examples:
  fairway-bench services --services 1000 --endpoints 5
  fairway-bench services --services 10000 --endpoints 5 --peer ./kube-proxy
  fairway-bench services --kubeconfig admin.conf -o json
  fairway-bench cni --peer /usr/lib/cni
  fairway-bench fabric --seconds 10
  fairway-bench policy --pods 10000 --policies 500 --seconds 300
  fairway-bench soak --services 5000 --endpoints 5 --rate 100 --seconds 600

Needs root. Exit codes: 0 measured (soak: and nothing wrong), 1 failed, 2 wrong usage.
Objects are made in the namespace fairway-bench (and one Node, fairway-bench-node) and removed at the end; what an
interrupted run left in a cluster is removed by the next one."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// First sync, changes, memory, connections and restart with that many Services.
    Services(ServicesOptions),
    /// A pod attached and detached by the CNI plugins, beside the reference plugins.
    Cni(CniOptions),
    /// Throughput and round trip between pods of different nodes, in every mode this kernel has.
    Fabric(FabricOptions),
    /// Network policy: programming, changes, packets whose fate must not change, new pods, and what connections notice.
    Policy(PolicyOptions),
    /// Names: questions a second and how long they take, with Knot DNS beside.
    Dns(DnsOptions),
    /// Changes at a constant rate; then the kernel must be what it should be, and nothing may have leaked.
    Soak(SoakOptions),
}

/// Against which API, with which binary.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// How many Services.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) services: u32,
    /// How many endpoints each has.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) endpoints: u32,
    /// The cluster whose API is used; without it, the embedded API server in this process.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The fairway binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH", env = "FAIRWAY_BIN")]
    pub(crate) fairway: Option<PathBuf>,
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// `fairway-bench cni`.
#[derive(Debug, Args)]
pub(crate) struct CniOptions {
    /// How many pods, one after the other.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) pods: u32,
    /// How many pods in the burst.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) burst: u32,
    /// How many of the burst at a time; as many as there are, to start them all at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) workers: u32,
    /// A directory with the reference plugins (bridge, host-local), measured in the same run.
    #[arg(long, value_name = "DIR")]
    pub(crate) peer: Option<PathBuf>,
    /// The fairway binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH", env = "FAIRWAY_BIN")]
    pub(crate) fairway: Option<PathBuf>,
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// `fairway-bench fabric`.
#[derive(Debug, Args)]
pub(crate) struct FabricOptions {
    /// How long each thing is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// The fairway binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH", env = "FAIRWAY_BIN")]
    pub(crate) fairway: Option<PathBuf>,
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// `fairway-bench services`.
#[derive(Debug, Args)]
pub(crate) struct ServicesOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// A kube-proxy binary to measure in the same run, with the same objects.
    #[arg(long, value_name = "PATH")]
    pub(crate) peer: Option<PathBuf>,
    /// The peer's proxy modes.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "nftables")]
    pub(crate) peer_mode: Vec<PeerMode>,
    /// How often each kind of change is made.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: u32,
    /// The same for the peer, which takes longer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) peer_samples: u32,
    /// Connections, direct and through ClusterIPs each.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connections: u32,
    /// Seconds a sync may take.
    #[arg(long, default_value_t = 900)]
    pub(crate) timeout: u64,
    /// Leave Fairway out.
    #[arg(long, requires = "peer")]
    pub(crate) peer_only: bool,
}

/// `fairway-bench dns`.
#[derive(Debug, Args)]
pub(crate) struct DnsOptions {
    /// How many Services have names.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) services: u32,
    /// How long each load lasts.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u32,
    /// Queries a second of the limited load.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) rate: u32,
    /// Leave Knot DNS out.
    #[arg(long)]
    pub(crate) no_peer: bool,
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// `fairway-bench policy`.
#[derive(Debug, Args)]
pub(crate) struct PolicyOptions {
    /// How many pods the cluster has.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    pub(crate) pods: u32,
    /// How many policies.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) policies: u32,
    /// How often each kind of label is changed and waited for.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) samples: u32,
    /// For how long labels and policies change while packets are probed.
    #[arg(long, default_value_t = 300)]
    pub(crate) seconds: u64,
    /// Changes a second meanwhile.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) rate: u32,
    /// Begin with this number to draw the changes from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many pods are added at once.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=250))]
    pub(crate) burst: u32,
    /// Rounds of streams and connections, with and without policies.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// The fairway binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH", env = "FAIRWAY_BIN")]
    pub(crate) fairway: Option<PathBuf>,
    /// Output format; a table unless given.
    #[arg(long, short = 'o', value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Format>,
}

/// `fairway-bench soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Changes a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 600)]
    pub(crate) seconds: u64,
    /// Begin with this number to draw the changes from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// JSON.
    Json,
}

/// kube-proxy's `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerMode {
    /// nf_tables rules.
    Nftables,
    /// iptables rules.
    Iptables,
}

impl PeerMode {
    /// As its configuration has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn modes_are_a_list() {
        let words =
            ["fairway-bench", "services", "--peer", "x", "--peer-mode", "nftables,iptables"];
        let Command::Services(options) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("services");
        };
        assert_eq!(options.peer_mode, [PeerMode::Nftables, PeerMode::Iptables]);
        assert!(
            Arguments::try_parse_from(["fairway-bench", "services", "--services", "0"]).is_err()
        );
        assert!(Arguments::try_parse_from(["fairway-bench", "services", "--peer-only"]).is_err());
    }
}
