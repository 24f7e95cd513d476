//! Merging an applied configuration into an object, and removing what is no longer applied.

use serde_json::Value;

use super::fields::{Entry, Fields, key_step, parts};
use crate::schema::{Cursor, ListMerge, Node};

/// What is wrong with an applied configuration: unknown fields, items without keys, duplicates.
pub(super) fn check(at: Option<Cursor<'_>>, value: &Value, path: &str) -> Option<String> {
    let here = at?;
    match (here.node(), value) {
        (Node::Struct(shape), Value::Object(map)) => map.iter().find_map(|(name, inner)| {
            let path = format!("{path}.{name}");
            match shape.field(name) {
                Some(field) => check(Some(here.to(field.node)), inner, &path),
                None if shape.preserve_unknown => None,
                None => Some(format!("{path}: field not declared in schema")),
            }
        }),
        (Node::Map { value: inner, .. }, Value::Object(map)) => {
            map.iter().find_map(|(name, value)| {
                check(Some(here.to(*inner)), value, &format!("{path}.{name}"))
            })
        }
        (Node::List { item, merge }, Value::Array(items)) => {
            let inner = here.to(*item);
            let mut seen = Vec::new();
            items.iter().enumerate().find_map(|(index, value)| {
                let step = match merge {
                    ListMerge::Atomic => None,
                    ListMerge::Set => Some(format!("v:{value}")),
                    ListMerge::Map(keys) => match key_step(Some(inner), value, keys) {
                        Ok(step) => Some(step),
                        Err(key) => {
                            return Some(format!(
                                "{path}: element {index}: associative list with keys has an \
                                 element that omits key field {key:?} (and doesn't have default \
                                 value)"
                            ));
                        }
                    },
                };
                if let Some(step) = step {
                    if seen.contains(&step) {
                        return Some(format!("{path}: duplicate entries for key [{}]", &step[2..]));
                    }
                    seen.push(step);
                }
                check(Some(inner), value, &format!("{path}[{index}]"))
            })
        }
        _ => None,
    }
}

/// The live value with the applied one laid over it.
pub(super) fn merge(at: Option<Cursor<'_>>, live: &Value, applied: &Value) -> Value {
    let (Some(before), Some(over)) = (parts(at, live), parts(at, applied)) else {
        return applied.clone();
    };
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            let mut all = live.clone();
            for (name, value) in applied {
                let inner = at.and_then(|at| at.child(name));
                let merged = match live.get(name) {
                    Some(old) => merge(inner, old, value),
                    None => value.clone(),
                };
                all.insert(name.clone(), merged);
            }
            Value::Object(all)
        }
        (Value::Array(_), Value::Array(_)) => {
            // The applied order holds; what is only live keeps its place between.
            let find = |step: &str| before.iter().position(|part| part.step == step);
            let mut left =
                before.iter().filter(|part| !over.iter().any(|o| o.step == part.step)).peekable();
            let mut all = Vec::new();
            for part in &over {
                let place = find(&part.step);
                while let Some(other) = left.peek() {
                    match (find(&other.step), place) {
                        (Some(a), Some(b)) if a < b => {
                            all.extend(left.next().map(|part| part.value.clone()));
                        }
                        _ => break,
                    }
                }
                all.push(match place {
                    Some(place) => merge(part.at, before[place].value, part.value),
                    None => part.value.clone(),
                });
            }
            all.extend(left.map(|part| part.value.clone()));
            Value::Array(all)
        }
        _ => applied.clone(),
    }
}

/// Removes fields from a value, except where something is kept at or below them. What becomes
/// empty by it goes too.
pub(super) fn prune(at: Option<Cursor<'_>>, value: &mut Value, gone: &Fields, kept: &Fields) {
    let Some(all) = parts(at, value) else { return };
    let mut fate: Vec<(String, Option<Cursor<'_>>, bool)> = Vec::new();
    for part in all {
        let Some(Entry { own, .. }) = gone.get(&part.step) else {
            fate.push((part.step, part.at, false));
            continue;
        };
        let keeps = kept.get(&part.step).is_some();
        fate.push((part.step, part.at, *own && !keeps));
    }
    let nothing = Fields::default();
    let next = |inner: &mut Value, step: &str, at: Option<Cursor<'_>>| {
        let Some(entry) = gone.get(step) else { return false };
        let was_empty = is_empty(inner);
        let keep = kept.get(step).map_or(&nothing, |entry| &entry.below);
        prune(at, inner, &entry.below, keep);
        // Emptied by this, and nobody asked for the empty thing.
        !was_empty && is_empty(inner) && kept.get(step).is_none_or(|entry| !entry.own)
    };
    match value {
        Value::Object(map) => {
            for (step, at, remove) in fate {
                let name = step.get(2..).unwrap_or_default();
                let remove =
                    remove || map.get_mut(name).is_some_and(|inner| next(inner, &step, at));
                if remove {
                    map.shift_remove(name);
                }
            }
        }
        Value::Array(items) => {
            let mut at_index = fate.into_iter();
            items.retain_mut(|inner| match at_index.next() {
                Some((_, _, true)) => false,
                Some((step, at, false)) => !next(inner, &step, at),
                None => true,
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
