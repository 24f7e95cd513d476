//! Fitting endpoints into EndpointSlices with as few writes as possible.
//!
//! Upstream's `endpointslice` reconciler: an endpoint stays in the slice it is in; slices that
//! change anyway take new endpoints first, then the fullest slice that holds all the rest, then
//! new slices; a slice that would be deleted is reused where one would be created. Both the
//! EndpointSlice controller and the mirroring controller pack with it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::object::{
    at, controller_reference, is_deleting, list_at, member_at, name, namespace, str_at, uid,
};
use super::write::{ENDPOINT_SLICES, ObjectRef, Op, Propagation};

/// Most endpoints in a slice.
pub(crate) const SLICE_SIZE: usize = 100;
/// When the change that led to a write happened, for those who measure how long it took.
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// An endpoint that shall exist.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// In EndpointSlice form.
    pub(crate) endpoint: Value,
    /// When it became what it is (RFC 3339); empty when unknown.
    pub(crate) since: String,
}

/// Endpoints with the same ports and family.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) family: &'static str,
    pub(crate) ports: Vec<Value>,
    pub(crate) endpoints: Vec<Wanted>,
}

/// What all slices of one owner have in common.
#[derive(Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) owner: &'a Value,
    pub(crate) owner_kind: &'static str,
    /// `generateName` is this and a dash.
    pub(crate) service: &'a str,
    pub(crate) labels: Map<String, Value>,
    pub(crate) annotations: Map<String, Value>,
    /// A time to note for slices that are new without any endpoint.
    pub(crate) since: String,
}

/// A slice being filled.
#[derive(Debug)]
struct Slice<'a> {
    existing: Option<&'a Arc<Value>>,
    family: &'static str,
    ports: Vec<Value>,
    endpoints: Vec<Value>,
    since: Option<String>,
    changed: bool,
}

impl Slice<'_> {
    fn take(&mut self, waiting: &mut VecDeque<Wanted>) {
        while self.endpoints.len() < SLICE_SIZE {
            let Some(wanted) = waiting.pop_front() else { return };
            self.note_time(&wanted.since);
            self.endpoints.push(wanted.endpoint);
            self.changed = true;
        }
    }

    /// The earliest change counts.
    fn note_time(&mut self, since: &str) {
        if !since.is_empty() && self.since.as_deref().is_none_or(|old| since < old) {
            self.since = Some(since.to_owned());
        }
    }
}

/// Ports in comparable form.
fn port_key(ports: &[Value]) -> Vec<String> {
    let mut key: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{}/{}/{}/{}",
                str_at(port, &["name"]),
                super::endpoint_ports::protocol(port),
                at(port, &["port"]).map(ToString::to_string).unwrap_or_default(),
                str_at(port, &["appProtocol"]),
            )
        })
        .collect();
    key.sort();
    key
}

/// What makes two endpoints the same one.
fn identity(endpoint: &Value) -> (&[Value], &str, &str, &str) {
    (
        list_at(endpoint, &["addresses"]),
        str_at(endpoint, &["targetRef", "namespace"]),
        str_at(endpoint, &["targetRef", "name"]),
        str_at(endpoint, &["hostname"]),
    )
}

