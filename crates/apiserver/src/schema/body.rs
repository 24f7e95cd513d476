//! Request bodies: JSON or YAML text → a value, and the keys that were written twice.
//!
//! A JSON library keeps the last of two equal keys and forgets the first; the API server must be
//! able to say so (`fieldValidation`), so duplicates are collected while reading.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What a body holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    /// The value; of two equal keys the last one counts.
    pub value: Value,
    /// Paths of keys that were given more than once: `spec.ports[0].port`.
    pub duplicates: Vec<String>,
}

/// Reads JSON.
///
/// # Errors
/// The reader's message, as text for the client.
pub fn json(text: &[u8]) -> Result<Body, String> {
    let read: Tracked = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(read.into_body())
}

/// Reads YAML (a superset of JSON); of several documents the first.
///
/// # Errors
/// The reader's message, as text for the client.
pub fn yaml(text: &[u8]) -> Result<Body, String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("yaml: {error}"))?;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
    };
    let read: Tracked = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| format!("error converting YAML to JSON: yaml: {error}"))?;
    Ok(read.into_body())
}

/// A value with the paths of its duplicate keys; each path is kept innermost step first.
struct Tracked {
    value: Value,
    duplicates: Vec<Vec<String>>,
}

impl Tracked {
    fn plain(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }

    fn into_body(self) -> Body {
        let duplicates = self
            .duplicates
            .into_iter()
            .map(|steps| {
                let path: String = steps.into_iter().rev().collect();
                path.strip_prefix('.').unwrap_or(&path).to_owned()
            })
            .collect();
        Body { value: self.value, duplicates }
    }
}

impl<'de> Deserialize<'de> for Tracked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TrackedVisitor)
    }
}

struct TrackedVisitor;

impl<'de> Visitor<'de> for TrackedVisitor {
    type Value = Tracked;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tracked, E> {
        Ok(Tracked::plain(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tracked, E> {
        Ok(Tracked::plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tracked, E> {
        Ok(Tracked::plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tracked, E> {
        Ok(Tracked::plain(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tracked, E> {
        Ok(Tracked::plain(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Tracked, E> {
        Ok(Tracked::plain(Value::String(value)))
    }

    fn visit_none<E>(self) -> Result<Tracked, E> {
        Ok(Tracked::plain(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<Tracked, E> {
        Ok(Tracked::plain(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tracked, D::Error> {
        Tracked::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tracked, A::Error> {
        let mut items = Vec::new();
        let mut duplicates = Vec::new();
        while let Some(mut item) = seq.next_element::<Tracked>()? {
            for path in &mut item.duplicates {
                path.push(format!("[{}]", items.len()));
            }
            duplicates.append(&mut item.duplicates);
            items.push(item.value);
        }
        Ok(Tracked { value: Value::Array(items), duplicates })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tracked, A::Error> {
        let mut fields = Map::new();
        let mut duplicates = Vec::new();
        while let Some(Key(key)) = map.next_key::<Key>()? {
            let mut item = map.next_value::<Tracked>()?;
            for path in &mut item.duplicates {
                path.push(format!(".{key}"));
            }
            duplicates.append(&mut item.duplicates);
            if fields.insert(key.clone(), item.value).is_some() {
                duplicates.push(vec![format!(".{key}")]);
            }
        }
        Ok(Tracked { value: Value::Object(fields), duplicates })
    }
}

/// A map key as text; YAML allows numbers and booleans there, which JSON spells as strings.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_owned()))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_unit<E>(self) -> Result<Key, E> {
                Ok(Key("null".to_owned()))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}
