//! Writes reports as Events on the objects they are about, so that `kubectl describe` shows them.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Instant, SystemTime};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use model::{Kind, Report};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::pace::Pace;

const COMPONENT: &str = "fairway-agent";
/// Reports that wait; more are dropped, they come again with the next change of their object.
const QUEUE: usize = 64;

/// The writer; dropping it stops it. Nothing waits for it.
#[derive(Debug)]
pub struct EventWriter {
    queue: mpsc::Sender<Report>,
    task: JoinHandle<()>,
}

impl EventWriter {
    /// Starts the writer; `node` is named as the Events' source.
    #[must_use]
    pub fn start(client: Client, node: &str) -> Self {
        let (queue, reports) = mpsc::channel(QUEUE);
        Self { queue, task: tokio::spawn(write_all(client, node.to_owned(), reports)) }
    }

    /// Hands over a report; never waits.
    pub fn write(&self, report: Report) {
        if self.queue.try_send(report).is_err() {
            tracing::debug!("the queue of Events is full, a report was dropped");
        }
    }
}

impl Drop for EventWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_all(client: Client, node: String, mut reports: mpsc::Receiver<Report>) {
    let mut pace = Pace::new(Instant::now());
    while let Some(report) = reports.recv().await {
        if !pace.admit(&report, Instant::now()) {
            continue;
        }
        let event = event(&report, &node);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(object = %report.object, %error, "an Event was not written");
        }
    }
}

fn event(report: &Report, node: &str) -> Event {
    let key = &report.object.key;
    // Events about cluster-scoped objects live in `default`, as the API requires.
    let namespace = if key.namespace().is_empty() { "default" } else { key.namespace() };
    let uid = match report.object.kind {
        // kubectl and the kubelet use the node's name here.
        Kind::Node => Some(key.name().to_owned()),
        Kind::Service
        | Kind::EndpointSlice
        | Kind::ServiceCidr
        | Kind::Pod
        | Kind::Namespace
        | Kind::NetworkPolicy
        | Kind::ClusterNetworkPolicy
        | Kind::Pool
        | Kind::Block => report.object.uid.map(|uid| uid.to_string()),
    };
    let now = Timestamp::try_from(SystemTime::now()).ok().map(Time);
    Event {
        metadata: ObjectMeta {
            // As client-go names them; a generateName may not end in a dot.
            name: Some(format!("{}.{:016x}", key.name(), RandomState::new().hash_one(key))),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(report.object.kind.api_version().to_owned()),
            kind: Some(report.object.kind.as_str().to_owned()),
            namespace: (!key.namespace().is_empty()).then(|| key.namespace().to_owned()),
            name: Some(key.name().to_owned()),
            uid,
            ..ObjectReference::default()
        },
        reason: Some(report.reason.to_owned()),
        message: Some(format!("{}; {}", report.message, report.hint)),
        type_: Some("Warning".to_owned()),
        source: Some(EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use model::{ObjectKey, ObjectRef, Severity};

    use super::*;

    #[test]
    fn an_event_has_a_name_of_its_own_that_the_api_takes() {
        let object = ObjectRef { kind: Kind::Service, key: ObjectKey::new("d", "web"), uid: None };
        let report = Report {
            object,
            severity: Severity::Warning,
            reason: "Test",
            message: "m".into(),
            hint: "h".into(),
        };
        let name = || event(&report, "node-1").metadata.name.expect("a name");
        let (first, second) = (name(), name());
        assert_ne!(first, second);
        assert!(first.starts_with("web.") && first.len() == 20, "{first}");
    }
}
