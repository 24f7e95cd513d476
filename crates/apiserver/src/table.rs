//! Server-side printing: objects → `meta.k8s.io/v1` Table, with upstream's columns.

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::{Kind, Served};

/// The `includeObject` parameter: what a row carries beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// A PartialObjectMetadata; the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// `columnDefinitions` of a kind.
pub fn columns(kind: &Kind, served: &Served) -> Value {
    let _ = (kind, served);
    Value::Array(Vec::new())
}

/// The row of one object (in the storage version for built-in kinds): cells and the object as asked.
pub fn row(
    kind: &Kind,
    served: &Served,
    object: &Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let _ = (kind, served, object, include, now);
    Value::Null
}

/// A whole Table. `list_meta` is the list's `metadata` (resourceVersion, continue …).
pub fn table<'a>(
    kind: &Kind,
    served: &Served,
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: Value,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> =
        objects.into_iter().map(|object| row(kind, served, object, include, now)).collect();
    serde_json::json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns(kind, served),
        "rows": rows,
    })
}
