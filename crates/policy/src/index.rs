//! Which selectors may mean a pod, without asking them all: each is filed under one label it cannot do without.

use std::collections::HashMap;
use std::hash::Hash;

use model::{Labels, Requirement, Selector};

use crate::rule::{Id, PodPeer, Scope, id_of};

/// Selectors by what they need. What it finds still has to be asked: numbers of different things may be equal.
#[derive(Debug)]
pub(crate) struct Index<T>(HashMap<Id, Vec<T>>);

/// What a selector cannot do without.
#[derive(Hash)]
enum Need<'a> {
    /// A pod in this namespace, or in any, with this label (and value).
    Pod(Option<&'a str>, &'a str, Option<&'a str>),
    /// A namespace with this label (and value).
    Namespace(&'a str, Option<&'a str>),
    /// A pod in this namespace, or any pod.
    Any(Option<&'a str>),
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Copy + PartialEq> Index<T> {
    pub(crate) fn insert(&mut self, peer: &PodPeer, item: T) {
        for need in needs(peer) {
            self.0.entry(need).or_default().push(item);
        }
    }

    pub(crate) fn remove(&mut self, peer: &PodPeer, item: T) {
        for need in needs(peer) {
            if let Some(all) = self.0.get_mut(&need) {
                if let Some(at) = all.iter().position(|one| *one == item) {
                    all.swap_remove(at);
                }
                if all.is_empty() {
                    self.0.remove(&need);
                }
            }
        }
    }

    /// Those that may mean a pod of this namespace, which has labels of its own; each perhaps more than once.
    pub(crate) fn candidates(
        &self,
        namespace: &str,
        of: &Labels,
        pod: &Labels,
        mut take: impl FnMut(T),
    ) {
        if self.0.is_empty() {
            return;
        }
        let mut look = |need: Need<'_>| {
            for item in self.0.get(&id_of(&need)).into_iter().flatten() {
                take(*item);
            }
        };
        for scope in [Some(namespace), None] {
            for (key, value) in pod.iter() {
                look(Need::Pod(scope, key, Some(value)));
                look(Need::Pod(scope, key, None));
            }
            look(Need::Any(scope));
        }
        for (key, value) in of.iter() {
            look(Need::Namespace(key, Some(value)));
            look(Need::Namespace(key, None));
        }
    }
}

/// A label one has to have, with the values it may have, or none when any will do.
pub(crate) fn positive(selector: &Selector) -> Option<(&str, Option<Vec<&str>>)> {
    let values = selector.requirements().iter().filter_map(|requirement| match requirement {
        Requirement::In(key, values) => Some((key, values)),
        _ => None,
    });
    if let Some((key, values)) = values.min_by_key(|(_, values)| values.len()) {
        return Some((key, Some(values.iter().map(|value| &**value).collect())));
    }
    selector.requirements().iter().find_map(|requirement| match requirement {
        Requirement::Exists(key) => Some((&**key, None)),
        _ => None,
    })
}

fn needs(peer: &PodPeer) -> Vec<Id> {
    let scope = match &peer.scope {
        Scope::One(name) => Some(&**name),
        Scope::Matching(_) => None,
    };
    if let Some((key, values)) = positive(&peer.pods) {
        return match values {
            Some(values) => {
                values.into_iter().map(|value| id_of(&Need::Pod(scope, key, Some(value)))).collect()
            }
            None => vec![id_of(&Need::Pod(scope, key, None))],
        };
    }
    if let Scope::Matching(selector) = &peer.scope
        && let Some((key, values)) = positive(selector)
    {
        return match values {
            Some(values) => {
                values.into_iter().map(|value| id_of(&Need::Namespace(key, Some(value)))).collect()
            }
            None => vec![id_of(&Need::Namespace(key, None))],
        };
    }
    vec![id_of(&Need::Any(scope))]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::means;

    fn requirement() -> impl Strategy<Value = Requirement> {
        let key = prop::sample::select(vec!["a", "b"]);
        let values = prop::collection::vec(prop::sample::select(vec!["x", "y", "z"]), 1..3);
        (key, values, 0..4).prop_map(|(key, values, kind)| {
            let values = values.into_iter().map(Into::into).collect();
            match kind {
                0 => Requirement::In(key.into(), values),
                1 => Requirement::NotIn(key.into(), values),
                2 => Requirement::Exists(key.into()),
                _ => Requirement::Absent(key.into()),
            }
        })
    }

    fn selector() -> impl Strategy<Value = Selector> {
        prop::collection::vec(requirement(), 0..3).prop_map(Selector::new)
    }

    fn labels() -> impl Strategy<Value = Labels> {
        let label =
            (prop::sample::select(vec!["a", "b"]), prop::sample::select(vec!["x", "y", "z"]));
        prop::collection::vec(label, 0..3).prop_map(|labels| labels.into_iter().collect())
    }

    proptest! {
        #[test]
        fn whoever_means_a_pod_is_found(
            peers in prop::collection::vec((prop::option::of(0..2u8), selector(), selector()), 0..6),
            (namespace, of, pod) in (0..2u8, labels(), labels()),
        ) {
            let peers: Vec<PodPeer> = peers
                .into_iter()
                .map(|(one, namespaces, pods)| PodPeer {
                    scope: match one {
                        Some(number) => Scope::One(format!("n{number}").into()),
                        None => Scope::Matching(namespaces),
                    },
                    pods,
                })
                .collect();
            let namespace = format!("n{namespace}");
            let mut index = Index::default();
            for (at, peer) in peers.iter().enumerate() {
                index.insert(peer, at);
            }
            let mut found = Vec::new();
            index.candidates(&namespace, &of, &pod, |at| found.push(at));
            for (at, peer) in peers.iter().enumerate() {
                prop_assert!(!means(peer, &namespace, &of, &pod) || found.contains(&at));
                index.remove(peer, at);
            }
            prop_assert!(index.0.is_empty());
        }
    }
}
