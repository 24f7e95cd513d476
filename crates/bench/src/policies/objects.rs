//! The pods and policies that are measured, as objects of the API: fifty namespaces, as many pods on the measured node as a node
//! usually has, and policies that select some of them by expressions, with peers by label, by namespace and by address.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::objects::{NODE_NAME, endpoint};
use crate::say::say;

/// Namespaces the pods are spread over.
pub(super) const NAMESPACES: u32 = 50;
/// Applications the pods belong to.
pub(super) const APPS: u32 = 200;
/// Pods of the node that is measured, and of every other.
pub(super) const PER_NODE: u32 = 110;
/// Where pods are that are timed and probed; no other policy selects them.
pub(super) const OWN: &str = crate::objects::NAMESPACE;
/// Requests under way at the same time.
const PARALLEL: usize = 16;

/// A namespace of many, by number.
pub(super) fn namespace_of(number: u32) -> String {
    format!("bench-{}", number % NAMESPACES)
}

/// The namespaces of the many pods.
pub(super) fn namespaces() -> anyhow::Result<Vec<Namespace>> {
    (0..NAMESPACES)
        .map(|number| {
            let team = (number % 10).to_string();
            let metadata = json!({"name": namespace_of(number), "labels": {"team": team}});
            Ok(serde_json::from_value(json!({"metadata": metadata}))?)
        })
        .collect()
}

/// A pod that runs; elsewhere unless it is `here`.
pub(super) fn pod(
    (namespace, name): (&str, &str),
    node: &str,
    address: Ipv4Addr,
    labels: &Value,
) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "bench"}]},
        "status": {"phase": "Running", "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}]},
    }))?)
}

/// One of the many, by number; the first are on the measured node.
pub(super) fn one_of_many(number: u32) -> anyhow::Result<Pod> {
    let node = match number / PER_NODE {
        0 => NODE_NAME.to_owned(),
        other => format!("node-{other}"),
    };
    let labels = json!({"app": format!("app-{}", number % APPS), "tier": "blue"});
    let name = name_of(number);
    pod((&namespace_of(number), &name), &node, endpoint(number), &labels)
}

/// The name of one of the many.
pub(super) fn name_of(number: u32) -> String {
    format!("pod-{number}")
}

/// A policy by namespace, name and `spec`.
pub(super) fn policy(namespace: &str, name: &str, spec: &Value) -> anyhow::Result<NetworkPolicy> {
    let metadata = json!({"namespace": namespace, "name": name});
    Ok(serde_json::from_value(json!({"metadata": metadata, "spec": spec}))?)
}

/// The name of one of the many policies.
pub(super) fn policy_name(number: u32) -> String {
    format!("policy-{number}")
}

/// One of the many policies: twenty applications of its namespace are isolated both ways, three kinds of peers may come in.
pub(super) fn one_policy(number: u32, port: u16) -> anyhow::Result<NetworkPolicy> {
    let apps: Vec<String> = (0..20).map(|n| format!("app-{}", (number + n * 50) % APPS)).collect();
    let team = json!({"matchLabels": {"team": (number % 10).to_string()}});
    let app = json!({"matchLabels": {"app": format!("app-{}", number * 7 % APPS)}});
    let peer = json!({"namespaceSelector": team, "podSelector": app});
    let block = json!({"cidr": "10.0.0.0/8", "except": [format!("10.{}.0.0/16", number % 250)]});
    let spec = json!({
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": apps}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [peer, {"podSelector": {}}], "ports": [{"port": port}]},
            {"from": [{"ipBlock": block}]},
        ],
        "egress": [{"to": [{"namespaceSelector": {}}]}],
    });
    policy(&namespace_of(number), &policy_name(number), &spec)
}

/// The API of these objects.
#[derive(Clone)]
pub(super) struct Cluster(pub(super) Client);

impl Cluster {
    /// Makes the namespaces, so many pods and so many policies.
    pub(super) async fn fill(&self, pods: u32, policies: u32) -> anyhow::Result<()> {
        let began = Instant::now();
        for namespace in namespaces()? {
            Api::all(self.0.clone()).create(&PostParams::default(), &namespace).await?;
        }
        let done = AtomicU32::new(0);
        let done = &done;
        let one = |number: u32| async move {
            self.run(&one_of_many(number)?).await?;
            let so_far = done.fetch_add(1, Ordering::Relaxed) + 1;
            if so_far.is_multiple_of(2500) {
                say!("{so_far} of {pods} pods created, {:.0?}", began.elapsed());
            }
            anyhow::Ok(())
        };
        let mut all = stream::iter((0..pods).map(one)).buffer_unordered(PARALLEL);
        while let Some(made) = all.next().await {
            made.context("cannot create a pod")?;
        }
        for number in 0..policies {
            self.put(&one_policy(number, 80)?).await?;
        }
        say!("{pods} pods and {policies} policies created in {:.1?}", began.elapsed());
        Ok(())
    }

    /// Makes a namespace.
    pub(super) async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(self.0.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.0.clone(), namespace)
    }

    /// Creates a pod, and says that it runs where its status does.
    pub(super) async fn run(&self, pod: &Pod) -> anyhow::Result<()> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let pods = self.pods(namespace);
        pods.create(&PostParams::default(), pod).await?;
        if pod.status.is_some() {
            let status = Patch::Merge(json!({"status": pod.status}));
            pods.patch_status(name, &PatchParams::default(), &status).await?;
        }
        Ok(())
    }

    /// Sets labels of a pod; those not named stay, `null` removes one.
    pub(super) async fn label(
        &self,
        namespace: &str,
        name: &str,
        labels: &Value,
    ) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        self.pods(namespace).patch(name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Makes a policy, or makes the one of that name this.
    pub(super) async fn put(&self, policy: &NetworkPolicy) -> anyhow::Result<()> {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        let policies: Api<NetworkPolicy> = Api::namespaced(self.0.clone(), namespace);
        let patch = Patch::Merge(policy);
        match policies.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                policies.create(&PostParams::default(), policy).await?;
                Ok(())
            }
            other => Ok(other.map(drop)?),
        }
    }

    /// Removes a policy; one that is not there is gone already.
    pub(super) async fn remove(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let policies: Api<NetworkPolicy> = Api::namespaced(self.0.clone(), namespace);
        match policies.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}
