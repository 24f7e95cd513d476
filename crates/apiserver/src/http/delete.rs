//! DELETE: of an object, or of all that a list would show.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::read::Selection;
use super::write::{answer, manner, media, parse};
use super::{App, Asked, Body, Resource, read_body, respond};
use crate::registry::{DeleteOptions, Deleted, Place, Registry, text};
use crate::request::accept::Syntax;
use crate::status::{self, Status};
use crate::store::Resource as StoreResource;

/// Options of a delete: the body's, then the parameters'.
fn delete_options(
    query: &crate::request::Query,
    media: &str,
    bytes: &Bytes,
) -> Result<DeleteOptions, Status> {
    let mut body =
        if bytes.is_empty() { json!({}) } else { parse(media, bytes, "DeleteOptions")?.value };
    if let Some(seconds) = query.number("gracePeriodSeconds")? {
        body["gracePeriodSeconds"] = seconds.into();
    }
    if query.has("propagationPolicy") {
        body["propagationPolicy"] = query.get("propagationPolicy").into();
    }
    if query.has("orphanDependents") {
        body["orphanDependents"] = query.flag("orphanDependents").into();
    }
    let mut options = DeleteOptions::from_json(&body)?;
    options.dry_run |= query.dry_run()?;
    Ok(options)
}

/// DELETE of an object.
pub(super) async fn delete(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let manner = manner(app, &asked, resource, "")?;
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let options = delete_options(&asked.query, &media, &bytes)?;
    let Deleted { object, gone } = app.registry.delete(&resource.place(), &options)?;
    // Upstream answers with the object for these kinds, with a Status for the others.
    let shows = matches!(resource.kind.kind.as_str(), "Pod" | "Service" | "ServiceAccount");
    if gone && !(shows && resource.kind.group.is_empty()) {
        let done = status::success(
            &resource.kind.group,
            &resource.kind.plural,
            text(&object, "name"),
            text(&object, "uid"),
        );
        return Ok(respond(200, &done, manner.syntax));
    }
    answer(app, &asked.query, resource, &manner, 200, &object)
}

/// DELETE of a collection.
pub(super) async fn delete_collection(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let media = media(&asked.request);
    let selection = Selection::read(&asked.query, &resource.kind, &resource.served)?;
    let bytes = read_body(asked.request).await?;
    let options = delete_options(&asked.query, &media, &bytes)?;
    let removed = sweep(&app.registry, resource, &selection, &options)?;
    let list = json!({
        "kind": resource.kind.list_kind,
        "apiVersion": resource.served.api_version(),
        "metadata": {"resourceVersion": app.registry.store().revision().to_string()},
        "items": removed.iter().map(|object| Value::clone(&resource.present(object))).collect::<Vec<_>>(),
    });
    Ok(respond(200, &list, Syntax::Json))
}

fn sweep(
    registry: &Registry,
    resource: &Resource,
    selection: &Selection,
    options: &DeleteOptions,
) -> Result<Vec<Arc<Value>>, Status> {
    let at = StoreResource::new(&resource.kind.group, &resource.kind.plural);
    let listing = registry.store().list(&at, resource.target.namespace.as_deref());
    let mut removed = Vec::new();
    for object in listing.items.iter().filter(|object| selection.matches(resource, object)) {
        let place = Place::new(&resource.kind, text(object, "namespace"), text(object, "name"));
        match registry.delete(&place, options) {
            Ok(deleted) => removed.push(deleted.object),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    Ok(removed)
}
