//! Names on a node: a Service that is resolved is reached, however fast Services come and go; and the names stay when the API
//! goes; what a Corefile asks for is there. Real packets, a real API server in the same process, a kernel in a namespace of its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::{AgentConfig, DnsSettings};
use apiserver::auth::Authority;
use dns::client::ask;
use dns::query::{code, kind};
use dns::reply::Data;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use model::ObjectKey;
use serde_json::json;

use world::{NODE, api_at, config, eventually, get, in_namespace, read, start};

const DNS: &str = "10.96.0.10:53";
/// Services resolved and reached one after the other; 10,000 in a long run.
const TRIES: &str = "FAIRWAY_DNS_TRIES";
const WAIT: Duration = Duration::from_secs(2);

/// The address a name has now.
fn address_of(name: &str) -> Option<IpAddr> {
    let server = DNS.parse().unwrap();
    let answered = ask(server, &name.parse().unwrap(), kind::A, false, WAIT).ok()?;
    answered.reply.answers.iter().find_map(|record| match record.data {
        Data::A(v4) => Some(v4.into()),
        _ => None,
    })
}

fn reaches(ip: IpAddr) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(ip, 80), Duration::from_secs(3)).is_ok()
}

fn with_dns(dir: &Path, kubeconfig: &Path) -> AgentConfig {
    let dns = DnsSettings {
        service: ObjectKey::new("kube-system", "kube-dns"),
        listen: Vec::new(),
        corefile: None,
        domains: vec!["cluster.local".into()],
        per_client: None,
    };
    AgentConfig { dns: Some(dns), ..config(dir, kubeconfig) }
}

fn service(name: &str, ip: Option<&str>) -> Service {
    let mut spec = json!({"ports": [{"port": 80, "targetPort": 8080}]});
    if let Some(ip) = ip {
        spec["clusterIP"] = ip.into();
    }
    read(json!({"metadata": {"name": name}, "spec": spec}))
}

