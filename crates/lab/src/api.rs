//! The lab's API server: started with the lab's own certificate authority and objects, and the kubeconfigs of its users.
//!
//! The authority and the objects are in the lab's state directory, so that a lab that comes back is the one its
//! kubeconfigs and its pods' tokens were made for.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use apiserver::auth::Authority;
use apiserver::controllers;
use apiserver::proxy::PodStreams;
use apiserver::server::{Config, Handle, Server};
use apiserver::store::{Key, Resource, Store};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::control::STORE_FILE;
use crate::layout::{API_PORT, Layout, SERVICE_CIDR_V4, SERVICE_CIDR_V6, SWITCH_V4};
use crate::state::write_bytes;

/// A running API server with its controllers.
#[derive(Debug)]
pub struct Api {
    server: Handle,
    controllers: controllers::driver::Handle,
    authority: Authority,
    restored: usize,
}

/// Who uses the API: a name and the group that says what it may do.
#[derive(Debug, Clone, Copy)]
pub struct ApiUser<'a> {
    /// `admin`, `system:node:node-1`, …
    pub name: &'a str,
    /// `system:masters`, `system:nodes`.
    pub group: &'a str,
}

/// Logs, exec and attach go to the runner's socket of the pod's node.
struct Runners(Layout);

impl PodStreams for Runners {
    fn socket(&self, node: &str) -> Option<PathBuf> {
        let socket = self.0.runner_socket(node);
        socket.exists().then_some(socket)
    }
}

impl Api {
    /// Starts server and controllers inside the current tokio runtime.
    ///
    /// # Errors
    /// When the state directory cannot be used, or the server does not start.
    pub fn start(layout: &Layout, listeners: Vec<TcpListener>) -> anyhow::Result<Self> {
        let authority = authority(layout)?;
        let state_file = layout.state_dir().join(STORE_FILE);
        let returning = state_file.exists();
        let server = Server::start(Config {
            listeners,
            // The server keeps one, the kubeconfigs need one; both are read from the same files.
            authority: self::authority(layout)?,
            advertise: SocketAddr::new(IpAddr::V4(SWITCH_V4), API_PORT),
            service_cidrs: vec![SERVICE_CIDR_V4.parse()?, SERVICE_CIDR_V6.parse()?],
            state_file: Some(state_file),
            streams: Some(Arc::new(Runners(layout.clone()))),
            ..Config::in_memory()?
        })
        .context("the API server does not start")?;
        let store = server.registry().store();
        let restored = if returning { count(store) } else { 0 };
        forget_readiness(store);
        let config = controllers::config::Config {
            root_ca: authority.certificate_pem().to_owned(),
            ..controllers::config::Config::default()
        };
        let controllers = controllers::driver::start(server.registry().clone(), config)
            .context("the controllers do not start")?;
        Ok(Self { server, controllers, authority, restored })
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.server.registry().store()
    }

    /// The objects and the rules for writing them.
    #[must_use]
    pub fn registry(&self) -> &apiserver::registry::Registry {
        self.server.registry()
    }

    /// How many objects an earlier run left.
    #[must_use]
    pub fn restored(&self) -> usize {
        self.restored
    }

    /// A kubeconfig that reaches the API at `url` as `user`, with a certificate made for it.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn kubeconfig(&self, lab: &str, user: ApiUser<'_>, url: &str) -> anyhow::Result<String> {
        let client = self
            .authority
            .client(user.name, user.group)
            .with_context(|| format!("cannot make a certificate for {}", user.name))?;
        let name = format!("fairway-{lab}");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {
                "server": url,
                "certificate-authority-data": BASE64.encode(self.authority.certificate_pem()),
            }}],
            "users": [{"name": name, "user": {
                "client-certificate-data": BASE64.encode(&client.certificate_pem),
                "client-key-data": BASE64.encode(&client.key_pem),
            }}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        });
        serde_saphyr::to_string(&config).context("cannot write a kubeconfig")
    }

    /// Stops the controllers, ends requests in peace, and writes what is not on disk yet.
    pub async fn stop(self) {
        drop(self.controllers);
        self.server.stop().await;
    }
}

/// The lab's certificate authority: the one in its state directory, or a new one that is put there.
fn authority(layout: &Layout) -> anyhow::Result<Authority> {
    let certificate = layout.state_dir().join("ca.crt");
    let key = layout.state_dir().join("ca.key");
    if certificate.exists() && key.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        return Authority::from_pem(&read(&certificate)?, &read(&key)?).with_context(|| {
            format!("{} is damaged; `fairway lab down --purge` removes it", certificate.display())
        });
    }
    let authority = Authority::generate().context("cannot make a certificate authority")?;
    for (path, text, mode) in [
        (&key, authority.key_pem(), 0o600),
        (&certificate, authority.certificate_pem().to_owned(), 0o644),
    ] {
        write_bytes(path, text.as_bytes(), mode)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(authority)
}

fn count(store: &Store) -> usize {
    store.resources().iter().map(|resource| store.list(resource, None).items.len()).sum()
}

/// Nodes found on disk were Ready in another life: until their runners report, nobody knows.
fn forget_readiness(store: &Store) {
    let nodes = Resource::new("", "nodes");
    for node in store.list(&nodes, None).items {
        let mut node = Value::clone(&node);
        let Some(conditions) = node.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
        else {
            continue;
        };
        for condition in conditions.iter_mut().filter(|condition| condition["type"] == "Ready") {
            condition["status"] = json!("Unknown");
            condition["reason"] = json!("NodeStatusUnknown");
            condition["message"] = json!("the lab came back; its pod runner has not reported yet");
        }
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Err(error) = store.update(&Key::new(&nodes, "", &name), node, None) {
            tracing::warn!(node = name, ?error, "cannot mark as unknown");
        }
    }
}
