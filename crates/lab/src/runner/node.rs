//! Edge: the Node object, its status and its Lease.
//!
//! Task: [`run`], owned by the runner. It writes the status when the network becomes ready (or stops being so) and every
//! five minutes, and renews the Lease every ten seconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::RunnerConfig;
use super::inotify::Changes;
use super::status::seconds;

const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const STATUS_PERIOD: Duration = Duration::from_secs(300);
/// What `kubectl get nodes` shows as version.
pub const KUBELET_VERSION: &str = concat!("v1.36.0-fairway.", env!("CARGO_PKG_VERSION"));

/// Keeps `ready` equal to whether there is a CNI configuration, at once.
pub async fn watch_network(dir: std::path::PathBuf, ready: watch::Sender<bool>) {
    loop {
        let mut changes = match std::fs::create_dir_all(&dir).and_then(|()| Changes::of(&dir)) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "cannot watch the CNI directory");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        loop {
            let now = super::cni::load(&dir).is_ok();
            ready.send_if_modified(|was| std::mem::replace(was, now) != now);
            if changes.next().await.is_err() {
                break;
            }
        }
    }
}

/// Registers the node and keeps it alive until cancelled.
pub async fn run(client: kube::Client, config: RunnerConfig, mut network: watch::Receiver<bool>) {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut wait = Duration::from_millis(50);
    let (node, registered) = loop {
        let now = *network.borrow_and_update();
        match register(&nodes, &config, now).await {
            Ok(node) => break (node, now),
            Err(error) => {
                tracing::warn!(%error, "cannot register the node; trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
    };
    let mut known = node;
    let mut ready = *network.borrow_and_update();
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let mut lease_tick = interval_at(Instant::now(), LEASE_PERIOD);
    lease_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut status_tick = interval_at(Instant::now() + STATUS_PERIOD, STATUS_PERIOD);
    let mut retry = Duration::from_secs(3600);
    // the network may have become ready while the node was being registered
    let mut dirty = ready != registered;
    loop {
        if dirty {
            match write_status(&nodes, &config, &known, ready).await {
                Ok(node) => {
                    known = node;
                    dirty = false;
                    retry = Duration::from_secs(3600);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot write the node's status; trying again");
                    retry = Duration::from_millis(500);
                    if matches!(&error, kube::Error::Api(s) if s.code == 404)
                        && let Ok(node) = register(&nodes, &config, ready).await
                    {
                        known = node;
                        dirty = false;
                    }
                }
            }
        }
        tokio::select! {
            changed = network.changed() => {
                if changed.is_err() {
                    return;
                }
                ready = *network.borrow_and_update();
                dirty = true;
            }
            _ = lease_tick.tick() => {
                if let Err(error) = renew(&leases, &config.node, known.metadata.uid.as_deref()).await {
                    tracing::warn!(%error, "cannot renew the node's lease");
                }
            }
            _ = status_tick.tick() => dirty = true,
            () = tokio::time::sleep(retry) => {}
        }
    }
}

async fn register(nodes: &Api<Node>, config: &RunnerConfig, ready: bool) -> kube::Result<Node> {
    let name = config.node.as_str();
    let node = match nodes.get_opt(name).await? {
        Some(node) => relabel(nodes, config, node).await?,
        None => {
            let mut labels = labels(name);
            labels.extend(config.labels.iter().cloned());
            let metadata = ObjectMeta {
                name: Some(name.into()),
                labels: Some(labels),
                ..ObjectMeta::default()
            };
            // with its status at once: a watcher never sees a node without addresses
            let status = Some(status(config, None, ready));
            let node = Node { metadata, status, ..Node::default() };
            match nodes.create(&PostParams::default(), &node).await {
                Ok(node) => node,
                Err(kube::Error::Api(s)) if s.code == 409 => nodes.get(name).await?,
                Err(error) => return Err(error),
            }
        }
    };
    write_status(nodes, config, &node, ready).await
}

/// A node that came back may have other labels than it left with; those somebody else gave it stay.
async fn relabel(nodes: &Api<Node>, config: &RunnerConfig, node: Node) -> kube::Result<Node> {
    let has = |(key, value): &(String, String)| node.labels().get(key) == Some(value);
    if config.labels.iter().all(has) {
        return Ok(node);
    }
    let labels: BTreeMap<_, _> = config.labels.iter().cloned().collect();
    let patch = serde_json::json!({"metadata": {"labels": labels}});
    nodes.patch(&config.node, &PatchParams::default(), &Patch::Merge(patch)).await
}

fn labels(name: &str) -> BTreeMap<String, String> {
    let arch = go_arch();
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn write_status(
    nodes: &Api<Node>,
    config: &RunnerConfig,
    node: &Node,
    ready: bool,
) -> kube::Result<Node> {
    let status = status(config, node.status.as_ref(), ready);
    let patch = serde_json::json!({"status": status});
    nodes.patch_status(&config.node, &PatchParams::default(), &Patch::Merge(patch)).await
}

fn status(config: &RunnerConfig, before: Option<&NodeStatus>, ready: bool) -> NodeStatus {
    let now = seconds(Timestamp::now());
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", std::thread::available_parallelism().map_or(1, usize::from).to_string()),
        ("memory", format!("{}Ki", memory_kib())),
        ("ephemeral-storage", format!("{}Ki", disk_kib(&config.run_dir))),
        ("pods", "110".to_owned()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect();
    let ip =
        |ip: &std::net::IpAddr| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() };
    let mut addresses: Vec<NodeAddress> = config.node_ips.iter().map(ip).collect();
    // An API server asks for the kubelet at the Hostname first.
    let hostname = config.kubelet.map_or_else(|| config.node.clone(), |at| at.ip().to_string());
    addresses.push(NodeAddress { type_: "Hostname".into(), address: hostname });
    let port = config.kubelet.map_or(10250, |at| i32::from(at.port()));
    let old: &[NodeCondition] = before.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let same = old.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: same
                .and_then(|c| c.last_transition_time.clone())
                .or_else(|| Some(now.clone())),
        }
    };
    let mut conditions = vec![
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        if ready {
            condition("Ready", true, "KubeletReady", "kubelet is posting ready status")
        } else {
            condition(
                "Ready",
                false,
                "KubeletNotReady",
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                 message:no CNI configuration yet: is the fairway agent of this node running?",
            )
        },
    ];
    let own: Vec<String> = conditions.iter().map(|c| c.type_.clone()).collect();
    conditions.extend(old.iter().filter(|c| !own.contains(&c.type_)).cloned());
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources.clone()),
        allocatable: Some(resources),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port }),
        }),
        node_info: Some(system_info()),
        ..NodeStatus::default()
    }
}

