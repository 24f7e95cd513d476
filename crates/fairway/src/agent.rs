//! `fairway agent`: its options, and a KubeProxyConfiguration, to one call in the crate `agent`.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use agent::kube_proxy::{self, KubeProxyConfiguration, Verdict};
use agent::{Access, AgentConfig, DnsSettings, FabricSettings, Ipam, ServiceSettings, Without};
use anyhow::Context as _;
use clap::Parser as _;

use crate::arguments::{AddressSource, AgentOptions, Arguments, Command, Part};
use crate::small_runtime;

/// In the state directory: the arguments of the last agent.
const STARTED: &str = "started.json";

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
    remember(&config.state_dir);
    small_runtime()?.block_on(agent::run(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes down how this agent was started, for those who look when it is gone. Without it they go by the defaults.
fn remember(state_dir: &Path) {
    let arguments = serde_json::Value::from(std::env::args().collect::<Vec<_>>());
    let written = std::fs::create_dir_all(state_dir)
        .and_then(|()| std::fs::write(state_dir.join(STARTED), arguments.to_string()));
    if let Err(error) = written {
        tracing::warn!(dir = %state_dir.display(), %error, "how this agent was started is not written down");
    }
}

/// How the last agent with this state directory was started; none when there was none, or it cannot be told.
pub(crate) fn as_last_started(state_dir: &Path) -> Option<AgentConfig> {
    let text = std::fs::read_to_string(state_dir.join(STARTED)).ok()?;
    as_started(&serde_json::from_str::<Vec<String>>(&text).ok()?).ok()
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
    if options.dns {
        services.plan.own_endpoints = options.dns_listen.clone();
    }
    let dns = options.dns.then_some(DnsSettings {
        service: options.dns_service,
        listen: options.dns_listen,
        corefile: options.corefile,
        domains: options.cluster_domain,
        per_client: options.dns_rate_limit,
    });
    Ok(AgentConfig {
        dns,
        node_name,
        access: Access { kubeconfig, servers: options.api_server, ..Access::default() },
        run_dir: options.run_dir,
        state_dir: options.state_dir,
        cni_conf_dir: options.cni_conf_dir,
        health_addr: options.health_addr.or(health).unwrap_or(HEALTH),
        metrics_addr: options.metrics_addr.or(settings.map(|settings| settings.metrics)),
        without: Without {
            cni: left(Part::Cni) || left(Part::Fabric),
            fabric: left(Part::Fabric),
            policy: left(Part::Policy),
        },
        services,
        fabric: FabricSettings {
            encapsulation: options.encapsulation,
            vxlan_vni: options.vxlan_vni,
            vxlan_port: options.vxlan_port,
            mtu: options.mtu,
        },
        ipam: match options.ipam {
            AddressSource::NodeCidr => Ipam::NodeCidr,
            AddressSource::Pools => Ipam::Pools,
        },
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::Value;

    use super::*;
    use crate::arguments::{Arguments, Command};

    const MANIFESTS: &str = include_str!("../../../deploy/manifests/fairway.yaml");

    fn options(arguments: &[&str]) -> AgentOptions {
        let all = ["fairway", "agent"].iter().chain(arguments);
        match Arguments::try_parse_from(all).expect("arguments").command {
            Command::Agent(options) => *options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_manifests_arguments_are_arguments() {
        let objects: Vec<Value> = serde_saphyr::from_multiple(MANIFESTS).expect("YAML");
        let set = objects.iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().expect("arguments").iter();
        let args: Vec<&str> = args.map(|argument| argument.as_str().expect("text")).collect();
        assert_eq!(args[0], "agent");
        let config = config(options(&args[1..]), None).expect("a configuration");
        assert_eq!(config.without, Without { cni: true, fabric: true, policy: true });
        let probe = &container["livenessProbe"]["httpGet"];
        assert_eq!((&probe["path"], &probe["port"]), (&"/livez".into(), &"health".into()));
        assert_eq!(container["ports"][0]["containerPort"], config.health_addr.port());
        let paths: Vec<_> = container["volumeMounts"].as_array().expect("mounts").iter().collect();
        for dir in [&config.run_dir, &config.state_dir] {
            let dir = dir.to_str().expect("text");
            assert!(paths.iter().any(|mount| mount["mountPath"] == dir), "{dir} is not mounted");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file = kube_proxy::parse(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration
hostnameOverride: from-file\nhealthzBindAddress: 0.0.0.0:10300\nnodePortAddresses: [primary]",
        )
        .expect("a file");
        let by_file = config(options(&["--node-name="]), Some(&file)).expect("a configuration");
        assert_eq!((by_file.node_name.as_str(), by_file.health_addr.port()), ("from-file", 10300));
        assert_eq!(by_file.metrics_addr.map(|address| address.port()), Some(10249));
        assert!(by_file.services.conntrack.is_some());
        let line = ["--node-name=n", "--health-addr=127.0.0.1:1", "--service-cidr=10.96.0.0/16"];
        let by_line = config(options(&line), Some(&file)).expect("a configuration");
        assert_eq!((by_line.node_name.as_str(), by_line.health_addr.port()), ("n", 1));
        assert_eq!(by_line.services.plan.service_cidrs.len(), 1);
        let bare = config(options(&["--node-name=n"]), None).expect("a configuration");
        assert_eq!((bare.services, bare.health_addr), (ServiceSettings::default(), HEALTH));
    }
}
