//! `fairway agent`: its options, and a KubeProxyConfiguration, to one call in the crate `agent`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use agent::kube_proxy::{self, KubeProxyConfiguration, Verdict};
use agent::{Access, AgentConfig, ServiceSettings, Without};
use anyhow::Context as _;
use clap::Parser as _;

use crate::arguments::{AgentOptions, Arguments, Command, Part};
use crate::small_runtime;

const HEALTH: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10256);

pub(crate) fn run(options: AgentOptions) -> anyhow::Result<ExitCode> {
    let file = options.config.as_deref().map(read).transpose()?;
    if let Some(file) = file.as_ref().filter(|_| options.check) {
        return check(file);
    }
    if let Some(file) = &file {
        say(file);
    }
    let config = config(options, file.as_ref())?;
    small_runtime()?.block_on(agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// How an agent that runs was started, from its arguments.
pub(crate) fn as_started(arguments: &[String]) -> anyhow::Result<AgentConfig> {
    match Arguments::try_parse_from(arguments)?.command {
        Command::Agent(options) => {
            let file = options.config.as_deref().map(read).transpose()?;
            config(*options, file.as_ref())
        }
        _ => anyhow::bail!("it is no agent"),
    }
}

fn read(path: &Path) -> anyhow::Result<KubeProxyConfiguration> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} (--config)", path.display()))?;
    kube_proxy::parse(&text).with_context(|| format!("cannot use {} (--config)", path.display()))
}

/// What the command line says goes before what the file says.
fn config(
    options: AgentOptions,
    file: Option<&KubeProxyConfiguration>,
) -> anyhow::Result<AgentConfig> {
    let settings = file.map(|file| &file.settings);
    let named = settings.and_then(|settings| settings.node_name.clone());
    let node_name = match options.node_name.filter(|name| !name.is_empty()).or(named) {
        Some(name) => name,
        None => host_name().context("cannot tell this node's name; give --node-name")?,
    };
    let kubeconfig =
        options.kubeconfig.or_else(|| settings.and_then(|settings| settings.kubeconfig.clone()));
    let health = settings.map(|settings| settings.health);
    let mut services = settings.map(ServiceSettings::from).unwrap_or_default();
    services.plan.service_cidrs = options.service_cidr;
    let left = |part| options.without.contains(&part);
    Ok(AgentConfig {
        node_name,
        access: Access { kubeconfig, servers: options.api_server, ..Access::default() },
        run_dir: options.run_dir,
        state_dir: options.state_dir,
        cni_conf_dir: options.cni_conf_dir,
        health_addr: options.health_addr.or(health).unwrap_or(HEALTH),
        metrics_addr: options.metrics_addr.or(settings.map(|settings| settings.metrics)),
        without: Without { cni: left(Part::Cni) || left(Part::Fabric), fabric: left(Part::Fabric) },
        services,
    })
}

/// As the kubelet names a node that nobody named.
fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    Ok(name.trim().to_lowercase())
}

/// Says once, in the log, what becomes of every field.
fn say(file: &KubeProxyConfiguration) {
    for field in &file.fields {
        let (path, value, verdict) = (&field.path, &field.value, &field.verdict);
        match verdict {
            Verdict::Honoured => tracing::info!(path, value, "configuration: {verdict}"),
            _ => tracing::warn!(path, value, "configuration: {verdict}"),
        }
    }
}

/// `--check`: the same as a table.
fn check(file: &KubeProxyConfiguration) -> anyhow::Result<ExitCode> {
    let rows: Vec<Vec<String>> = file
        .fields
        .iter()
        .map(|field| vec![field.path.clone(), field.value.clone(), field.verdict.to_string()])
        .collect();
    let text = print::table(&["FIELD", "VALUE", "WHAT BECOMES OF IT"], &rows);
    std::io::stdout().lock().write_all(text.as_bytes())?;
    let bad = |field: &kube_proxy::Field| matches!(field.verdict, Verdict::Bad(_));
    Ok(if file.fields.iter().any(bad) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
