//! A client from a kubeconfig, or from the service account of the pod this runs in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::dial::Dialler;
use crate::servers::{ApiServers, BadServer, parse};
use crate::token::WithToken;

/// A server that says nothing for this long is taken for hung; upstream's sends a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(150);

/// How the API is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The kubeconfig; without it, the service account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Addresses of API servers, in order of preference, instead of the one the kubeconfig or the pod's environment names.
    pub servers: Vec<String>,
    /// Addresses that worked in an earlier life; tried when the others do not answer.
    pub remembered: Vec<SocketAddr>,
    /// A connection on which the server says nothing for this long is given up.
    pub silence: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self { kubeconfig: None, servers: Vec::new(), remembered: Vec::new(), silence: SILENCE }
    }
}

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
    /// An address of the API makes no sense.
    #[error(transparent)]
    Server(#[from] BadServer),
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
    let access = Access { kubeconfig: kubeconfig.map(Into::into), ..Access::default() };
    Ok(connect_to(&access).await?.0)
}

/// A client, and where its servers are: what is learned there is tried when what was given does not answer.
///
/// # Errors
/// [`ConnectError`] when the file, the service account or its certificates are unusable.
pub async fn connect_to(access: &Access) -> Result<(Client, ApiServers), ConnectError> {
    let given: Vec<_> =
        access.servers.iter().map(|text| parse(text)).collect::<Result<_, BadServer>>()?;
    let mut config = match access.kubeconfig.as_deref() {
        Some(path) => {
            let failed =
                |source| ConnectError::Kubeconfig { path: path.into(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(failed)?
        }
        // An address given by hand needs no environment to name another.
        None if given.is_empty() => Config::incluster().map_err(in_cluster)?,
        None => Config::incluster_dns().map_err(in_cluster)?,
    };
    let given = if given.is_empty() { vec![config.cluster_url.clone()] } else { given };
    if let Some(first) = given.first() {
        config.cluster_url = first.clone();
    }
    let servers = ApiServers::new(&given, config.tls_server_name.as_deref());
    servers.learn(&access.remembered);
    let address = config.cluster_url.to_string();
    client(config, servers.clone(), access.silence)
        .map(|client| (client, servers))
        .map_err(|source| ConnectError::Client { address, source: Box::new(source) })
}

fn in_cluster(source: kube::config::InClusterError) -> ConnectError {
    ConnectError::InCluster { source: Box::new(source) }
}

fn client(
    mut config: Config,
    servers: ApiServers,
    silence: Duration,
) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        // Through a proxy there is one way only, and the library knows it (or says that it does not).
        return Client::try_from(config);
    }
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let plain = config.cluster_url.scheme_str() == Some("http");
    let tls = if plain { None } else { Some(config.rustls_client_config()?) };
    let http = legacy::Client::builder(TokioExecutor::new())
        .build::<_, Body>(Dialler::new(servers, tls, silence));
    let namespace = config.default_namespace.clone();
    let (address, headers) = (config.base_uri_layer(), config.extra_headers_layer()?);
    // As the library decides: a token in the file itself goes before one beside it.
    let token = match &config.auth_info.token {
        None => config.auth_info.token_file.take(),
        Some(_) => None,
    };
    let service = WithToken::new(http, token.map(PathBuf::from));
    let builder = ClientBuilder::new(service, namespace);
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&headers).with_layer(&address).build(),
        None => builder.with_layer(&headers).with_layer(&address).build(),
    })
}
