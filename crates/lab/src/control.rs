//! `fairway lab control`: the process behind a lab. Wires the network, serves the API, runs the controllers, keeps agents
//! and runners running, and answers `lab status` and `lab node`.
//!
//! Tasks: the API server's own; one per supervised process ([`supervise`](crate::supervise)); one that follows Nodes and
//! reports the first time each is Ready; one that rewrites the run record when a process changes; one that serves the
//! control socket. All end with the process, which ends on SIGTERM, or when the `lab up` it belongs to dies.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::store::{Resource, Store};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::api::{Api, ApiUser};
use crate::enter::Place;
use crate::layout::{
    API_PORT, LabName, Layout, NETNS_ROOT, NodePlan, RESOLV_CONF, SWITCH_V4, hosts_file,
};
use crate::network::Network;
use crate::process::{self, ProcessId};
use crate::protocol::{DETACH, NodeState, Progress, Request, Response};
use crate::state::{self, LabSpec, Role, RunRecord};
use crate::supervise::{Part, Supervisor};

/// The object store in the state directory.
pub const STORE_FILE: &str = "objects.redb";
/// How long all nodes may take to become Ready.
const READY_WITHIN: Duration = Duration::from_secs(45);
/// How many ports from [`API_PORT`] on are tried when none is asked for.
const PORTS_TRIED: u16 = 200;

/// Runs the control process until it is told to end.
///
/// # Errors
/// When the lab cannot be brought up; the same line has been reported to `lab up` by then.
pub fn main(name: LabName, api_port: Option<u16>) -> anyhow::Result<()> {
    // Out of the terminal's reach: its Ctrl-C and its end are `lab up`'s business.
    if let Err(error) = rustix::process::setsid() {
        warn!(%error, "cannot leave the terminal's session");
    }
    let layout = Layout::new(name);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        match run(&layout, api_port).await {
            Ok(end) => end.follow(&layout),
            Err(error) => {
                report(&Progress::Failed { message: format!("{error:#}") });
                Err(error)
            }
        }
    })
}

/// Why the control process ends.
enum End {
    /// Somebody said so, and takes care of the rest.
    Told,
    /// The `lab up` it belongs to died.
    Orphaned,
}

impl End {
    fn follow(self, layout: &Layout) -> anyhow::Result<()> {
        match self {
            Self::Told => Ok(()),
            Self::Orphaned => {
                info!("lab up is gone: taking the lab down");
                let own = std::env::current_exe().context("cannot find this program's file")?;
                let error = std::process::Command::new(own)
                    .args(["lab", "down", "--name", layout.name().as_str()])
                    .exec();
                Err(error).context("cannot become `lab down`")
            }
        }
    }
}

