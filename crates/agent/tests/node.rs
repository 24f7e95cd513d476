//! One agent, a real API server in the same process, a real kernel in a namespace of its own.
#![allow(clippy::print_stdout, reason = "measured times belong to the test's output")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::{Access, AgentConfig, ServiceSettings, Without};
use apiserver::auth::User;
use apiserver::server::{Config, Handle, Server};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use link::Namespace;
use nft::kernel::Netlink;
use nft::{Family, Kernel as _, Name, Table};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const HEALTH: &str = "127.0.0.1:10256";
const TOKEN: &str = "secret-of-this-test";

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a test object")
}

/// The API and where an agent finds it.
fn api(dir: &Path) -> (Handle, PathBuf) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("non-blocking");
    let mut config = Config::in_memory().expect("an authority");
    config.listeners.push(listener);
    let user = User::new("agent", &["system:masters"]);
    config.tokens = HashMap::from([(TOKEN.to_owned(), user)]);
    let authority = BASE64_STANDARD.encode(config.authority.certificate_pem());
    let server = Server::start(config).expect("the server");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": format!("https://{address}"), "certificate-authority-data": authority}}],
        "users": [{"name": "t", "user": {"token": TOKEN}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    });
    let path = dir.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig");
    (server, path)
}

fn start(dir: &Path, kubeconfig: &Path) -> JoinHandle<()> {
    let config = AgentConfig {
        node_name: "node-1".into(),
        access: Access { kubeconfig: Some(kubeconfig.into()), ..Access::default() },
        run_dir: dir.join("run"),
        state_dir: dir.join("state"),
        cni_conf_dir: dir.join("cni"),
        health_addr: HEALTH.parse::<SocketAddr>().expect("an address"),
        metrics_addr: None,
        without: Without::default(),
        services: ServiceSettings::default(),
    };
    tokio::task::spawn_local(async move {
        if let Err(error) = agent::run(config).await {
            panic!("the agent ended: {error:#}");
        }
    })
}

async fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(HEALTH).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// A number of `/metrics`; 0 when it is not there.
async fn metric(name: &str) -> f64 {
    let text = get("/metrics").await.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

fn table() -> Option<Table> {
    let mut kernel = Netlink::open().expect("nf_tables");
    kernel.list(Family::Inet, &Name::new("fairway").expect("a name")).expect("a listing")
}

/// Whether the kernel's table has this text in it.
fn has(text: &str) -> bool {
    table().is_some_and(|table| table.to_string().contains(text))
}

async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(
            start.elapsed() < within,
            "{what} did not happen within {within:?}\n{:?}",
            get("/readyz").await
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

async fn story(dir: &Path) {
    let second = Duration::from_secs(1);
    let (_server, kubeconfig) = api(dir);
    let client: Client = cluster::connect(Some(&kubeconfig)).await.expect("a client");
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    for number in [1, 2] {
        let node = json!({"metadata": {"name": format!("node-{number}")},
            "spec": {"podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.30.1.{number}")}]}});
        let made = nodes.create(&create, &read(node.clone())).await.expect("a node");
        drop(made);
        let status = Patch::Merge(json!({"status": node["status"]}));
        nodes
            .patch_status(&format!("node-{number}"), &PatchParams::default(), &status)
            .await
            .expect("a status");
    }

    let agent = start(dir, &kubeconfig);
    eventually("ready", 10 * second, async || {
        get("/readyz").await.is_some_and(|text| text.contains("200 OK"))
    })
    .await;
    assert!(get("/healthz").await.expect("an answer").contains("200 OK"));
    let conflist = std::fs::read_to_string(dir.join("cni/10-fairway.conflist"))
        .expect("the CNI configuration");
    assert!(conflist.contains("10.244.1.0/24"), "{conflist}");
    let routes = Command::new("ip").args(["route", "show", "proto", "250"]).output().expect("ip");
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    assert!(routes.contains("10.244.2.0/24 via 172.30.1.2"), "{routes}");
    assert!(has("chain nat-outgoing"), "the fabric's part is in the table");

    // A Service, then its endpoint: in the kernel a moment after the API's answer.
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.7.7", "ports": [{"port": 80}]}});
    services.create(&create, &read(service)).await.expect("a Service");
    eventually("refused", second, async || has("10.96.7.7 . tcp . 80")).await;
    let slice = json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": ["10.244.2.9"]}]});
    slices.create(&create, &read(slice)).await.expect("a slice");
    let took = eventually("served", second, async || has(": 10.244.2.9 . 8080")).await;
    println!("endpoint in the kernel {took:?} after the API's answer");
    assert!(metric("fairway_change_to_commit_seconds_count").await > 0.0);

    // What is applied is told: here at once, to everybody through a Lease within a second or two.
    let made = slices.get("web-1").await.expect("the slice");
    let revision = cluster::revision_of(&made.metadata).expect("a number");
    let told = format!("\"endpointSlices\":{revision}");
    eventually("told here", second, async || {
        get("/status").await.is_some_and(|text| text.contains(&told))
    })
    .await;
    eventually("told to everybody", 10 * second, async || {
        let nodes = cluster::progress(&client).await.expect("progress");
        nodes.get("node-1").is_some_and(|node| node.applied.endpoint_slices >= revision)
    })
    .await;

    // Somebody flushes everything.
    assert!(Command::new("nft").args(["flush", "ruleset"]).status().expect("nft").success());
    let took = eventually("repair", second / 2, async || has(": 10.244.2.9 . 8080")).await;
    println!("repaired {took:?} after the flush");
    assert!(metric("fairway_foreign_repairs_total").await >= 1.0);

    // A restart: the data path stays, and nothing is sent.
    agent.abort();
    agent.await.ok();
    assert!(has(": 10.244.2.9 . 8080"), "the data path stays");
    let agent = start(dir, &kubeconfig);
    eventually("ready again", 10 * second, async || {
        get("/readyz").await.is_some_and(|text| text.contains("200 OK"))
    })
    .await;
    assert_eq!(metric("fairway_full_syncs_total").await, 1.0);
    assert_eq!(metric("fairway_transactions_total").await, 0.0, "a restart sends nothing");

    steering(&services, &slices).await;

    // A Service goes while the agent is down; the next one notices.
    agent.abort();
    agent.await.ok();
    services.delete("web", &DeleteParams::default()).await.expect("deleted");
    let agent = start(dir, &kubeconfig);
    eventually("gone", 10 * second, async || !has("10.96.7.7")).await;
    agent.abort();
    agent.await.ok();
}

