//! Labels of an object, sorted; objects with the same labels share them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A sorted list of keys and values. Clones share one allocation; the pods of one ReplicaSet do, too, once they are in a
/// [`crate::Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(known, _)| known.as_ref().cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nobody but the asking owner has this allocation.
    pub(crate) fn is_lone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// Of a key named twice, the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(from: I) -> Self {
        let all = from.into_iter().map(|(key, value)| (key.into(), value.into()));
        let sorted: std::collections::BTreeMap<Arc<str>, Arc<str>> = all.collect();
        Self(sorted.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_key_and_compare_by_content() {
        let labels: Labels =
            [("tier", "db"), ("app", "web"), ("app", "shop")].into_iter().collect();
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("app", "shop"), ("tier", "db")]);
        assert_eq!((labels.get("tier"), labels.get("zone")), (Some("db"), None));
        assert_eq!(labels, [("app", "shop"), ("tier", "db")].into_iter().collect());
        assert!(Labels::default().is_empty());
    }
}
