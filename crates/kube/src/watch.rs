//! The watches. Lists stream (KEP-3157) where the server can, and are paged where it cannot; either way an object is
//! converted as it arrives and dropped.

use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use model::convert::{AddressBlock, ClusterNetworkPolicy, IpPool};
use model::{Event, Kind, NodeFacts, ObjectKey, ObjectRef, Parsed, Report, Severity, Uid, Update};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::pace::Retry;
use crate::progress::revision_of;

/// Objects per page where lists do not stream.
const PAGE: u32 = 200;
/// A server that does not know a kind is asked again after this: it may be upgraded.
const ABSENT: Duration = Duration::from_secs(600);
/// The same for pools, which somebody may just be installing.
const ABSENT_POOLS: Duration = Duration::from_secs(20);
/// When the objects of an EndpointSlice changed, written by its controller with sub-second precision.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What a watch has to say.
#[derive(Debug)]
pub enum Message {
    /// The cluster changed.
    Event {
        /// What happened.
        event: Event,
        /// The object's `resourceVersion`, where the API's is a number (Kubernetes promises it from 1.35, KEP-5504).
        revision: Option<u64>,
        /// When it was read from the wire.
        received: Instant,
        /// When it happened, as far as the object says so; to the second unless it is an EndpointSlice.
        happened: Option<SystemTime>,
        /// What is wrong with the object.
        reports: Vec<Report>,
    },
    /// A watch or list failed; it is tried again with back-off.
    Failed {
        /// Which.
        kind: Kind,
        /// Why, for people.
        error: String,
    },
}

/// The running watches; dropping it stops them.
#[derive(Debug)]
pub struct Watches {
    _tasks: JoinSet<()>,
}

/// Watches Services, EndpointSlices, Nodes, Pods, Namespaces, NetworkPolicies and, where the server has them, ServiceCIDRs. Messages of one kind are in order.
#[must_use]
pub fn watch(client: &Client, sink: &mpsc::Sender<Message>) -> Watches {
    let mut tasks = JoinSet::new();
    tasks.spawn(follow::<Service, model::Service>(
        client.clone(),
        sink.clone(),
        Kind::Service,
        Event::Service,
    ));
    tasks.spawn(follow::<EndpointSlice, model::EndpointSlice>(
        client.clone(),
        sink.clone(),
        Kind::EndpointSlice,
        Event::Slice,
    ));
    tasks.spawn(follow::<Node, NodeFacts>(client.clone(), sink.clone(), Kind::Node, Event::Node));
    tasks.spawn(follow::<ServiceCIDR, model::ServiceCidr>(
        client.clone(),
        sink.clone(),
        Kind::ServiceCidr,
        Event::ServiceCidr,
    ));
    tasks.spawn(follow::<Pod, model::Pod>(client.clone(), sink.clone(), Kind::Pod, Event::Pod));
    tasks.spawn(follow::<Namespace, model::Namespace>(
        client.clone(),
        sink.clone(),
        Kind::Namespace,
        Event::Namespace,
    ));
    tasks.spawn(follow::<NetworkPolicy, model::NetworkPolicy>(
        client.clone(),
        sink.clone(),
        Kind::NetworkPolicy,
        Event::NetworkPolicy,
    ));
    tasks.spawn(follow::<ClusterNetworkPolicy, model::ClusterPolicy>(
        client.clone(),
        sink.clone(),
        Kind::ClusterNetworkPolicy,
        Event::ClusterPolicy,
    ));
    Watches { _tasks: tasks }
}

/// Watches IPPools and AddressBlocks. Where the server has no such kind, an empty list is told instead.
#[must_use]
pub fn watch_pools(client: &Client, sink: &mpsc::Sender<Message>) -> Watches {
    let mut tasks = JoinSet::new();
    tasks.spawn(follow::<IpPool, model::Pool>(
        client.clone(),
        sink.clone(),
        Kind::Pool,
        Event::Pool,
    ));
    tasks.spawn(follow::<AddressBlock, model::Block>(
        client.clone(),
        sink.clone(),
        Kind::Block,
        Event::Block,
    ));
    Watches { _tasks: tasks }
}

