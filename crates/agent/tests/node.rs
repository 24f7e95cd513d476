//! One agent, a real API server in the same process, a real kernel in a namespace of its own.
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
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use world::{
    HEALTH, NODE, api_at, config, eventually, has, in_namespace, metric, read, start, table,
};

async fn get(path: &str) -> Option<String> {
    world::get(HEALTH, path).await
}

async fn story(dir: &Path) {
    let second = Duration::from_secs(1);
    let address: SocketAddr = format!("{NODE}:6443").parse().expect("an address");
    let (_server, kubeconfig) = api_at(dir, address, Authority::generate().expect("keys"));
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

    let agent = start(config(dir, &kubeconfig));
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
    let agent = start(config(dir, &kubeconfig));
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
    let agent = start(config(dir, &kubeconfig));
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
    // Connections there were before the first endpoint are deleted after the commit that brings it: what comes in between
    // comes again.
    let connect = || {
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
            // One that is there is an error.
            Command::new("conntrack").args(flow).args(to).output().expect("conntrack");
        }
    };
    connect();
    let uneven = async || {
        connect();
        slots("10.244.2.5") <= 3 && slots("10.244.2.6") >= 13
    };
    let took = eventually("fewer slots for who holds more", 60 * second, uneven).await;
    println!("steered {took:?} after the connections came");
    assert_eq!(table().expect("the table").chains.len(), chains, "elements only");
}

#[test]
fn an_agent_keeps_the_kernel_equal_to_the_api() {
    in_namespace("fwagent", story);
}
