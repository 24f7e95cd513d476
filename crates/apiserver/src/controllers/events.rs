//! From a controller's note to an Event object, repeated ones counted instead of multiplied.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{hash_parts, int_at, member_at, name, namespace, str_at, time, uid};
use super::view::View;
use super::write::{EVENTS, Note, Op};

/// The create or update that records `note`.
///
/// The Event's name is a hash of what must be the same for two notes to be one Event (object,
/// reason, message, component, type), as upstream's correlator keeps them apart; a repeated note
/// then finds its Event by name, also after a restart, and raises `count`.
pub(crate) fn record(view: &View, note: &Note, now: Timestamp) -> Op {
    let subject = &note.regarding;
    let event_type = if note.warning { "Warning" } else { "Normal" };
    let hash = hash_parts(&[
        uid(subject),
        note.kind,
        note.reason,
        &note.message,
        note.component,
        event_type,
    ]);
    let event_name = format!("{}.{hash:016x}", name(subject));
    // Events about cluster-scoped objects live in `default`.
    let event_namespace = match namespace(subject) {
        "" => "default",
        namespace => namespace,
    };
    if let Some(seen) = view.find(&EVENTS, event_namespace, &event_name) {
        let mut seen = Value::clone(seen);
        let count = int_at(&seen, &["count"]).unwrap_or(1).saturating_add(1);
        let event = member_at(&mut seen, &[]);
        event.insert("count".into(), count.into());
        event.insert("lastTimestamp".into(), time(now).into());
        return Op::Update { resource: EVENTS, object: seen };
    }
    let mut involved = json!({
        "kind": note.kind,
        "name": name(subject),
        "uid": uid(subject),
        "apiVersion": note.api_version,
        "resourceVersion": str_at(subject, &["metadata", "resourceVersion"]),
    });
    if !namespace(subject).is_empty() {
        member_at(&mut involved, &[]).insert("namespace".into(), namespace(subject).into());
    }
    Op::Create {
        resource: EVENTS,
        object: json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": event_name, "namespace": event_namespace },
            "involvedObject": involved,
            "reason": note.reason,
            "message": note.message,
            "source": { "component": note.component },
            "firstTimestamp": time(now),
            "lastTimestamp": time(now),
            "count": 1,
            "type": event_type,
            "eventTime": null,
            "reportingComponent": note.component,
            "reportingInstance": "",
        }),
    }
}