async fn run(layout: &Layout, api_port: Option<u16>) -> anyhow::Result<End> {
    // Listened for from the start: the pipe's end must not be missed while the lab comes up.
    let orphaned = tokio::spawn(until_orphaned(leash()?));
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut spec: LabSpec = state::read(&state::spec_file(layout))?
        .with_context(|| format!("there is no {}", state::spec_file(layout).display()))?;
    let nodes = NodePlan::all(spec.nodes);
    let mut record = RunRecord {
        spec: spec.clone(),
        boot_id: process::boot_id(),
        started: jiff::Timestamp::now().to_string(),
        control: ProcessId::own(),
        api_url: String::new(),
        processes: Vec::new(),
    };
    // Before anything is made: from here on `lab down` knows whom to end.
    write_record(layout, &record)?;
    write_files(layout, &nodes)?;

    let outside = listen_on_loopback(api_port, spec.api_port)?;
    let port = outside.local_addr().context("cannot read the API's port")?.port();
    let network = Network::build(layout, &nodes)?;
    report(&Progress::Network { nodes: spec.nodes });
    let inside = network.listen(API_PORT)?;

    let api = Api::start(layout, vec![outside, inside])?;
    let url = format!("https://127.0.0.1:{port}");
    write_kubeconfigs(layout, &api, &nodes, &url)?;
    spec.api_port = Some(port);
    state::write(&state::spec_file(layout), &spec)
        .context("cannot write the lab's specification")?;
    record.spec = spec;
    record.api_url.clone_from(&url);
    write_record(layout, &record)?;
    report(&Progress::Api { url, restored: api.restored() });

    let supervisor = Arc::new(Supervisor::start(parts(layout, &nodes)?));
    let record = Arc::new(Mutex::new(record));
    tokio::spawn(keep_record(layout.clone(), Arc::clone(&supervisor), Arc::clone(&record)));
    let listener = UnixListener::bind(layout.control_socket())
        .with_context(|| format!("cannot listen on {}", layout.control_socket().display()))?;
    tokio::spawn(serve(listener, Arc::clone(&supervisor), api.store().clone(), nodes.clone()));

    let ready = tokio::time::timeout(READY_WITHIN, all_ready(api.store().clone(), &nodes));
    tokio::pin!(orphaned);
    tokio::select! {
        ready = ready => if ready.is_err() { bail!("{}", who_is_not_ready(layout, api.store(), &nodes)) },
        _ = terminate.recv() => return Ok(End::Told),
        end = &mut orphaned => if matches!(end, Ok(End::Orphaned)) { return Ok(End::Orphaned) },
    }
    report(&Progress::Ready);
    let end = tokio::select! {
        _ = terminate.recv() => End::Told,
        end = orphaned => match end {
            Ok(End::Orphaned) => End::Orphaned,
            // Detached: from now on only a signal ends it.
            _ => { terminate.recv().await; End::Told }
        },
    };
    api.stop().await;
    Ok(end)
}

/// Says how far it is; that nobody listens any more is noticed by [`until_orphaned`].
fn report(progress: &Progress) {
    if let Ok(mut line) = serde_json::to_vec(progress) {
        line.push(b'\n');
        let mut out = std::io::stdout().lock();
        drop(out.write_all(&line).and_then(|()| out.flush()));
    }
}

/// The pipe from `lab up`, which is standard input.
fn leash() -> anyhow::Result<pipe::Receiver> {
    let stdin =
        std::io::stdin().as_fd().try_clone_to_owned().context("cannot copy standard input")?;
    pipe::Receiver::from_owned_fd(stdin)
        .context("standard input is no pipe: this command is started by `fairway lab up`")
}

/// Reads what `lab up` says: the word that detaches, or the pipe's end.
async fn until_orphaned(leash: pipe::Receiver) -> End {
    let mut lines = BufReader::new(leash).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) if line.trim() == DETACH => return End::Told,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return End::Orphaned,
        }
    }
}

/// Binds the API's port on the host's loopback: the one asked for or none; else the one of the last run, else the
/// first free one.
fn listen_on_loopback(asked: Option<u16>, last: Option<u16>) -> anyhow::Result<TcpListener> {
    let bind = |port: u16| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(port) = asked {
        return bind(port).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "port {port} on 127.0.0.1 is taken: choose another with --api-port, or none and the first free one is used"
            ),
            _ => anyhow::anyhow!("cannot listen on 127.0.0.1:{port}: {error}"),
        });
    }
    let mut reason = None;
    for port in last.into_iter().chain(API_PORT..API_PORT + PORTS_TRIED) {
        match bind(port) {
            Ok(listener) => return Ok(listener),
            Err(error) => reason = Some(error),
        }
    }
    let reason = reason.map_or_else(String::new, |error| format!(" ({error})"));
    bail!("no port from {API_PORT} on is free on 127.0.0.1{reason}: choose one with --api-port")
}

fn write_files(layout: &Layout, nodes: &[NodePlan]) -> anyhow::Result<()> {
    let cannot = |path: &Path| format!("cannot write {}", path.display());
    let hosts = layout.hosts_file();
    state::write_bytes(&hosts, hosts_file(nodes).as_bytes(), 0o644)
        .with_context(|| cannot(&hosts))?;
    let resolv = layout.resolv_file();
    state::write_bytes(&resolv, RESOLV_CONF.as_bytes(), 0o644).with_context(|| cannot(&resolv))?;
    for node in nodes {
        for dir in [layout.cni_conf_dir(&node.name), layout.node_state_dir(&node.name)] {
            fs::create_dir_all(&dir).with_context(|| cannot(&dir))?;
        }
    }
    Ok(())
}

