//! Names of objects: cheap to clone, one allocation each.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Namespace and name of an object. A cluster-scoped object has the empty namespace.
///
/// Clones share one allocation. Order is by namespace, then name.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectKey(Arc<str>);

/// The key of a Service.
pub type ServiceKey = ObjectKey;
/// The key of an EndpointSlice.
pub type SliceKey = ObjectKey;

impl ObjectKey {
    /// A key of its two parts. Neither part of a valid object name contains `/`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        let mut joined = String::with_capacity(namespace.len() + 1 + name.len());
        joined.push_str(namespace);
        joined.push('/');
        joined.push_str(name);
        Self(joined.into())
    }

    /// `NAMESPACE/NAME`, as it is kept.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace; empty for a cluster-scoped object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl Ord for ObjectKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.namespace(), self.name()).cmp(&(other.namespace(), other.name()))
    }
}

impl PartialOrd for ObjectKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.strip_prefix('/').unwrap_or(&self.0))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of a node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// A node's name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's `metadata.uid`, 16 bytes instead of 36. Kept only to write Events that `kubectl describe` finds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid([u8; 16]);

impl Uid {
    /// Parses the usual 8-4-4-4-12 form; anything else is not kept.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let mut value = 0u128;
        let mut digits = 0;
        for &byte in bytes.iter().filter(|&&byte| byte != b'-') {
            let digit = char::from(byte).to_digit(16)?;
            value = value << 4 | u128::from(digit);
            digits += 1;
        }
        (digits == 32).then(|| Self(value.to_be_bytes()))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = u128::from_be_bytes(self.0);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            v >> 96,
            v >> 80 & 0xffff,
            v >> 64 & 0xffff,
            v >> 48 & 0xffff,
            v & 0xffff_ffff_ffff
        )
    }
}

impl Serialize for Uid {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uid {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format_args!("{text:?} is no uid")))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_namespace_then_name() {
        // "a-b/x" sorts before "a/x" as text, because '-' < '/'.
        let mut keys =
            [ObjectKey::new("a-b", "x"), ObjectKey::new("a", "y"), ObjectKey::new("a", "x")];
        keys.sort();
        assert_eq!(keys.map(|key| key.to_string()), ["a/x", "a/y", "a-b/x"]);
    }

    #[test]
    fn cluster_scoped_keys_print_without_a_slash() {
        let key = ObjectKey::new("", "node-1");
        assert_eq!(
            (key.namespace(), key.name(), key.to_string().as_str()),
            ("", "node-1", "node-1")
        );
    }

    #[test]
    fn uids_round_trip_and_others_are_refused() {
        let text = "0b5f3e0a-7d1c-4d5e-9f00-00c0ffee1234";
        assert_eq!(Uid::parse(text).map(|uid| uid.to_string()).as_deref(), Some(text));
        assert_eq!(Uid::parse("0b5f3e0a-7d1c-4d5e-9f00-00c0ffee123g"), None);
        assert_eq!(Uid::parse("--------------------------------0b5f"), None);
        assert_eq!(Uid::parse("ü"), None);
    }
}