/// Least connections: what is tracked decides who gets more slots.
async fn steering(services: &Api<Service>, slices: &Api<EndpointSlice>) {
    let create = PostParams::default();
    let annotations = json!({"fairway.dev/balance": "least-connections"});
    let service = json!({"metadata": {"name": "even", "annotations": annotations},
        "spec": {"clusterIP": "10.96.7.8", "ports": [{"port": 81, "protocol": "UDP"}]}});
    services.create(&create, &read(service)).await.expect("a Service");
    let slice = json!({"metadata": {"name": "even-1", "labels": {"kubernetes.io/service-name": "even"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8081, "protocol": "UDP"}],
        "endpoints": [{"addresses": ["10.244.2.5"]}, {"addresses": ["10.244.2.6"]}]});
    slices.create(&create, &read(slice)).await.expect("a slice");
    let slots = |endpoint: &str| {
        let text = table().map(|table| table.to_string()).unwrap_or_default();
        text.matches(&format!(": {endpoint} . 8081")).count()
    };
    let second = Duration::from_secs(1);
    let both = async || (slots("10.244.2.5"), slots("10.244.2.6")) == (8, 8);
    eventually("even slots", second, both).await;
    let chains = table().expect("the table").chains.len();
    for port in 4001..4021 {
        let port = port.to_string();
        let flow = [
            "-I",
            "-p",
            "udp",
            "-s",
            "172.30.0.9",
            "-d",
            "10.96.7.8",
            "--dport",
            "81",
            "-t",
            "300",
        ];
        let to = ["--sport", &port, "--dst-nat", "10.244.2.5:8081"];
        let output = Command::new("conntrack").args(flow).args(to).output().expect("conntrack");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let uneven = async || slots("10.244.2.5") <= 3 && slots("10.244.2.6") >= 13;
    let took = eventually("fewer slots for who holds more", 10 * second, uneven).await;
    println!("steered {took:?} after the connections came");
    assert_eq!(table().expect("the table").chains.len(), chains, "elements only");
}

#[test]
fn an_agent_keeps_the_kernel_equal_to_the_api() {
    let name = format!("fwagent-{}", std::process::id());
    let namespace = match Namespace::create(&name) {
        Ok(namespace) => namespace,
        Err(error) => {
            let required =
                ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!required, "missing: namespaces ({error})");
            println!("SKIP: namespaces (root is needed): {error}");
            return;
        }
    };
    let dir = std::env::temp_dir().join(&name);
    std::fs::create_dir_all(&dir).expect("a directory");
    let script = "ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth1 up; ip link set eth0 up
        ip addr add 172.30.1.1/16 dev eth0";
    let outcome = namespace.run(|| {
        assert!(Command::new("sh").args(["-ec", script]).status().expect("sh").success());
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = tokio::task::LocalSet::new();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            local.block_on(&runtime, story(&dir))
        }))
    });
    Namespace::delete(&name).expect("the namespace is removed");
    std::fs::remove_dir_all(&dir).expect("the directory is removed");
    if let Err(panic) = outcome.expect("enter the namespace") {
        std::panic::resume_unwind(panic);
    }
}
