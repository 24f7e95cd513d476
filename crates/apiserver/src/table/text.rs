//! Reading fields, and the text forms of labels and selectors.

use serde_json::Value;

/// What stands for nothing.
pub(super) const NONE: &str = "<none>";

pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn number(object: &Value, name: &str) -> i64 {
    object.get(name).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn size(object: &Value, name: &str) -> usize {
    match object.get(name) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

/// The text, or something else if it is empty.
pub(super) fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// `a=b,c=d`, sorted; empty for none.
fn pairs(map: &Value) -> Vec<String> {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// A map of labels as text.
pub(super) fn labels(map: &Value) -> String {
    or(&pairs(map).join(","), NONE).to_owned()
}

/// A label selector as text: `app=web,tier in (a,b),!old`; empty if it selects everything.
pub(super) fn selector(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = pairs(&selector["matchLabels"])
        .into_iter()
        .map(|pair| (pair.split('=').next().unwrap_or_default().to_owned(), pair))
        .collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> =
            items(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => continue,
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")
}

/// At most three, and how many more there are.
pub(super) fn first_three(list: &[String]) -> String {
    const MOST: usize = 3;
    let shown = list.iter().take(MOST).cloned().collect::<Vec<_>>().join(",");
    if list.len() > MOST { format!("{shown} + {} more...", list.len() - MOST) } else { shown }
}

/// Names and images of a pod spec's containers, comma-separated.
pub(super) fn containers(spec: &Value) -> (String, String) {
    let each = |field: &str| {
        items(spec, "containers").iter().map(|one| text(one, field)).collect::<Vec<_>>().join(",")
    };
    (each("name"), each("image"))
}
