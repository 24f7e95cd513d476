//! From the configuration to running loops, and one line for everything that can be wrong with the machine.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use cluster::{EventWriter, ProgressWriter};
use model::{Kind, NodeName, ObjectKey, ObjectRef, Report, Severity, SnapshotWriter};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api_servers::Learner;
use crate::fabric_loop::FabricLoop;
use crate::followers::Followers;
use crate::health::{Health, Need};
use crate::health_checks::HealthChecks;
use crate::ipam::IpamLoop;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::pod_rules::PodRules;
use crate::policies::{self, Policies};
use crate::progress::Progress;
use crate::services::{self, Pace, ServicesLoop};
use crate::{AgentConfig, Ipam, api_servers, http, kernel_settings, memory};

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
    let listener = listen(config.health_addr, "--health-addr").await?;
    let metrics_listener = match config.metrics_addr.filter(|addr| *addr != config.health_addr) {
        Some(address) => Some(listen(address, "metricsBindAddress").await?),
        None => None,
    };
    let sockets = services::Sockets::open()
        .context("no nf_tables netlink here: the kernel needs CONFIG_NF_TABLES (module nf_tables) and CONFIG_NF_TABLES_INET")?;
    let mut access = config.access.clone();
    access.remembered.extend(api_servers::remembered(&config.state_dir));
    let (client, servers) = cluster::connect_to(&access).await?;
    let settings = &config.services;
    let refused =
        kernel_settings::apply(settings.conntrack.as_ref(), settings.plan.localhost_node_ports);

    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let health = Arc::new(Health::new());
    let metrics = Arc::new(Metrics::new());
    let (nodes, nodes_seen) = watch::channel(None);
    let (between, between_seen) = watch::channel(None);
    let (nat, nat_seen) = watch::channel(None);
    let (applied, applied_seen) = watch::channel(None);
    let (messages, inbox) = mpsc::channel(MESSAGES);

    let node = NodeName::new(&config.node_name);
    let names = config.dns.clone().map(|dns| Names::start(dns, &node)).transpose()?;

    let served = http::Served {
        node: config.node_name.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
        metrics_here: metrics_listener.is_none(),
        applied: applied_seen.clone(),
        dns: names.as_ref().map(Names::server),
    };
    let mut tasks = JoinSet::new();
    if let Some(listener) = metrics_listener {
        let served = http::Served { metrics_here: true, ..served.clone() };
        tasks.spawn(http::serve(listener, served));
    }
    tasks.spawn(http::serve(listener, served));
    if !config.without.cni {
        let programmed = applied_seen.clone();
        let run_dir = config.run_dir.clone();
        tasks.spawn(PodRules::new(run_dir, sockets.port(), programmed, metrics.clone())?.run());
    }
    if config.without.fabric {
        health.met(Need::Routes);
        health.met(Need::CniConfig);
        // The part others keep is empty, and known at once.
        nat.send_replace(Some(services::empty_table()?));
    } else {
        let (health, metrics) = (health.clone(), metrics.clone());
        let (ready, ready_seen) = watch::channel(false);
        let blocks = (config.ipam == Ipam::Pools).then_some(ready_seen);
        if !config.without.cni {
            let (client, facts) = (client.clone(), between_seen.clone());
            let ipam = IpamLoop::new(&config, client, facts, ready, metrics.clone())?;
            tasks.spawn(ipam.run());
        }
        let facts = between_seen.clone();
        let fabric = FabricLoop::new(&config, facts, blocks, nat.clone(), health, metrics)?;
        tasks.spawn(fabric.run());
    }
    let _watches = cluster::watch(&client, &messages);
    let _pools = (!config.without.fabric).then(|| cluster::watch_pools(&client, &messages));
    let writer = match config.without.fabric {
        true => SnapshotWriter::default(),
        false => SnapshotWriter::default().expecting_pools(config.ipam == Ipam::Pools),
    };
    drop(messages);
    let events = Arc::new(EventWriter::start(client.clone(), &config.node_name));
    if !refused.is_empty() {
        events.write(not_permitted(&node, &refused));
    }
    let _progress = ProgressWriter::start(client, node.clone(), applied_seen, nodes_seen);
    let addresses = settings.plan.node_port_addresses.clone();
    let checks = HealthChecks::new(node.clone(), addresses, health.clone(), events.clone());
    let policies = if config.without.policy {
        None
    } else {
        let (asks, asked) = mpsc::channel(policies::ASKS);
        tasks.spawn(policies::serve(&config.run_dir.join(cni::GATE_SOCKET), asks)?);
        let claims = policies::Claims::open(&config.run_dir);
        Some(Policies::new(policy::Planner::new(node.clone()), asked, claims))
    };
    let learner = Learner::new(servers, &config.state_dir);
    let node_of_facts = node.clone();
    let mut services = ServicesLoop::new(
        node,
        (settings.plan.clone(), Pace { full: settings.full_every, least: settings.least_pause }),
        policies,
        sockets,
        inbox,
        (nodes, between),
        writer,
        nat_seen,
        events,
        Followers::new(&config.state_dir, checks, learner, names, node_of_facts)?,
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
    services.finish().await;
    tracing::info!("agent stopped, the data path stays");
    Ok(())
}

async fn listen(address: SocketAddr, said: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({said}); if another agent or kube-proxy runs in this namespace, stop it first")
    })
}

/// The kernel, or a container's read-only /proc, did not permit these settings.
fn not_permitted(node: &NodeName, settings: &[String]) -> Report {
    let key = ObjectKey::new("", node.as_str());
    Report {
        object: ObjectRef { kind: Kind::Node, key, uid: None },
        severity: Severity::Warning,
        reason: "KernelSettingRefused",
        message: format!("settings of the kernel were not made: {}", settings.join("; ")),
        hint: "make them on the host, or let the agent write /proc/sys/net".into(),
    }
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
