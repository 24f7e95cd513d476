//! What the API says, or manifests that would be applied to it. An edge.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use cluster::Applied;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::api::ListParams;
use kube::{Api, Client};
use model::convert::{AddressBlock, ClusterNetworkPolicy, IpPool};
use model::{Event, Parsed, Report, ServiceKey, Snapshot, SnapshotWriter, Update};

/// An API that does not answer for so long is not reachable.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pod behind an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// `namespace/name` of the pod; `None` for endpoints that are no pods.
    pub pod: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
}

/// Services, EndpointSlices and Nodes at one moment.
#[derive(Debug, Default)]
pub struct Facts {
    writer: SnapshotWriter,
    /// The newest version of each Service and of its EndpointSlices.
    pub revisions: HashMap<ServiceKey, Applied>,
    /// Pods by address.
    pub behind: HashMap<IpAddr, Behind>,
    /// What is wrong with which object.
    pub reports: Vec<Report>,
}

impl Facts {
    /// The facts as planners take them.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        self.writer.snapshot()
    }

    /// Names of every node, sorted.
    #[must_use]
    pub fn nodes(&self) -> Vec<String> {
        self.snapshot().nodes().map(|node| node.name.as_str().to_owned()).collect()
    }

    fn keep<T>(&mut self, parsed: Result<Parsed<T>, Report>) -> Option<T> {
        match parsed {
            Ok(parsed) => {
                self.reports.extend(parsed.reports);
                Some(parsed.value)
            }
            Err(report) => {
                self.reports.push(report);
                None
            }
        }
    }

    /// Adds a Service.
    pub fn service(&mut self, object: &Service) {
        let revision = cluster::revision_of(&object.metadata).unwrap_or(0);
        if let Some(service) = self.keep(Parsed::<model::Service>::try_from(object)) {
            self.revisions.entry(service.key.clone()).or_default().services = revision;
            self.writer.apply(Event::Service(Update::Applied(service)));
        }
    }

    /// Adds an EndpointSlice.
    pub fn slice(&mut self, object: &EndpointSlice) {
        let revision = cluster::revision_of(&object.metadata).unwrap_or(0);
        for endpoint in object.endpoints.iter().flatten() {
            let pod = endpoint.target_ref.as_ref().filter(|it| it.kind.as_deref() == Some("Pod"));
            let pod = pod.and_then(|it| {
                Some(format!("{}/{}", it.namespace.as_deref()?, it.name.as_deref()?))
            });
            let behind = Behind { pod, node: endpoint.node_name.clone() };
            let addresses = endpoint.addresses.iter().filter_map(|it| it.parse::<IpAddr>().ok());
            self.behind.extend(addresses.map(|address| (address, behind.clone())));
        }
        if let Some(slice) = self.keep(Parsed::<model::EndpointSlice>::try_from(object)) {
            let newest =
                &mut self.revisions.entry(slice.service.clone()).or_default().endpoint_slices;
            *newest = (*newest).max(revision);
            self.writer.apply(Event::Slice(Update::Applied(slice)));
        }
    }

    /// Adds a Node.
    pub fn node(&mut self, object: &Node) {
        if let Some(node) = self.keep(Parsed::<model::NodeFacts>::try_from(object)) {
            self.writer.apply(Event::Node(Update::Applied(node)));
        }
    }

    /// Adds a ServiceCIDR.
    pub fn service_cidr(&mut self, object: &ServiceCIDR) {
        if let Some(cidr) = self.keep(Parsed::<model::ServiceCidr>::try_from(object)) {
            self.writer.apply(Event::ServiceCidr(Update::Applied(cidr)));
        }
    }

    /// Adds a Pod.
    pub fn pod(&mut self, object: &Pod) {
        if let Some(pod) = self.keep(Parsed::<model::Pod>::try_from(object)) {
            self.writer.apply(Event::Pod(Update::Applied(pod)));
        }
    }

    /// Adds a Namespace.
    pub fn namespace(&mut self, object: &Namespace) {
        if let Some(namespace) = self.keep(Parsed::<model::Namespace>::try_from(object)) {
            self.writer.apply(Event::Namespace(Update::Applied(namespace)));
        }
    }

    /// Adds a NetworkPolicy.
    pub fn network_policy(&mut self, object: &NetworkPolicy) {
        if let Some(policy) = self.keep(Parsed::<model::NetworkPolicy>::try_from(object)) {
            self.writer.apply(Event::NetworkPolicy(Update::Applied(policy)));
        }
    }

    /// Adds an IPPool.
    pub fn pool(&mut self, object: &IpPool) {
        if let Some(pool) = self.keep(Parsed::<model::Pool>::try_from(object)) {
            self.writer.apply(Event::Pool(Update::Applied(pool)));
        }
    }

    /// Adds an AddressBlock.
    pub fn block(&mut self, object: &AddressBlock) {
        if let Some(block) = self.keep(Parsed::<model::Block>::try_from(object)) {
            self.writer.apply(Event::Block(Update::Applied(block)));
        }
    }

    /// Adds a ClusterNetworkPolicy.
    pub fn cluster_policy(&mut self, object: &ClusterNetworkPolicy) {
        if let Some(policy) = self.keep(Parsed::<model::ClusterPolicy>::try_from(object)) {
            self.writer.apply(Event::ClusterPolicy(Update::Applied(policy)));
        }
    }

    /// Adds an object of a manifest; a kind the data plane does not look at is passed over.
    fn object(&mut self, object: serde_json::Value) -> anyhow::Result<()> {
        let kind = object.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
        let name = object.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or("?");
        let shape = format!("{kind} {name} does not have the shape of its kind");
        match kind.as_str() {
            "Service" => self.service(&in_default(serde_json::from_value(object).context(shape)?)),
            "EndpointSlice" => {
                let mut slice: EndpointSlice = serde_json::from_value(object).context(shape)?;
                slice.metadata.namespace.get_or_insert_with(|| "default".to_owned());
                self.slice(&slice);
            }
            "Node" => self.node(&serde_json::from_value(object).context(shape)?),
            "ServiceCIDR" => self.service_cidr(&serde_json::from_value(object).context(shape)?),
            "Pod" => {
                let mut pod: Pod = serde_json::from_value(object).context(shape)?;
                pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
                self.pod(&pod);
            }
            "Namespace" => self.namespace(&serde_json::from_value(object).context(shape)?),
            "NetworkPolicy" => {
                let mut policy: NetworkPolicy = serde_json::from_value(object).context(shape)?;
                policy.metadata.namespace.get_or_insert_with(|| "default".to_owned());
                self.network_policy(&policy);
            }
            "ClusterNetworkPolicy" => {
                self.cluster_policy(&serde_json::from_value(object).context(shape)?);
            }
            "List"
            | "ServiceList"
            | "EndpointSliceList"
            | "NodeList"
            | "ServiceCIDRList"
            | "PodList"
            | "NamespaceList"
            | "NetworkPolicyList"
            | "ClusterNetworkPolicyList" => {
                let single = kind.trim_end_matches("List").to_owned();
                let items = object.get("items").and_then(|items| items.as_array());
                for item in items.into_iter().flatten() {
                    let mut item = item.clone();
                    // Items of a typed list do not repeat their kind.
                    if let (Some(item), false) = (item.as_object_mut(), single.is_empty()) {
                        item.entry("kind").or_insert_with(|| single.clone().into());
                    }
                    self.object(item)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn in_default(mut service: Service) -> Service {
    service.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    service
}

/// A client of the API: the kubeconfig given, `$KUBECONFIG`, else the service account of the pod this runs in.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let from_environment = std::env::var_os("KUBECONFIG").filter(|it| !it.is_empty());
    let path = kubeconfig.map(Path::to_owned).or(from_environment.map(PathBuf::from));
    Ok(cluster::connect(path.as_deref()).await?)
}

/// Everything the API has.
///
/// # Errors
/// When it does not answer, or refuses.
pub async fn from_api(client: &Client) -> anyhow::Result<Facts> {
    let all = async {
        let params = ListParams::default();
        let services = Api::<Service>::all(client.clone()).list(&params).await?;
        let slices = Api::<EndpointSlice>::all(client.clone()).list(&params).await?;
        let nodes = Api::<Node>::all(client.clone()).list(&params).await?;
        // Servers before 1.33 do not know this kind.
        let cidrs = Api::<ServiceCIDR>::all(client.clone()).list(&params).await;
        let cidrs = cidrs.map(|list| list.items).unwrap_or_default();
        // Clusters without pools do not know these kinds.
        let pools = Api::<IpPool>::all(client.clone()).list(&params).await;
        let blocks = Api::<AddressBlock>::all(client.clone()).list(&params).await;
        let pools = pools.map(|list| list.items).unwrap_or_default();
        let blocks = blocks.map(|list| list.items).unwrap_or_default();
        Ok::<_, kube::Error>((services, slices, nodes, cidrs, pools, blocks))
    };
    let (services, slices, nodes, cidrs, pools, blocks) = tokio::time::timeout(PATIENCE, all)
        .await
        .with_context(|| format!("the API did not answer within {} s", PATIENCE.as_secs()))?
        .context("the API cannot be read")?;
    let mut facts = Facts::default();
    nodes.items.iter().for_each(|node| facts.node(node));
    cidrs.iter().for_each(|cidr| facts.service_cidr(cidr));
    pools.iter().for_each(|pool| facts.pool(pool));
    blocks.iter().for_each(|block| facts.block(block));
    services.items.iter().for_each(|service| facts.service(service));
    slices.items.iter().for_each(|slice| facts.slice(slice));
    Ok(facts)
}

/// Adds what network policy depends on: pods, namespaces and policies.
///
/// # Errors
/// When the API does not answer, or refuses.
pub async fn add_policies(client: &Client, facts: &mut Facts) -> anyhow::Result<()> {
    let all = async {
        let params = ListParams::default();
        let namespaces = Api::<Namespace>::all(client.clone()).list(&params).await?;
        let pods = Api::<Pod>::all(client.clone()).list(&params).await?;
        let policies = Api::<NetworkPolicy>::all(client.clone()).list(&params).await?;
        // Few clusters have this kind.
        let of_cluster = Api::<ClusterNetworkPolicy>::all(client.clone()).list(&params).await;
        let of_cluster = match of_cluster {
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            other => other?.items,
        };
        Ok::<_, kube::Error>((namespaces, pods, policies, of_cluster))
    };
    let (namespaces, pods, policies, of_cluster) = tokio::time::timeout(PATIENCE, all)
        .await
        .with_context(|| format!("the API did not answer within {} s", PATIENCE.as_secs()))?
        .context("pods, namespaces and network policies cannot be read")?;
    namespaces.items.iter().for_each(|namespace| facts.namespace(namespace));
    pods.items.iter().for_each(|pod| facts.pod(pod));
    policies.items.iter().for_each(|policy| facts.network_policy(policy));
    of_cluster.iter().for_each(|policy| facts.cluster_policy(policy));
    Ok(())
}

/// Everything in manifests (YAML or JSON, several documents to a file; `-` is standard input).
///
/// # Errors
/// When one cannot be read.
pub fn from_files(paths: &[PathBuf]) -> anyhow::Result<Facts> {
    let mut facts = Facts::default();
    add_files(&mut facts, paths)?;
    if facts.snapshot().services().len() == 0 && facts.snapshot().nodes().len() == 0 {
        bail!("there is no Service and no Node in these files; give the manifests of both");
    }
    Ok(facts)
}

/// Adds what manifests say; an object of the same name is replaced.
///
/// # Errors
/// When one cannot be read.
pub fn add_files(facts: &mut Facts, paths: &[PathBuf]) -> anyhow::Result<()> {
    for path in paths {
        let text = if path.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
        } else {
            std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?
        };
        let objects: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{} is neither YAML nor JSON", path.display()))?;
        for object in objects.into_iter().filter(|object| !object.is_null()) {
            facts.object(object).with_context(|| format!("in {}", path.display()))?;
        }
    }
    Ok(())
}
