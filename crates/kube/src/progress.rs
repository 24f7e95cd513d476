//! How far each node is: one Lease per node says up to which `resourceVersion` its kernel follows the API.
//!
//! A watch delivers changes of one kind in the order of their versions, so "everything up to 815" is one number per kind
//! and node, however many Services there are. Versions of one API server may be compared since Kubernetes 1.35
//! (KEP-5504, Comparable Resource Versions) and always could be in practice: they are etcd's revision. A Service is
//! programmed on a node when the node has reached the version of the Service and of its newest EndpointSlice.
//!
//! The cost: a write only when a number changed, at most one per second and node, and fewer in large clusters: all
//! nodes together make at most `WRITES_PER_SECOND`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use model::{NodeFacts, NodeName};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where the Leases are.
const NAMESPACE: &str = "kube-system";
const SERVICES: &str = "fairway.dev/applied-services";
const SLICES: &str = "fairway.dev/applied-endpointslices";
const POLICIES: &str = "fairway.dev/applied-networkpolicies";
const LABELS: &str = "app.kubernetes.io/name=fairway,app.kubernetes.io/component=progress";
const FIELD_MANAGER: &str = "fairway-agent";
/// The least time between two writes of one node.
const PAUSE: Duration = Duration::from_secs(1);
/// All nodes of a cluster together write at most this often.
const WRITES_PER_SECOND: u32 = 100;
/// After a refused write.
const RETRY: Duration = Duration::from_secs(5);

/// Up to which version of each kind a node's kernel follows the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Services.
    pub services: u64,
    /// EndpointSlices.
    pub endpoint_slices: u64,
    /// NetworkPolicies; 0 where they are not enforced.
    pub network_policies: u64,
}

impl Applied {
    /// Whether everything `wanted` names is applied.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        self.services >= wanted.services
            && self.endpoint_slices >= wanted.endpoint_slices
            && self.network_policies >= wanted.network_policies
    }
}

/// What one node said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeProgress {
    /// The node.
    pub node: String,
    /// How far it is.
    pub applied: Applied,
    /// When it said so.
    pub at: Option<Timestamp>,
}

/// The nodes' progress cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The API refused.
    #[error(
        "cannot list the agents' Leases in {NAMESPACE}; may this user list leases.coordination.k8s.io there?"
    )]
    List(#[source] Box<kube::Error>),
}

/// `metadata.resourceVersion` as a number; `None` for an API server whose versions are something else.
#[must_use]
pub fn revision_of(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

/// What every node said last, by node name.
///
/// # Errors
/// [`ProgressError`].
pub async fn progress(client: &Client) -> Result<BTreeMap<String, NodeProgress>, ProgressError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let listed = api.list(&ListParams::default().labels(LABELS)).await;
    let leases = listed.map_err(|source| ProgressError::List(Box::new(source)))?;
    let nodes = leases.items.iter().filter_map(read);
    Ok(nodes.map(|progress| (progress.node.clone(), progress)).collect())
}

fn read(lease: &Lease) -> Option<NodeProgress> {
    let number = |name| lease.metadata.annotations.as_ref()?.get(name)?.parse().ok();
    let spec = lease.spec.as_ref()?;
    Some(NodeProgress {
        node: spec.holder_identity.clone()?,
        applied: Applied {
            services: number(SERVICES)?,
            endpoint_slices: number(SLICES)?,
            // An agent of before, or one that leaves policy to others, does not say.
            network_policies: number(POLICIES).unwrap_or(0),
        },
        at: spec.renew_time.as_ref().map(|time| time.0),
    })
}

/// Writes this node's Lease; dropping it stops it.
#[derive(Debug)]
pub struct ProgressWriter {
    task: JoinHandle<()>,
}

