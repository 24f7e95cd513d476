//! `fairway service status`, `fairway policy status`: on how many nodes a Service or a NetworkPolicy is programmed.

use std::time::Duration;

use anyhow::{Context as _, bail};
use cluster::Applied;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client};
use print::{Format, NONE, table};
use serde::Serialize;

/// Time between two looks while waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStanding {
    /// Its name.
    pub node: String,
    /// Whether its kernel has it as the API has it.
    pub programmed: bool,
    /// Up to where it follows the API; `None` when its agent never said.
    pub applied: Option<Applied>,
}

/// A Service or a NetworkPolicy on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version; of a Service the newest among it and its EndpointSlices.
    pub revision: u64,
    /// What a node must have applied.
    pub wanted: Applied,
    /// Nodes that have.
    pub programmed: usize,
    /// Every node.
    pub nodes: Vec<NodeStanding>,
}

impl Standing {
    /// Whether every node has it.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.programmed == self.nodes.len()
    }

    /// `programmed on 2 of 3 nodes, revision 812`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (programmed, nodes) = (self.programmed, self.nodes.len());
        let plural = if nodes == 1 { "" } else { "s" };
        format!("programmed on {programmed} of {nodes} node{plural}, revision {}", self.revision)
    }
}

/// How far the nodes are with a Service.
///
/// # Errors
/// When the API does not answer, there is no such Service, or versions of this API cannot be compared.
pub async fn standing(client: &Client, namespace: &str, name: &str) -> anyhow::Result<Standing> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = services.get_opt(name).await.context("the API cannot be read")?;
    let Some(service) = service else { bail!("there is no Service {namespace}/{name}") };
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let slices = slices.list(&of_service).await.context("its EndpointSlices cannot be read")?;
    let number = |meta| {
        cluster::revision_of(meta)
            .context("versions of this API server are no numbers and cannot be compared")
    };
    let mut wanted = Applied { services: number(&service.metadata)?, ..Applied::default() };
    for slice in &slices.items {
        wanted.endpoint_slices = wanted.endpoint_slices.max(number(&slice.metadata)?);
    }
    on_nodes(client, namespace, name, wanted).await
}

/// How far the nodes are with a NetworkPolicy.
///
/// # Errors
/// When the API does not answer, there is no such policy, or versions of this API cannot be compared.
pub async fn policy_standing(
    client: &Client,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Standing> {
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    let policy = policies.get_opt(name).await.context("the API cannot be read")?;
    let Some(policy) = policy else { bail!("there is no NetworkPolicy {namespace}/{name}") };
    let revision = cluster::revision_of(&policy.metadata)
        .context("versions of this API server are no numbers and cannot be compared")?;
    let wanted = Applied { network_policies: revision, ..Applied::default() };
    on_nodes(client, namespace, name, wanted).await
}

async fn on_nodes(
    client: &Client,
    namespace: &str,
    name: &str,
    wanted: Applied,
) -> anyhow::Result<Standing> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.context("the Nodes cannot be read")?;
    let said = cluster::progress(client).await?;
    let nodes: Vec<NodeStanding> = nodes
        .items
        .into_iter()
        .filter_map(|node| node.metadata.name)
        .map(|node| {
            let applied = said.get(&node).map(|said| said.applied);
            let programmed = applied.is_some_and(|applied| applied.covers(&wanted));
            NodeStanding { node, programmed, applied }
        })
        .collect();
    Ok(Standing {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: wanted.services.max(wanted.endpoint_slices).max(wanted.network_policies),
        wanted,
        programmed: nodes.iter().filter(|node| node.programmed).count(),
        nodes,
    })
}

/// The same, looking again until every node has it or the time is over; the last look is given back.
///
/// # Errors
/// Those of [`standing`].
pub async fn wait(
    client: &Client,
    namespace: &str,
    name: &str,
    longest: Duration,
) -> anyhow::Result<Standing> {
    let until = tokio::time::Instant::now() + longest;
    loop {
        let now = standing(client, namespace, name).await?;
        if now.is_everywhere() || tokio::time::Instant::now() >= until {
            return Ok(now);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// For people or programs.
///
/// # Errors
/// When it has no JSON or YAML form.
pub fn print(standing: &Standing, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(standing, format)? {
        return Ok(text);
    }
    let of_policy = standing.wanted.network_policies > 0;
    let mut text = format!("{}/{}: {}\n", standing.namespace, standing.name, standing.sentence());
    let behind: Vec<&NodeStanding> =
        standing.nodes.iter().filter(|node| !node.programmed || format == Format::Wide).collect();
    if !behind.is_empty() {
        let shown = |applied: Option<Applied>, of: fn(Applied) -> u64| {
            applied.map_or_else(|| NONE.to_owned(), |applied| of(applied).to_string())
        };
        let rows: Vec<Vec<String>> = behind
            .iter()
            .map(|node| {
                let programmed = if node.programmed { "True" } else { "False" };
                let mut row = vec![node.node.clone(), programmed.to_owned()];
                if of_policy {
                    row.push(shown(node.applied, |it| it.network_policies));
                } else {
                    row.push(shown(node.applied, |it| it.services));
                    row.push(shown(node.applied, |it| it.endpoint_slices));
                }
                row
            })
            .collect();
        text.push('\n');
        let of_service: &[&str] = &["NODE", "PROGRAMMED", "SERVICES", "ENDPOINTSLICES"];
        let header =
            if of_policy { &["NODE", "PROGRAMMED", "NETWORKPOLICIES"] } else { of_service };
        text.push_str(&table(header, &rows));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_is_named() {
        let applied = |endpoint_slices| {
            Some(Applied { services: 812, endpoint_slices, ..Applied::default() })
        };
        let node = |name: &str, applied: Option<Applied>, programmed| NodeStanding {
            node: name.to_owned(),
            programmed,
            applied,
        };
        let standing = Standing {
            namespace: "default".into(),
            name: "web".into(),
            revision: 815,
            wanted: Applied { services: 812, endpoint_slices: 815, ..Applied::default() },
            programmed: 1,
            nodes: vec![
                node("node-1", applied(815), true),
                node("node-2", applied(814), false),
                node("node-3", None, false),
            ],
        };
        let expected = "\
default/web: programmed on 1 of 3 nodes, revision 815

NODE     PROGRAMMED   SERVICES   ENDPOINTSLICES
node-2   False        812        814
node-3   False        <none>     <none>
";
        assert_eq!(print(&standing, Format::Table).unwrap(), expected);
        assert!(!standing.is_everywhere());
    }
}
