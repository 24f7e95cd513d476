//! `managedFields`: who asked for which field, kept through applies and other writes.

use serde_json::{Value, json};

use super::fields::{self, Fields};
use super::{Manager, MergeError, apply as engine};
use crate::schema::{Cursor, Schema};

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    name: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Value,
    fields: Fields,
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        if text("operation").is_empty() {
            return None;
        }
        Some(Self {
            name: text("manager").to_owned(),
            operation: text("operation").to_owned(),
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: value.get("time").cloned().unwrap_or(Value::Null),
            fields: Fields::from_json(&value["fieldsV1"]),
        })
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = json!(self.subresource);
        }
        value
    }

    fn is_of(&self, manager: &Manager, operation: &str) -> bool {
        self.name == manager.name
            && self.operation == operation
            && self.subresource == manager.subresource
            && self.api_version == manager.api_version
    }
}

fn entries(object: Option<&Value>) -> Vec<Entry> {
    let list = object.and_then(|object| object["metadata"]["managedFields"].as_array());
    list.into_iter().flatten().filter_map(Entry::read).collect()
}

fn write(object: &mut Value, entries: &[Entry]) {
    let list: Vec<Value> =
        entries.iter().filter(|entry| !entry.fields.is_empty()).map(Entry::to_json).collect();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if list.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(list));
    }
}

/// Metadata that belongs to the server or names the object; nobody manages it.
const UNMANAGED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

fn managed(mut fields: Fields) -> Fields {
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    if fields.get("f:metadata").is_some() {
        let metadata = fields.entry("f:metadata");
        for name in UNMANAGED {
            metadata.below.remove(&format!("f:{name}"));
        }
        metadata.own = false;
        if metadata.below.is_empty() {
            fields.remove("f:metadata");
        }
    }
    fields
}

pub(super) fn apply(
    schema: &Schema,
    current: Option<&Value>,
    applied: &Value,
    manager: &Manager,
) -> Result<Value, MergeError> {
    let at: Option<Cursor<'_>> = Some(schema.cursor());
    let mut applied = applied.clone();
    drop_nulls(&mut applied);
    if let Some(problem) = engine::check(at, &applied, "") {
        return Err(MergeError::Apply { object: describe(&applied), problem });
    }
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in ["managedFields", "creationTimestamp", "generation", "selfLink"] {
            metadata.shift_remove(name);
        }
    }
    let asked = managed(fields::of(at, &applied));
    let mut all = entries(current);
    let mine = all.iter().position(|entry| entry.is_of(manager, "Apply"));
    // An earlier apply of the same manager in another version is replaced by this one.
    let before = all
        .iter()
        .filter(|entry| {
            entry.name == manager.name
                && entry.operation == "Apply"
                && entry.subresource == manager.subresource
        })
        .fold(Fields::default(), |sum, entry| sum.union(&entry.fields));
    let Some(current) = current else {
        let mut created = applied;
        write(&mut created, &[entry(manager, "Apply", asked)]);
        return Ok(created);
    };
    let mut merged = engine::merge(at, current, &applied);
    let others = all
        .iter()
        .filter(|entry| !(entry.name == manager.name && entry.operation == "Apply"))
        .fold(Fields::default(), |sum, entry| sum.union(&entry.fields));
    let kept = asked.union(&others);
    engine::prune(at, &mut merged, &before.minus(&kept), &kept);
    // Forcing: what others had and this one gave another value is this one's alone.
    let (changed, gone) = fields::differences(at, current, &merged);
    let (changed, gone) = (managed(changed), managed(gone));
    let same_fields = mine.is_some_and(|mine| all[mine].fields == asked);
    if same_fields && changed.is_empty() && gone.is_empty() {
        return Ok(current.clone());
    }
    for other in &mut all {
        if !other.is_of(manager, "Apply") {
            other.fields = other.fields.minus(&changed).minus(&gone);
        }
    }
    all.retain(|entry| {
        !(entry.name == manager.name
            && entry.operation == "Apply"
            && entry.subresource == manager.subresource)
    });
    all.push(entry(manager, "Apply", asked));
    write(&mut merged, &all);
    Ok(merged)
}

/// A null asks for nothing (`creationTimestamp: null` is in many a file).
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn entry(manager: &Manager, operation: &str, fields: Fields) -> Entry {
    Entry {
        name: manager.name.clone(),
        operation: operation.to_owned(),
        api_version: manager.api_version.clone(),
        subresource: manager.subresource.clone(),
        time: json!(manager.now),
        fields,
    }
}

fn describe(object: &Value) -> String {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{}/{}; {}, Kind={}",
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        text(&object["apiVersion"]),
        text(&object["kind"])
    )
}

pub(super) fn track_update(
    schema: &Schema,
    old: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
) {
    let at: Option<Cursor<'_>> = Some(schema.cursor());
    let mut all = entries(old);
    let empty = json!({});
    let (changed, gone) = fields::differences(at, old.unwrap_or(&empty), new);
    let (changed, gone) = (managed(changed), managed(gone));
    if !changed.is_empty() || !gone.is_empty() {
        for other in &mut all {
            other.fields = other.fields.minus(&gone);
            if !other.is_of(manager, "Update") {
                other.fields = other.fields.minus(&changed);
            }
        }
    }
    if !changed.is_empty() {
        match all.iter_mut().find(|entry| entry.is_of(manager, "Update")) {
            Some(mine) => {
                mine.fields = mine.fields.union(&changed);
                mine.time = json!(manager.now);
            }
            None => all.push(entry(manager, "Update", changed)),
        }
    }
    write(new, &all);
}
