//! A namespace, an API server in this process, and an agent: what the tests of a whole node share.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test binary uses its part, fails by panicking and says why"
)]

pub mod pods;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agent::{Access, AgentConfig, ServiceSettings, Without};
use apiserver::auth::{Authority, User};
use apiserver::server::{Config, Handle, Server};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use link::Namespace;
use nft::kernel::Netlink;
use nft::{Family, Kernel as _, Name, Table};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Where the agent is asked.
pub const HEALTH: &str = "127.0.0.1:10256";
/// The node's address.
pub const NODE: &str = "172.30.1.1";
const TOKEN: &str = "secret-of-this-test";

pub fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a test object")
}

/// The API at an address of the namespace, and the kubeconfig an agent finds it by. What it holds is kept in `dir`, so that
/// another one can be started in its place.
pub fn api_at(dir: &Path, address: SocketAddr, authority: Authority) -> (Handle, PathBuf) {
    let listener = std::net::TcpListener::bind(address).expect("the address");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("non-blocking");
    let mut config = Config::in_memory().expect("an authority");
    config.authority = authority;
    config.listeners.push(listener);
    config.advertise = address;
    config.addresses.push(address.ip());
    config.state_file = Some(dir.join("api.state"));
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

/// What an agent is told that finds the API by a kubeconfig.
pub fn config(dir: &Path, kubeconfig: &Path) -> AgentConfig {
    AgentConfig {
        dns: None,
        node_name: "node-1".into(),
        access: Access { kubeconfig: Some(kubeconfig.into()), ..Access::default() },
        run_dir: dir.join("run"),
        state_dir: dir.join("state"),
        cni_conf_dir: dir.join("cni"),
        health_addr: HEALTH.parse().expect("an address"),
        metrics_addr: None,
        without: Without::default(),
        services: ServiceSettings::default(),
        fabric: agent::FabricSettings::default(),
        ipam: agent::Ipam::default(),
    }
}

pub fn start(config: AgentConfig) -> JoinHandle<()> {
    tokio::task::spawn_local(async move {
        if let Err(error) = agent::run(config).await {
            panic!("the agent ended: {error:#}");
        }
    })
}

/// The whole answer to a GET; none when nobody listens.
pub async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

/// A number of `/metrics`; 0 when it is not there.
pub async fn metric(name: &str) -> f64 {
    let text = get(HEALTH, "/metrics").await.unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

pub fn table() -> Option<Table> {
    let mut kernel = Netlink::open().expect("nf_tables");
    kernel.list(Family::Inet, &Name::new("fairway").expect("a name")).expect("a listing")
}

/// Whether the kernel's table has this text in it.
pub fn has(text: &str) -> bool {
    table().is_some_and(|table| table.to_string().contains(text))
}

pub async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> bool,
) -> Duration {
    let start = Instant::now();
    while !holds().await {
        assert!(
            start.elapsed() < within,
            "{what} did not happen within {within:?}\n{:?}",
            get(HEALTH, "/readyz").await
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

/// Tells a story in a namespace with one link and a default route; both are gone afterwards, and so is the directory.
pub fn in_namespace(name: &str, story: impl AsyncFnOnce(&Path) + Send) {
    let name = format!("{name}-{}", std::process::id());
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
    let script = format!(
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth1 up; ip link set eth0 up
        ip addr add {NODE}/16 dev eth0; ip route add default via 172.30.0.254"
    );
    let outcome = namespace.run(|| {
        assert!(Command::new("sh").args(["-ec", &script]).status().expect("sh").success());
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
