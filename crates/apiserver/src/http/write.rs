//! create, update, patch: from a body to the registry and back.
//!
//! A body is read in the version it was sent to, checked against that version's schema, and
//! converted to the storage form before the registry sees it.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::read;
use super::{App, Asked, Body, Resource, accept_form, json_bytes, read_body, respond, warn};
use crate::defaults;
use crate::merge::{self, Manager};
use crate::patch::Patch;
use crate::registry::{Part, WriteOptions, Written, identity, text};
use crate::request::accept::{Form, Syntax};
use crate::request::protobuf;
use crate::schema::body::{self, Body as Read};
use crate::schema::decode::{DecodeError, FieldValidation};
use crate::status::{self, Cause, Status};

/// What every write request says, besides its body.
pub(super) struct Manner {
    options: WriteOptions,
    validation: FieldValidation,
    manager: Manager,
    form: Form,
    pub(super) syntax: Syntax,
}

pub(super) fn manner(
    app: &App,
    asked: &Asked,
    resource: &Resource,
    sub: &str,
) -> Result<Manner, Status> {
    let (form, syntax) = accept_form(&asked.headers)?;
    let mode = asked.query.get("fieldValidation");
    let validation = FieldValidation::from_parameter(mode).ok_or_else(|| {
        Status::invalid(
            "meta.k8s.io",
            "CreateOptions",
            "",
            vec![Cause::new(
                "FieldValueNotSupported",
                "fieldValidation",
                format!(
                    "Unsupported value: {mode:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                ),
            )],
        )
    })?;
    let name = match asked.query.get("fieldManager") {
        "" => {
            let agent = asked
                .headers
                .get(http::header::USER_AGENT)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("unknown");
            agent.split('/').next().unwrap_or("unknown").to_owned()
        }
        name => name.to_owned(),
    };
    Ok(Manner {
        options: WriteOptions { dry_run: asked.query.dry_run()? },
        validation,
        manager: Manager {
            name,
            api_version: resource.served.api_version(),
            subresource: sub.to_owned(),
            now: identity::time(app.registry.now()),
        },
        form,
        syntax,
    })
}

pub(super) fn media(request: &Request<Incoming>) -> String {
    request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

/// Reads a JSON, YAML or protobuf body.
pub(super) fn parse(media: &str, bytes: &[u8], kind: &str) -> Result<Read, Status> {
    let read = match media.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "text/json" | "*/*" => body::json(bytes),
        "application/yaml" | "application/x-yaml" | "text/yaml" => body::yaml(bytes),
        protobuf::MEDIA => {
            return protobuf::read(bytes)
                .map(|value| Read { value, duplicates: Vec::new() })
                .map_err(|error| Status::bad_request(error.to_string()));
        }
        _ => {
            return Err(Status::unsupported_media_type(&["application/json", "application/yaml"]));
        }
    };
    let unreadable = |why: &str| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why}"
        ))
    };
    let read = read.map_err(|error| unreadable(&error))?;
    if read.value.is_object() { Ok(read) } else { Err(unreadable("the body is not an object")) }
}

/// The body says what the URL says, or nothing.
fn check_identity(resource: &Resource, value: &Value) -> Result<(), Status> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (kind, version) = (&resource.kind.kind, resource.served.api_version());
    if !text("apiVersion").is_empty() && text("apiVersion") != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({version})",
            text("apiVersion")
        )));
    }
    if !text("kind").is_empty() && text("kind") != kind {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {kind}: the kind in the data does not match the expected kind",
            text("kind"),
            resource.served.version
        )));
    }
    Ok(())
}

/// Checks a value against the schema of the version it is in; returns it pruned, with warnings.
fn decode(
    resource: &Resource,
    read: Read,
    mode: FieldValidation,
    patched: bool,
) -> Result<(Value, Vec<String>), Status> {
    let Some(schema) = resource.served.schema() else { return Ok((read.value, Vec::new())) };
    let shown = if patched { read.value.to_string() } else { String::new() };
    schema.decode(read, mode).map_err(|error| match error {
        DecodeError::Strict(_) if patched => Status::invalid(
            "",
            "",
            "",
            vec![Cause::new(
                "FieldValueInvalid",
                "patch",
                format!("Invalid value: {shown:?}: {error}"),
            )],
        ),
        error if resource.kind.crd.is_some() => Status::bad_request(error.to_string()),
        error => Status::bad_request(format!(
            "{0} in version \"{1}\" cannot be handled as a {0}: {error}",
            resource.kind.kind, resource.served.version
        )),
    })
}

