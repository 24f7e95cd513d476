//! A node that restarts and reboots while the API is down, and one that knows the API by a ClusterIP it has yet to program;
//! load balancers' health checks; a node that is being drained. One agent, a real API server in the same process, a real kernel
//! in a namespace of its own, real packets.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use apiserver::auth::Authority;
use k8s_openapi::api::core::v1::{Event, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use world::{HEALTH, NODE, api_at, config, eventually, get, has, in_namespace, read, start};

const SECOND: Duration = Duration::from_secs(1);
const SERVICE: &str = "10.96.7.7:80";

/// Whether the Service answers, asked from the node.
async fn answers() -> bool {
    let attempt = tokio::net::TcpStream::connect(SERVICE);
    matches!(tokio::time::timeout(SECOND, attempt).await, Ok(Ok(_)))
}

/// As the kubelet stops an agent.
async fn stop(agent: JoinHandle<()>) {
    assert!(Command::new("kill").arg(std::process::id().to_string()).status().unwrap().success());
    tokio::time::timeout(10 * SECOND, agent).await.expect("the agent stops").unwrap();
}

/// What a reboot leaves of the table.
fn empty_kernel() {
    assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
}

async fn is_ready(address: &str) -> bool {
    get(address, "/readyz").await.is_some_and(|text| text.contains("200 OK"))
}

async fn objects(client: &Client) {
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}});
    nodes.create(&create, &read(node)).await.unwrap();
    let address = json!([{"type": "InternalIP", "address": NODE}]);
    let status = Patch::Merge(json!({"status": {"addresses": address}}));
    nodes.patch_status("node-1", &PatchParams::default(), &status).await.unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let web = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}});
    services.create(&create, &read(web)).await.unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    slices.create(&create, &read(slice("web", 8080))).await.unwrap();
}

fn slice(service: &str, port: u16) -> Value {
    json!({"metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "", "port": port}],
        "endpoints": [{"addresses": [NODE], "nodeName": "node-1"}]})
}

/// The whole answer of a health check port.
async fn check(port: u16) -> String {
    get(&format!("{NODE}:{port}"), "/").await.unwrap_or_default()
}

async fn health_checks(client: &Client) {
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let taken = TcpListener::bind("0.0.0.0:30999").await.unwrap();
    let lb = json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
        "clusterIP": "10.96.7.8", "healthCheckNodePort": 30999, "ports": [{"port": 80, "nodePort": 30080}]}});
    services.create(&PostParams::default(), &read(lb)).await.unwrap();
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    eventually("a taken port is said on the Service", 10 * SECOND, async || {
        let listed = events.list(&ListParams::default()).await.unwrap();
        listed.items.iter().any(|event| {
            event.reason.as_deref() == Some("HealthCheckPortTaken")
                && event.involved_object.name.as_deref() == Some("lb")
        })
    })
    .await;
    drop(taken);
    eventually("the port opens", 20 * SECOND, async || check(30999).await.contains("503")).await;
    let none = check(30999).await;
    assert!(none.contains("x-load-balancing-endpoint-weight: 0"), "{none}");
    slices.create(&PostParams::default(), &read(slice("lb", 8080))).await.unwrap();
    eventually("an endpoint here", 5 * SECOND, async || check(30999).await.contains("200 OK"))
        .await;
    let one = check(30999).await;
    let (head, body) = one.split_once("\r\n\r\n").unwrap();
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 1",
    ] {
        assert!(head.contains(header), "{head}");
    }
    let body: Value = serde_json::from_str(body).unwrap();
    let wanted = json!({"service": {"namespace": "default", "name": "lb"}, "localEndpoints": 1, "serviceProxyHealthy": true});
    assert_eq!(body, wanted);
    services.delete("lb", &DeleteParams::default()).await.unwrap();
    eventually("the port closes", 5 * SECOND, async || check(30999).await.is_empty()).await;
}

