//! The lab's commands as users of its API: a client from the administrator's kubeconfig. An edge.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::layout::Layout;

/// A client for the lab's API, as its administrator; must be called inside a tokio runtime.
///
/// # Errors
/// When the lab has no kubeconfig, or it cannot be used.
pub async fn connect(layout: &Layout) -> anyhow::Result<Client> {
    let path = layout.kubeconfig();
    if !path.exists() {
        bail!(
            "lab {0} has no kubeconfig: it is not up; `fairway lab up --name {0}` brings it up",
            layout.name()
        );
    }
    let unusable = || format!("cannot use {}", path.display());
    let kubeconfig = Kubeconfig::read_from(&path).with_context(unusable)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(unusable)?;
    Client::try_from(config).with_context(unusable)
}

/// One pod, from a caller without a runtime.
///
/// # Errors
/// When the API does not answer or has no such pod.
pub fn pod(layout: &Layout, namespace: &str, name: &str) -> anyhow::Result<Pod> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let found = runtime.block_on(async {
        let client = connect(layout).await?;
        let pods: Api<Pod> = Api::namespaced(client, namespace);
        pods.get_opt(name).await.context("the API does not answer")
    })?;
    found.with_context(|| format!("lab {} has no pod {namespace}/{name}", layout.name()))
}

/// The administrator's kubeconfig as text.
///
/// # Errors
/// When the lab is not up, or the file cannot be read (it is root's).
pub fn kubeconfig(layout: &Layout) -> anyhow::Result<String> {
    let path = layout.kubeconfig();
    if !layout.run_dir().exists() {
        bail!("{}", crate::status::no_such_lab(layout.name()));
    }
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}
