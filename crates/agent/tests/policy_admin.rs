//! The administrator's policies through an API server that has the CRD of `deploy/`: an agent finds the kind, enforces it, and
//! what the CRD forbids never gets that far.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use apiserver::auth::Authority;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

use world::pods::{Pods, pod};
use world::{NODE, api_at, config, eventually, has, in_namespace, metric, read, start};

const SECOND: Duration = Duration::from_secs(1);
const CRD: &str = include_str!("../../../deploy/manifests/cluster-network-policy.yaml");

async fn story(dir: &Path) {
    let address: SocketAddr = format!("{NODE}:6443").parse().expect("an address");
    let (_server, kubeconfig) = api_at(dir, address, Authority::generate().expect("keys"));
    let client: Client = cluster::connect(Some(&kubeconfig)).await.expect("a client");
    let create = PostParams::default();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd: CustomResourceDefinition = serde_saphyr::from_str(CRD).expect("a CRD");
    crds.create(&create, &crd).await.expect("the API takes the CRD");
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}});
    nodes.create(&create, &read(node)).await.expect("a node");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let wires = Pods::wire();
    pod(&pods, "a", Some("10.244.1.5")).await;
    pod(&pods, "b", Some("10.244.1.6")).await;
    let agent = start(config(dir, &kubeconfig));
    let known = async || has("set policy-pods4") && has("10.244.1.6,\n");
    eventually("pods known", 10 * SECOND, known).await;
    let to = SocketAddr::from((Ipv4Addr::new(10, 244, 1, 6), 80));
    let _listener = wires.0[1].1.run(|| TcpListener::bind(to)).unwrap().unwrap();
    let dial = || TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok();
    let reaches = || wires.0[0].1.run(dial).unwrap();
    assert!(reaches());

    let kind =
        GroupVersionKind::gvk("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy");
    let kind = ApiResource::from_gvk_with_plural(&kind, "clusternetworkpolicies");
    let policies: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let policy = |name: &str, spec: &Value| -> DynamicObject {
        read(
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": name}, "spec": spec}),
        )
    };
    // Everything the agent reads goes through the CRD's schema as it is.
    let pods_of =
        |app: &str| json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}});
    let tcp = json!([{"tcp": {"destinationPort": {"number": 80}}},
        {"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}, {"destinationNamedPort": "serve"}]);
    let spec = json!({"tier": "Admin", "priority": 10, "subject": {"pods": pods_of("b")},
        "ingress": [{"name": "no-a", "action": "Deny", "from": [{"pods": pods_of("a")}], "protocols": tcp}],
        "egress": [{"action": "Accept", "to": [{"networks": ["192.0.2.0/24"]}, {"nodes": {}}, {"namespaces": {}},
            {"domainNames": ["*.example.com"]}]}]});
    let made = policies.create(&create, &policy("deny", &spec)).await.expect("a policy");
    assert_eq!(made.data["spec"], spec, "nothing is pruned");
    eventually("enforced", 5 * SECOND, async || !reaches()).await;
    let counted = async || metric("fairway_policy_identities").await >= 1.0;
    eventually("counted", 5 * SECOND, counted).await;
    let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), "default");
    let said = async || {
        let all = events.list(&Default::default()).await.expect("events").items;
        all.iter().any(|event| event.involved_object.name.as_deref() == Some("deny"))
    };
    eventually("domainNames said", 5 * SECOND, said).await;

    // What it forbids is refused by the API.
    for (field, wrong) in
        [("tier", json!("Other")), ("priority", json!(1001)), ("subject", json!({}))]
    {
        let mut bad = spec.clone();
        bad[field] = wrong;
        let refused = policies.create(&create, &policy("bad", &bad)).await;
        assert!(
            matches!(&refused, Err(kube::Error::Api(it)) if it.code == 422),
            "{field}: {refused:?}"
        );
    }
    policies.delete("deny", &DeleteParams::default()).await.expect("deleted");
    eventually("open", 5 * SECOND, async || reaches()).await;
    agent.abort();
    agent.await.ok();
}

#[test]
fn a_policy_of_the_administrator_comes_through_the_crd_and_is_enforced() {
    in_namespace("fwpoladmin", story);
}