/// The requests that make `existing` hold exactly `groups`. For each of `families` there is at
/// least one slice, an empty one if need be, when `placeholder` is set.
pub(crate) fn pack(
    existing: &[&Arc<Value>],
    groups: Vec<Group>,
    families: &[&'static str],
    placeholder: bool,
    shape: &Shape<'_>,
) -> Vec<Op> {
    let mut kept: Vec<Slice<'_>> = Vec::new();
    let mut unused: Vec<&Arc<Value>> = Vec::new();
    let mut rest: Vec<&Arc<Value>> =
        existing.iter().copied().filter(|slice| !is_deleting(slice)).collect();
    for group in groups {
        let key = port_key(&group.ports);
        let (same, others): (Vec<_>, Vec<_>) = rest.into_iter().partition(|slice| {
            str_at(slice, &["addressType"]) == group.family
                && port_key(list_at(slice, &["ports"])) == key
        });
        rest = others;
        pack_group(&same, group, shape, &mut kept, &mut unused);
    }
    unused.extend(rest);
    for family in families {
        if placeholder && !kept.iter().any(|slice| slice.family == *family) {
            // An empty slice that is there already will do: it is found among the unused below.
            let mut slice = Slice {
                existing: None,
                family,
                ports: Vec::new(),
                endpoints: Vec::new(),
                since: None,
                changed: true,
            };
            slice.note_time(&shape.since);
            let empty = unused.iter().position(|old| {
                str_at(old, &["addressType"]) == *family
                    && list_at(old, &["endpoints"]).is_empty()
                    && list_at(old, &["ports"]).is_empty()
            });
            if let Some(empty) = empty {
                let old = unused.remove(empty);
                slice.existing = Some(old);
                slice.changed = !labels_are(old, shape);
            }
            kept.push(slice);
        }
    }
    // A slice to delete becomes a slice to create where the (immutable) family allows it.
    for slice in kept.iter_mut().filter(|slice| slice.existing.is_none()) {
        if let Some(at) = unused.iter().position(|u| str_at(u, &["addressType"]) == slice.family) {
            slice.existing = Some(unused.remove(at));
        }
    }
    let (updates, creates): (Vec<_>, Vec<_>) = kept
        .into_iter()
        .filter(|slice| slice.changed)
        .map(|slice| to_op(slice, shape))
        .partition(|op| matches!(op, Op::Update { .. }));
    let deletes = unused.into_iter().map(|slice| Op::Delete {
        target: ObjectRef::of(ENDPOINT_SLICES, slice),
        uid: uid(slice).to_owned(),
        grace_seconds: None,
        propagation: Propagation::Background,
    });
    creates.into_iter().chain(updates).chain(deletes).collect()
}

fn pack_group<'a>(
    same: &[&'a Arc<Value>],
    group: Group,
    shape: &Shape<'_>,
    kept: &mut Vec<Slice<'a>>,
    unused: &mut Vec<&'a Arc<Value>>,
) {
    let Group { family, ports, endpoints } = group;
    let mut waiting: VecDeque<Wanted> = endpoints.into();
    let mut slices: Vec<Slice<'a>> = Vec::new();
    for old in same {
        let mut slice = Slice {
            existing: Some(old),
            family,
            ports: ports.clone(),
            endpoints: Vec::new(),
            since: None,
            changed: !labels_are(old, shape),
        };
        for endpoint in list_at(old, &["endpoints"]) {
            let found =
                waiting.iter().position(|wanted| identity(&wanted.endpoint) == identity(endpoint));
            let Some(wanted) = found.and_then(|at| waiting.remove(at)) else {
                slice.changed = true;
                continue;
            };
            if wanted.endpoint != *endpoint {
                // A hint is the controller's own thought, not something that happened to the pod.
                if without_hints(&wanted.endpoint) != without_hints(endpoint) {
                    slice.note_time(&wanted.since);
                }
                slice.changed = true;
            }
            slice.endpoints.push(wanted.endpoint);
        }
        if slice.endpoints.is_empty() {
            unused.push(old);
        } else {
            slices.push(slice);
        }
    }
    // Slices that are written anyway, the fullest first.
    let mut changing: Vec<&mut Slice<'a>> = slices.iter_mut().filter(|s| s.changed).collect();
    changing.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.len()));
    for slice in changing {
        slice.take(&mut waiting);
    }
    // One untouched slice, if it holds all that is left.
    if !waiting.is_empty() && waiting.len() < SLICE_SIZE {
        let fits = slices
            .iter_mut()
            .filter(|s| !s.changed && s.endpoints.len() + waiting.len() <= SLICE_SIZE)
            .max_by_key(|slice| slice.endpoints.len());
        if let Some(slice) = fits {
            slice.take(&mut waiting);
        }
    }
    while !waiting.is_empty() {
        let mut slice = Slice {
            existing: None,
            family,
            ports: ports.clone(),
            endpoints: Vec::new(),
            since: None,
            changed: true,
        };
        slice.take(&mut waiting);
        slices.push(slice);
    }
    kept.append(&mut slices);
}

fn without_hints(endpoint: &Value) -> Map<String, Value> {
    let mut fields = endpoint.as_object().cloned().unwrap_or_default();
    fields.shift_remove("hints");
    fields
}

/// Whether a slice carries exactly the labels and owner it shall (and at least the annotations).
fn labels_are(slice: &Value, shape: &Shape<'_>) -> bool {
    let empty = Map::new();
    let found = at(slice, &["metadata", "labels"]).and_then(Value::as_object).unwrap_or(&empty);
    let annotated = shape
        .annotations
        .iter()
        .all(|(key, value)| at(slice, &["metadata", "annotations", key]) == Some(value));
    *found == shape.labels && annotated
}

fn to_op(slice: Slice<'_>, shape: &Shape<'_>) -> Op {
    let mut object = match slice.existing {
        Some(existing) => Value::clone(existing),
        None => json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "generateName": format!("{}-", shape.service),
                "namespace": namespace(shape.owner),
                "ownerReferences":
                    [controller_reference(shape.owner, "v1", shape.owner_kind)],
            },
            "addressType": slice.family,
        }),
    };
    let mut annotations = shape.annotations.clone();
    if let Some(since) = slice.since {
        annotations.insert(TRIGGER_TIME.into(), since.into());
    }
    let metadata = member_at(&mut object, &["metadata"]);
    metadata.insert("labels".into(), Value::Object(shape.labels.clone()));
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    } else {
        metadata.insert("annotations".into(), Value::Object(annotations));
    }
    let fields = member_at(&mut object, &[]);
    fields.insert("endpoints".into(), Value::Array(slice.endpoints));
    fields.insert("ports".into(), Value::Array(slice.ports));
    if name(&object).is_empty() {
        Op::Create { resource: ENDPOINT_SLICES, object }
    } else {
        Op::Update { resource: ENDPOINT_SLICES, object }
    }
}
