//! Edge: what the runner writes about pods: their status, and the final deletion.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use tokio::sync::watch;

use super::status::merge_patch;

/// Writes pods' statuses.
#[derive(Clone)]
pub struct PodApi(pub kube::Client);

impl std::fmt::Debug for PodApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PodApi")
    }
}

fn gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

impl PodApi {
    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.0.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"))
    }

    /// Writes every status that comes, the newest only when it falls behind. Ends with its sender.
    pub async fn follow(self, pod: Pod, mut statuses: watch::Receiver<Option<PodStatus>>) {
        let mut written = pod.status.clone().unwrap_or_default();
        while statuses.changed().await.is_ok() {
            let mut wait = Duration::from_millis(50);
            loop {
                let Some(wanted) = statuses.borrow_and_update().clone() else { break };
                match self.write(&pod, &written, &wanted).await {
                    Ok(()) => {
                        written = wanted;
                        break;
                    }
                    Err(error) if gone(&error) => {
                        tracing::debug!(%error, "the pod is gone; its status is not written");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot write a pod's status; trying again");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(Duration::from_secs(5));
                    }
                }
            }
        }
    }

    /// Writes what differs.
    ///
    /// # Errors
    /// The API's.
    pub async fn write(&self, pod: &Pod, old: &PodStatus, new: &PodStatus) -> kube::Result<()> {
        let value = |s: &PodStatus| serde_json::to_value(s).map_err(kube::Error::SerdeError);
        let Some(patch) = merge_patch(&value(old)?, &value(new)?) else { return Ok(()) };
        // the uid makes it fail on a successor of the same name
        let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": patch});
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.pods(pod).patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Removes the object: everything of it is gone from this node.
    ///
    /// # Errors
    /// The API's; a pod that is gone already is none.
    pub async fn delete(&self, pod: &Pod) -> kube::Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.pods(pod).delete(name, &params).await {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