fn slice(name: &str) -> EndpointSlice {
    read(json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": [NODE]}]}))
}

async fn story(dir: &Path) {
    let tries = std::env::var(TRIES).ok().and_then(|it| it.parse().ok()).unwrap_or(20);
    let api: SocketAddr = format!("{NODE}:6443").parse().unwrap();
    let (server, kubeconfig) = api_at(dir, api, Authority::generate().unwrap());
    let client: Client = cluster::connect(Some(&kubeconfig)).await.unwrap();
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}});
    nodes.create(&create, &read(node)).await.unwrap();
    let spaces: Api<Namespace> = Api::all(client.clone());
    drop(spaces.create(&create, &read(json!({"metadata": {"name": "kube-system"}}))).await);
    let system: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let dns = json!({"metadata": {"name": "kube-dns"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    system.create(&create, &read(dns)).await.unwrap();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");

    // The one backend of all of them.
    let backend = TcpListener::bind("0.0.0.0:8080").unwrap();
    std::thread::spawn(move || backend.incoming().for_each(drop));
    let agent = start(with_dns(dir, &kubeconfig));
    let own = "kube-dns.kube-system.svc.cluster.local";
    eventually("names", Duration::from_secs(20), async || {
        tokio::task::spawn_blocking(|| address_of(own)).await.unwrap().is_some()
    })
    .await;

    // Others come and go all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (services, slices, stop) = (services.clone(), slices.clone(), stop.clone());
        tokio::task::spawn_local(async move {
            for at in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("other-{}", at % 20);
                drop(slices.create(&PostParams::default(), &slice(&name)).await);
                drop(services.create(&PostParams::default(), &service(&name, None)).await);
                let name = format!("other-{}", (at + 10) % 20);
                drop(services.delete(&name, &DeleteParams::default()).await);
                drop(slices.delete(&name, &DeleteParams::default()).await);
            }
        })
    };
    let (mut slowest, mut total) = (Duration::ZERO, Duration::ZERO);
    for at in 0..tries {
        let name = format!("web-{at}");
        slices.create(&create, &slice(&name)).await.unwrap();
        let asked = format!("{name}.default.svc.cluster.local");
        // Asked without a pause from before it is there; connected to the moment there is an answer.
        let watching = tokio::task::spawn_blocking(move || {
            let until = Instant::now() + Duration::from_secs(20);
            loop {
                if let Some(ip) = address_of(&asked) {
                    let resolved = Instant::now();
                    assert!(reaches(ip), "{asked} is {ip}, which nobody reaches");
                    return (ip, resolved);
                }
                assert!(Instant::now() < until, "{asked} never resolved");
            }
        });
        services.create(&create, &service(&name, None)).await.unwrap();
        let created = Instant::now();
        let (ip, resolved) = watching.await.unwrap();
        let took = resolved.saturating_duration_since(created);
        slowest = slowest.max(took);
        total += took;
        // And on the way out: an address that is not reached any more is not named any more.
        let asked = format!("{name}.default.svc.cluster.local");
        let leaving = tokio::task::spawn_blocking(move || {
            while let Some(ip) = address_of(&asked) {
                if !reaches(ip) {
                    assert_eq!(address_of(&asked), None, "{asked} is named after it went");
                }
            }
            assert!(!reaches(ip) || address_of(&asked).is_none());
        });
        services.delete(&name, &DeleteParams::default()).await.unwrap();
        leaving.await.unwrap();
        slices.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    println!(
        "{tries} Services: resolved and reached {:?} after the API's answer, at most {slowest:?}",
        total / tries
    );
    stop.store(true, Ordering::Relaxed);
    churn.await.unwrap();

    // The API goes; names stay.
    services.create(&create, &service("stays", None)).await.unwrap();
    eventually("resolved", Duration::from_secs(5), async || {
        let asked = || address_of("stays.default.svc.cluster.local");
        tokio::task::spawn_blocking(asked).await.unwrap().is_some()
    })
    .await;
    server.stop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    tokio::task::spawn_blocking(|| {
        for _ in 0..1000 {
            assert!(address_of("stays.default.svc.cluster.local").is_some());
        }
        let nobody = "nobody.default.svc.cluster.local".parse().unwrap();
        let answered = ask(DNS.parse().unwrap(), &nobody, kind::A, true, WAIT).unwrap();
        assert_eq!(answered.reply.code, code::NXDOMAIN);
    })
    .await
    .unwrap();
    agent.abort();
}

const COREFILE: &str = "\
.:53 {
    errors
    health 127.0.0.1:8080 {
        lameduck 1s
    }
    ready 127.0.0.1:8181
    prometheus 127.0.0.1:9153
    hosts DIR/hosts {
        reload 200ms
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa
    reload 2s
}
";

/// A Corefile's pages and files; and an agent started while the API is away, whose kernel still does what it was told.
async fn corefile(dir: &Path) {
    let api: SocketAddr = format!("{NODE}:6443").parse().unwrap();
    let (server, kubeconfig) = api_at(dir, api, Authority::generate().unwrap());
    let client: Client = cluster::connect(Some(&kubeconfig)).await.unwrap();
    let create = PostParams::default();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&create, &read(json!({"metadata": {"name": "node-1"}}))).await.unwrap();
    let spaces: Api<Namespace> = Api::all(client.clone());
    drop(spaces.create(&create, &read(json!({"metadata": {"name": "kube-system"}}))).await);
    let system: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let dns = json!({"metadata": {"name": "kube-dns"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}});
    system.create(&create, &read(dns)).await.unwrap();

    std::fs::write(dir.join("hosts"), "192.0.2.1 own.example\n").unwrap();
    let file = dir.join("Corefile");
    std::fs::write(&file, COREFILE.replace("DIR", dir.to_str().unwrap())).unwrap();
    let mut with_file = with_dns(dir, &kubeconfig);
    with_file.dns.as_mut().unwrap().corefile = Some(file.clone());
    let agent = start(with_file.clone());
    let named = async |name: &'static str, ip: &'static str| {
        let address = tokio::task::spawn_blocking(|| address_of(name)).await.unwrap();
        address.is_some_and(|it| it.to_string() == ip)
    };
    let wait = Duration::from_secs(10);
    eventually("hosts", wait, async || named("own.example", "192.0.2.1").await).await;
    for (address, page, said) in [
        ("127.0.0.1:8080", "/health", "OK"),
        ("127.0.0.1:8181", "/ready", "OK"),
        ("127.0.0.1:9153", "/metrics", "coredns_dns_requests_total"),
    ] {
        let answer = get(address, page).await.unwrap_or_default();
        assert!(answer.contains("200 OK") && answer.contains(said), "{page}: {answer}");
    }
    std::fs::write(dir.join("hosts"), "192.0.2.22 own.example\n").unwrap();
    eventually("hosts anew", wait, async || named("own.example", "192.0.2.22").await).await;
    // A page moves with the Corefile; a bad Corefile changes nothing.
    std::fs::write(&file, "nonsense {").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(named("own.example", "192.0.2.22").await);
    let moved = COREFILE.replace("DIR", dir.to_str().unwrap()).replace("8181", "8282");
    std::fs::write(&file, moved).unwrap();
    let is_ready =
        async |address| get(address, "/ready").await.is_some_and(|it| it.contains("200"));
    eventually("moved", wait, async || is_ready("127.0.0.1:8282").await).await;
    assert!(!is_ready("127.0.0.1:8181").await);

    // The agent ends as the kubelet ends it, and is not well while it goes. It starts again and there is no API.
    let kill = std::process::Command::new("kill").arg(std::process::id().to_string()).status();
    assert!(kill.unwrap().success());
    eventually("lameduck", wait, async || {
        get("127.0.0.1:8080", "/health").await.is_some_and(|it| it.contains("503"))
    })
    .await;
    assert!(named("own.example", "192.0.2.22").await, "still answered");
    tokio::time::timeout(wait, agent).await.expect("the agent ends").unwrap();
    server.stop().await;
    let agent = start(with_file);
    let own = "kube-dns.kube-system.svc.cluster.local";
    eventually("names from disk", wait, async || named(own, "10.96.0.10").await).await;
    agent.abort();
}

#[test]
fn a_corefile_is_done_and_names_outlive_the_api() {
    in_namespace("fwcore", corefile);
}

#[test]
fn a_name_is_never_ahead_of_the_kernel() {
    in_namespace("fwnames", story);
}