impl ProgressWriter {
    /// Starts the writer: it writes the latest value of `applied`. `nodes` tells how many nodes share the API, and the
    /// uid of this one, which then owns the Lease.
    #[must_use]
    pub fn start(
        client: Client,
        node: NodeName,
        applied: watch::Receiver<Option<Applied>>,
        nodes: watch::Receiver<Option<Vec<NodeFacts>>>,
    ) -> Self {
        Self { task: tokio::spawn(write_all(client, node, applied, nodes)) }
    }
}

impl Drop for ProgressWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_all(
    client: Client,
    node: NodeName,
    mut applied: watch::Receiver<Option<Applied>>,
    nodes: watch::Receiver<Option<Vec<NodeFacts>>>,
) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let name = format!("fairway-{}", node.as_str());
    let how = PatchParams::apply(FIELD_MANAGER).force();
    let mut written = None;
    loop {
        let wanted = *applied.borrow_and_update();
        let (count, uid) = match &*nodes.borrow() {
            Some(nodes) => {
                let own = nodes.iter().find(|facts| facts.name == node);
                (nodes.len(), own.and_then(|facts| facts.uid).map(|uid| uid.to_string()))
            }
            None => (0, None),
        };
        let mut wait = pause(count);
        if let Some(wanted) = wanted.filter(|wanted| written != Some(*wanted)) {
            let lease = lease(&name, node.as_str(), wanted, uid.as_deref());
            match api.patch(&name, &how, &Patch::Apply(&lease)).await {
                Ok(_) => written = Some(wanted),
                Err(error) => {
                    tracing::debug!(%error, "this node's progress was not written");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        } else {
            wait = Duration::ZERO;
        }
        tokio::time::sleep(wait).await;
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// How long a node waits between two writes in a cluster of `nodes`.
fn pause(nodes: usize) -> Duration {
    let share = Duration::from_secs(1) / WRITES_PER_SECOND;
    PAUSE.max(share * u32::try_from(nodes).unwrap_or(u32::MAX))
}

fn lease(name: &str, node: &str, applied: Applied, uid: Option<&str>) -> serde_json::Value {
    let now = Timestamp::try_from(std::time::SystemTime::now()).ok();
    // MicroTime: six digits.
    let now = now.map(|now| format!("{now:.6}"));
    // The Lease goes with its Node.
    let owners: Vec<_> = uid
        .iter()
        .map(|uid| json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}))
        .collect();
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "fairway", "app.kubernetes.io/component": "progress"},
            "annotations": {
                SERVICES: applied.services.to_string(),
                SLICES: applied.endpoint_slices.to_string(),
                POLICIES: applied.network_policies.to_string(),
            },
            "ownerReferences": owners,
        },
        "spec": {"holderIdentity": node, "renewTime": now},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let applied = Applied { services: 812, endpoint_slices: 815, network_policies: 7 };
        let value = lease("fairway-node-1", "node-1", applied, Some("u-1"));
        assert_eq!(value["metadata"]["ownerReferences"][0]["uid"], "u-1");
        let lease: Lease = serde_json::from_value(value).expect("a Lease");
        let progress = read(&lease).expect("progress");
        assert_eq!((progress.node.as_str(), progress.applied), ("node-1", applied));
        assert!(progress.at.is_some());
        let other = Lease { spec: lease.spec, ..Lease::default() };
        assert_eq!(read(&other), None, "a Lease of somebody else");
    }

    #[test]
    fn a_large_cluster_writes_less_often() {
        assert_eq!(pause(0), Duration::from_secs(1));
        assert_eq!(pause(100), Duration::from_secs(1));
        assert_eq!(pause(5_000), Duration::from_secs(50));
    }

    #[test]
    fn every_kind_must_be_reached() {
        let wanted = Applied { services: 10, endpoint_slices: 20, network_policies: 5 };
        assert!(wanted.covers(&wanted));
        assert!(!Applied { services: 11, endpoint_slices: 19, ..wanted }.covers(&wanted));
        assert!(!Applied { network_policies: 4, ..wanted }.covers(&wanted));
    }
}
