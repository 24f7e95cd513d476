//! Custom resources: the columns their definition names.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{age, jsonpath};
use crate::kinds::{self, Served};

/// What upstream shows when a definition names no columns.
fn or_age(served: &Served) -> Vec<kinds::Column> {
    if !served.columns.is_empty() {
        return served.columns.clone();
    }
    vec![kinds::Column {
        name: "Age".into(),
        type_: "date".into(),
        format: String::new(),
        description: String::new(),
        priority: 0,
        json_path: ".metadata.creationTimestamp".into(),
    }]
}

pub(super) fn columns(served: &Served) -> Value {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0,
    });
    let others = or_age(served).into_iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.type_,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    std::iter::once(name).chain(others).collect()
}

pub(super) fn cells(served: &Served, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    for column in or_age(served) {
        let found = jsonpath::find(&column.json_path, object);
        cells.push(cell(&column.type_, &found, now));
    }
    cells
}

fn cell(kind: &str, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first().filter(|first| !first.is_null()) else { return Value::Null };
    match kind {
        "integer" => first.as_i64().or_else(|| first.as_f64().map(|n| n as i64)).into(),
        "number" => first.as_f64().into(),
        "boolean" => first.as_bool().into(),
        "date" => match first.as_str() {
            Some(text) if text.parse::<Timestamp>().is_ok() => age::since(first, now).into(),
            _ => "<invalid>".into(),
        },
        _ => {
            let texts: Vec<String> = found
                .iter()
                .map(|value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                })
                .collect();
            texts.join(" ").into()
        }
    }
}
