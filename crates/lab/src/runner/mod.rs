//! The pod runner: the kubelet's part on one node of a lab.
//!
//! One process per node, started inside the node's network namespace. It registers the Node and keeps its Lease, watches
//! the pods bound to the node and makes them run: sandbox (network namespace, CNI), containers (each under a
//! [shim](crate::container) of its own), probes, status, events, and the streams behind `kubectl logs|exec|attach`.
//!
//! What it must not do: know nf_tables, routes or Services beyond environment variables. The network is the CNI
//! plugin's and the agent's.
//!
//! The middle is pure: [`sync`] turns (pod, observations, now) into actions and [`status`] into a status; the rest is
//! edges. All run state is under the run dir, so a runner that was killed is started again and adopts what still runs,
//! and [`cleanup()`] removes everything of a dead one from what is on disk and in `/proc`.
//!
//! Not enforced: resource limits, seccomp, capabilities. A container runs as root of the host unless it asks for another
//! user; a lab runs programs of its own machine, not strangers' images.
//!
//! | module | room |
//! |---|---|
//! | [`sync`], [`status`], [`env`], [`dns`], [`capabilities`] | pure: what to do, what to say, variables, resolver files, what plugins are told |
//! | [`state`] | records, on disk |
//! | [`engine`], `pod`, `hooks`, `sandbox`, [`launch`] | the workers and what they do |
//! | [`probe`], [`volumes`], [`lookup`] | probes, volumes, objects pods refer to |
//! | [`cni`], [`netns`], [`child`], [`inotify`] | edges to plugins and the kernel |
//! | [`api`], [`events`], [`node`] | edges to the API |
//! | [`server`], `streams`, [`logs`] | the unix socket |
//! | `cleanup` | taking everything down |

pub mod api;
pub mod capabilities;
pub mod child;
mod cleanup;
pub mod cni;
pub mod dns;
pub mod engine;
pub mod env;
pub mod events;
mod hooks;
pub mod inotify;
pub mod launch;
pub mod logs;
pub mod lookup;
pub mod netns;
pub mod node;
mod pod;
pub mod probe;
mod sandbox;
pub mod server;
pub mod state;
pub mod status;
mod streams;
pub mod sync;
pub mod volumes;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub use cleanup::cleanup;

use crate::container::process::ProcessId;
use crate::container::spec::write_json;
use engine::{Edges, Engine, Task};
use lookup::Lookup;

/// What a runner needs to know; everything else comes from the API.
#[derive(Debug, Clone)]
pub struct RunnerConfig {
    /// The lab's name, part of every namespace name.
    pub lab: String,
    /// The node this process plays the kubelet for.
    pub node: String,
    /// Kubeconfig of a user that may do what a kubelet does.
    pub kubeconfig: PathBuf,
    /// Directory of this runner's own run state; created when missing.
    pub run_dir: PathBuf,
    /// The node's addresses, IPv4 first when both are there.
    pub node_ips: Vec<IpAddr>,
    /// Where the API server reaches this kubelet, when it is not at the node's own address.
    pub kubelet: Option<SocketAddr>,
    /// Labels of the Node beside those every kubelet sets.
    pub labels: Vec<(String, String)>,
    /// Where the agent writes its CNI configuration list.
    pub cni_conf_dir: PathBuf,
    /// The CNI plugin: a program that is every plugin type, or a directory of plugins.
    pub cni_bin: PathBuf,
    /// Unix socket for logs, exec and attach.
    pub socket: PathBuf,
    /// Name servers written into a pod's resolv.conf (`ClusterFirst`).
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
}

/// Runs until SIGTERM or SIGINT, on one thread (a tokio current-thread runtime). Containers keep running when it ends;
/// see [`cleanup()`] for taking everything down.
///
/// # Errors
/// The kubeconfig, run dir or socket cannot be used.
pub async fn main(config: RunnerConfig) -> anyhow::Result<()> {
    tokio::task::LocalSet::new().run_until(run(config)).await
}

async fn run(config: RunnerConfig) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("cannot make the run dir {}", config.run_dir.display()))?;
    let me = ProcessId::me().context("cannot read /proc")?;
    let file = state::RunDir::new(&config.run_dir).runner();
    write_json(&file, &me).with_context(|| format!("cannot write {}", file.display()))?;
    let listener = server::bind(&config.socket)
        .with_context(|| format!("cannot listen on {}", config.socket.display()))?;
    let (client, ca) = connect(&config).await?;

    let (sink, notes) = events::EventSink::new();
    let (network_tx, network) = watch::channel(cni::load(&config.cni_conf_dir).is_ok());
    let edges = Edges {
        lookup: Lookup::new(client.clone(), ca),
        events: sink,
        api: Some(api::PodApi(client.clone())),
        network: network.clone(),
    };
    let engine = Engine::new(config.clone(), edges).context("cannot start from the run dir")?;
    let _tasks = [
        Task::spawn(events::write(client.clone(), config.node.clone(), notes)),
        Task::spawn(node::watch_network(config.cni_conf_dir.clone(), network_tx)),
        Task::spawn(node::run(client.clone(), config.clone(), network)),
        Task::spawn(server::serve(engine.clone(), listener)),
        Task::spawn(watch_pods(engine, client, config.node.clone())),
    ];
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; containers keep running");
    Ok(())
}

async fn connect(config: &RunnerConfig) -> anyhow::Result<(kube::Client, Option<Vec<u8>>)> {
    let what = || format!("cannot use the kubeconfig {}", config.kubeconfig.display());
    let file = Kubeconfig::read_from(&config.kubeconfig).with_context(what)?;
    let mut access = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(what)?;
    // a watch that says nothing is normal; a dead connection is found by the next write
    access.read_timeout = Some(std::time::Duration::from_secs(300));
    let ca =
        access.root_cert.as_ref().map(|certs| certs.iter().map(|c| pem(c)).collect::<String>());
    let client = kube::Client::try_from(access).with_context(what)?;
    Ok((client, ca.map(String::into_bytes)))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

async fn watch_pods(engine: Rc<Engine>, client: kube::Client, node: String) {
    let pods: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher::watcher(pods, config).default_backoff().boxed();
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                engine.apply(pod);
            }
            Ok(watcher::Event::InitDone) => engine.only(&listed).await,
            Ok(watcher::Event::Apply(pod)) => engine.apply(pod),
            Ok(watcher::Event::Delete(pod)) => {
                if let Some(uid) = &pod.metadata.uid {
                    engine.vanish(uid);
                }
            }
            Err(error) => tracing::warn!(%error, "the watch of pods broke; it is started again"),
        }
    }
}
