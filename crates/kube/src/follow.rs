//! Following one kind of objects: the list, then what changes, for as long as somebody listens. Lists stream (KEP-3157) where
//! the server can, and are paged where it cannot. What was seen last is where a broken watch goes on; only a server that
//! no longer knows that revision (410) is asked for everything again.
//!
//! This says what came over the wire, in order, and keeps no object.

use std::time::{Duration, Instant};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::Client;
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::pace::Retry;
use crate::wire::{self, Line, Received, Wire};

/// Objects per page where lists do not stream.
const PAGE: u32 = 200;
/// How long the server is asked to keep a watch, in seconds.
const LASTING: u32 = 290;
/// A watch that ends sooner is not begun again at once.
const SHORT: Duration = Duration::from_secs(1);
/// Longer lines and pages are not from a server of Kubernetes, whose objects have 1.5 MiB at most.
const LONGEST: usize = 64 << 20;
/// As much of a refusal is read.
const REFUSAL: usize = 64 << 10;

/// What came.
#[derive(Debug)]
pub(crate) enum Heard<K> {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(Received<K>),
    /// The list is complete.
    End,
    /// An object came or changed.
    Applied(Received<K>),
    /// An object went.
    Deleted(Box<ObjectMeta>),
    /// A watch or list failed; it is tried again with back-off.
    Failed(String),
}

/// What to do about a server that does not know the kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absent {
    /// It is asked again after this.
    pub(crate) again: Duration,
    /// Whether an empty list is told, for those who wait for one.
    pub(crate) is_empty: bool,
}

/// Why a request came to an end.
enum Stop {
    /// Nobody listens any more.
    Unheard,
    /// The server knows no streamed lists.
    CannotStream,
    /// The server does not know the kind.
    Absent,
    /// The server does not know the revision any more.
    Expired,
    /// Anything else, for people.
    Failed(String),
}

/// The follower of one kind.
pub(crate) struct Follower<K, F> {
    client: Client,
    /// Set if a server may not have the kind at all.
    absent: Option<Absent>,
    sink: mpsc::Sender<crate::Message>,
    message: F,
    of: std::marker::PhantomData<fn() -> K>,
}

impl<K: Wire, F: Fn(Heard<K>) -> crate::Message + Send> Follower<K, F> {
    pub(crate) fn new(
        client: Client,
        absent: Option<Absent>,
        sink: mpsc::Sender<crate::Message>,
        message: F,
    ) -> Self {
        Self { client, absent, sink, message, of: std::marker::PhantomData }
    }

