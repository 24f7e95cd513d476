//! Namespaces, configuration, accounts, Leases, Events, and kinds without columns of their own.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{number, or, size, text};
use super::{Column, age};

fn name(object: &Value) -> Value {
    text(&object["metadata"], "name").into()
}

pub(super) const NAMESPACE: &[Column] =
    &[("Name", "string", false), ("Status", "string", false), ("Age", "string", false)];

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(&object["status"], "phase").into(), age::of(object, now)]
}

pub(super) const CONFIG_MAP: &[Column] =
    &[("Name", "string", false), ("Data", "integer", false), ("Age", "string", false)];

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let count = size(object, "data") + size(object, "binaryData");
    vec![name(object), count.into(), age::of(object, now)]
}

pub(super) const SECRET: &[Column] = &[
    ("Name", "string", false),
    ("Type", "string", false),
    ("Data", "integer", false),
    ("Age", "string", false),
];

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        text(object, "type").into(),
        size(object, "data").into(),
        age::of(object, now),
    ]
}

pub(super) const SERVICE_ACCOUNT: &[Column] =
    &[("Name", "string", false), ("Secrets", "integer", false), ("Age", "string", false)];

pub(super) fn service_account(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), size(object, "secrets").into(), age::of(object, now)]
}

pub(super) const LEASE: &[Column] =
    &[("Name", "string", false), ("Holder", "string", false), ("Age", "string", false)];

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), text(&object["spec"], "holderIdentity").into(), age::of(object, now)]
}

pub(super) const EVENT: &[Column] = &[
    ("Last Seen", "string", false),
    ("Type", "string", false),
    ("Reason", "string", false),
    ("Object", "string", false),
    ("Subobject", "string", true),
    ("Source", "string", true),
    ("Message", "string", false),
    ("First Seen", "string", true),
    ("Count", "string", true),
    ("Name", "string", true),
];

pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let absent = |field: &str| object[field].is_null();
    let first = if absent("firstTimestamp") { "eventTime" } else { "firstTimestamp" };
    let first = age::since(&object[first], now);
    let mut last = if absent("lastTimestamp") {
        first.clone()
    } else {
        age::since(&object["lastTimestamp"], now)
    };
    let mut count = number(object, "count").max(1);
    if !absent("series") {
        last = age::since(&object["series"]["lastObservedTime"], now);
        count = number(&object["series"], "count");
    }
    let involved = &object["involvedObject"];
    let mut target = text(involved, "kind").to_lowercase();
    if !text(involved, "name").is_empty() {
        target = format!("{target}/{}", text(involved, "name"));
    }
    let component = or(text(&object["source"], "component"), text(object, "reportingComponent"));
    let instance = or(text(&object["source"], "host"), text(object, "reportingInstance"));
    let source = [component, instance]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ");
    vec![
        last.into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(involved, "fieldPath").into(),
        source.into(),
        text(object, "message").trim().into(),
        first.into(),
        count.into(),
        name(object),
    ]
}

pub(super) const OTHER: &[Column] = &[("Name", "string", false), ("Created At", "date", false)];

pub(super) fn other(object: &Value, _: Timestamp) -> Vec<Value> {
    vec![name(object), object["metadata"]["creationTimestamp"].clone()]
}