/// Whether a server may not have the kind.
fn is_optional(kind: Kind) -> bool {
    matches!(kind, Kind::ServiceCidr | Kind::Pool | Kind::Block | Kind::ClusterNetworkPolicy)
}

/// Follows one kind until the receiver is gone.
async fn follow<K, T>(
    client: Client,
    sink: mpsc::Sender<Message>,
    kind: Kind,
    wrap: fn(Update<T>) -> Event,
) where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    // Of a kind the server may not have, the first answer must be one whose status is looked at; there are few of them.
    let mut streaming = !is_optional(kind);
    let mut known = false;
    loop {
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let config = watcher::Config::default();
        let config = if streaming { config.streaming_lists() } else { config.page_size(PAGE) };
        let mut stream = pin!(watcher::watcher(api, config).backoff(Retry::default()));
        let mut listing = false;
        while let Some(item) = stream.next().await {
            let message = match item {
                Ok(event) => {
                    let of_list =
                        matches!(event, watcher::Event::InitApply(_) | watcher::Event::InitDone);
                    // The library announces pages and not streamed lists. Without a beginning, what went while nobody
                    // watched would stay for ever.
                    if of_list && !listing {
                        let begin = convert::<K, T>(watcher::Event::Init, kind, wrap);
                        if sink.send(begin).await.is_err() {
                            return;
                        }
                    }
                    listing = matches!(event, watcher::Event::Init | watcher::Event::InitApply(_));
                    known |= matches!(event, watcher::Event::InitDone);
                    convert::<K, T>(event, kind, wrap)
                }
                Err(error) => {
                    if streaming && cannot_stream(&error) {
                        tracing::info!(
                            kind = kind.as_str(),
                            "the server does not stream lists, paging instead"
                        );
                        streaming = false;
                        break;
                    }
                    if is_optional(kind) && is_absent(&error) {
                        tracing::debug!(kind = kind.as_str(), "the server does not have this kind");
                        if kind == Kind::ServiceCidr {
                            tokio::time::sleep(ABSENT).await;
                            break;
                        }
                        // A server that begins may not know yet what it will serve: what was listed once is not taken for
                        // gone at the first word.
                        if !std::mem::take(&mut known) {
                            for event in [watcher::Event::Init, watcher::Event::InitDone] {
                                if sink.send(convert::<K, T>(event, kind, wrap)).await.is_err() {
                                    return;
                                }
                            }
                        }
                        tokio::time::sleep(ABSENT_POOLS).await;
                        break;
                    }
                    listing = false;
                    Message::Failed { kind, error: chain(&error) }
                }
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
    }
}

/// A server that does not know `sendInitialEvents` refuses the watch as a bad request.
fn cannot_stream(error: &watcher::Error) -> bool {
    match error {
        // The library does not look at the answer's status before it reads the body as a watch.
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 405 | 422)
        }
        watcher::Error::WatchError(status) => matches!(status.code, 400 | 405 | 422),
        _ => false,
    }
}

/// A server that does not know the kind.
fn is_absent(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
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

fn convert<K, T>(
    event: watcher::Event<DeserializeGuard<K>>,
    kind: Kind,
    wrap: fn(Update<T>) -> Event,
) -> Message
where
    K: Resource<DynamicType = ()>,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let mut happened = None;
    let revision = match &event {
        watcher::Event::Apply(object)
        | watcher::Event::InitApply(object)
        | watcher::Event::Delete(object) => revision_of(object.meta()),
        watcher::Event::Init | watcher::Event::InitDone => None,
    };
    let (update, reports) = match event {
        watcher::Event::Init => (Update::Begin, Vec::new()),
        watcher::Event::InitDone => (Update::End, Vec::new()),
        watcher::Event::Delete(object) => (Update::Deleted(key(object.meta())), Vec::new()),
        watcher::Event::InitApply(object) => read(&object, kind, Update::Listed),
        watcher::Event::Apply(object) => {
            happened = time_of(object.meta());
            read(&object, kind, Update::Applied)
        }
    };
    Message::Event { event: wrap(update), revision, received: Instant::now(), happened, reports }
}

