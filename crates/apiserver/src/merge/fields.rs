//! Sets of fields (`fieldsV1`), and walking a value by what apply may own one by one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Cursor, ListMerge, Node};

/// A tree of owned fields. Steps are spelled as in `fieldsV1`: `f:name`, `k:{"name":"a"}`, `v:1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(BTreeMap<String, Entry>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The field itself is in the set, not only what is below it.
    pub(super) own: bool,
    pub(super) below: Fields,
}

impl Fields {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, step: &str) -> Option<&Entry> {
        self.0.get(step)
    }

    pub(super) fn remove(&mut self, step: &str) {
        self.0.remove(step);
    }

    pub(super) fn entry(&mut self, step: &str) -> &mut Entry {
        self.0.entry(step.to_owned()).or_default()
    }

    fn insert(&mut self, step: &str, entry: Entry) {
        if entry.own || !entry.below.is_empty() {
            self.0.insert(step.to_owned(), entry);
        }
    }

    /// Everything in either.
    pub(super) fn union(&self, other: &Fields) -> Fields {
        let mut all = self.clone();
        for (step, entry) in &other.0 {
            let mine = all.0.entry(step.clone()).or_default();
            mine.own |= entry.own;
            mine.below = mine.below.union(&entry.below);
        }
        all
    }

    /// What is here and not there.
    pub(super) fn minus(&self, other: &Fields) -> Fields {
        let mut rest = Fields::default();
        for (step, entry) in &self.0 {
            let left = match other.0.get(step) {
                None => entry.clone(),
                Some(gone) => {
                    Entry { own: entry.own && !gone.own, below: entry.below.minus(&gone.below) }
                }
            };
            rest.insert(step, left);
        }
        rest
    }

    /// The text form.
    pub(super) fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (step, entry) in &self.0 {
            let mut inner = match entry.below.to_json() {
                Value::Object(inner) => inner,
                _ => Map::new(),
            };
            if entry.own && !inner.is_empty() {
                inner.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(step.clone(), Value::Object(inner));
        }
        Value::Object(map)
    }

    /// Reads the text form; what is not understood is left out.
    pub(super) fn from_json(value: &Value) -> Fields {
        Self::read(value, 0)
    }

    fn read(value: &Value, depth: usize) -> Fields {
        const MAX_DEPTH: usize = 256;
        let mut fields = Fields::default();
        for (step, inner) in value.as_object().into_iter().flatten() {
            let known = ["f:", "k:", "v:", "i:"].iter().any(|prefix| step.starts_with(prefix));
            if !known || depth >= MAX_DEPTH {
                continue;
            }
            let below = Self::read(inner, depth + 1);
            let own = below.is_empty() || inner.get(".").is_some();
            fields.insert(step, Entry { own, below });
        }
        fields
    }
}

/// A part of a value that may have its own owner: its step, its schema and the value.
pub(super) struct Part<'a, 'v> {
    pub(super) step: String,
    pub(super) at: Option<Cursor<'a>>,
    pub(super) value: &'v Value,
    /// The part counts as a field of its own even if it has parts (map entries, list items).
    pub(super) is_item: bool,
}

/// The key of an item of a list map, as its step; `None` names the key that is missing.
pub(super) fn key_step(
    at: Option<Cursor<'_>>,
    item: &Value,
    keys: &[Box<str>],
) -> Result<String, String> {
    let mut parts: Vec<(&str, Value)> = Vec::new();
    for key in keys {
        let value = item.get(&**key).filter(|value| !value.is_null()).cloned();
        let value = value.or_else(|| {
            at.and_then(Cursor::as_struct)
                .and_then(|shape| shape.field(key))
                .and_then(|field| field.default.clone())
        });
        match value {
            Some(value) => parts.push((key, value)),
            // Upstream's schema gives every required key the zero value; a missing one is told.
            None => return Err(key.to_string()),
        }
    }
    parts.sort_by(|a, b| a.0.cmp(b.0));
    let map: Map<String, Value> =
        parts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(format!("k:{}", Value::Object(map)))
}

/// The parts of a value, or `None` if it is owned as a whole.
pub(super) fn parts<'a, 'v>(at: Option<Cursor<'a>>, value: &'v Value) -> Option<Vec<Part<'a, 'v>>> {
    let node = at.map(Cursor::node);
    match (node, value) {
        (Some(Node::Struct(shape)), Value::Object(map)) if !shape.atomic => Some(
            map.iter()
                .map(|(name, value)| Part {
                    step: format!("f:{name}"),
                    at: at.and_then(|at| at.child(name)),
                    value,
                    is_item: shape.field(name).is_none(),
                })
                .collect(),
        ),
        (Some(Node::Map { value: inner, atomic: false }), Value::Object(map)) => Some(
            map.iter()
                .map(|(name, value)| Part {
                    step: format!("f:{name}"),
                    at: at.map(|at| at.to(*inner)),
                    value,
                    is_item: true,
                })
                .collect(),
        ),
        (Some(Node::List { merge: ListMerge::Map(keys), .. }), Value::Array(items)) => {
            let inner = at.and_then(Cursor::item);
            items
                .iter()
                .map(|value| {
                    let step = key_step(inner, value, keys).ok()?;
                    Some(Part { step, at: inner, value, is_item: true })
                })
                .collect()
        }
        (Some(Node::List { merge: ListMerge::Set, .. }), Value::Array(items)) => Some(
            items
                .iter()
                .map(|value| Part { step: format!("v:{value}"), at: None, value, is_item: true })
                .collect(),
        ),
        (None | Some(Node::Any | Node::AnyObject), Value::Object(map)) => Some(
            map.iter()
                .map(|(name, value)| Part {
                    step: format!("f:{name}"),
                    at: None,
                    value,
                    is_item: true,
                })
                .collect(),
        ),
        _ => None,
    }
}

/// The fields a value sets.
pub(super) fn of(at: Option<Cursor<'_>>, value: &Value) -> Fields {
    let mut fields = Fields::default();
    for part in parts(at, value).into_iter().flatten() {
        fields.insert(&part.step, entry_of(&part));
    }
    fields
}

fn entry_of(part: &Part<'_, '_>) -> Entry {
    let below = of(part.at, part.value);
    let own = part.is_item || below.is_empty();
    Entry { own, below }
}

/// What differs: fields that are new or have another value, and fields that are gone.
pub(super) fn differences(at: Option<Cursor<'_>>, old: &Value, new: &Value) -> (Fields, Fields) {
    let (mut changed, mut gone) = (Fields::default(), Fields::default());
    let (Some(before), Some(after)) = (parts(at, old), parts(at, new)) else {
        return (changed, gone);
    };
    let known: BTreeMap<&str, &Part<'_, '_>> =
        before.iter().map(|part| (part.step.as_str(), part)).collect();
    for part in &after {
        match known.get(part.step.as_str()) {
            None => changed.insert(&part.step, entry_of(part)),
            Some(was) if was.value == part.value => {}
            Some(was) => {
                let both_parted =
                    parts(part.at, was.value).is_some() && parts(part.at, part.value).is_some();
                if both_parted {
                    let (below, lost) = differences(part.at, was.value, part.value);
                    changed.insert(&part.step, Entry { own: false, below });
                    gone.insert(&part.step, Entry { own: false, below: lost });
                } else {
                    changed.insert(&part.step, entry_of(part));
                }
            }
        }
    }
    for part in &before {
        if !after.iter().any(|now| now.step == part.step) {
            gone.insert(&part.step, entry_of(part));
        }
    }
    (changed, gone)
}
