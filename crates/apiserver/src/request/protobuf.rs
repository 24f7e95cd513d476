//! Bodies in Kubernetes' protobuf form, read into JSON.
//!
//! Typed clients since client-go 0.32 (so `kubectl create configmap`, `auth can-i`, …) send
//! protobuf without asking; the answer may be JSON. Field numbers stand in `protobuf.txt`; they
//! are part of Kubernetes' stored API and never change. Only reading: nothing is answered so.
//!
//! The Go types say with pointers whether a zero was meant; the wire does not. A zero is taken as
//! "not said", except in the fields named in [`ZERO_COUNTS`].

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::kinds::split_api_version;

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// Deeper nesting than any type has.
const DEPTH: usize = 48;

/// Fields that are pointers in Go and where zero or false is not the default.
const ZERO_COUNTS: &[&str] = &[
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "defaultMode",
    "enableServiceLinks",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "mode",
    "orphanDependents",
    "partition",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "serving",
    "terminating",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "weight",
];

/// Go embeds these: their fields stand beside the others.
const INLINE: &[&str] = &[
    "ephemeralContainerCommon",
    "handler",
    "ingressRuleValue",
    "localObjectReference",
    "volumeSource",
];

/// A body that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It does not start as it must.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    /// It ends early or is malformed.
    #[error("proto: malformed message in {at}")]
    Malformed {
        /// The type being read.
        at: String,
    },
    /// A kind without a protobuf form here.
    #[error("no kind {kind:?} of {api_version:?} is known in protobuf form; send application/json")]
    Unknown {
        /// What the envelope says.
        kind: String,
        /// What the envelope says.
        api_version: String,
    },
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    list: bool,
    map: bool,
    kind: &'static str,
}

type Types = HashMap<&'static str, HashMap<u64, Field>>;

fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| {
        include_str!("protobuf.txt")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, fields)| (name, fields.split(',').filter_map(field).collect()))
            .collect()
    })
}

