//! The lab's API server: started with the lab's certificate authority and state, kubeconfigs for its users.

use std::net::TcpListener;

use anyhow::bail;
use apiserver::store::{Resource, Store};
use serde_json::Value;

use crate::layout::Layout;

/// A running API server.
pub struct Api {
    store: Store,
    restored: usize,
}

impl Api {
    /// Starts.
    pub async fn start(layout: &Layout, listeners: Vec<TcpListener>) -> anyhow::Result<Self> {
        let _ = (layout, listeners);
        bail!("being written")
    }
    /// Store.
    pub fn store(&self) -> &Store {
        &self.store
    }
    /// Restored.
    pub fn restored(&self) -> usize {
        self.restored
    }
    /// Kubeconfig.
    pub fn kubeconfig(
        &self,
        lab: &str,
        user: &str,
        groups: &[&str],
        url: &str,
    ) -> anyhow::Result<String> {
        let _ = (lab, user, groups, url);
        bail!("being written")
    }
    /// Nodes found on disk were Ready in another life: until their runner reports they are not.
    pub fn mark_nodes_unknown(&self) -> usize {
        0
    }
    /// Writes out.
    pub async fn stop(self) {}
}
