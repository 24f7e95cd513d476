//! The Service pods ask for names at, as kubeadm makes it: `kube-system/kube-dns`. Behind it are the agents of the nodes
//! themselves; each answers its own pods, and those of a node whose agent is away.

use anyhow::{Context as _, anyhow};
use apiserver::registry::{Part, Registry, WriteOptions};
use serde_json::{Value, json};

use crate::layout::{CLUSTER_DNS, CLUSTER_DNS_V6, NodePlan};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Makes the Service unless it is there, and has its endpoints be these nodes.
pub(super) fn ensure(registry: &Registry, nodes: &[NodePlan]) -> anyhow::Result<()> {
    let labels = json!({"k8s-app": NAME, "kubernetes.io/name": "CoreDNS"});
    let service = json!({
        "metadata": {"name": NAME, "labels": labels},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": CLUSTER_DNS.to_string(),
            "clusterIPs": [CLUSTER_DNS.to_string(), CLUSTER_DNS_V6.to_string()],
            "ipFamilyPolicy": "PreferDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    put(registry, "", "services", NAME, service, false)?;
    for family in ["IPv4", "IPv6"] {
        let name = format!("{NAME}-{}", family.to_lowercase());
        let endpoints: Vec<Value> = nodes.iter().map(|node| endpoint(node, family)).collect();
        let slice = json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "fairway-lab",
            }},
            "addressType": family,
            "endpoints": endpoints,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        });
        put(registry, "discovery.k8s.io", "endpointslices", &name, slice, true)?;
    }
    Ok(())
}

fn endpoint(node: &NodePlan, family: &str) -> Value {
    let address = if family == "IPv4" { node.v4.to_string() } else { node.v6.to_string() };
    json!({"addresses": [address], "nodeName": node.name, "conditions": {"ready": true}})
}

fn put(
    registry: &Registry,
    group: &str,
    plural: &str,
    name: &str,
    object: Value,
    replace: bool,
) -> anyhow::Result<()> {
    let failed = |status: apiserver::status::Status| {
        anyhow!("{}", status.message).context(format!("cannot write {plural} {NAMESPACE}/{name}"))
    };
    let mut place = registry.place(group, plural, NAMESPACE, name).map_err(failed)?;
    let options = WriteOptions::default();
    if registry.get(&place).is_err() {
        place.name.clear();
        registry.create(&place, object, &options).map_err(failed)?;
    } else if replace {
        let written = registry.change(&place, Part::Main, &options, |old| {
            let mut new = object.clone();
            new["metadata"] = old["metadata"].clone();
            Ok(new)
        });
        written.map_err(failed).context("the lab came back")?;
    }
    Ok(())
}