fn field(text: &'static str) -> Option<(u64, Field)> {
    let mut words = text.split(' ');
    let (number, name, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let list = kind.starts_with("[]");
    let map = kind.starts_with("{}");
    let kind = kind.trim_start_matches("[]").trim_start_matches("{}");
    Some((number, Field { name, list, map, kind }))
}

/// One field on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Double(u64),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn next(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Double(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?.try_into().ok()?;
                Wire::Number(u32::from_le_bytes(bytes).into())
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    /// All fields; `None` if one is malformed.
    fn fields(bytes: &'a [u8]) -> Option<Vec<(u64, Wire<'a>)>> {
        let mut reader = Reader { rest: bytes };
        let mut all = Vec::new();
        while !reader.rest.is_empty() {
            all.push(reader.next()?);
        }
        Some(all)
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Reads an enveloped object into JSON, `apiVersion` and `kind` included.
///
/// # Errors
/// [`ProtobufError`].
pub fn read(body: &[u8]) -> Result<Value, ProtobufError> {
    let body = body.strip_prefix(b"k8s\0").ok_or(ProtobufError::Prefix)?;
    let malformed = |at: &str| ProtobufError::Malformed { at: at.to_owned() };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, value) in Reader::fields(body).ok_or_else(|| malformed("the envelope"))? {
        match (number, value) {
            (1, Wire::Bytes(meta)) => {
                for (number, value) in
                    Reader::fields(meta).ok_or_else(|| malformed("the envelope"))?
                {
                    if let Wire::Bytes(bytes) = value {
                        let word = text(bytes).ok_or_else(|| malformed("the envelope"))?;
                        match number {
                            1 => api_version = word,
                            2 => kind = word,
                            _ => {}
                        }
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (group, version) = split_api_version(&api_version);
    let package = match group.split('.').next() {
        _ if kind == "DeleteOptions" => "meta.v1".to_owned(),
        None | Some("") => format!("core.{version}"),
        Some(first) => format!("{first}.{version}"),
    };
    let name = format!("{package}.{kind}");
    if !types().contains_key(name.as_str()) {
        return Err(ProtobufError::Unknown { kind, api_version });
    }
    let Some(Value::Object(fields)) = message(&name, raw, DEPTH) else {
        return Err(malformed(&name));
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    object.extend(fields);
    Ok(Value::Object(object))
}

/// A message of a type; `Null` is "not said". `None` is malformed.
fn message(kind: &str, bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let wire = Reader::fields(bytes)?;
    let first = |wanted: u64| wire.iter().find(|(number, _)| *number == wanted).map(|(_, v)| v);
    let number = |wanted| match first(wanted) {
        Some(Wire::Number(number)) => *number,
        _ => 0,
    };
    let raw = |wanted| match first(wanted) {
        Some(Wire::Bytes(bytes)) => *bytes,
        _ => &[][..],
    };
    match kind {
        "meta.v1.Time" | "meta.v1.MicroTime" => {
            let (seconds, nanos) = (number(1).cast_signed(), number(2).cast_signed());
            // Go's zero time is a year 1 that means nothing.
            if (seconds, nanos) == (0, 0) || seconds < -62_135_596_799 {
                return Some(Value::Null);
            }
            let at = Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()?;
            let form = if kind.ends_with("MicroTime") {
                "%Y-%m-%dT%H:%M:%S.%6fZ"
            } else {
                "%Y-%m-%dT%H:%M:%SZ"
            };
            return Some(at.strftime(form).to_string().into());
        }
        "Quantity" => {
            let text = text(raw(1))?;
            return Some(if text.is_empty() { Value::Null } else { text.into() });
        }
        "IntOrString" => {
            return Some(if number(1) == 1 {
                text(raw(3))?.into()
            } else {
                Value::from(number(2).cast_signed())
            });
        }
        "RawExtension" | "meta.v1.FieldsV1" => {
            let json = raw(1);
            if json.is_empty() {
                return Some(Value::Null);
            }
            return serde_json::from_slice(json).ok();
        }
        _ => {}
    }
    let fields = types().get(kind)?;
    let mut object = Map::new();
    for (number, value) in wire {
        let Some(field) = fields.get(&number) else { continue };
        if field.map {
            let Wire::Bytes(entry) = value else { return None };
            let (mut key, mut value) = (String::new(), None);
            for (number, wire) in Reader::fields(entry)? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                    (2, wire) => value = Some(single(field.kind, wire, depth)?),
                    _ => {}
                }
            }
            // A map keeps its empty texts.
            let value = value.unwrap_or_else(|| "".into());
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            map.as_object_mut()?.insert(key, value);
        } else if field.list {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let list = list.as_array_mut()?;
            match value {
                // Packed numbers.
                Wire::Bytes(bytes) if matches!(field.kind, "i" | "b") => {
                    let mut reader = Reader { rest: bytes };
                    while !reader.rest.is_empty() {
                        list.push(single(field.kind, Wire::Number(reader.varint()?), depth)?);
                    }
                }
                value => list.push(single(field.kind, value, depth)?),
            }
        } else {
            let value = single(field.kind, value, depth)?;
            if INLINE.contains(&field.name) {
                if let Value::Object(inner) = value {
                    object.extend(inner);
                }
            } else if said(field.name, &value) {
                object.insert(field.name.into(), value);
            }
        }
    }
    Some(Value::Object(object))
}

fn said(name: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Bool(false) => ZERO_COUNTS.contains(&name),
        Value::Number(number) => number.as_i64() != Some(0) || ZERO_COUNTS.contains(&name),
        _ => true,
    }
}

fn single(kind: &str, wire: Wire<'_>, depth: usize) -> Option<Value> {
    Some(match (kind, wire) {
        ("s", Wire::Bytes(bytes)) => text(bytes)?.into(),
        ("y", Wire::Bytes(bytes)) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        ("b", Wire::Number(number)) => Value::Bool(number != 0),
        ("i", Wire::Number(number)) => number.cast_signed().into(),
        ("f", Wire::Double(bits)) => f64::from_bits(bits).into(),
        (kind, Wire::Bytes(bytes)) if kind.len() > 1 => message(kind, bytes, depth)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Just enough of a writer.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
    }

    #[test]
    fn a_config_map_and_a_deployment_are_read() {
        let meta = [bytes(1, b"x"), bytes(2, b""), bytes(8, b"")].concat();
        let data = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let body = envelope("v1", "ConfigMap", &[bytes(1, &meta), bytes(2, &data)].concat());
        assert_eq!(
            read(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}})
        );
        // Zero replicas were meant; zero minReadySeconds were not said.
        let spec = [vec![1 << 3, 0], vec![5 << 3, 0]].concat();
        let body = envelope("apps/v1", "Deployment", &bytes(2, &spec));
        assert_eq!(read(&body).unwrap()["spec"], json!({"replicas": 0}));
        let port = [vec![3 << 3, 80], bytes(4, &[1 << 3, 0, 2 << 3, 0x90, 0x3f])].concat();
        let body = envelope("v1", "Service", &bytes(2, &bytes(1, &port)));
        assert_eq!(
            read(&body).unwrap()["spec"],
            json!({"ports": [{"port": 80, "targetPort": 8080}]})
        );
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        assert_eq!(read(b"{}"), Err(ProtobufError::Prefix));
        let body = envelope("example.com/v1", "Widget", b"");
        assert!(matches!(read(&body), Err(ProtobufError::Unknown { .. })));
    }

    #[test]
    fn every_type_that_is_named_is_there() {
        const SPECIAL: &[&str] = &[
            "Quantity",
            "IntOrString",
            "RawExtension",
            "meta.v1.Time",
            "meta.v1.MicroTime",
            "meta.v1.FieldsV1",
        ];
        for (name, fields) in types() {
            for field in fields.values().filter(|field| field.kind.len() > 1) {
                assert!(
                    types().contains_key(field.kind) || SPECIAL.contains(&field.kind),
                    "{name} names {}",
                    field.kind
                );
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw: Vec<u8>) {
            prop_assume!(raw.len() < 120);
            for kind in ["Pod", "Service", "Event"] {
                let outcome = read(&envelope("v1", kind, &raw));
                prop_assert!(outcome.is_ok() || outcome.is_err());
            }
        }
    }
}
