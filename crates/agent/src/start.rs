//! From the configuration to running loops, and one line for everything that can be wrong with the machine.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use cluster::{EventWriter, ProgressWriter};
use model::NodeName;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::fabric_loop::FabricLoop;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::services::{self, ServicesLoop};
use crate::{AgentConfig, http, memory};

/// Messages of the watches that wait while a commit runs; more wait in the connections.
const MESSAGES: usize = 1024;
/// Bit of CAP_NET_ADMIN in `CapEff`.
const CAP_NET_ADMIN: u32 = 12;

/// Runs the agent until SIGTERM or SIGINT; what it set up in the kernel stays. Call on a current-thread runtime, in the
/// network namespace of the node.
///
/// # Errors
/// What is wrong with the machine or the configuration, in one line: not root, no nf_tables, the health address taken, a
/// bad kubeconfig. Failures while it runs are retried, not returned.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    memory::one_arena();
    require_net_admin()?;
    for dir in [&config.run_dir, &config.state_dir] {
        std::fs::create_dir_all(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    let listener = TcpListener::bind(config.health_addr).await.with_context(|| {
        let address = config.health_addr;
        format!("cannot listen on {address} (--health-addr); if another agent runs in this namespace, stop it first")
    })?;
    let sockets = services::Sockets::open()
        .context("no nf_tables netlink here: the kernel needs CONFIG_NF_TABLES (module nf_tables) and CONFIG_NF_TABLES_INET")?;
    let client = cluster::connect(config.kubeconfig.as_deref()).await?;

    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::new());
    let (nodes, nodes_seen) = watch::channel(None);
    let (nat, nat_seen) = watch::channel(None);
    let (applied, applied_seen) = watch::channel(None);
    let (messages, inbox) = mpsc::channel(MESSAGES);

    let served = http::Served {
        node: config.node_name.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
        applied: applied_seen.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(listener, served));
    let fabric =
        FabricLoop::new(&config, nodes_seen.clone(), nat, health.clone(), metrics.clone())?;
    tasks.spawn(fabric.run());
    let _watches = cluster::watch(&client, &messages);
    drop(messages);
    let events = EventWriter::start(client.clone(), &config.node_name);
    let name = NodeName::new(&config.node_name);
    let _progress = ProgressWriter::start(client, name, applied_seen, nodes_seen);
    let services = ServicesLoop::new(
        &config.node_name,
        sockets,
        inbox,
        nodes,
        nat_seen,
        events,
        Progress::new(applied),
        health,
        metrics,
    )?;
    tracing::info!(node = config.node_name, health = %config.health_addr, "agent started");
    tokio::select! {
        outcome = services.run() => outcome.context("the services loop ended"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }?;
    tracing::info!("agent stopped, the data path stays");
    Ok(())
}

/// Netlink would answer EPERM much later; say it at once.
fn require_net_admin() -> anyhow::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    match effective {
        Some(capabilities) if capabilities >> CAP_NET_ADMIN & 1 == 0 => {
            bail!(
                "this needs root (CAP_NET_ADMIN) to change routes and nf_tables; run it with sudo or give the pod the capability"
            )
        }
        _ => Ok(()),
    }
}
