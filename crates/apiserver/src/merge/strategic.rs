//! Strategic merge patch: JSON merge where lists that have a merge key merge by it.
//!
//! Directives: `$patch: replace|delete` in maps and list items, `$retainKeys`,
//! `$deleteFromPrimitiveList/field`, `$setElementOrder/field`.

use serde_json::{Map, Value};

use super::MergeError;
use crate::schema::{Cursor, Node};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// How a field's value merges.
#[derive(Clone, Copy)]
struct Rule<'a> {
    at: Option<Cursor<'a>>,
    merge: bool,
    key: Option<&'a str>,
}

fn rule<'a>(at: Option<Cursor<'a>>, name: &str) -> Rule<'a> {
    let none = Rule { at: None, merge: false, key: None };
    let Some(at) = at else { return none };
    match at.node() {
        Node::Struct(shape) => shape.field(name).map_or(none, |field| Rule {
            at: Some(at.to(field.node)),
            merge: field.patch_merge,
            key: field.merge_key.as_deref(),
        }),
        Node::Map { value, .. } => Rule { at: Some(at.to(*value)), ..none },
        _ => none,
    }
}

fn bad(message: String) -> MergeError {
    MergeError::Directive(message)
}

/// Merges a patch into an object.
pub(super) fn object(
    at: Option<Cursor<'_>>,
    current: Value,
    patch: &Value,
) -> Result<Value, MergeError> {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => map(at, current, patch),
        (_, Value::Object(patch)) => map(at, Map::new(), patch),
        (_, patch) => Ok(patch.clone()),
    }
}

fn map(
    at: Option<Cursor<'_>>,
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Value, MergeError> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => {
            let mut patch = patch.clone();
            patch.shift_remove(PATCH);
            return Ok(without_directives(Value::Object(patch)));
        }
        Some(Value::String(directive)) if directive == "delete" => {
            return Ok(Value::Object(Map::new()));
        }
        Some(directive) => {
            return Err(bad(format!(
                "unknown patch type: {directive} in map: {}",
                Value::Object(patch.clone())
            )));
        }
    }
    retain_keys(&mut current, patch)?;
    for (name, order) in patch {
        let Some(name) = name.strip_prefix(SET_ORDER) else { continue };
        let Some(order) = order.as_array() else {
            return Err(bad(format!("invalid $setElementOrder list for {name}")));
        };
        ordered_list(at, &mut current, patch, name, order)?;
    }
    for (name, value) in patch {
        if name == RETAIN_KEYS || name.starts_with(SET_ORDER) {
            continue;
        }
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(list)), Some(gone)) =
                (current.get_mut(name), value.as_array())
            {
                list.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if patch.contains_key(&format!("{SET_ORDER}{name}")) && value.is_array() {
            continue;
        }
        if value.is_null() {
            current.shift_remove(name);
            continue;
        }
        let rule = rule(at, name);
        let merged = match (current.get_mut(name).map(Value::take), value) {
            (None, value) => without_directives(value.clone()),
            (Some(old @ Value::Object(_)), Value::Object(_)) => object(rule.at, old, value)?,
            (Some(Value::Array(old)), Value::Array(new)) if rule.merge => {
                Value::Array(list(rule, old, new, None)?)
            }
            (Some(_), value) => without_directives(value.clone()),
        };
        current.insert(name.clone(), merged);
    }
    Ok(Value::Object(current))
}

fn retain_keys(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), MergeError> {
    let Some(keep) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Some(keep) = keep.as_array() else {
        return Err(bad("the $retainKeys list is not a list".into()));
    };
    let kept = |name: &str| keep.iter().any(|one| one == name);
    for (name, value) in patch {
        if !name.starts_with('$') && !value.is_null() && !kept(name) {
            return Err(bad(format!(
                "the $retainKeys list does not contain {name:?}, which the patch sets"
            )));
        }
    }
    current.retain(|name, _| kept(name));
    Ok(())
}

