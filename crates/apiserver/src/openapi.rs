//! OpenAPI documents, generated from the table of kinds and their schemas.

use std::sync::Arc;

use serde_json::Value;

use crate::kinds::Kind;

/// The index at `/openapi/v3`.
pub fn v3_index(kinds: &[Arc<Kind>]) -> Value {
    let _ = kinds;
    Value::Null
}

/// The document at `/openapi/v3/{path}`, where path is `api/v1` or `apis/apps/v1`; `None` if
/// nothing is served there.
pub fn v3(kinds: &[Arc<Kind>], path: &str) -> Option<Value> {
    let _ = (kinds, path);
    None
}

/// The document at `/openapi/v2`.
pub fn v2(kinds: &[Arc<Kind>]) -> Value {
    let _ = kinds;
    Value::Null
}