fn read<K, T>(
    object: &DeserializeGuard<K>,
    kind: Kind,
    wrap: fn(T) -> Update<T>,
) -> (Update<T>, Vec<Report>)
where
    K: Resource<DynamicType = ()>,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let meta = object.meta();
    let outcome = match &object.0 {
        Ok(object) => Parsed::<T>::try_from(object),
        Err(invalid) => Err(Report {
            object: ObjectRef {
                kind,
                key: key(meta),
                uid: meta.uid.as_deref().and_then(Uid::parse),
            },
            severity: Severity::Error,
            reason: "Unreadable",
            message: format!("the object does not have the shape of its kind: {}", invalid.error),
            hint: "correct the field; until then the last readable form stays in effect".into(),
        }),
    };
    match outcome {
        Ok(parsed) => (wrap(parsed.value), parsed.reports),
        Err(report) => (Update::Unreadable(key(meta)), vec![report]),
    }
}

fn key(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// When the object changed last: the trigger annotation, else the newest field manager's time, else its creation.
fn time_of(meta: &ObjectMeta) -> Option<SystemTime> {
    let trigger = meta.annotations.as_ref().and_then(|annotations| annotations.get(TRIGGER_TIME));
    let trigger = trigger.and_then(|text| text.parse::<k8s_openapi::jiff::Timestamp>().ok());
    let managed = meta
        .managed_fields
        .iter()
        .flatten()
        .filter_map(|entry| entry.time.as_ref())
        .map(|time| time.0)
        .max();
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    trigger.or(managed).or(created).map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded<K: Resource<DynamicType = ()> + DeserializeOwned>(
        value: serde_json::Value,
    ) -> DeserializeGuard<K> {
        serde_json::from_value(value).expect("metadata at least")
    }

    #[test]
    fn an_object_of_the_wrong_shape_keeps_its_last_form_and_says_why() {
        let object = guarded::<Service>(serde_json::json!({
            "metadata": {"namespace": "d", "name": "web"}, "spec": {"ports": "eighty"}
        }));
        let message = convert(watcher::Event::Apply(object), Kind::Service, Event::Service);
        let Message::Event { event, reports, .. } = message else { panic!("an event") };
        assert_eq!(event, Event::Service(Update::Unreadable(ObjectKey::new("d", "web"))));
        assert_eq!(reports[0].reason, "Unreadable");
        assert!(reports[0].message.contains("eighty"), "{}", reports[0].message);
    }

    #[test]
    fn the_time_of_a_change_is_the_most_precise_one_there_is() {
        let object = guarded::<EndpointSlice>(serde_json::json!({
            "addressType": "IPv4",
            "metadata": {"namespace": "d", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z",
                         "annotations": {TRIGGER_TIME: "2026-01-01T00:00:01.5Z"}}
        }));
        let at = time_of(object.meta()).expect("a time");
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after the epoch");
        assert_eq!(since.as_millis() % 10_000, 1_500);
        let message = convert(watcher::Event::Apply(object), Kind::EndpointSlice, Event::Slice);
        assert!(matches!(message, Message::Event { happened: Some(_), .. }));
    }

    #[test]
    fn a_deleted_object_needs_no_shape() {
        let object = guarded::<Service>(
            serde_json::json!({"metadata": {"namespace": "d", "name": "web"}, "spec": 1}),
        );
        let message = convert::<Service, model::Service>(
            watcher::Event::Delete(object),
            Kind::Service,
            Event::Service,
        );
        let Message::Event { event, .. } = message else { panic!("an event") };
        assert_eq!(event, Event::Service(Update::Deleted(ObjectKey::new("d", "web"))));
    }
}
