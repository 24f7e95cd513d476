//! The Services and EndpointSlices that are measured, as objects of the API. They look as a cluster's own do: names of pods,
//! nodes and zones included, so that what is sent and kept has its usual size.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::backend;
use crate::say::say;
use crate::world::{NODE, PODS};

/// Where all objects live but the Node.
pub(crate) const NAMESPACE: &str = "fairway-bench";
/// The Node every data plane runs as.
pub(crate) const NODE_NAME: &str = "fairway-bench-node";
/// The port of a Service.
pub(crate) const PORT: u16 = 80;
/// Requests under way at the same time.
const PARALLEL: usize = 16;
/// Nodes the endpoints are spread over.
const NODES: u32 = 100;

/// One endpoint's address, by number.
pub(crate) fn endpoint(number: u32) -> Ipv4Addr {
    // From 10.128.1.0 on.
    Ipv4Addr::from(0x0a80_0100 + number)
}

/// A Service without a selector.
pub(crate) fn service(name: &str, port: u16, protocol: &str) -> anyhow::Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name, "team": "bench"}},
        "spec": {"ports": [{"port": port, "targetPort": backend::PORT, "protocol": protocol}]},
    }))?)
}

/// The slice of a Service with these endpoints.
pub(crate) fn slice(
    service: &str,
    endpoints: &[Ipv4Addr],
    protocol: &str,
) -> anyhow::Result<EndpointSlice> {
    Ok(serde_json::from_value(json!({
        "metadata": {
            "name": service,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "fairway-bench",
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(|address| an_endpoint(*address)).collect::<Vec<_>>(),
        "ports": [{"name": "", "port": backend::PORT, "protocol": protocol}],
    }))?)
}

fn an_endpoint(address: Ipv4Addr) -> Value {
    let number = u32::from(address) % NODES;
    json!({
        "addresses": [address.to_string()],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": format!("node-{number}"),
        "zone": format!("zone-{}", number % 3),
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{}", u32::from(address))},
    })
}

/// The API of the objects.
#[derive(Clone)]
pub(crate) struct Objects {
    pub(crate) services: Api<Service>,
    pub(crate) slices: Api<EndpointSlice>,
    namespaces: Api<Namespace>,
    nodes: Api<Node>,
}

impl Objects {
    pub(crate) fn new(client: &Client) -> Self {
        Self {
            services: Api::namespaced(client.clone(), NAMESPACE),
            slices: Api::namespaced(client.clone(), NAMESPACE),
            namespaces: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
        }
    }

    /// The namespace and the Node; what an earlier run left is removed first.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        self.clear().await?;
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        taken_is_fine(self.namespaces.create(&PostParams::default(), &namespace).await)
            .context("cannot make the namespace")?;
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": NODE_NAME, "labels": {"topology.kubernetes.io/zone": "zone-0"}},
            "spec": {"podCIDR": PODS, "podCIDRs": [PODS]},
        }))?;
        taken_is_fine(self.nodes.create(&PostParams::default(), &node).await)
            .context("cannot make the Node")?;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": NODE.to_string()}, {"type": "Hostname", "address": NODE_NAME}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null}],
        }});
        let patch = Patch::Merge(&status);
        self.nodes.patch_status(NODE_NAME, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// `count` Services of the given protocols with `endpoints` endpoints each: their ClusterIPs, in order.
    pub(crate) async fn fill(
        &self,
        count: u32,
        endpoints: u32,
        protocol: fn(u32) -> &'static str,
    ) -> anyhow::Result<Vec<Ipv4Addr>> {
        let began = Instant::now();
        let done = AtomicUsize::new(0);
        let (done, objects) = (&done, self);
        let one = |number: u32| async move {
            let name = name_of(number);
            let addresses: Vec<_> =
                (0..endpoints).map(|e| endpoint(number * endpoints + e)).collect();
            let slice = slice(&name, &addresses, protocol(number))?;
            objects.slices.create(&PostParams::default(), &slice).await?;
            let made = objects
                .services
                .create(&PostParams::default(), &service(&name, PORT, protocol(number))?)
                .await?;
            let so_far = done.fetch_add(1, Ordering::Relaxed) + 1;
            if so_far.is_multiple_of(5000) {
                say!("{so_far} of {count} Services created, {:.0?}", began.elapsed());
            }
            anyhow::Ok((number, cluster_ip(&made)?))
        };
        let mut all = stream::iter((0..count).map(one)).buffer_unordered(PARALLEL);
        let mut addresses = Vec::new();
        while let Some(made) = all.next().await {
            addresses.push(made.context("cannot create a Service or its EndpointSlice")?);
        }
        addresses.sort_unstable();
        say!("{count} Services × {endpoints} endpoints created in {:.1?}", began.elapsed());
        Ok(addresses.into_iter().map(|(_, address)| address).collect())
    }

    /// Replaces the endpoints of a Service.
    pub(crate) async fn set_endpoints(
        &self,
        name: &str,
        addresses: &[Ipv4Addr],
    ) -> anyhow::Result<()> {
        let endpoints: Vec<_> = addresses.iter().map(|address| an_endpoint(*address)).collect();
        let patch = json!({"endpoints": endpoints});
        self.slices.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Moves a Service to another port.
    pub(crate) async fn set_port(
        &self,
        name: &str,
        port: u16,
        protocol: &str,
    ) -> anyhow::Result<()> {
        let ports = json!([{"port": port, "targetPort": backend::PORT, "protocol": protocol}]);
        let patch = json!({"spec": {"ports": ports}});
        self.services.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    /// Removes everything this program ever made.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        let (delete, list) = (DeleteParams::default(), ListParams::default());
        missing_is_fine(self.services.delete_collection(&delete, &list).await)?;
        missing_is_fine(self.slices.delete_collection(&delete, &list).await)?;
        missing_is_fine(self.nodes.delete(NODE_NAME, &delete).await)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.services.list_metadata(&list.clone().limit(1)).await?.items.is_empty() {
            anyhow::ensure!(Instant::now() < deadline, "Services of an earlier run do not go away");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// The name of a filled Service.
pub(crate) fn name_of(number: u32) -> String {
    format!("service-{number:05}")
}

/// The ClusterIP the API gave.
pub(crate) fn cluster_ip(service: &Service) -> anyhow::Result<Ipv4Addr> {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    let address = address.context("the API gave the Service no ClusterIP")?;
    address.parse().with_context(|| format!("the ClusterIP {address} is not IPv4"))
}

fn taken_is_fine<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}

fn missing_is_fine<T>(outcome: kube::Result<T>) -> kube::Result<()> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
