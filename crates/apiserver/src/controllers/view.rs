//! What the controllers know: every object as last seen in the watch, with the indices that keep
//! the cost of an event at the size of what it touches.
//!
//! A plain value fed with [`Change`]s; it never talks to the API. Upstream's informers play this
//! part, but they lag behind the writer, so upstream's ReplicaSet controller has to remember the
//! pods it has asked for ("expectations"). Here the watch is a ring in the same process that a
//! write has already entered when it returns, and the driver empties it before each reconcile: the
//! view is never older than the controllers' own writes, and expectations have nothing to say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::object::{self, controller_uid, map_at, owner_references, str_at};
use super::selector::Selector;
use super::write::{
    DEPLOYMENTS, ENDPOINT_SLICES, ObjectRef, PODS, REPLICA_SETS, Resource, SERVICES,
};

/// One object before and after. Both are present for an update.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which object.
    pub target: ObjectRef,
    /// Before; `None` for a new object.
    pub old: Option<Arc<Value>>,
    /// After; `None` for a removed object.
    pub new: Option<Arc<Value>>,
}

impl Change {
    /// The newest form of the object there is.
    pub fn latest(&self) -> Option<&Arc<Value>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Both forms that exist, old first.
    pub fn forms(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Name = (String, String);

/// Everything the controllers see.
#[derive(Debug, Default)]
pub struct View {
    objects: HashMap<Resource, BTreeMap<Name, Arc<Value>>>,
    by_uid: HashMap<String, ObjectRef>,
    dependents: HashMap<String, BTreeSet<ObjectRef>>,
    pods_by_node: HashMap<String, BTreeSet<Name>>,
    unscheduled: BTreeSet<Name>,
    by_namespace: HashMap<String, BTreeSet<ObjectRef>>,
    labelled: HashMap<(Resource, String, String), BTreeSet<String>>,
    selectors: HashMap<(Resource, String, String), BTreeSet<String>>,
    kinds: HashSet<(String, String)>,
}

fn labels_are_indexed(resource: &Resource) -> bool {
    [PODS, REPLICA_SETS, ENDPOINT_SLICES].contains(resource)
}

fn pair(key: &str, value: &str) -> String {
    format!("{key}={value}")
}

/// The selector of an object whose kind selects pods or ReplicaSets.
fn selector_of(resource: &Resource, object: &Value) -> Option<Selector> {
    if *resource == SERVICES {
        Selector::of_map(object, &["spec", "selector"])
    } else if [DEPLOYMENTS, REPLICA_SETS].contains(resource) {
        Selector::of_label_selector(object, &["spec", "selector"]).filter(|s| !s.is_empty())
    } else {
        None
    }
}

fn edit<K: std::hash::Hash + Eq, V: Ord>(
    index: &mut HashMap<K, BTreeSet<V>>,
    key: K,
    value: V,
    add: bool,
) {
    if add {
        index.entry(key).or_default().insert(value);
    } else if let Some(set) = index.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            index.remove(&key);
        }
    }
}

impl View {
    /// A view of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one change in. Changes of one object must come in order; repeating one is harmless.
    pub fn apply(&mut self, change: &Change) {
        let target = &change.target;
        let key = (target.namespace.clone(), target.name.clone());
        let old = self.objects.get_mut(&target.resource).and_then(|all| all.remove(&key));
        if let Some(old) = old {
            self.index(target, &old, false);
        }
        if let Some(new) = &change.new {
            self.index(target, new, true);
            self.objects.entry(target.resource.clone()).or_default().insert(key, Arc::clone(new));
        }
    }

    /// Makes a kind known, so that an owner of this kind that is not there counts as gone.
    pub fn serve(&mut self, group: &str, kind: &str) {
        self.kinds.insert((group.to_owned(), kind.to_owned()));
    }

    /// Whether the API serves a kind. An owner of an unknown kind is left alone.
    pub fn serves(&self, group: &str, kind: &str) -> bool {
        self.kinds.contains(&(group.to_owned(), kind.to_owned()))
    }

    fn index(&mut self, target: &ObjectRef, object: &Value, add: bool) {
        let ObjectRef { resource, namespace, name } = target;
        let uid = object::uid(object);
        if add {
            self.by_uid.insert(uid.to_owned(), target.clone());
        } else if self.by_uid.get(uid) == Some(target) {
            self.by_uid.remove(uid);
        }
        for owner in owner_references(object) {
            let owner = str_at(owner, &["uid"]).to_owned();
            edit(&mut self.dependents, owner, target.clone(), add);
        }
        if !namespace.is_empty() {
            edit(&mut self.by_namespace, namespace.clone(), target.clone(), add);
        }
        if labels_are_indexed(resource) {
            for (key, value) in map_at(object, &["metadata", "labels"]) {
                let key = (resource.clone(), namespace.clone(), pair(key, value));
                edit(&mut self.labelled, key, name.clone(), add);
            }
        }
        if let Some(selector) = selector_of(resource, object) {
            let required = selector.required_label().map_or_else(String::new, |(k, v)| pair(k, v));
            let key = (resource.clone(), namespace.clone(), required);
            edit(&mut self.selectors, key, name.clone(), add);
        }
        if *resource == PODS {
            let key = (namespace.clone(), name.clone());
            let node = str_at(object, &["spec", "nodeName"]);
            if !node.is_empty() {
                edit(&mut self.pods_by_node, node.to_owned(), key, add);
            } else if add {
                self.unscheduled.insert(key);
            } else {
                self.unscheduled.remove(&key);
            }
        }
    }

