//! `fairway lab control`: the process behind a lab. Wires the network, serves the API and runs the controllers (or joins
//! an existing cluster), keeps agents and runners running, and answers `lab status` and `lab node`.
//!
//! Tasks: the API server's own; one per supervised process ([`supervise`](crate::supervise)); one that follows Nodes and
//! reports the first time each is Ready; one that rewrites the run record when a process changes; one that serves the
//! control socket. All end with the process, which ends on SIGTERM, or when the `lab up` it belongs to dies.

mod cluster;
mod names;
mod parts;
mod readiness;

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use self::cluster::{Plan, Seen};
use self::readiness::{all_ready, node_states, who_is_not_ready};
use crate::layout::{LabName, Layout, NodePlan};
use crate::network::Network;
use crate::process::{self, ProcessId};
use crate::protocol::{DETACH, Progress, Request, Response};
use crate::state::{self, LabSpec, RunRecord};
use crate::supervise::Supervisor;

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
    parts::write_files(layout, &nodes)?;

    let plan = Plan::of(&spec, api_port)?;
    let network = Network::build(layout, &nodes)?;
    report(&Progress::Network { nodes: spec.nodes });
    let cluster = plan.start(layout, &spec, &nodes, &network).await?;
    let url = cluster.url();
    parts::write_kubeconfigs(layout, &cluster, &nodes)?;
    spec.api_port = cluster.port().or(spec.api_port);
    state::write(&state::spec_file(layout), &spec)
        .context("cannot write the lab's specification")?;
    let parts = parts::parts(layout, &cluster, &spec, &nodes)?;
    record.spec = spec;
    record.api_url.clone_from(&url);
    write_record(layout, &record)?;
    report(&Progress::Api { url, restored: cluster.restored() });

    let supervisor = Arc::new(Supervisor::start(parts));
    let record = Arc::new(Mutex::new(record));
    tokio::spawn(keep_record(layout.clone(), Arc::clone(&supervisor), Arc::clone(&record)));
    let listener = UnixListener::bind(layout.control_socket())
        .with_context(|| format!("cannot listen on {}", layout.control_socket().display()))?;
    let seen = cluster.seen();
    tokio::spawn(serve(listener, Arc::clone(&supervisor), seen.clone(), nodes.clone()));

    let ready = tokio::time::timeout(READY_WITHIN, all_ready(&seen, &nodes));
    tokio::pin!(orphaned);
    tokio::select! {
        ready = ready => if ready.is_err() { bail!("{}", who_is_not_ready(layout, &seen, &nodes)) },
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
    cluster.stop().await;
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

fn write_record(layout: &Layout, record: &RunRecord) -> anyhow::Result<()> {
    let file = state::record_file(layout);
    state::write(&file, record).with_context(|| format!("cannot write {}", file.display()))
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

async fn serve(
    listener: UnixListener,
    supervisor: Arc<Supervisor>,
    seen: Seen,
    nodes: Vec<NodePlan>,
) {
    let nodes = Arc::new(nodes);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (supervisor, seen, nodes) =
                    (Arc::clone(&supervisor), seen.clone(), Arc::clone(&nodes));
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &supervisor, &seen, &nodes).await {
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
    seen: &Seen,
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
            nodes: node_states(seen, nodes),
            processes: supervisor.records(),
            services: seen.services(),
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
