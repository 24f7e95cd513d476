//! Reading and editing Kubernetes objects kept as JSON values.
//!
//! Only field access and the few metadata conventions every controller shares (owner references,
//! conditions, timestamps). No controller logic lives here.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The value at a path of member names, or `None` when any step is absent.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| value.get(step)).filter(|value| !value.is_null())
}

/// The string at a path, empty when absent.
pub(crate) fn str_at<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a path.
pub(crate) fn int_at(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// Whether the boolean at a path is true.
pub(crate) fn is_true(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The array at a path, empty when absent.
pub(crate) fn list_at<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The string map at a path (labels, annotations, selectors).
pub(crate) fn map_at<'a>(
    value: &'a Value,
    path: &[&str],
) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    at(value, path)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

pub(crate) fn name(value: &Value) -> &str {
    str_at(value, &["metadata", "name"])
}

pub(crate) fn namespace(value: &Value) -> &str {
    str_at(value, &["metadata", "namespace"])
}

pub(crate) fn uid(value: &Value) -> &str {
    str_at(value, &["metadata", "uid"])
}

pub(crate) fn label<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    at(value, &["metadata", "labels", key]).and_then(Value::as_str)
}

pub(crate) fn annotation<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    at(value, &["metadata", "annotations", key]).and_then(Value::as_str)
}

pub(crate) fn is_deleting(value: &Value) -> bool {
    at(value, &["metadata", "deletionTimestamp"]).is_some()
}

pub(crate) fn has_finalizer(value: &Value, finalizer: &str) -> bool {
    list_at(value, &["metadata", "finalizers"]).iter().any(|f| f == finalizer)
}

pub(crate) fn owner_references(value: &Value) -> &[Value] {
    list_at(value, &["metadata", "ownerReferences"])
}

/// The owner reference with `controller: true`, of which there is at most one.
pub(crate) fn controller_of(value: &Value) -> Option<&Value> {
    owner_references(value).iter().find(|owner| is_true(owner, &["controller"]))
}

/// The uid of the controlling owner, empty when there is none.
pub(crate) fn controller_uid(value: &Value) -> &str {
    controller_of(value).map_or("", |owner| str_at(owner, &["uid"]))
}

/// A controlling owner reference to `owner`.
pub(crate) fn controller_reference(owner: &Value, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// `object` with its owner references replaced; an empty list removes the field.
pub(crate) fn with_owner_references(object: &Value, owners: Vec<Value>) -> Value {
    let mut object = object.clone();
    let metadata = member(&mut object, "metadata");
    if owners.is_empty() {
        metadata.shift_remove("ownerReferences");
    } else {
        metadata.insert("ownerReferences".into(), Value::Array(owners));
    }
    object
}

/// `object` without one finalizer.
pub(crate) fn without_finalizer(object: &Value, finalizer: &str) -> Value {
    let kept: Vec<Value> = list_at(object, &["metadata", "finalizers"])
        .iter()
        .filter(|f| *f != finalizer)
        .cloned()
        .collect();
    let mut object = object.clone();
    let metadata = member(&mut object, "metadata");
    if kept.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), Value::Array(kept));
    }
    object
}

/// The object member `key`, made an empty object when it is absent or something else.
pub(crate) fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = value
        .as_object_mut()
        .expect("invariant: made an object above")
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("invariant: made an object above")
}

/// The member at a path of objects, each made when absent.
pub(crate) fn member_at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    match path {
        [] => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            value.as_object_mut().expect("invariant: made an object above")
        }
        [last] => member(value, last),
        [first, rest @ ..] => {
            let inner = member(value, first);
            let last = rest.len() - 1;
            let mut inner = inner;
            for step in &rest[..last] {
                inner = member_of(inner, step);
            }
            member_of(inner, rest[last])
        }
    }
}

fn member_of<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("invariant: made an object above")
}

/// The condition of a type in `status.conditions`.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list_at(object, &["status", "conditions"]).iter().find(|c| str_at(c, &["type"]) == kind)
}

/// The status of a condition, empty when the condition is absent.
pub(crate) fn condition_status<'a>(object: &'a Value, kind: &str) -> &'a str {
    condition(object, kind).map_or("", |condition| str_at(condition, &["status"]))
}

/// An RFC 3339 time as the API writes `metav1.Time`: whole seconds, `Z`.
pub(crate) fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An RFC 3339 time with microseconds, as the API writes `metav1.MicroTime`.
pub(crate) fn time_at(value: &Value, path: &[&str]) -> Option<Timestamp> {
    str_at(value, path).parse().ok()
}

/// When the object was created.
pub(crate) fn created(value: &Value) -> Option<Timestamp> {
    time_at(value, &["metadata", "creationTimestamp"])
}

/// A copy without null members, which clients send for "not set".
pub(crate) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// 64-bit FNV-1a over the canonical form of a value: members sorted, nulls left out. Stable across
/// restarts, which names derived from it rely on.
pub(crate) fn stable_hash(value: &Value) -> u64 {
    let mut hash = Fnv::new();
    hash.value(value);
    hash.0
}

/// 64-bit FNV-1a over a list of strings, each terminated so that parts cannot run together.
pub(crate) fn hash_parts(parts: &[&str]) -> u64 {
    let mut hash = Fnv::new();
    for part in parts {
        hash.bytes(part.as_bytes());
        hash.bytes(&[0]);
    }
    hash.0
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
                members.sort_by_key(|(key, _)| key.as_str());
                self.bytes(b"{");
                for (key, value) in members {
                    self.bytes(key.as_bytes());
                    self.bytes(b"\0");
                    self.value(value);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                }
                self.bytes(b"]");
            }
            scalar => {
                self.bytes(scalar.to_string().as_bytes());
                self.bytes(b",");
            }
        }
    }
}