    /// One object by reference.
    pub fn get(&self, target: &ObjectRef) -> Option<&Arc<Value>> {
        // The map's key is an owned pair; borrowing it would need a wrapper type for no gain here.
        self.objects.get(&target.resource)?.get(&(target.namespace.clone(), target.name.clone()))
    }

    /// One object by its parts.
    pub fn find(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(resource)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Every object of a resource, by namespace and name.
    pub fn all(&self, resource: &Resource) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.get(resource).into_iter().flat_map(BTreeMap::values)
    }

    /// How many objects of a resource there are.
    pub fn count(&self, resource: &Resource) -> usize {
        self.objects.get(resource).map_or(0, BTreeMap::len)
    }

    /// The references of every object.
    pub fn refs(&self) -> impl Iterator<Item = (&Resource, &Arc<Value>)> {
        self.objects.iter().flat_map(|(resource, all)| all.values().map(move |o| (resource, o)))
    }

    /// The object with this uid.
    pub fn by_uid(&self, uid: &str) -> Option<(&ObjectRef, &Arc<Value>)> {
        let target = self.by_uid.get(uid)?;
        Some((target, self.get(target)?))
    }

    /// Objects with an owner reference to this uid.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = (&ObjectRef, &Arc<Value>)> {
        self.dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|target| Some((target, self.get(target)?)))
    }

    /// Objects of one resource whose *controlling* owner has this uid.
    pub fn controlled<'a>(
        &'a self,
        uid: &'a str,
        resource: &Resource,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let resource = resource.clone();
        self.dependents(uid)
            .filter(move |(target, object)| {
                target.resource == resource && controller_uid(object) == uid
            })
            .map(|(_, object)| object)
    }

    /// Pods assigned to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.pods_by_node
            .get(node)
            .into_iter()
            .flatten()
            .filter_map(|(namespace, name)| self.find(&PODS, namespace, name))
    }

    /// Pods without a node, as references.
    pub fn unscheduled(&self) -> impl Iterator<Item = ObjectRef> {
        self.unscheduled.iter().map(|(namespace, name)| ObjectRef::new(PODS, namespace, name))
    }

    /// Everything in a namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectRef, &Arc<Value>)> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|target| Some((target, self.get(target)?)))
    }

    /// Objects of a resource in a namespace that a selector matches. Pods, ReplicaSets and
    /// EndpointSlices are found by label, others by walking the namespace.
    pub fn selected(
        &self,
        resource: &Resource,
        namespace: &str,
        selector: &Selector,
    ) -> Vec<&Arc<Value>> {
        match selector.required_label() {
            Some((key, value)) if labels_are_indexed(resource) => self
                .labelled
                .get(&(resource.clone(), namespace.to_owned(), pair(key, value)))
                .into_iter()
                .flatten()
                .filter_map(|name| self.find(resource, namespace, name))
                .filter(|object| selector.matches(object))
                .collect(),
            _ => {
                self.in_namespace_of(resource, namespace).filter(|o| selector.matches(o)).collect()
            }
        }
    }

    /// Objects of a resource in a namespace that carry a label.
    pub fn labelled<'a>(
        &'a self,
        resource: &Resource,
        namespace: &'a str,
        key: &str,
        value: &str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let resource = resource.clone();
        self.labelled
            .get(&(resource.clone(), namespace.to_owned(), pair(key, value)))
            .into_iter()
            .flatten()
            .filter_map(move |name| self.find(&resource, namespace, name))
    }

    fn in_namespace_of(
        &self,
        resource: &Resource,
        namespace: &str,
    ) -> impl Iterator<Item = &Arc<Value>> {
        self.objects
            .get(resource)
            .into_iter()
            .flat_map(move |all| {
                all.range((namespace.to_owned(), String::new())..)
                    .take_while(move |((found, _), _)| found == namespace)
            })
            .map(|(_, object)| object)
    }

    /// The objects of `resource` (Services, ReplicaSets, Deployments) whose selector matches the
    /// labels of `object`, which lives in the same namespace.
    pub fn selecting(&self, resource: &Resource, object: &Value) -> Vec<ObjectRef> {
        let namespace = object::namespace(object);
        let pairs = map_at(object, &["metadata", "labels"]).map(|(key, value)| pair(key, value));
        pairs
            .chain([String::new()])
            .filter_map(|pair| self.selectors.get(&(resource.clone(), namespace.to_owned(), pair)))
            .flatten()
            .filter(|name| {
                self.find(resource, namespace, name)
                    .and_then(|selecting| selector_of(resource, selecting))
                    .is_some_and(|selector| selector.matches(object))
            })
            .map(|name| ObjectRef::new(resource.clone(), namespace, name))
            .collect()
    }
}