/// Gives an object in a served version its defaults and converts it to the storage form.
fn to_storage(resource: &Resource, mut value: Value) -> Result<Value, Status> {
    let storage = resource.kind.storage_api_version();
    let own = resource.served.api_version();
    if let Some(root) = value.as_object_mut() {
        root.insert("apiVersion".into(), own.as_str().into());
        root.insert("kind".into(), resource.kind.kind.as_str().into());
    }
    if own != storage {
        defaults::apply(&resource.kind, &resource.served, &mut value);
        crate::convert::convert(&mut value, &storage)
            .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    Ok(value)
}

/// Writes down whose fields are whose, on an object in the served version.
fn track(resource: &Resource, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    if let Some(schema) = resource.served.schema() {
        merge::track_update(&schema, old, new, manager);
    }
}

pub(super) fn answer(
    app: &App,
    query: &crate::request::Query,
    resource: &Resource,
    manner: &Manner,
    code: u16,
    object: &Arc<Value>,
) -> Result<Response<Body>, Status> {
    match manner.form {
        Form::Object => Ok(respond(code, &resource.present(object), manner.syntax)),
        Form::Metadata => Ok(respond(code, &read::partial(object), manner.syntax)),
        Form::Table => {
            let meta = json!({"resourceVersion": text(object, "resourceVersion")});
            let table = read::table_of(app, resource, query, std::slice::from_ref(object), meta)?;
            Ok(respond(code, &table, manner.syntax))
        }
    }
}

fn written(
    app: &App,
    query: &crate::request::Query,
    resource: &Resource,
    manner: &Manner,
    warnings: Vec<String>,
    written: Written,
) -> Result<Response<Body>, Status> {
    let code = if written.created { 201 } else { 200 };
    let mut response = answer(app, query, resource, manner, code, &written.object)?;
    warn(response.headers_mut(), warnings.into_iter().chain(written.warnings));
    Ok(response)
}

/// POST to a collection.
pub(super) async fn create(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let manner = manner(app, &asked, resource, "")?;
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let read = parse(&media, &bytes, &resource.kind.kind)?;
    check_identity(resource, &read.value)?;
    let (mut value, warnings) = decode(resource, read, manner.validation, false)?;
    track(resource, None, &mut value, &manner.manager);
    let value = to_storage(resource, value)?;
    let outcome = app.registry.create(&resource.place(), value, &manner.options)?;
    written(app, &asked.query, resource, &manner, warnings, outcome)
}

fn part(sub: &str) -> Part {
    match sub {
        "status" => Part::Status,
        "finalize" => Part::Finalize,
        _ => Part::Main,
    }
}

/// PUT of an object or of its status.
pub(super) async fn update(
    app: &App,
    asked: Asked,
    resource: &Resource,
    sub: &str,
) -> Result<Response<Body>, Status> {
    let manner = manner(app, &asked, resource, sub)?;
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let read = parse(&media, &bytes, &resource.kind.kind)?;
    check_identity(resource, &read.value)?;
    let (value, warnings) = decode(resource, read, manner.validation, false)?;
    if resource.kind.crd.is_some() && text(&value, "resourceVersion").is_empty() {
        return Err(Status::invalid(
            &resource.kind.group,
            &resource.kind.kind,
            text(&value, "name"),
            vec![Cause::new(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                "Invalid value: 0: must be specified for an update",
            )],
        ));
    }
    let outcome = app.registry.change(&resource.place(), part(sub), &manner.options, |old| {
        let mut value = value.clone();
        track(resource, Some(&resource.present(old)), &mut value, &manner.manager);
        to_storage(resource, value)
    })?;
    written(app, &asked.query, resource, &manner, warnings, outcome)
}

/// PATCH of an object or of its status; an apply may create.
pub(super) async fn patch(
    app: &App,
    asked: Asked,
    resource: &Resource,
    sub: &str,
) -> Result<Response<Body>, Status> {
    let mut manner = manner(app, &asked, resource, sub)?;
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let patch = Patch::read(&media, resource.kind.crd.is_some(), &bytes)?;
    if patch.is_apply() && asked.query.get("fieldManager").is_empty() {
        return Err(Status::invalid(
            "meta.k8s.io",
            "PatchOptions",
            "",
            vec![Cause::new(
                "FieldValueRequired",
                "fieldManager",
                "Required value: is required for apply patch",
            )],
        ));
    }
    let schema = resource.served.schema();
    let place = resource.place();
    // Two clients may apply the same new object at once: whoever loses patches what is there.
    for _ in 0..4 {
        if let Patch::Apply(applied) = &patch
            && sub.is_empty()
            && app.registry.get(&place).is_err()
        {
            match apply_new(app, resource, &manner, applied) {
                Err(status) if status.reason == "AlreadyExists" => continue,
                outcome => {
                    let (warnings, outcome) = outcome?;
                    return written(app, &asked.query, resource, &manner, warnings, outcome);
                }
            }
        }
        break;
    }
    if let Patch::Apply(applied) = &patch {
        // The configuration itself is what must be strict; the result holds others' fields too.
        let mut warnings = decode(resource, applied.clone(), manner.validation, false)?.1;
        let outcome =
            change(app, resource, &manner, &patch, sub, schema.as_ref(), &mut Vec::new())?;
        warnings.dedup();
        return written(app, &asked.query, resource, &manner, warnings, outcome);
    }
    let mut warnings = Vec::new();
    let outcome = change(app, resource, &manner, &patch, sub, schema.as_ref(), &mut warnings)?;
    manner.options.dry_run = false;
    written(app, &asked.query, resource, &manner, warnings, outcome)
}

fn change(
    app: &App,
    resource: &Resource,
    manner: &Manner,
    patch: &Patch,
    sub: &str,
    schema: Option<&crate::schema::Schema>,
    warnings: &mut Vec<String>,
) -> Result<Written, Status> {
    let (kind, served) = (&resource.kind, &resource.served);
    app.registry.change(&resource.place(), part(sub), &manner.options, |old| {
        let current = resource.present(old);
        let next = patch.result(kind, served, schema, &current, &manner.manager)?;
        let mode = if patch.is_apply() { FieldValidation::Ignore } else { manner.validation };
        let read = Read { value: next, duplicates: Vec::new() };
        let (mut next, found) = decode(resource, read, mode, true)?;
        *warnings = found;
        // A patch names the revision it wants in its body; the one it was computed from is not it.
        if text(&next, "resourceVersion") == text(&current, "resourceVersion") {
            crate::registry::set_meta(&mut next, "resourceVersion", "".into());
        }
        if !patch.is_apply() {
            track(resource, Some(&current), &mut next, &manner.manager);
        }
        to_storage(resource, next)
    })
}

fn apply_new(
    app: &App,
    resource: &Resource,
    manner: &Manner,
    applied: &Read,
) -> Result<(Vec<String>, Written), Status> {
    crate::patch::check_applied(&resource.kind, &resource.served, &applied.value)?;
    let (value, warnings) = decode(resource, applied.clone(), manner.validation, false)?;
    let value = match resource.served.schema() {
        Some(schema) => merge::apply(&schema, None, &value, &manner.manager)
            .map_err(|error| Status::bad_request(error.to_string()))?,
        None => value,
    };
    let mut place = resource.place();
    let mut value = to_storage(resource, value)?;
    if text(&value, "name").is_empty() {
        crate::registry::set_meta(&mut value, "name", place.name.as_str().into());
    } else if text(&value, "name") != place.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            text(&value, "name"),
            place.name
        )));
    }
    place.name.clear();
    Ok((warnings, app.registry.create(&place, value, &manner.options)?))
}

