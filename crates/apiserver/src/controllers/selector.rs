//! Label selectors of the API objects (`metav1.LabelSelector` and plain maps), against labels.

use serde_json::Value;

use super::object::{at, label, list_at, map_at, str_at};

/// A parsed selector. `matches` of a selector without requirements is true for everything;
/// callers decide what an empty selector means for their kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    equal: Vec<(String, String)>,
    expressions: Vec<(String, Operator, Vec<String>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// An operator this version does not know: matches nothing.
    Unknown,
}

impl Selector {
    /// From a plain `{key: value}` map (Service); `None` when the map is absent or empty.
    pub fn of_map(object: &Value, path: &[&str]) -> Option<Self> {
        let equal: Vec<_> =
            map_at(object, path).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        (!equal.is_empty()).then_some(Self { equal, expressions: Vec::new() })
    }

    /// From a `LabelSelector` at `path`; `None` when absent.
    pub fn of_label_selector(object: &Value, path: &[&str]) -> Option<Self> {
        let selector = at(object, path)?;
        let equal =
            map_at(selector, &["matchLabels"]).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let expressions = list_at(selector, &["matchExpressions"])
            .iter()
            .map(|expression| {
                let operator = match str_at(expression, &["operator"]) {
                    "In" => Operator::In,
                    "NotIn" => Operator::NotIn,
                    "Exists" => Operator::Exists,
                    "DoesNotExist" => Operator::DoesNotExist,
                    _ => Operator::Unknown,
                };
                let values = list_at(expression, &["values"])
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect();
                (str_at(expression, &["key"]).to_owned(), operator, values)
            })
            .collect();
        Some(Self { equal, expressions })
    }

    /// Whether there is no requirement at all.
    pub fn is_empty(&self) -> bool {
        self.equal.is_empty() && self.expressions.is_empty()
    }

    /// One label every match must carry, for the label index; `None` when there is no such label.
    pub fn required_label(&self) -> Option<(&str, &str)> {
        self.equal.first().map(|(key, value)| (key.as_str(), value.as_str())).or_else(|| {
            self.expressions.iter().find_map(|(key, operator, values)| match values.as_slice() {
                [only] if *operator == Operator::In => Some((key.as_str(), only.as_str())),
                _ => None,
            })
        })
    }

    /// Whether the labels of `object` satisfy every requirement.
    pub fn matches(&self, object: &Value) -> bool {
        self.equal.iter().all(|(key, value)| label(object, key) == Some(value))
            && self.expressions.iter().all(|(key, operator, values)| {
                let found = label(object, key);
                match operator {
                    Operator::In => found.is_some_and(|v| values.iter().any(|w| w == v)),
                    Operator::NotIn => found.is_none_or(|v| values.iter().all(|w| w != v)),
                    Operator::Exists => found.is_some(),
                    Operator::DoesNotExist => found.is_none(),
                    Operator::Unknown => false,
                }
            })
    }
}
