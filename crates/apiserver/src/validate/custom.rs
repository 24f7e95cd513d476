//! Values of custom resources against their raw `openAPIV3Schema`.
//!
//! Covers what structural schemas allow: types, nullable, ranges, lengths, patterns, enums,
//! formats, required, items, properties and the logical junctors. CEL is not evaluated.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Check, Reason};
use crate::schema::Schema;

/// Checks a custom resource.
pub(super) fn object(schema: &Schema, object: &Value, check: &mut Check) {
    if let Some(raw) = schema.raw() {
        let walk = Walk { schema };
        walk.value(raw, object, "", check, 0);
    }
}

struct Walk<'a> {
    schema: &'a Schema,
}

const MAX_DEPTH: usize = 128;

fn child(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Upstream's name of the place in a sentence; the object itself is `<nil>` in the field.
fn shown(path: &str) -> String {
    if path.is_empty() { "<nil>".to_owned() } else { path.to_owned() }
}

impl Walk<'_> {
    fn fail(&self, check: &mut Check, path: &str, value: &Value, detail: &str) {
        check.push_at(
            Reason::Invalid,
            shown(path),
            Some(value),
            &format!("{path} in body {detail}"),
        );
    }

    fn value(&self, raw: &Value, value: &Value, path: &str, check: &mut Check, depth: usize) {
        let Some(raw) = raw.as_object().filter(|_| depth < MAX_DEPTH) else { return };
        if value.is_null() && raw.get("nullable").and_then(Value::as_bool) == Some(true) {
            return;
        }
        if !self.kind(raw, value, path, check) {
            return;
        }
        if let Some(known) = raw.get("enum").and_then(Value::as_array)
            && !known.contains(value)
        {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            check.push_at(
                Reason::NotSupported,
                shown(path),
                Some(value),
                &format!("supported values: {}", known.join(", ")),
            );
        }
        match value {
            Value::Number(_) => self.number(raw, value, path, check),
            Value::String(text) => self.text(raw, text, path, check),
            Value::Array(items) => self.list(raw, value, items, path, check, depth),
            Value::Object(map) => self.map(raw, value, map, path, check, depth),
            _ => {}
        }
        self.junctors(raw, value, path, check, depth);
    }

    /// Whether the type fits.
    fn kind(&self, raw: &Map<String, Value>, value: &Value, path: &str, check: &mut Check) -> bool {
        if raw.get("x-kubernetes-int-or-string").and_then(Value::as_bool) == Some(true) {
            if value.is_string() || value.is_i64() || value.is_u64() {
                return true;
            }
            self.mismatch("integer,string", value, path, check);
            return false;
        }
        let Some(kind) = raw.get("type").and_then(Value::as_str) else { return true };
        let fits = match kind {
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => true,
        };
        if !fits {
            self.mismatch(kind, value, path, check);
        }
        fits
    }

    fn mismatch(&self, wanted: &str, value: &Value, path: &str, check: &mut Check) {
        let is = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is = Value::from(is);
        check.push_at(
            Reason::TypeInvalid,
            shown(path),
            Some(&is),
            &format!("{path} in body must be of type {wanted}: {is}"),
        );
    }

    fn number(&self, raw: &Map<String, Value>, value: &Value, path: &str, check: &mut Check) {
        let Some(number) = value.as_f64() else { return };
        let limit = |name: &str| raw.get(name).and_then(Value::as_f64);
        let flag = |name: &str| raw.get(name).and_then(Value::as_bool) == Some(true);
        if let Some(most) = limit("maximum") {
            let exclusive = flag("exclusiveMaximum");
            if number > most || (exclusive && number >= most) {
                let words = if exclusive { "less than" } else { "less than or equal to" };
                self.fail(check, path, value, &format!("should be {words} {}", raw["maximum"]));
            }
        }
        if let Some(least) = limit("minimum") {
            let exclusive = flag("exclusiveMinimum");
            if number < least || (exclusive && number <= least) {
                let words = if exclusive { "greater than" } else { "greater than or equal to" };
                self.fail(check, path, value, &format!("should be {words} {}", raw["minimum"]));
            }
        }
        if let Some(step) = limit("multipleOf")
            && step > 0.0
            && (number / step).fract().abs() > 1e-9
        {
            self.fail(
                check,
                path,
                value,
                &format!("should be a multiple of {}", raw["multipleOf"]),
            );
        }
    }

    fn text(&self, raw: &Map<String, Value>, text: &str, path: &str, check: &mut Check) {
        let value = Value::from(text);
        let length = text.chars().count() as u64;
        let limit = |name: &str| raw.get(name).and_then(Value::as_u64);
        if let Some(most) = limit("maxLength")
            && length > most
        {
            check.push_at(
                Reason::TooLong,
                shown(path),
                None,
                &format!("may not be more than {most} bytes"),
            );
        }
        if let Some(least) = limit("minLength")
            && length < least
        {
            self.fail(check, path, &value, &format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = raw.get("pattern").and_then(Value::as_str)
            && self.schema.pattern(pattern).is_some_and(|regex| !regex.is_match(text))
        {
            self.fail(check, path, &value, &format!("should match '{pattern}'"));
        }
        if let Some(format) = raw.get("format").and_then(Value::as_str)
            && !format_fits(format, text)
        {
            self.fail(check, path, &value, &format!("must be of type {format}: {value}"));
        }
    }

    fn list(
        &self,
        raw: &Map<String, Value>,
        value: &Value,
        items: &[Value],
        path: &str,
        check: &mut Check,
        depth: usize,
    ) {
        let limit = |name: &str| raw.get(name).and_then(Value::as_u64);
        let length = items.len() as u64;
        if let Some(most) = limit("maxItems")
            && length > most
        {
            check.push_at(
                Reason::TooMany,
                shown(path),
                Some(&length.into()),
                &format!("must have at most {most} items"),
            );
        }
        if let Some(least) = limit("minItems")
            && length < least
        {
            self.fail(check, path, value, &format!("should have at least {least} items"));
        }
        let keys: Vec<&str> = raw
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let kind = raw.get("x-kubernetes-list-type").and_then(Value::as_str).unwrap_or_default();
        let mut seen: Vec<Value> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let identity = match kind {
                "set" => Some(item.clone()),
                "map" => Some(
                    keys.iter()
                        .filter_map(|key| Some(((*key).to_owned(), item.get(*key)?.clone())))
                        .collect::<Map<_, _>>()
                        .into(),
                ),
                _ => None,
            };
            if let Some(identity) = identity {
                if seen.contains(&identity) {
                    check.push_at(Reason::Duplicate, path.clone(), Some(&identity), "");
                }
                seen.push(identity);
            }
            if let Some(inner) = raw.get("items") {
                self.value(inner, item, &path, check, depth + 1);
            }
        }
    }

    fn map(
        &self,
        raw: &Map<String, Value>,
        value: &Value,
        map: &Map<String, Value>,
        path: &str,
        check: &mut Check,
        depth: usize,
    ) {
        let limit = |name: &str| raw.get(name).and_then(Value::as_u64);
        let length = map.len() as u64;
        if let Some(most) = limit("maxProperties")
            && length > most
        {
            self.fail(check, path, value, &format!("should have at most {most} properties"));
        }
        if let Some(least) = limit("minProperties")
            && length < least
        {
            self.fail(check, path, value, &format!("should have at least {least} properties"));
        }
        for name in raw.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !map.contains_key(name) {
                check.push_at(Reason::Required, child(path, name), None, "");
            }
        }
        let properties = raw.get("properties").and_then(Value::as_object);
        for (name, inner) in map {
            if depth == 0 && name == "metadata" {
                continue;
            }
            let shape = properties
                .and_then(|properties| properties.get(name))
                .or_else(|| raw.get("additionalProperties"));
            if let Some(shape) = shape {
                self.value(shape, inner, &child(path, name), check, depth + 1);
            }
        }
    }

    fn holds(&self, raw: &Value, value: &Value, depth: usize) -> bool {
        let mut check = Check::default();
        self.value(raw, value, "", &mut check, depth + 1);
        check.causes.is_empty()
    }

    fn junctors(
        &self,
        raw: &Map<String, Value>,
        value: &Value,
        path: &str,
        check: &mut Check,
        depth: usize,
    ) {
        let parts = |name: &str| raw.get(name).and_then(Value::as_array);
        let mut fail = |detail: String| {
            check.push_at(Reason::Invalid, shown(path), Some(&Value::from("")), &detail);
        };
        if let Some(parts) = parts("anyOf")
            && !parts.iter().any(|part| self.holds(part, value, depth))
        {
            fail(format!("\"{path}\" must validate at least one schema (anyOf)"));
        }
        if let Some(parts) = parts("oneOf") {
            let count = parts.iter().filter(|part| self.holds(part, value, depth)).count();
            if count != 1 {
                let found = if count == 0 { "none" } else { "multiple" };
                fail(format!(
                    "\"{path}\" must validate one and only one schema (oneOf). Found {found} valid"
                ));
            }
        }
        if let Some(parts) = parts("allOf")
            && !parts.iter().all(|part| self.holds(part, value, depth))
        {
            fail(format!("\"{path}\" must validate all the schemas (allOf)"));
        }
        if let Some(part) = raw.get("not").filter(|part| part.is_object())
            && self.holds(part, value, depth)
        {
            fail(format!("\"{path}\" must not validate the schema (not)"));
        }
    }
}

/// The formats upstream knows and that are worth telling; others are no rule.
fn format_fits(format: &str, text: &str) -> bool {
    match format {
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "mac" => {
            let parts: Vec<&str> = text.split([':', '-']).collect();
            parts.len() == 6
                && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "uuid" => {
            text.len() == 36
                && text.char_indices().all(|(at, c)| match at {
                    8 | 13 | 18 | 23 => c == '-',
                    _ => c.is_ascii_hexdigit(),
                })
        }
        _ => true,
    }
}
