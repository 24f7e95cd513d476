//! The lab's Node objects in somebody else's cluster: none is taken from others, each gets pod CIDRs, all go with the lab.

use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::access::Access;
use super::mirror::Mirror;
use crate::layout::{LabName, NodePlan, POD_CIDR_V4, POD_CIDR_V6};

/// The label on a lab's Nodes; its value is the lab's name.
pub const LAB_LABEL: &str = "fairway.dev/lab";
/// How long the cluster's controller manager has to give a node its pod CIDRs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the API has to let the nodes go.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// Fails when the cluster has nodes of our names that are not this lab's.
///
/// # Errors
/// That, or an API that does not answer.
pub async fn refuse_foreign(
    client: &Client,
    lab: &LabName,
    nodes: &[NodePlan],
) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    for plan in nodes {
        let Some(node) = api.get_opt(&plan.name).await? else { continue };
        let owner = node.labels().get(LAB_LABEL).map_or("", String::as_str);
        if owner != lab.as_str() {
            bail!(
                "it has a node {name} that is not of lab {lab}: remove it (`kubectl delete node {name}`) or join another cluster",
                name = plan.name
            );
        }
    }
    Ok(())
}

/// Gives pod CIDRs to nodes the cluster leaves without; ends when all have theirs, or cancelled.
pub async fn give_pod_cidrs(client: Client, mirror: Mirror, nodes: Vec<NodePlan>) {
    let mut changes = mirror.changes();
    let without = || {
        let of = |plan: &&NodePlan| mirror.node(&plan.name);
        let registered = nodes.iter().filter(|plan| of(plan).is_some()).count();
        let bare = nodes.iter().find(|plan| of(plan).is_some_and(|node| cidrs(&node).is_empty()));
        (registered == nodes.len(), bare.map(|plan| plan.name.clone()))
    };
    // Whoever gives them elsewhere does so within moments of the last node's coming.
    while !without().0 {
        if changes.changed().await.is_err() {
            return;
        }
    }
    tokio::time::sleep(PATIENCE).await;
    while let (_, Some(node)) = without() {
        let taken: Vec<IpNet> = mirror.nodes().iter().flat_map(|node| cidrs(node)).collect();
        let chosen = [(POD_CIDR_V4, 24), (POD_CIDR_V6, 64)]
            .map(|(range, prefix)| first_free(range, prefix, &taken));
        let [Some(v4), Some(v6)] = chosen else {
            return warn!(node, "no pod CIDR is free in {POD_CIDR_V4} and {POD_CIDR_V6}");
        };
        let patch = json!({"spec": {"podCIDR": v4, "podCIDRs": [v4, v6]}});
        let api: Api<Node> = Api::all(client.clone());
        match api.patch(&node, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => info!(node, %v4, %v6, "the cluster gives no pod CIDRs: these are the lab's"),
            Err(error) => {
                warn!(node, %error, "cannot give it pod CIDRs");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        }
        // The choice for the next one counts what this one got.
        while mirror.node(&node).is_some_and(|node| cidrs(&node).is_empty()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

fn cidrs(node: &Value) -> Vec<IpNet> {
    let list = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
    list.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

fn first_free(range: &str, prefix: u8, taken: &[IpNet]) -> Option<IpNet> {
    let range: IpNet = range.parse().expect("invariant: a literal CIDR");
    let overlaps = |part: &IpNet| taken.iter().any(|t| t.contains(part) || part.contains(t));
    range.subnets(prefix).ok()?.find(|part| !overlaps(part))
}

/// Deletes the lab's Nodes and their Leases from the cluster; how many Nodes there were. For callers without a runtime.
///
/// # Errors
/// When the API does not answer or refuses.
pub fn leave(access: &Access, lab: &LabName) -> anyhow::Result<usize> {
    // On a thread of its own: the caller may be inside a runtime.
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::time::timeout(LEAVE_WITHIN, delete(access, lab))
                .await
                .with_context(|| format!("the API at {} does not answer", access.url()))?
        })
    };
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| bail!("leaving the cluster ended in a panic"))
}

async fn delete(access: &Access, lab: &LabName) -> anyhow::Result<usize> {
    let client = access.client().await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let ours = ListParams::default().labels(&format!("{LAB_LABEL}={lab}"));
    let mut count = 0;
    for node in nodes.list(&ours).await?.items {
        let name = node.name_any();
        gone(nodes.delete(&name, &DeleteParams::default()).await.map(drop))?;
        gone(leases.delete(&name, &DeleteParams::default()).await.map(drop))?;
        count += 1;
    }
    Ok(count)
}

/// What is not there need not be deleted.
fn gone(result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_part_is_one_that_overlaps_nothing() {
        let taken = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let first = |texts: &[&str]| first_free("10.244.0.0/16", 24, &taken(texts));
        assert_eq!(first(&[]).unwrap().to_string(), "10.244.0.0/24");
        assert_eq!(
            first(&["10.244.0.0/24", "10.244.2.0/23"]).unwrap().to_string(),
            "10.244.1.0/24"
        );
        assert_eq!(first(&["10.244.0.0/17"]).unwrap().to_string(), "10.244.128.0/24");
        assert_eq!(first(&["10.0.0.0/8"]), None);
    }
}
