//! get and list: selectors, paging, revisions, tables.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::Response;
use serde_json::{Value, json};

use super::{App, Asked, Body, Resource, accept_form, json_bytes, respond};
use crate::kinds::{Kind, Served};
use crate::registry::{subresource, text};
use crate::request::Query;
use crate::request::accept::{Form, Syntax};
use crate::request::selector::{Fields, Labels};
use crate::status::{Cause, Status};
use crate::store::{Listing, Resource as StoreResource};
use crate::table::{self, IncludeObject};

/// Which objects of a collection are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
}

impl Selection {
    /// From `labelSelector` and `fieldSelector`, checked against the kind.
    pub(crate) fn read(query: &Query, kind: &Kind, served: &Served) -> Result<Self, Status> {
        let bad =
            |error: crate::request::selector::SelectorError| Status::bad_request(error.to_string());
        let labels = Labels::parse(query.get("labelSelector")).map_err(bad)?;
        let fields = Fields::parse(query.get("fieldSelector")).map_err(bad)?;
        for name in fields.names() {
            if !selectable(kind, served).contains(&name) {
                return Err(Status::bad_request(format!("field label not supported: {name}")));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Narrows to one name, as a watch of a single object does.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether a stored object is wanted.
    pub(crate) fn matches(&self, resource: &Resource, object: &Arc<Value>) -> bool {
        self.labels.matches(object)
            && (self.fields.is_empty() || self.fields.matches(&resource.present(object)))
    }
}

/// Upstream's field labels per kind.
fn selectable(kind: &Kind, served: &Served) -> &'static [&'static str] {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ("", "Node") => &["metadata.name", "spec.unschedulable"],
        ("", "Namespace") => &["metadata.name", "status.phase"],
        ("", "Secret") => &["metadata.name", "metadata.namespace", "type"],
        ("", "Service") => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        ("apps", "ReplicaSet") => &["metadata.name", "metadata.namespace", "status.replicas"],
        ("networking.k8s.io", "IPAddress") => &["metadata.name", "spec.parentRef.name"],
        ("", "Event") if served.group == "events.k8s.io" => &[
            "metadata.name",
            "metadata.namespace",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ("", "Event") => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        _ if kind.namespaced => &["metadata.name", "metadata.namespace"],
        _ => &["metadata.name"],
    }
}

fn include(query: &Query) -> Result<IncludeObject, Status> {
    match query.get("includeObject") {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "None" => Ok(IncludeObject::None),
        "Object" => Ok(IncludeObject::Object),
        other => Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}"))),
    }
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A Table of some stored objects.
pub(crate) fn table_of(
    app: &App,
    resource: &Resource,
    query: &Query,
    objects: &[Arc<Value>],
    meta: Value,
) -> Result<Value, Status> {
    let rows = objects.iter().map(|object| &**object);
    let now = app.registry.now();
    Ok(table::table(&resource.kind, &resource.served, rows, meta, include(query)?, now))
}

/// One object.
pub(super) fn object(
    app: &App,
    asked: &Asked,
    resource: Resource,
) -> Result<Response<Body>, Status> {
    let place = resource.place();
    let (form, syntax) = accept_form(&asked.headers)?;
    if asked.query.flag("watch") || resource.target.watch {
        return crate::watch::collection(app, asked, resource);
    }
    revision(&asked.query, app.registry.store().revision())?;
    let object = app.registry.get(&place)?;
    match form {
        Form::Object => Ok(respond(200, &resource.present(&object), syntax)),
        Form::Metadata => Ok(respond(200, &partial(&object), syntax)),
        Form::Table => {
            let meta = json!({"resourceVersion": text(&object, "resourceVersion")});
            Ok(respond(200, &table_of(app, &resource, &asked.query, &[object], meta)?, syntax))
        }
    }
}

/// The scale of an object.
pub(super) fn scale(
    app: &App,
    asked: &Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let place = resource.place();
    let object = app.registry.get(&place)?;
    let scale =
        subresource::scale_of(&resource.kind, &object).ok_or_else(Status::no_such_resource)?;
    Ok(respond(200, &scale, accept_form(&asked.headers)?.1))
}

/// The `resourceVersion` parameter, if it names a revision. 504 for one from the future.
pub(crate) fn revision(query: &Query, current: u64) -> Result<Option<u64>, Status> {
    let asked = match query.get("resourceVersion") {
        "" => return Ok(None),
        text => text.parse::<u64>().map_err(|_| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?,
    };
    if asked > current {
        return Err(Status::too_large_revision(asked, current));
    }
    Ok(Some(asked))
}

/// Lists that are being paged through: a client that comes with a continue token gets the list
/// as it was when it started. The oldest are forgotten; their tokens have expired.
#[derive(Default)]
pub(crate) struct Pages(Mutex<VecDeque<(PageKey, Arc<Listing>)>>);

type PageKey = (StoreResource, Option<String>, u64);

const REMEMBERED: usize = 64;

impl Pages {
    fn find(&self, key: &PageKey) -> Option<Arc<Listing>> {
        let pages = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pages.iter().find(|(known, _)| known == key).map(|(_, listing)| listing.clone())
    }

    fn remember(&self, key: PageKey, listing: &Arc<Listing>) {
        let mut pages = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pages.iter().any(|(known, _)| *known == key) {
            return;
        }
        if pages.len() >= REMEMBERED {
            pages.pop_front();
        }
        pages.push_back((key, listing.clone()));
    }
}

/// A continue token: revision, namespace and name of the last object that was sent.
fn token(revision: u64, last: &Value) -> String {
    let start = format!("{}/{}", text(last, "namespace"), text(last, "name"));
    BASE64.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

fn read_token(text: &str) -> Result<(u64, String, String), Status> {
    let bad = || Status::bad_request("continue key is not valid: malformed token");
    let json = BASE64.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
    let value: Value = serde_json::from_slice(&json).map_err(|_| bad())?;
    let revision = value["rv"].as_u64().ok_or_else(bad)?;
    let (namespace, name) =
        value["start"].as_str().and_then(|start| start.split_once('/')).ok_or_else(bad)?;
    Ok((revision, namespace.to_owned(), name.to_owned()))
}

fn check_match(query: &Query) -> Result<(), Status> {
    let forbidden = |why: &str| {
        Status::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![Cause::new(
                "FieldValueForbidden",
                "resourceVersionMatch",
                format!("Forbidden: {why}"),
            )],
        )
    };
    match query.get("resourceVersionMatch") {
        "" => Ok(()),
        "Exact" | "NotOlderThan" if query.get("resourceVersion").is_empty() => {
            Err(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"))
        }
        "Exact" | "NotOlderThan" if query.has("continue") => {
            Err(forbidden("resourceVersionMatch is forbidden when continue is provided"))
        }
        "Exact" if query.get("resourceVersion") == "0" => {
            Err(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
        }
        "Exact" | "NotOlderThan" => Ok(()),
        other => Err(Status::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![Cause::new(
                "FieldValueNotSupported",
                "resourceVersionMatch",
                format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                ),
            )],
        )),
    }
}

/// A collection, or a watch of it.
pub(super) fn collection(
    app: &App,
    asked: &Asked,
    resource: Resource,
) -> Result<Response<Body>, Status> {
    if asked.query.flag("watch") || resource.target.watch {
        return crate::watch::collection(app, asked, resource);
    }
    let (form, syntax) = accept_form(&asked.headers)?;
    let query = &asked.query;
    check_match(query)?;
    let selection = Selection::read(query, &resource.kind, &resource.served)?;
    let limit = match query.number("limit")? {
        None | Some(0) => usize::MAX,
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let store = app.registry.store();
    let at = StoreResource::new(&resource.kind.group, &resource.kind.plural);
    let namespace = resource.target.namespace.as_deref();

    let (listing, after) = match query.get("continue") {
        "" => {
            let listing = Arc::new(store.list(&at, namespace));
            let asked = revision(query, listing.revision)?;
            if query.get("resourceVersionMatch") == "Exact"
                && asked.is_some_and(|asked| asked != listing.revision)
            {
                return Err(Status::expired(
                    "The resourceVersion for the provided list is too old.",
                ));
            }
            (listing, None)
        }
        continued => {
            let (revision, ns, name) = read_token(continued)?;
            let key = (at.clone(), namespace.map(str::to_owned), revision);
            let listing = match app.pages.find(&key) {
                Some(listing) => listing,
                None if revision == store.revision() => Arc::new(store.list(&at, namespace)),
                None => {
                    return Err(Status::expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
                    ));
                }
            };
            (listing, Some((ns, name)))
        }
    };

    let items: &[Arc<Value>] = match &after {
        None => &listing.items,
        Some((ns, name)) => {
            let start = listing.items.partition_point(|object| {
                (text(object, "namespace"), text(object, "name")) <= (ns.as_str(), name.as_str())
            });
            &listing.items[start..]
        }
    };
    let mut found: Vec<Arc<Value>> = Vec::new();
    let mut rest = items.iter();
    let mut meta = json!({"resourceVersion": listing.revision.to_string()});
    for object in rest.by_ref() {
        if !selection.matches(&resource, object) {
            continue;
        }
        found.push(object.clone());
        if found.len() == limit {
            break;
        }
    }
    let more = rest.clone().any(|object| selection.matches(&resource, object));
    if more && let Some(last) = found.last() {
        meta["continue"] = token(listing.revision, last).into();
        if selection.is_empty() {
            meta["remainingItemCount"] = rest.len().into();
        }
        let key = (at, namespace.map(str::to_owned), listing.revision);
        app.pages.remember(key, &listing);
    }
    write_list(app, asked, &resource, form, syntax, &found, meta)
}

fn write_list(
    app: &App,
    asked: &Asked,
    resource: &Resource,
    form: Form,
    syntax: Syntax,
    found: &[Arc<Value>],
    meta: Value,
) -> Result<Response<Body>, Status> {
    let (kind, version) = match form {
        Form::Table => {
            let table = table_of(app, resource, &asked.query, found, meta)?;
            return Ok(respond(200, &table, syntax));
        }
        Form::Object => (resource.kind.list_kind.clone(), resource.served.api_version()),
        Form::Metadata => ("PartialObjectMetadataList".into(), "meta.k8s.io/v1".into()),
    };
    let item = |object: &Arc<Value>| match form {
        Form::Metadata => Arc::new(partial(object)),
        _ => resource.present(object),
    };
    if syntax == Syntax::Yaml {
        let items: Vec<Value> = found.iter().map(|object| Value::clone(&item(object))).collect();
        let list = json!({"kind": kind, "apiVersion": version, "metadata": meta, "items": items});
        return Ok(respond(200, &list, syntax));
    }
    // Written piece by piece: a list of thousands is never copied as values.
    let head = json!({"kind": kind, "apiVersion": version, "metadata": meta}).to_string();
    let mut out = head.into_bytes();
    out.pop();
    out.extend_from_slice(b",\"items\":[");
    for (at, object) in found.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, &*item(object)).map_err(Status::internal)?;
    }
    out.extend_from_slice(b"]}");
    Ok(json_bytes(200, out))
}
