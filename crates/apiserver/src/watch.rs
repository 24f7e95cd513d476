//! Watches over HTTP: the store's events as lines of JSON.
//!
//! An event is serialised once for all watchers that want it in the same form; a watcher with a
//! selector sees objects enter and leave it as ADDED and DELETED. A slow client holds back only
//! its own cursor.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch as signal;
use tokio::time::{Instant, Sleep};

use crate::http::{App, Asked, Body, Resource, accept_form, present, with_type};
use crate::http::{Selection, partial};
use crate::kinds::{Kind, Served};
use crate::request::accept::Form;
use crate::status::{Cause, Status};
use crate::store::{Change, Event, Resource as StoreResource, Watch};
use crate::table::{self, IncludeObject};

/// How often a client that allows it is told how far it has seen.
const BOOKMARK: Duration = Duration::from_secs(30);
/// Watches without `timeoutSeconds` end after this long, as upstream's do (30–60 minutes).
const LONGEST: u64 = 45 * 60;
/// Lines put into one frame at most.
const LINES: usize = 64;

struct Watcher {
    watch: Watch,
    resource: Resource,
    selection: Selection,
    form: Form,
    include: IncludeObject,
    bookmarks: bool,
    now: fn() -> jiff::Timestamp,
    /// The objects there were at first that have not been sent yet: each is serialised when its turn comes, so that the
    /// client reads the first while the last are still objects.
    initial: std::vec::IntoIter<Arc<Value>>,
    /// The revision to say at the end of those, if the client wants to know.
    initial_end: Option<u64>,
    /// Lines that wait to be sent.
    pending: VecDeque<Bytes>,
    columns_sent: bool,
    end: Pin<Box<Sleep>>,
    next_bookmark: Pin<Box<Sleep>>,
    stopping: signal::Receiver<bool>,
    over: bool,
}

/// Starts a watch of a collection (or of one object of it).
pub(crate) fn collection(
    app: &App,
    asked: &Asked,
    resource: Resource,
) -> Result<Response<Body>, Status> {
    let query = &asked.query;
    let (form, _) = accept_form(&asked.headers)?;
    let mut selection = Selection::read(query, &resource.kind, &resource.served)?;
    if let Some(name) = &resource.target.name {
        selection.fields =
            crate::request::selector::Fields::parse(&format!("metadata.name={name}"))
                .map_err(|error| Status::bad_request(error.to_string()))?;
    }
    let initial = initial_events(query)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let seconds = query.number("timeoutSeconds")?.unwrap_or(LONGEST).clamp(1, 24 * 3600);
    let store = app.registry.store();
    let at = StoreResource::new(&resource.kind.group, &resource.kind.plural);
    let namespace = resource.target.namespace.as_deref();
    let include = match query.get("includeObject") {
        "None" => IncludeObject::None,
        "Object" => IncludeObject::Object,
        _ => IncludeObject::Metadata,
    };

    let from = match query.get("resourceVersion") {
        "" | "0" => None,
        text => Some(text.parse::<u64>().map_err(|_| {
            Status::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: must be a number"
            ))
        })?),
    };
    let (listing, watch) = match from {
        // The state first, then what changes.
        None => {
            let (listing, watch) = store.list_watch(&at, namespace);
            (Some(listing), watch)
        }
        Some(from) if initial == Some(true) => {
            let (listing, watch) = store.list_watch(&at, namespace);
            if from > listing.revision {
                return Err(Status::too_large_revision(from, listing.revision));
            }
            (Some(listing), watch)
        }
        Some(from) => match store.watch(&at, namespace, from) {
            Ok(watch) => (None, watch),
            // Upstream answers 200 and says it in the stream.
            Err(expired) => {
                let mut line = error_line(&Status::expired(expired.to_string()));
                line.push(b'\n');
                return Ok(with_type(200, "application/json", line.into()));
            }
        },
    };
    let mut watcher = Watcher {
        watch,
        resource,
        selection,
        form,
        include,
        bookmarks,
        now: jiff::Timestamp::now,
        initial: Vec::new().into_iter(),
        initial_end: None,
        pending: VecDeque::new(),
        columns_sent: false,
        end: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
        next_bookmark: Box::pin(tokio::time::sleep(BOOKMARK)),
        stopping: app.stopping.clone(),
        over: false,
    };
    if let Some(listing) = listing
        && initial != Some(false)
    {
        watcher.initial = listing.items.into_iter();
        watcher.initial_end = (initial == Some(true) && bookmarks).then_some(listing.revision);
    }
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), watcher))
    });
    let mut response = with_type(200, "application/json", Bytes::new());
    *response.body_mut() = StreamBody::new(stream).boxed_unsync();
    Ok(response)
}