/// GET, PUT and PATCH of the scale subresource.
pub(super) async fn scale(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let method = asked.method.clone();
    if method == Method::GET || method == Method::HEAD {
        return read::scale(app, &asked, resource);
    }
    let manner = manner(app, &asked, resource, "scale")?;
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let place = resource.place();
    let scale = if method == Method::PUT {
        let read = parse(&media, &bytes, "Scale")?;
        app.registry.change_scale(&place, &manner.options, |_| Ok(read.value.clone()))?
    } else if method == Method::PATCH {
        // A Scale has no lists: every merge is the same merge.
        let patch = match Patch::read(&media, false, &bytes)? {
            Patch::Strategic(patch) => Patch::Merge(patch),
            Patch::Apply(applied) => Patch::Merge(applied.value),
            patch => patch,
        };
        app.registry.change_scale(&place, &manner.options, |current| {
            let mut next =
                patch.result(&resource.kind, &resource.served, None, current, &manner.manager)?;
            if text(&next, "resourceVersion") == text(current, "resourceVersion") {
                crate::registry::set_meta(&mut next, "resourceVersion", "".into());
            }
            Ok(next)
        })?
    } else {
        return Err(Status::method_not_allowed());
    };
    Ok(respond(200, &scale, manner.syntax))
}

/// POST of a Binding.
pub(super) async fn bind(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let options = WriteOptions { dry_run: asked.query.dry_run()? };
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let binding = parse(&media, &bytes, "Binding")?.value;
    app.registry.bind(&resource.place(), &binding, &options)?;
    Ok(json_bytes(201, status::success("", "", "", "").to_string()))
}

/// POST of an Eviction.
pub(super) async fn evict(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let media = media(&asked.request);
    let bytes = read_body(asked.request).await?;
    let eviction = parse(&media, &bytes, "Eviction")?.value;
    app.registry.evict(&resource.place(), &eviction)?;
    Ok(json_bytes(201, status::success("", "", "", "").to_string()))
}