/// A list with a given order: merged as usual, then put in that order, with what only the server
/// has at its old place between.
fn ordered_list(
    at: Option<Cursor<'_>>,
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    name: &str,
    order: &[Value],
) -> Result<(), MergeError> {
    let rule = rule(at, name);
    let new = match patch.get(name) {
        Some(Value::Array(new)) => new.as_slice(),
        Some(_) => return Ok(()),
        None => &[],
    };
    let mut old = match current.get_mut(name).map(Value::take) {
        Some(Value::Array(old)) => old,
        None if new.is_empty() => return Ok(()),
        _ => Vec::new(),
    };
    // Values leave a primitive list by their own directive, before order is made.
    if let Some(gone) = patch.get(&format!("{DELETE_FROM}{name}")).and_then(Value::as_array) {
        old.retain(|item| !gone.contains(item));
    }
    let merged = list(rule, old, new, Some(order))?;
    current.insert(name.to_owned(), Value::Array(merged));
    Ok(())
}

/// What tells an item of a list from the others.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

fn position(list: &[Value], wanted: Option<&Value>, key: Option<&str>) -> Option<usize> {
    let wanted = wanted?;
    list.iter().position(|item| identity(item, key) == Some(wanted))
}

fn list(
    rule: Rule<'_>,
    old: Vec<Value>,
    new: &[Value],
    order: Option<&[Value]>,
) -> Result<Vec<Value>, MergeError> {
    let structs = old.iter().chain(new).any(Value::is_object);
    if structs && rule.key.is_none() {
        return Err(bad("cannot merge lists without merge key".into()));
    }
    let key = rule.key.filter(|_| structs);
    let before = old.clone();
    let mut merged = old;
    let mut wanted: Vec<Value> = Vec::new();
    let mut replace = false;
    for item in new {
        match item.get(PATCH).filter(|_| structs).map(|directive| directive.as_str()) {
            Some(Some("replace")) => replace = true,
            Some(Some("delete")) => {
                let value = need_key(item, key)?;
                merged.retain(|known| identity(known, key) != Some(value));
            }
            Some(Some("merge")) => {
                return Err(bad("merging lists cannot yet be specified in the patch".into()));
            }
            Some(_) => {
                return Err(bad(format!("unknown patch type: {} in map: {item}", item[PATCH])));
            }
            None => wanted.push(item.clone()),
        }
    }
    if replace {
        return Ok(wanted.into_iter().map(without_directives).collect());
    }
    for item in &wanted {
        if key.is_some() {
            need_key(item, key)?;
        }
        match position(&merged, identity(item, key), key) {
            Some(at) if key.is_some() => {
                let inner = rule.at.and_then(Cursor::item);
                let known = merged[at].take();
                merged[at] = object(inner, known, item)?;
            }
            Some(_) => {}
            None => merged.push(without_directives(item.clone())),
        }
    }
    Ok(put_in_order(merged, order.unwrap_or(&wanted), &before, key))
}

fn need_key<'a>(item: &'a Value, key: Option<&str>) -> Result<&'a Value, MergeError> {
    identity(item, key).ok_or_else(|| MergeError::NoMergeKey {
        map: item.to_string(),
        key: key.unwrap_or_default().to_owned(),
    })
}

/// Items named in `order` come in that order; the others keep the place they had in `before`
/// relative to them, as far as that can be told.
pub(super) fn put_in_order(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| position(list, identity(item, key), key);
    let (mut right, mut left): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item).is_some());
    right.sort_by_key(|item| place(order, item));
    left.sort_by_key(|item| place(before, item));
    let mut left = left.into_iter().peekable();
    let mut all = Vec::new();
    for item in right {
        while let Some(other) = left.peek() {
            match (place(before, other), place(before, &item)) {
                (Some(a), Some(b)) if a < b => all.extend(left.next()),
                _ => break,
            }
        }
        all.push(item);
    }
    all.extend(left);
    all
}

/// A patch value taken as it is carries no directives and no nulls into the object.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(name, value)| {
                    !value.is_null()
                        && name != PATCH
                        && name != RETAIN_KEYS
                        && !name.starts_with(DELETE_FROM)
                        && !name.starts_with(SET_ORDER)
                })
                .map(|(name, value)| (name, without_directives(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .filter(|item| item.get(PATCH).is_none_or(|directive| directive != "delete"))
                .filter(|item| {
                    // `[{$patch: replace}, …]`: the marker is no item.
                    !item.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(PATCH))
                })
                .map(without_directives)
                .collect(),
        ),
        other => other,
    }
}
