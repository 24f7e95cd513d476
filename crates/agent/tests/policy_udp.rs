//! UDP flows that become denied, with real packets: the side that may still send does not bring them back.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use apiserver::auth::Authority;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use world::pods::{Pods, pod};
use world::{NODE, api_at, config, eventually, has, in_namespace, metric, read, start};

const SECOND: Duration = Duration::from_secs(1);

/// A socket of the pod with this last number, at this port.
fn socket(pods: &Pods, number: u8, port: u16) -> UdpSocket {
    let address = SocketAddr::from((Ipv4Addr::new(10, 244, 1, number), port));
    let bind = || UdpSocket::bind(address);
    let socket = pods.0[usize::from(number - 5)].1.run(bind).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    socket
}

/// Whether a packet from one arrives at the other.
fn passes(from: &UdpSocket, to: &UdpSocket) -> bool {
    from.send_to(b"x", to.local_addr().unwrap()).unwrap();
    to.recv(&mut [0]).is_ok()
}

async fn story(dir: &Path) {
    let address: SocketAddr = format!("{NODE}:6443").parse().expect("an address");
    let (_server, kubeconfig) = api_at(dir, address, Authority::generate().expect("keys"));
    let client: Client = cluster::connect(Some(&kubeconfig)).await.expect("a client");
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "default");
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}});
    nodes.create(&create, &read(node)).await.expect("a node");
    let wires = Pods::wire();
    pod(&pods, "a", Some("10.244.1.5")).await;
    pod(&pods, "b", Some("10.244.1.6")).await;
    let agent = start(config(dir, &kubeconfig));
    let known = async || has("set policy-pods4") && has("10.244.1.5,\n") && has("10.244.1.6,\n");
    eventually("pods known", 10 * SECOND, known).await;

    let (asks, answers) = (socket(&wires, 5, 5000), socket(&wires, 6, 53));
    let (other, free) = (socket(&wires, 5, 5001), socket(&wires, 6, 54));
    assert!(passes(&asks, &answers) && passes(&answers, &asks) && passes(&asks, &answers));
    let put = async |name: &str, spec: Value| {
        let policy = json!({"metadata": {"name": name}, "spec": spec});
        policies.create(&create, &read(policy)).await.expect("a policy");
    };
    let cut = async |times: f64| {
        let cut = async || metric("fairway_policy_cut_flows_total").await >= times;
        eventually("cut", 2 * SECOND, cut).await;
    };

    // b may send whatever it likes, but what it says to a's port would make a's packets answers.
    let of_b = json!({"matchLabels": {"app": "b"}});
    put("shut", json!({"podSelector": of_b, "policyTypes": ["Ingress"]})).await;
    cut(1.0).await;
    assert!(!passes(&answers, &asks), "an answer to a flow that was cut");
    assert!(!passes(&asks, &answers), "and what it would have brought back");
    assert!(!passes(&answers, &asks), "every one of them");
    assert!(passes(&free, &other) && passes(&other, &free), "a flow that is b's own");

    // What may be again may begin from either side.
    let gone = DeleteParams::default();
    policies.delete("shut", &gone).await.expect("deleted");
    let open = async || passes(&answers, &asks);
    eventually("mended", 2 * SECOND, open).await;
    assert!(passes(&asks, &answers));

    // A rule that lets b send to a says that it may, whoever was first.
    put(
        "out",
        json!({"podSelector": of_b, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]}),
    )
    .await;
    eventually("isolated", 2 * SECOND, async || has("10.244.1.6 : goto policy-egress-")).await;
    let before = metric("fairway_policy_cut_flows_total").await;
    // The flow is b's own by now; a's is another.
    let again = socket(&wires, 5, 5002);
    assert!(passes(&again, &answers) && passes(&answers, &again));
    put("shut", json!({"podSelector": of_b, "policyTypes": ["Ingress"]})).await;
    cut(before + 1.0).await;
    assert!(!passes(&again, &answers), "a may not begin");
    assert!(passes(&answers, &again), "b may, by a rule");
    assert!(passes(&again, &answers), "and is answered");
    agent.abort();
    agent.await.ok();
}

#[test]
fn a_udp_flow_that_was_cut_is_not_revived_by_its_answers() {
    in_namespace("fwpoludp", story);
}
