//! An existing cluster instead of the embedded API: the lab's nodes join it, and leave it when the lab goes.
//!
//! ```text
//!   existing API server ◄── relay ── 172.30.0.1:6443 in the switch's namespace ◄── agents, runners, pods
//!          ▲                          (and the addresses the `kubernetes` Service leads to)
//!          └── the control process: mirror (what `lab status` shows), pod CIDRs, binder on wish
//! ```
//! The API server may listen anywhere the host reaches, its loopback included. TLS goes through the relay untouched, so
//! the certificate that is checked is the cluster's. Everybody in the lab is the user of the kubeconfig given: a lab
//! cannot sign certificates of somebody else's cluster.
//!
//! In the cluster the lab owns the Node objects that carry its label and their Leases, nothing else.
//!
//! | module | room |
//! |---|---|
//! | [`access`] | the kubeconfig: flattened, from the host and from inside |
//! | [`relay`] | bytes from the switch to the API server |
//! | [`mirror`] | nodes, and how many pods and Services there are |
//! | [`nodes`] | whose nodes they are, pod CIDRs nobody gives, leaving |
//! | [`kubelet`] | logs, for an API server on this machine |
//! | [`binder`] | pods to nodes, where the cluster has no scheduler |

pub mod access;
pub mod binder;
pub mod kubelet;
pub mod mirror;
pub mod nodes;
pub mod relay;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::access::Access;
use self::mirror::Mirror;
use crate::layout::{API_PORT, Layout, NodePlan, SWITCH_V4};
use crate::network::Network;

/// A lab's part in an existing cluster; its tasks end when it is dropped.
#[derive(Debug)]
pub struct Existing {
    access: Access,
    mirror: Mirror,
    kubelets: BTreeMap<String, SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Existing {
    /// Joins: refuses nodes that are somebody else's, and starts relays, mirror and the rest inside the current tokio
    /// runtime.
    ///
    /// # Errors
    /// When the API does not answer, refuses, or has nodes of our names.
    pub async fn join(
        access: Access,
        layout: &Layout,
        nodes: &[NodePlan],
        network: &Network,
        bind_pods: bool,
    ) -> anyhow::Result<Self> {
        let (lab, client) = (layout.name(), access.client().await?);
        let silent = || format!("cannot join the cluster at {}", access.url());
        nodes::refuse_foreign(&client, lab, nodes).await.with_context(silent)?;
        let mut tasks = JoinSet::new();
        let inside = network.listen(SWITCH_V4.into(), API_PORT)?;
        tasks.spawn(relay::run(relay::adopt(inside)?, access.target()));
        for advertised in advertised(&client).await.with_context(silent)? {
            match network.answer_for(advertised).and_then(relay::adopt) {
                Ok(listener) => drop(tasks.spawn(relay::run(listener, access.target()))),
                Err(error) => warn!(
                    "pods will not reach the API at {advertised}, where the `kubernetes` Service leads: {error:#}"
                ),
            }
        }
        let kubelets = match open_doors(&access, layout, nodes, &client, &mut tasks).await {
            Ok(kubelets) => kubelets,
            Err(error) => {
                warn!("`kubectl logs` is not served: {error:#}");
                BTreeMap::new()
            }
        };
        let mirror = Mirror::default();
        tasks.spawn(mirror::follow(client.clone(), mirror.clone()));
        tasks.spawn(nodes::give_pod_cidrs(client.clone(), mirror.clone(), nodes.to_vec()));
        if bind_pods {
            info!("binding pods to nodes: the cluster is said to have no scheduler");
            tasks.spawn(binder::run(client));
        }
        Ok(Self { access, mirror, kubelets, _tasks: tasks })
    }

    /// How the API is reached.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Where the API server reaches a node's kubelet, if it does.
    #[must_use]
    pub fn kubelet(&self, node: &str) -> Option<SocketAddr> {
        self.kubelets.get(node).copied()
    }

    /// The cluster as last seen.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }
}

/// A kubelet's door for every node, when the API server is on this machine.
async fn open_doors(
    access: &Access,
    layout: &Layout,
    nodes: &[NodePlan],
    client: &Client,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
    let (host, _) = access.target();
    if host != "localhost" && !host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()) {
        bail!("the API server at {host} cannot reach into the lab's network");
    }
    let authority = kubelet::client_authority(client).await?;
    let mut open = BTreeMap::new();
    for node in nodes {
        let socket = layout.runner_socket(&node.name);
        let door = kubelet::Door::of(&node.name, &socket, &authority, client).await?;
        open.insert(node.name.clone(), door.address()?);
        tasks.spawn(door.run());
    }
    Ok(open)
}

/// Where the `kubernetes` Service leads, except to where nodes reach the API anyway or nobody does.
async fn advertised(client: &Client) -> anyhow::Result<Vec<SocketAddr>> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let of_it = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
    let mut found = Vec::new();
    for slice in slices.list(&of_it).await?.items {
        let ports = slice.ports.unwrap_or_default();
        let ports = ports.into_iter().filter_map(|port| u16::try_from(port.port?).ok());
        let addresses = slice.endpoints.into_iter().flatten().flat_map(|e| e.addresses);
        let addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
        for port in ports {
            found.extend(addresses.iter().map(|ip| SocketAddr::new(*ip, port)));
        }
    }
    let inside = SocketAddr::new(SWITCH_V4.into(), API_PORT);
    found.retain(|address| *address != inside && !address.ip().is_loopback());
    found.sort();
    found.dedup();
    Ok(found)
}