async fn drain(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    assert!(get(HEALTH, "/healthz").await.unwrap().contains("\"nodeEligible\":true"));
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    let params = PatchParams::default();
    let patch = Patch::Merge(json!({"spec": {"taints": taint}}));
    nodes.patch("node-1", &params, &patch).await.unwrap();
    eventually("a drained node is not to be chosen", 5 * SECOND, async || {
        let answer = get(HEALTH, "/healthz").await.unwrap();
        answer.contains("503") && answer.contains("\"nodeEligible\":false")
    })
    .await;
    assert!(get(HEALTH, "/livez").await.unwrap().contains("200 OK"));
    let patch = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes.patch("node-1", &params, &patch).await.unwrap();
    eventually("chosen again", 5 * SECOND, async || {
        get(HEALTH, "/healthz").await.unwrap().contains("200 OK")
    })
    .await;
}

async fn story(dir: &Path) {
    let authority = Authority::generate().unwrap();
    let keys = (authority.certificate_pem().to_owned(), authority.key_pem());
    let address: SocketAddr = format!("{NODE}:6443").parse().unwrap();
    let (server, kubeconfig) = api_at(dir, address, authority);
    let client = cluster::connect(Some(&kubeconfig)).await.unwrap();
    objects(&client).await;
    let pod = TcpListener::bind("0.0.0.0:8080").await.unwrap();
    let _pod = tokio::task::spawn_local(async move { while pod.accept().await.is_ok() {} });

    let agent = start(config(dir, &kubeconfig));
    eventually("ready", 10 * SECOND, async || is_ready(HEALTH).await).await;
    eventually("the Service answers", 5 * SECOND, answers).await;
    health_checks(&client).await;
    drain(&client).await;
    stop(agent).await;
    let facts = dir.join("state/facts.log");
    let kept = std::fs::read(&facts).expect("the facts are on disk");

    // The API goes, the machine reboots: no table. The last facts bring the Service back.
    server.stop().await;
    empty_kernel();
    assert!(!answers().await, "nothing is programmed");
    let agent = start(config(dir, &kubeconfig));
    let took = eventually("served without an API", 15 * SECOND, answers).await;
    println!("answered {took:?} after the start, with the API down and an empty kernel");
    assert!(is_ready(HEALTH).await);

    // The API comes back as it was: nothing that is unchanged is touched.
    let transactions = world::metric("fairway_transactions_total").await;
    let authority = Authority::from_pem(&keys.0, &keys.1).unwrap();
    let (server, _) = api_at(dir, address, authority);
    let client = cluster::connect(Some(&kubeconfig)).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    eventually("the API is back", 20 * SECOND, async || nodes.get("node-1").await.is_ok()).await;
    eventually("the watches are back", 30 * SECOND, async || {
        get(HEALTH, "/status").await.unwrap().contains("\"services\":") && {
            let status = get(HEALTH, "/status").await.unwrap();
            !status.contains("\"services\":0,")
        }
    })
    .await;
    assert!(answers().await);
    // Policies are not on disk: their part comes when they are listed, and nothing else.
    let sent = async || world::metric("fairway_transactions_total").await - transactions;
    let policy = async || world::has("chain policy-forward") && sent().await > 0.0;
    eventually("policies are known", 30 * SECOND, policy).await;
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(sent().await, 1.0, "nothing else was sent");

    // An agent that knows the API by its ClusterIP only, on an empty kernel: the remembered address is the way in.
    stop(agent).await;
    empty_kernel();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let clusterip = dir.join("clusterip.kubeconfig");
    std::fs::write(&clusterip, text.replace(&address.to_string(), "10.96.0.1:443")).unwrap();
    std::fs::remove_file(&facts).unwrap();
    let agent = start(config(dir, &clusterip));
    eventually("ready by the remembered address", 20 * SECOND, async || is_ready(HEALTH).await)
        .await;
    assert!(answers().await);
    stop(agent).await;

    // A damaged file is named and not used; without it and without an API, nothing is invented.
    server.stop().await;
    empty_kernel();
    let mut damaged = kept.clone();
    damaged[200] ^= 1;
    std::fs::write(&facts, damaged).unwrap();
    let agent = start(config(dir, &kubeconfig));
    tokio::time::sleep(5 * SECOND).await;
    assert!(!has("10.96.7.7") && !is_ready(HEALTH).await);
    assert!(get(HEALTH, "/livez").await.unwrap().contains("200 OK"));
    stop(agent).await;
}

#[test]
fn a_node_outlives_its_api() {
    in_namespace("fwoutage", story);
}