fn system_info() -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    NodeSystemInfo {
        architecture: go_arch().into(),
        operating_system: "linux".into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        machine_id: read("/etc/machine-id"),
        system_uuid: read("/etc/machine-id"),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        kubelet_version: KUBELET_VERSION.into(),
        container_runtime_version: concat!("fairway://", env!("CARGO_PKG_VERSION")).into(),
        ..NodeSystemInfo::default()
    }
}

fn memory_kib() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    total.and_then(|t| t.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn disk_kib(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize) / 1024)
}

async fn renew(leases: &Api<Lease>, node: &str, uid: Option<&str>) -> kube::Result<()> {
    let now = MicroTime(Timestamp::now());
    let patch = serde_json::json!({"spec": {"holderIdentity": node, "renewTime": now,
        "leaseDurationSeconds": LEASE_SECONDS}});
    match leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(s)) if s.code == 404 => {
            let owner = uid.map(|uid| OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.into(),
                uid: uid.into(),
                ..OwnerReference::default()
            });
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(node.into()),
                    namespace: Some("kube-node-lease".into()),
                    owner_references: owner.map(|o| vec![o]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(node.into()),
                    lease_duration_seconds: Some(LEASE_SECONDS),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            leases.create(&PostParams::default(), &lease).await.map(drop)
        }
        Err(error) => Err(error),
    }
}