    /// Follows until nobody listens.
    pub(crate) async fn run(self) {
        let mut retry = Retry::default();
        // Of a kind the server may not have, the first answer must be one whose status tells; there are few of them.
        let mut streaming = self.absent.is_none();
        let mut seen = None;
        // Whether the server was found to have the kind since it last said that it has not.
        let mut known = false;
        loop {
            let began = Instant::now();
            let outcome = match seen.take() {
                Some(revision) => self.watch(revision, &mut seen).await,
                None if streaming => self.streamed_list(&mut seen).await,
                None => match self.paged_list().await {
                    Ok(revision) => {
                        seen = Some(revision);
                        known = true;
                        continue;
                    }
                    Err(stop) => Err(stop),
                },
            };
            match outcome {
                // Servers end watches in good order now and then.
                Ok(()) if began.elapsed() >= SHORT => continue,
                Ok(()) => {}
                Err(Stop::Unheard) => return,
                Err(Stop::CannotStream) => {
                    tracing::info!(kind = %K::kind(&()), "the server does not stream lists, paging instead");
                    streaming = false;
                    continue;
                }
                Err(Stop::Absent) => {
                    tracing::debug!(kind = %K::kind(&()), "the server does not know the kind");
                    let (again, is_empty) = self
                        .absent
                        .map_or((SHORT, false), |absent| (absent.again, absent.is_empty));
                    // A server that begins may not know yet what it will serve: what was listed once is not taken for
                    // gone at the first word.
                    if !std::mem::take(&mut known) && is_empty && self.empty().await.is_err() {
                        return;
                    }
                    sleep(again).await;
                    continue;
                }
                Err(Stop::Expired) => {
                    seen = None;
                    if self
                        .say(Heard::Failed(
                            "the server has forgotten where the watch was (410), listing again"
                                .into(),
                        ))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Err(Stop::Failed(error)) => {
                    if self.say(Heard::Failed(error)).await.is_err() {
                        return;
                    }
                }
            }
            sleep(retry.next().unwrap_or(SHORT)).await;
        }
    }

    async fn say(&self, heard: Heard<K>) -> Result<(), Stop> {
        self.sink.send((self.message)(heard)).await.map_err(|_| Stop::Unheard)
    }

    async fn empty(&self) -> Result<(), Stop> {
        self.say(Heard::Begin).await?;
        self.say(Heard::End).await
    }

    /// The objects there are and then what changes, all by one watch; `seen` is how far it came.
    async fn streamed_list(&self, seen: &mut Option<String>) -> Result<(), Stop> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds={LASTING}"
        );
        let body = self.ask(&query, true).await?;
        self.say(Heard::Begin).await?;
        self.lines(body, true, seen).await
    }

    /// What changes from a revision on.
    async fn watch(&self, from: String, seen: &mut Option<String>) -> Result<(), Stop> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={LASTING}"
        );
        let body = self.ask(&query, false).await;
        if !matches!(body, Err(Stop::Expired)) {
            *seen = Some(from);
        }
        self.lines(body?, false, seen).await
    }

    /// The objects there are, page by page; returns what the list is true at.
    async fn paged_list(&self) -> Result<String, Stop> {
        let mut query = format!("limit={PAGE}");
        let mut begun = false;
        loop {
            let body = self.ask(&query, false).await?;
            let text = Limited::new(body, LONGEST).collect().await;
            let text = text.map_err(|error| Stop::Failed(error.to_string()))?.to_bytes();
            let page = wire::page(&text).map_err(|error| {
                Stop::Failed(format!("a list of {} cannot be read: {error}", K::plural(&())))
            })?;
            if !std::mem::replace(&mut begun, true) {
                self.say(Heard::Begin).await?;
            }
            for object in page.items {
                self.say(Heard::Listed(object)).await?;
            }
            let Some(next) = page.next else {
                let nowhere = || Stop::Failed("a list does not say its resourceVersion".into());
                let revision = page.revision.ok_or_else(nowhere)?;
                self.say(Heard::End).await?;
                return Ok(revision);
            };
            query = format!("limit={PAGE}&continue={}", escaped(&next));
        }
    }

    /// Asks, and looks at the answer's status.
    async fn ask(&self, query: &str, streamed: bool) -> Result<Body, Stop> {
        let uri = format!("{}?{query}", K::url_path(&(), None));
        let request = Request::get(uri).header(header::ACCEPT, "application/json");
        let request =
            request.body(Body::empty()).map_err(|error| Stop::Failed(error.to_string()))?;
        let answer =
            self.client.send(request).await.map_err(|error| Stop::Failed(chain(&error)))?;
        let (head, body) = answer.into_parts();
        match head.status {
            status if status.is_success() => Ok(body),
            // A server that does not know `sendInitialEvents` refuses the watch as a bad request.
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::UNPROCESSABLE_ENTITY
                if streamed =>
            {
                Err(Stop::CannotStream)
            }
            StatusCode::NOT_FOUND if self.absent.is_some() => Err(Stop::Absent),
            StatusCode::GONE => Err(Stop::Expired),
            status => {
                let text = Limited::new(body, REFUSAL).collect().await;
                let text = text.map(|text| text.to_bytes()).unwrap_or_default();
                let said =
                    serde_json::from_slice::<Status>(&text).ok().and_then(|said| said.message);
                let said = said.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
                Err(Stop::Failed(format!("the server refuses with {status}: {said}")))
            }
        }
    }

    /// Tells the lines of a watch until it ends. `listing` says that it begins with the objects there are; until they
    /// have all been told, there is nothing to go on from.
    async fn lines(
        &self,
        mut body: Body,
        mut listing: bool,
        seen: &mut Option<String>,
    ) -> Result<(), Stop> {
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Stop::Failed(chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            let mut data = &data[..];
            while let Some(end) = memchr::memchr(b'\n', data) {
                let (line, after) = (&data[..end], &data[end + 1..]);
                data = after;
                if rest.is_empty() {
                    self.line(line, &mut listing, seen).await?;
                } else {
                    rest.extend_from_slice(line);
                    self.line(&rest, &mut listing, seen).await?;
                    rest.clear();
                }
            }
            rest.extend_from_slice(data);
            if rest.len() > LONGEST {
                return Err(Stop::Failed(format!(
                    "a line of a watch is longer than {LONGEST} bytes"
                )));
            }
        }
        if listing {
            return Err(Stop::Failed("the server ended a list before it was complete".into()));
        }
        Ok(())
    }

    async fn line(
        &self,
        text: &[u8],
        listing: &mut bool,
        seen: &mut Option<String>,
    ) -> Result<(), Stop> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let line = wire::line::<K>(text).map_err(|error| {
            Stop::Failed(format!("a line of a watch of {} cannot be read: {error}", K::plural(&())))
        })?;
        let heard = match line {
            Line::Error(status) if status.code == Some(410) => return Err(Stop::Expired),
            // The status of the answer said nothing of it.
            Line::Error(status) if *listing && matches!(status.code, Some(400 | 405 | 422)) => {
                return Err(Stop::CannotStream);
            }
            Line::Error(status) => {
                let said = status.message.or(status.reason).unwrap_or_default();
                return Err(Stop::Failed(format!("the server gives up a watch: {said}")));
            }
            Line::Bookmark { revision, list_ends } => {
                let ends = list_ends && std::mem::take(listing);
                if !*listing && revision.is_some() {
                    *seen = revision;
                }
                if ends {
                    self.say(Heard::End).await?;
                }
                return Ok(());
            }
            Line::Applied(object) if *listing => return self.say(Heard::Listed(object)).await,
            Line::Applied(object) => {
                keep(seen, object.meta());
                Heard::Applied(object)
            }
            Line::Deleted(meta) => {
                keep(seen, &meta);
                Heard::Deleted(meta)
            }
        };
        self.say(heard).await
    }
}

/// Where to go on after an object. It is said before the object is told: whoever hears it late hears it all the same.
fn keep(seen: &mut Option<String>, meta: &ObjectMeta) {
    if let (Some(seen), Some(revision)) = (seen, &meta.resource_version) {
        seen.clone_from(revision);
    }
}

/// What a value may not have in a query, escaped; continue tokens are base64.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one =
        |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// An error with its causes, on one line, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
