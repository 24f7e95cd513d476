//! Edge: a pod's sandbox: volumes, network namespace, CNI ADD and DEL, shared files.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::cni::{self, Attachment, CniError};
use super::engine::Engine;
use super::env::Facts;
use super::launch;
use super::netns;
use super::pod::Shared;
use super::state::PodRecord;
use super::volumes::{self, VolumeError};

/// Why a pod has no sandbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum SandboxError {
    /// The agent has not written its configuration yet.
    #[error(
        "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{0}"
    )]
    NotReady(CniError),
    /// A plugin failed.
    #[error("Failed to create pod sandbox: failed to setup network for sandbox {id:?}: {error}")]
    Network {
        /// The sandbox.
        id: String,
        /// What failed.
        error: CniError,
    },
    /// The namespace could not be made.
    #[error("Failed to create pod sandbox: network namespace {path}: {error}")]
    Namespace {
        /// Its path.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A volume cannot be had.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The API or the disk did not do its part.
    #[error("Failed to create pod sandbox: {0}")]
    Prepare(String),
}

impl SandboxError {
    /// The event's reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            SandboxError::NotReady(_) => "NetworkNotReady",
            SandboxError::Volume(_) => "FailedMount",
            _ => "FailedCreatePodSandBox",
        }
    }
}

/// Volumes and Service variables, which do not need the network.
///
/// # Errors
/// What cannot be had.
pub(super) async fn prepare(engine: &Engine, facts: &Facts<'_>) -> Result<Shared, SandboxError> {
    let volumes = volumes::prepare(&engine.run, facts, &engine.lookup);
    let links = facts.pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
    let services = engine.lookup.services(&facts.record.namespace, links);
    let (volumes, services) = futures::join!(volumes, services);
    Ok(Shared { volumes: volumes?, services: services.map_err(SandboxError::Prepare)? })
}

/// Makes the sandbox; the CNI result (null with hostNetwork) and what containers are made with.
///
/// # Errors
/// Whatever is missing; nothing of the network is left behind then.
pub(super) async fn create(
    engine: &Engine,
    pod: &Pod,
    record: &PodRecord,
) -> Result<(Value, Shared), SandboxError> {
    let config = &engine.config;
    let facts = Facts { pod, record, node_ips: &config.node_ips };
    let (network, ready) = futures::join!(attach(engine, record), prepare(engine, &facts));
    let (result, ready) = match (network, ready) {
        (Ok(result), Ok(ready)) => (result, ready),
        (Err(error), _) => return Err(error),
        (Ok(_), Err(error)) => {
            destroy(engine, record).await;
            return Err(error);
        }
    };
    let mut known = record.clone();
    known.ips = cni::addresses(&result);
    let facts = Facts { record: &known, ..facts };
    launch::write_etc(&engine.run, &facts, &config.cluster_dns, &config.cluster_domain)
        .map_err(|e| SandboxError::Prepare(e.to_string()))?;
    Ok((result, ready))
}

async fn attach(engine: &Engine, record: &PodRecord) -> Result<Value, SandboxError> {
    let Some(path) = &record.netns else { return Ok(Value::Null) };
    let network = cni::load(&engine.config.cni_conf_dir).map_err(SandboxError::NotReady)?;
    netns::create(path)
        .map_err(|error| SandboxError::Namespace { path: path.display().to_string(), error })?;
    let attachment = attachment(record, path);
    let added = cni::add(&network, &engine.config.cni_bin, &attachment).await;
    match added {
        Ok(result) => Ok(result),
        Err(error) => {
            // as the specification asks: DEL after a failed ADD
            destroy(engine, record).await;
            Err(SandboxError::Network { id: record.sandbox_id.clone(), error })
        }
    }
}

fn attachment<'a>(record: &'a PodRecord, netns: &'a std::path::Path) -> Attachment<'a> {
    Attachment {
        container_id: &record.sandbox_id,
        netns,
        pod: (&record.namespace, &record.name, &record.uid),
        capabilities: &record.capabilities,
    }
}

/// Detaches the pod and removes its namespace. What fails is logged: the namespace goes in any case, and its links with
/// it.
pub(super) async fn destroy(engine: &Engine, record: &PodRecord) {
    let Some(path) = &record.netns else { return };
    match cni::load(&engine.config.cni_conf_dir) {
        Ok(network) => {
            let attachment = attachment(record, path);
            let previous = record.cni_result.as_ref();
            if let Err(error) =
                cni::del(&network, &engine.config.cni_bin, &attachment, previous).await
            {
                tracing::warn!(pod = record.name, %error, "CNI DEL");
            }
        }
        Err(error) => tracing::debug!(pod = record.name, %error, "no CNI DEL"),
    }
    if let Err(error) = netns::remove(path) {
        tracing::warn!(%error, path = %path.display(), "a network namespace stays");
    }
}
