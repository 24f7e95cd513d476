//! Edge: Events about pods and the node, worded as the kubelet words them; a repeated one counts up.
//!
//! Task: one writer, owned by the runner, fed by a bounded channel. When it is full an event is dropped: events are for
//! people and never hold up a pod.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use super::status::seconds;

/// One thing to tell.
#[derive(Debug, Clone)]
pub struct Note {
    /// About what.
    pub about: ObjectReference,
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// `Started`, `BackOff`, …
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Where events go.
#[derive(Debug, Clone)]
pub struct EventSink(mpsc::Sender<Note>);

impl EventSink {
    /// A sink and the end a [`write`] task or a test reads from.
    pub fn new() -> (EventSink, mpsc::Receiver<Note>) {
        let (tx, rx) = mpsc::channel(256);
        (EventSink(tx), rx)
    }

    /// Tells; never waits.
    pub fn tell(&self, note: Note) {
        tracing::debug!(reason = note.reason, message = note.message, "event");
        if self.0.try_send(note).is_err() {
            tracing::debug!("an event was dropped: too many at once");
        }
    }
}

/// Writes events until the sink is gone.
pub async fn write(client: kube::Client, node: String, mut notes: mpsc::Receiver<Note>) {
    let mut known: HashMap<(String, String, String), (String, i32)> = HashMap::new();
    let mut serial = 0_u64;
    while let Some(note) = notes.recv().await {
        let namespace = note.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let uid = note.about.uid.clone().unwrap_or_default();
        let container = note.about.field_path.clone().unwrap_or_default();
        let key = (uid, format!("{}/{container}", note.reason), note.message.clone());
        let now = seconds(Timestamp::now());
        if known.len() > 4096 {
            known.clear();
        }
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = serde_json::json!({"count": *count, "lastTimestamp": now});
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "an event cannot be counted up; written anew")
                }
            }
        }
        serial += 1;
        let nanos = Timestamp::now().as_nanosecond();
        let name = format!(
            "{}.{:x}",
            note.about.name.clone().unwrap_or_default(),
            nanos + i128::from(serial)
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: note.about,
            type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
            reason: Some(note.reason.into()),
            message: Some(note.message),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.clone()),
            ..Event::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => drop(known.insert(key, (name, 1))),
            // a namespace that is being deleted takes no events
            Err(error) => tracing::debug!(%error, "an event cannot be written"),
        }
    }
}
