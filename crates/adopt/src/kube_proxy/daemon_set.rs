//! kube-proxy as a DaemonSet: one node at a time leaves it and comes back, by a label. An edge: the API.
//!
//! The DaemonSet is told once to avoid nodes labelled `fairway.dev/service-proxy=fairway`; this changes its template, so
//! its pods are replaced one after the other, which leaves their rules in place. From then on a node's label decides.

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The label that says which Service proxy a node has.
pub const LABEL: &str = "fairway.dev/service-proxy";
/// Its value while Fairway serves.
pub const FAIRWAY: &str = "fairway";
/// Its value after Fairway gave back: Fairway's own DaemonSet avoids these nodes.
pub const KUBE_PROXY: &str = "kube-proxy";

const AFFINITY: &str = "/spec/template/spec/affinity";

/// Makes kube-proxy leave a node. Returns false when there is no such DaemonSet: then it is no pod.
///
/// # Errors
/// When the API refuses.
pub async fn leave(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> anyhow::Result<bool> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_opt(name).await;
    let Some(set) = set.with_context(|| format!("cannot read DaemonSet {namespace}/{name}"))?
    else {
        return Ok(false);
    };
    let set = serde_json::to_value(&set)?;
    if let Some(affinity) = avoiding(set.pointer(AFFINITY)) {
        let patch = json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
        sets.patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .with_context(|| format!("cannot change DaemonSet {namespace}/{name}"))?;
    }
    label(client, node, FAIRWAY).await?;
    Ok(true)
}

/// Lets kube-proxy come back to a node. Returns false when there is no such DaemonSet.
///
/// # Errors
/// When the API refuses.
pub async fn come_back(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> anyhow::Result<bool> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let set = sets.get_opt(name).await;
    if set.with_context(|| format!("cannot read DaemonSet {namespace}/{name}"))?.is_none() {
        return Ok(false);
    }
    label(client, node, KUBE_PROXY).await?;
    Ok(true)
}

/// Pods of the DaemonSet on a node; kube-proxy has left when there are none.
///
/// # Errors
/// When the API refuses.
pub async fn pods(
    client: &Client,
    namespace: &str,
    name: &str,
    node: &str,
) -> anyhow::Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let listed = pods.list(&there).await;
    let listed = listed.with_context(|| format!("cannot list the pods of {namespace}"))?;
    let is_of_set = |pod: &Pod| {
        let owners = pod.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.kind == "DaemonSet" && owner.name == name)
    };
    let of_set = listed.items.into_iter().filter(is_of_set);
    Ok(of_set.filter_map(|pod| pod.metadata.name).collect())
}

async fn label(client: &Client, node: &str, value: &str) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    if nodes.get_opt(node).await.context("cannot read Nodes")?.is_none() {
        bail!("the API has no Node {node}; give --node-name");
    }
    let patch = json!({"metadata": {"labels": {LABEL: value}}});
    nodes
        .patch(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("cannot label Node {node}"))?;
    Ok(())
}

/// The affinity with our condition in every term; `None` when it is there already.
fn avoiding(affinity: Option<&Value>) -> Option<Value> {
    let condition = json!({"key": LABEL, "operator": "NotIn", "values": [FAIRWAY]});
    let mut affinity = affinity.filter(|it| !it.is_null()).cloned().unwrap_or_else(|| json!({}));
    let terms = &mut affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    if terms.as_array().is_none_or(Vec::is_empty) {
        *terms = json!([{}]);
    }
    let mut changed = false;
    for term in terms.as_array_mut()? {
        if !term["matchExpressions"].is_array() {
            term["matchExpressions"] = json!([]);
        }
        let expressions = term["matchExpressions"].as_array_mut()?;
        if !expressions.contains(&condition) {
            expressions.push(condition.clone());
            changed = true;
        }
    }
    changed.then_some(affinity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_gets_the_condition_once() {
        let plain = avoiding(None).unwrap();
        let terms =
            "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        assert_eq!(plain.pointer(terms).unwrap()[0]["matchExpressions"][0]["operator"], "NotIn");
        assert_eq!(avoiding(Some(&plain)), None);
        let linux = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}}});
        let both = avoiding(Some(&linux)).unwrap();
        assert_eq!(
            both.pointer(terms).unwrap()[0]["matchExpressions"].as_array().unwrap().len(),
            2
        );
    }
}