fn write_record(layout: &Layout, record: &RunRecord) -> anyhow::Result<()> {
    let file = state::record_file(layout);
    state::write(&file, record).with_context(|| format!("cannot write {}", file.display()))
}

fn write_kubeconfigs(
    layout: &Layout,
    api: &Api,
    nodes: &[NodePlan],
    url: &str,
) -> anyhow::Result<()> {
    let lab = layout.name().as_str();
    let admin = ApiUser { name: "admin", group: "system:masters" };
    let mut files = vec![(layout.kubeconfig(), api.kubeconfig(lab, admin, url)?)];
    let inner = format!("https://{SWITCH_V4}:{API_PORT}");
    for node in nodes {
        let dir = layout.node_dir(&node.name);
        let agent = format!("fairway:agent:{}", node.name);
        let agent = ApiUser { name: &agent, group: "system:masters" };
        let runner = format!("system:node:{}", node.name);
        let runner = ApiUser { name: &runner, group: "system:nodes" };
        files.push((dir.join("agent.kubeconfig"), api.kubeconfig(lab, agent, &inner)?));
        files.push((dir.join("runner.kubeconfig"), api.kubeconfig(lab, runner, &inner)?));
    }
    for (path, text) in files {
        state::write_bytes(&path, text.as_bytes(), 0o600)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The processes of all nodes.
fn parts(layout: &Layout, nodes: &[NodePlan]) -> anyhow::Result<Vec<Part>> {
    let own: OsString = std::env::current_exe().context("cannot find this program's file")?.into();
    let mut parts = Vec::new();
    for node in nodes {
        let dir = layout.node_dir(&node.name);
        let place = Place {
            net: Path::new(NETNS_ROOT).join(layout.node_namespace(&node.name)),
            hostname: Some(node.name.clone()),
            hosts: Some(layout.hosts_file()),
            resolv: Some(layout.resolv_file()),
        };
        let agent: Vec<OsString> = vec![
            "agent".into(),
            "--node-name".into(),
            node.name.clone().into(),
            "--kubeconfig".into(),
            dir.join("agent.kubeconfig").into(),
            "--run-dir".into(),
            dir.join("agent").into(),
            "--state-dir".into(),
            layout.node_state_dir(&node.name).into(),
            "--cni-conf-dir".into(),
            layout.cni_conf_dir(&node.name).into(),
        ];
        let runner: Vec<OsString> = vec![
            "lab".into(),
            "pod-runner".into(),
            "--lab".into(),
            layout.name().to_string().into(),
            "--node-name".into(),
            node.name.clone().into(),
            "--kubeconfig".into(),
            dir.join("runner.kubeconfig").into(),
            "--run-dir".into(),
            dir.join("runner").into(),
            "--node-ip".into(),
            node.v4.to_string().into(),
            "--node-ip".into(),
            node.v6.to_string().into(),
            "--cni-conf-dir".into(),
            layout.cni_conf_dir(&node.name).into(),
            "--socket".into(),
            layout.runner_socket(&node.name).into(),
            "--cluster-dns".into(),
            "10.96.0.10".into(),
        ];
        for (role, words) in [(Role::Agent, agent), (Role::Runner, runner)] {
            let mut command = vec![own.clone()];
            command.extend(place.arguments());
            command.push(own.clone());
            command.extend(words);
            let log = dir.join(format!("{}.log", role.as_str()));
            parts.push(Part { node: node.name.clone(), role, command, log });
        }
    }
    Ok(parts)
}

/// Rewrites the run record whenever a supervised process changes.
async fn keep_record(layout: Layout, supervisor: Arc<Supervisor>, record: Arc<Mutex<RunRecord>>) {
    let mut changes = supervisor.changes();
    loop {
        let snapshot = {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            record.processes = supervisor.records();
            record.clone()
        };
        if let Err(error) = write_record(&layout, &snapshot) {
            warn!("{error:#}");
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Returns when every node is Ready; reports each as it gets there.
async fn all_ready(store: Store, nodes: &[NodePlan]) {
    let mut missing: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let see = |object: &Value, missing: &mut BTreeSet<&str>| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if readiness(object).0 && missing.remove(name) {
            report(&Progress::NodeReady { node: name.to_owned() });
        }
    };
    // A watch that fell behind begins again with a list.
    while !missing.is_empty() {
        let (listing, mut watch) = store.list_watch(&Resource::new("", "nodes"), None);
        listing.items.iter().for_each(|object| see(object, &mut missing));
        while !missing.is_empty() {
            let Ok(event) = watch.next().await else { break };
            see(&event.object, &mut missing);
        }
    }
}

/// The Ready condition of a Node and what it says.
fn readiness(node: &Value) -> (bool, String) {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready {
        Some(condition) if condition["status"] == "True" => (true, String::new()),
        Some(condition) => (false, condition["message"].as_str().unwrap_or("not Ready").to_owned()),
        None => (false, "its pod runner has not reported yet".to_owned()),
    }
}

fn node_states(store: &Store, nodes: &[NodePlan]) -> Vec<NodeState> {
    let pods = store.list(&Resource::new("", "pods"), None);
    nodes
        .iter()
        .map(|plan| {
            let node = store.get(&Resource::new("", "nodes"), "", &plan.name);
            let (ready, message) =
                node.as_deref().map_or((false, "it has not registered yet".to_owned()), readiness);
            let cidrs = node.as_deref().and_then(|node| node["spec"]["podCIDRs"].as_array());
            let pod_cidrs =
                cidrs.into_iter().flatten().filter_map(|c| c.as_str().map(str::to_owned)).collect();
            let pods =
                pods.items.iter().filter(|pod| pod["spec"]["nodeName"] == *plan.name).count();
            NodeState { name: plan.name.clone(), ready, message, pod_cidrs, pods }
        })
        .collect()
}

fn who_is_not_ready(layout: &Layout, store: &Store, nodes: &[NodePlan]) -> String {
    let late: Vec<String> = node_states(store, nodes)
        .into_iter()
        .filter(|node| !node.ready)
        .map(|node| {
            let dir = layout.node_dir(&node.name);
            let said = [Role::Agent, Role::Runner]
                .map(|role| last_line(&dir.join(format!("{}.log", role.as_str()))));
            format!("{} ({}; agent: {}; runner: {})", node.name, node.message, said[0], said[1])
        })
        .collect();
    format!("not every node is Ready after {} s: {}", READY_WITHIN.as_secs(), late.join(", "))
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.trim_end().lines().last().unwrap_or("silent").trim().to_owned()
}

async fn serve(
    listener: UnixListener,
    supervisor: Arc<Supervisor>,
    store: Store,
    nodes: Vec<NodePlan>,
) {
    let nodes = Arc::new(nodes);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (supervisor, store, nodes) =
                    (Arc::clone(&supervisor), store.clone(), Arc::clone(&nodes));
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &supervisor, &store, &nodes).await {
                        warn!("control socket: {error:#}");
                    }
                });
            }
            Err(error) => {
                warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(
    mut stream: UnixStream,
    supervisor: &Supervisor,
    store: &Store,
    nodes: &[NodePlan],
) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    let done = |result: anyhow::Result<()>| match result {
        Ok(()) => Response::Done,
        Err(error) => Response::Refused { message: format!("{error:#}") },
    };
    let response = match serde_json::from_str(&line) {
        Ok(Request::Status) => Response::Status {
            nodes: node_states(store, nodes),
            processes: supervisor.records(),
            services: store.list(&Resource::new("", "services"), None).items.len(),
        },
        Ok(Request::Kill { node, roles }) => done(supervisor.kill(&node, &roles).await),
        Ok(Request::Restart { node, roles }) => done(supervisor.restart(&node, &roles).await),
        Err(error) => Response::Refused { message: format!("not a request: {error}") },
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    Ok(())
}
