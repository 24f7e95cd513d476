//! A client from a kubeconfig, or from the service account of the pod this runs in.

use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error(
        "kubeconfig {path:?} cannot be used; check that the file exists and names a cluster, a user and a context"
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was given and this is no pod with a service account.
    #[error(
        "no --kubeconfig was given and this is not a pod with a service account; give one of the two"
    )]
    InCluster {
        /// Why.
        source: Box<kube::config::InClusterError>,
    },
    /// The TLS material or the address of the cluster cannot be used.
    #[error("no client for {address}; check the certificates the kubeconfig names")]
    Client {
        /// The API server.
        address: String,
        /// Why.
        source: Box<kube::Error>,
    },
}

/// A client of the API server a kubeconfig names; without one, of the cluster this pod is in. Does not connect yet.
///
/// # Errors
/// [`ConnectError`] when the file, the service account or its certificates are unusable.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let config = match kubeconfig {
        Some(path) => {
            let failed =
                |source| ConnectError::Kubeconfig { path: path.into(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?
        }
        None => Config::incluster()
            .map_err(|source| ConnectError::InCluster { source: Box::new(source) })?,
    };
    let address = config.cluster_url.to_string();
    Client::try_from(config)
        .map_err(|source| ConnectError::Client { address, source: Box::new(source) })
}