/// `sendInitialEvents`, with upstream's rules about its companions.
fn initial_events(query: &crate::request::Query) -> Result<Option<bool>, Status> {
    let refuse = |field: &str, why: &str| {
        Status::invalid(
            "meta.k8s.io",
            "ListOptions",
            "",
            vec![Cause::new("FieldValueForbidden", field, format!("Forbidden: {why}"))],
        )
    };
    let by = query.get("resourceVersionMatch");
    if !query.has("sendInitialEvents") {
        if !by.is_empty() {
            return Err(refuse(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        return Ok(None);
    }
    if by != "NotOlderThan" {
        return Err(refuse(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    Ok(Some(query.flag("sendInitialEvents")))
}

fn error_line(status: &Status) -> Vec<u8> {
    json!({"type": "ERROR", "object": status.to_json()}).to_string().into_bytes()
}

/// `{"type":…,"object":…}\n`.
fn write_line(kind: &str, object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    if serde_json::to_writer(&mut out, object).is_err() {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(b"}\n");
    out.into()
}

/// The line of an object in a form that does not depend on the watcher.
fn plain_line(
    change: &str,
    form: Form,
    kind: &Kind,
    served: &Served,
    object: &Arc<Value>,
) -> Bytes {
    match form {
        Form::Metadata => write_line(change, &partial(object)),
        _ => write_line(change, &present(kind, served, object)),
    }
}

impl Watcher {
    /// The next frame; `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        self.take_initial();
        if let Some(frame) = self.pending_frame() {
            return Some(frame);
        }
        loop {
            enum Woken {
                Event(Result<Arc<Event>, crate::store::Expired>),
                Bookmark,
                End,
            }
            let woken = tokio::select! {
                biased;
                () = &mut self.end => Woken::End,
                () = crate::server::told_to_stop(&mut self.stopping) => Woken::End,
                event = self.watch.next() => Woken::Event(event),
                () = &mut self.next_bookmark, if self.bookmarks => Woken::Bookmark,
            };
            match woken {
                Woken::End => {
                    self.over = true;
                    if !self.bookmarks {
                        return None;
                    }
                    let seen = self.watch.seen();
                    return Some(self.bookmark(seen, false));
                }
                Woken::Bookmark => {
                    self.next_bookmark.as_mut().reset(Instant::now() + BOOKMARK);
                    let seen = self.watch.seen();
                    return Some(self.bookmark(seen, false));
                }
                Woken::Event(Err(expired)) => {
                    self.over = true;
                    let mut line = error_line(&Status::expired(expired.to_string()));
                    line.push(b'\n');
                    return Some(line.into());
                }
                Woken::Event(Ok(event)) => {
                    self.take(&event);
                    // What else is there goes into the same frame.
                    while self.pending.len() < LINES {
                        match self.watch.try_next() {
                            Ok(Some(event)) => self.take(&event),
                            Ok(None) | Err(_) => break,
                        }
                    }
                    if let Some(frame) = self.pending_frame() {
                        return Some(frame);
                    }
                }
            }
        }
    }

    /// Queues a frame's worth of the objects there were at first.
    fn take_initial(&mut self) {
        while self.pending.len() < LINES {
            let Some(object) = self.initial.next() else {
                if let Some(revision) = self.initial_end.take() {
                    let line = self.bookmark(revision, true);
                    self.pending.push_back(line);
                }
                return;
            };
            if self.selection.matches(&self.resource, &object) {
                let line = self.line("ADDED", &object);
                self.pending.push_back(line);
            }
        }
    }

    fn pending_frame(&mut self) -> Option<Bytes> {
        let first = self.pending.pop_front()?;
        if self.pending.is_empty() {
            return Some(first);
        }
        let mut frame = first.to_vec();
        for line in self.pending.drain(..self.pending.len().min(LINES)) {
            frame.extend_from_slice(&line);
        }
        Some(frame.into())
    }

    /// Queues the line an event means to this watcher, if any.
    fn take(&mut self, event: &Event) {
        let is = self.selection.matches(&self.resource, &event.object);
        let was = event
            .previous
            .as_ref()
            .is_some_and(|previous| self.selection.matches(&self.resource, previous));
        let (change, leaves) = match event.change {
            Change::Added if is => ("ADDED", false),
            Change::Modified if is && was => ("MODIFIED", false),
            Change::Modified if is => ("ADDED", false),
            Change::Modified if was => ("DELETED", true),
            Change::Deleted if was => ("DELETED", false),
            _ => return,
        };
        // An object that leaves a selection is shown as it last was in it, at this revision.
        let departing = |event: &Event| {
            let mut last = event.previous.as_deref().cloned().unwrap_or_default();
            last["metadata"]["resourceVersion"] = event.revision.to_string().into();
            Arc::new(last)
        };
        let line = if self.form == Form::Table {
            let object = if leaves { departing(event) } else { event.object.clone() };
            self.line(change, &object)
        } else {
            let (kind, served, form) = (&self.resource.kind, &self.resource.served, self.form);
            let mut hash = DefaultHasher::new();
            (&served.group, &served.version, form as u8, change, leaves).hash(&mut hash);
            event.form(hash.finish(), || {
                let object = if leaves { departing(event) } else { event.object.clone() };
                plain_line(change, form, kind, served, &object)
            })
        };
        self.pending.push_back(line);
    }

    fn line(&mut self, change: &str, object: &Arc<Value>) -> Bytes {
        let (kind, served) = (&self.resource.kind, &self.resource.served);
        if self.form != Form::Table {
            return plain_line(change, self.form, kind, served, object);
        }
        let meta = json!({"resourceVersion": crate::registry::text(object, "resourceVersion")});
        let rows = std::iter::once(&**object);
        let mut table = table::table(kind, served, rows, meta, self.include, (self.now)());
        if self.columns_sent {
            table["columnDefinitions"] = Value::Null;
        }
        self.columns_sent = true;
        write_line(change, &table)
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => json!({
                "kind": self.resource.kind.kind,
                "apiVersion": self.resource.served.api_version(),
                "metadata": meta,
            }),
            Form::Metadata => partial(&json!({"metadata": meta})),
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null, "rows": [],
            }),
        };
        write_line("BOOKMARK", &object)
    }
}
