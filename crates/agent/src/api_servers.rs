//! The endpoints of the API, learned from the Service `default/kubernetes` and remembered on disk: the way in for an agent that
//! starts on a node whose ClusterIP of the API is not programmed yet, because programming it is what the agent is for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cluster::ApiServers;
use model::{Change, ObjectKey, ServiceKey, Snapshot};

const FILE: &str = "api-servers.json";
const PORT: &str = "https";

/// Learns and remembers.
#[derive(Debug)]
pub(crate) struct Learner {
    service: ServiceKey,
    servers: ApiServers,
    file: PathBuf,
}

impl Learner {
    pub(crate) fn new(servers: ApiServers, state_dir: &Path) -> Self {
        let service = ObjectKey::new("default", "kubernetes");
        Self { service, servers, file: state_dir.join(FILE) }
    }

    /// Looks whether the endpoints of the API are among what changed.
    pub(crate) fn update(&self, snapshot: &Snapshot, change: &Change) {
        if change.services.contains(&self.service) {
            self.full(snapshot);
        }
    }

    /// Looks at the endpoints of the API.
    pub(crate) fn full(&self, snapshot: &Snapshot) {
        let found = endpoints(snapshot, &self.service);
        if found.is_empty() || found == self.servers.learned() {
            return;
        }
        tracing::info!(servers = ?found, "the API's own addresses, for a start without its ClusterIP");
        self.servers.learn(&found);
        if let Err(error) = remember(&self.file, &found) {
            tracing::warn!(file = %self.file.display(), %error, "they cannot be remembered");
        }
    }
}

fn endpoints(snapshot: &Snapshot, service: &ServiceKey) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for slice in snapshot.slices(service) {
        for port in slice.ports.iter().filter(|port| *port.name == *PORT) {
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
            found.extend(ready.map(|endpoint| SocketAddr::new(endpoint.address, port.port)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn remember(file: &Path, servers: &[SocketAddr]) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(servers)?)?;
    std::fs::rename(new, file)
}

/// What an earlier life learned; nothing when it left nothing readable.
pub(crate) fn remembered(state_dir: &Path) -> Vec<SocketAddr> {
    let file = state_dir.join(FILE);
    let Ok(text) = std::fs::read(&file) else { return Vec::new() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "it is damaged and not used");
        Vec::new()
    })
}
