//! Network policy on a whole node: one agent, a real API server in the same process, a kernel and pods in namespaces of their own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use apiserver::auth::Authority;
use k8s_openapi::api::core::v1::{Namespace as KubeNamespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use world::pods::{Pods, gate, pod};
use world::{NODE, api_at, config, eventually, has, in_namespace, metric, read, start, table};

const SECOND: Duration = Duration::from_secs(1);

/// A connection from the first pod to the second, and what both ends hold.
fn connection(pods: &Pods) -> (TcpStream, TcpStream) {
    let to = SocketAddr::from((Ipv4Addr::new(10, 244, 1, 6), 80));
    let listener = pods.0[1].1.run(|| TcpListener::bind(to)).unwrap().unwrap();
    let dial = || TcpStream::connect_timeout(&to, Duration::from_secs(3));
    let client = pods.0[0].1.run(dial).unwrap().expect("the pods talk");
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    (client, server)
}

fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).is_ok()
}

async fn story(dir: &Path) {
    let address: SocketAddr = format!("{NODE}:6443").parse().expect("an address");
    let (_server, kubeconfig) = api_at(dir, address, Authority::generate().expect("keys"));
    let client: Client = cluster::connect(Some(&kubeconfig)).await.expect("a client");
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let namespaces: Api<KubeNamespace> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}});
    nodes.create(&create, &read(node)).await.expect("a node");
    namespaces.get("default").await.expect("the namespace");
    let wires = Pods::wire();
    pod(&pods, "a", Some("10.244.1.5")).await;
    pod(&pods, "b", Some("10.244.1.6")).await;

    let agent = start(config(dir, &kubeconfig));
    let known = async || has("set policy-pods4") && has("10.244.1.5,\n") && has("10.244.1.6,\n");
    eventually("pods known", 10 * SECOND, known).await;
    let conflist = std::fs::read_to_string(dir.join("cni/10-fairway.conflist")).expect("written");
    assert!(conflist.contains("policySocket"), "{conflist}");
    let (mut one, mut other) = connection(&wires);
    assert!(passes(&mut one, &mut other) && passes(&mut other, &mut one));

    // A policy that denies cuts what runs; one that lets it drain does not.
    let deny = |name: &str, annotations: serde_json::Value| {
        json!({"metadata": {"name": name, "annotations": annotations},
            "spec": {"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress"]}})
    };
    let draining = deny("drain", json!({"fairway.dev/policy-established": "drain"}));
    policies.create(&create, &read(draining)).await.expect("a policy");
    eventually("isolated", 2 * SECOND, async || has("10.244.1.6 : goto policy-ingress-")).await;
    assert!(passes(&mut one, &mut other), "it may drain");
    policies.create(&create, &read(deny("cut", json!({})))).await.expect("a policy");
    let cut = async || metric("fairway_policy_cut_flows_total").await >= 1.0;
    eventually("cut", 2 * SECOND, cut).await;
    assert!(!passes(&mut one, &mut other), "the connection is cut");
    // What was denied is counted, by policy.
    let denied =
        async || metric("fairway_policy_denied_flows_total{policy=\"default/cut\"").await >= 1.0;
    eventually("counted", 5 * SECOND, denied).await;
    let packets = async || metric("fairway_policy_rule_packets_total").await >= 1.0;
    eventually("packets counted", 5 * SECOND, packets).await;
    assert!(metric("fairway_policy_change_to_commit_seconds_count").await >= 2.0);

    // A new pod: the gate opens once its policy is in, and not before the pod is known.
    assert_eq!(gate(dir, "c", "10.244.1.7", SECOND / 2).await, None, "nobody knows this pod");
    let everybody = json!({"metadata": {"name": "all"}, "spec": {"podSelector": {}}});
    policies.create(&create, &read(everybody)).await.expect("a policy");
    let waiting = gate(dir, "c", "10.244.1.7", 5 * SECOND);
    let (answer, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        pod(&pods, "c", None).await;
    });
    assert_eq!(answer.as_deref(), Some("ok"));
    assert!(has("10.244.1.7 : goto policy-ingress-"), "in the kernel when the gate opens");

    // Without an agent the policy stays; one that comes finds nothing to do, though the API has no address of the new pod yet.
    agent.abort();
    agent.await.ok();
    let before = table().expect("the table").to_string();
    assert!(before.contains("10.244.1.6 : goto policy-ingress-"));
    let agent = start(config(dir, &kubeconfig));
    eventually("ready", 10 * SECOND, async || metric("fairway_policy_identities").await >= 1.0)
        .await;
    assert_eq!(metric("fairway_transactions_total").await, 0.0, "a restart sends nothing");
    assert!(has("10.244.1.7 : goto policy-ingress-"), "what the plugin said is remembered");

    burst(dir, &pods).await;

    // Policies go, and everything with them.
    for name in ["drain", "cut", "all"] {
        policies.delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    eventually("open", 2 * SECOND, async || !has("goto policy-ingress-")).await;
    let (mut one, mut other) = connection(&wires);
    assert!(passes(&mut one, &mut other));
    agent.abort();
    agent.await.ok();
}

/// Two hundred pods at once, all under a policy that denies: each gate opens with its pod's policy in the kernel.
async fn burst(dir: &Path, pods: &Api<Pod>) {
    let started = std::time::Instant::now();
    let one = async |number: usize| {
        let (name, address) = (format!("burst-{number}"), format!("10.244.1.{}", 20 + number));
        let (answer, ()) =
            tokio::join!(gate(dir, &name, &address, 15 * SECOND), pod(pods, &name, None));
        assert_eq!(answer.as_deref(), Some("ok"), "{name}");
        // Listing the table for every one would be most of the test.
        assert!(
            !number.is_multiple_of(20) || has(&format!("{address} : goto policy-ingress-")),
            "{name}"
        );
    };
    futures::future::join_all((0..200).map(one)).await;
    println!("200 pods were let in after {:?}", started.elapsed());
    let text = table().expect("the table").to_string();
    let closed =
        (20..220).filter(|n| text.contains(&format!("10.244.1.{n} : goto policy-ingress-")));
    assert_eq!(closed.count(), 200);
}

#[test]
fn policy_is_enforced_from_the_first_packet_and_cuts_what_it_denies() {
    in_namespace("fwpolicy", story);
}
