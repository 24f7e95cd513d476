//! The watches: which kinds, and what each object means to the model. An object is converted as it arrives and dropped.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use model::convert::{AddressBlock, ClusterNetworkPolicy, IpPool};
use model::{Event, Kind, NodeFacts, ObjectKey, ObjectRef, Parsed, Report, Severity, Uid, Update};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::follow::{Absent, Follower, Heard};
use crate::progress::revision_of;
use crate::wire::{Received, Wire};

/// A server that does not know a kind is asked again after this: it may be upgraded.
const ABSENT: Duration = Duration::from_secs(600);
/// The same for kinds with definitions of their own.
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

/// Watches Services, EndpointSlices, Nodes, Pods, Namespaces, NetworkPolicies and, where the server has them, ServiceCIDRs.
/// Messages of one kind are in order.
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

/// Follows one kind until the receiver is gone.
async fn follow<K, T>(
    client: Client,
    sink: mpsc::Sender<Message>,
    kind: Kind,
    wrap: fn(Update<T>) -> Event,
) where
    K: Wire,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let optional = match kind {
        // Nothing waits for these, and a server that has none has none until it is upgraded.
        Kind::ServiceCidr => Some(Absent { again: ABSENT, is_empty: false }),
        // Somebody may just be installing their definitions.
        Kind::Pool | Kind::Block | Kind::ClusterNetworkPolicy => {
            Some(Absent { again: ABSENT_POOLS, is_empty: true })
        }
        _ => None,
    };
    Follower::new(client, optional, sink, move |heard| convert::<K, T>(heard, kind, wrap))
        .run()
        .await;
}

fn convert<K, T>(heard: Heard<K>, kind: Kind, wrap: fn(Update<T>) -> Event) -> Message
where
    K: Wire,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let mut happened = None;
    let revision = match &heard {
        Heard::Applied(object) | Heard::Listed(object) => revision_of(object.meta()),
        Heard::Deleted(meta) => revision_of(meta),
        Heard::Begin | Heard::End | Heard::Failed(_) => None,
    };
    let (update, reports) = match heard {
        Heard::Begin => (Update::Begin, Vec::new()),
        Heard::End => (Update::End, Vec::new()),
        Heard::Deleted(meta) => (Update::Deleted(key(&meta)), Vec::new()),
        Heard::Listed(object) => read(object, kind, Update::Listed),
        Heard::Applied(object) => {
            if let Received::Good(read) = &object {
                happened = time_of(read.object.meta(), read.written);
            }
            read(object, kind, Update::Applied)
        }
        Heard::Failed(error) => return Message::Failed { kind, error },
    };
    Message::Event { event: wrap(update), revision, received: Instant::now(), happened, reports }
}

fn read<K, T>(
    received: Received<K>,
    kind: Kind,
    wrap: fn(T) -> Update<T>,
) -> (Update<T>, Vec<Report>)
where
    K: Wire,
    for<'a> Parsed<T>: TryFrom<&'a K, Error = Report>,
{
    let outcome = match &received {
        Received::Good(read) => Parsed::<T>::try_from(&read.object),
        Received::Misshapen { meta, error } => Err(Report {
            object: ObjectRef {
                kind,
                key: key(meta),
                uid: meta.uid.as_deref().and_then(Uid::parse),
            },
            severity: Severity::Error,
            reason: "Unreadable",
            message: format!("the object does not have the shape of its kind: {error}"),
            hint: "correct the field; until then the last readable form stays in effect".into(),
        }),
    };
    match outcome {
        Ok(parsed) => (wrap(parsed.value), parsed.reports),
        Err(report) => (Update::Unreadable(key(received.meta())), vec![report]),
    }
}

fn key(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// When the object changed last: the trigger annotation, else when somebody wrote to it last, else its creation.
fn time_of(meta: &ObjectMeta, written: Option<Timestamp>) -> Option<SystemTime> {
    let trigger = meta.annotations.as_ref().and_then(|annotations| annotations.get(TRIGGER_TIME));
    let trigger = trigger.and_then(|text| text.parse::<Timestamp>().ok());
    let created = meta.creation_timestamp.as_ref().map(|time| time.0);
    trigger.or(written).or(created).map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Line};

    fn heard<K: Wire>(kind: &str, object: &serde_json::Value) -> Heard<K> {
        let line = serde_json::json!({"type": kind, "object": object}).to_string();
        match wire::line::<K>(line.as_bytes()).expect("a line") {
            Line::Applied(object) => Heard::Applied(object),
            Line::Deleted(meta) => Heard::Deleted(meta),
            _ => panic!("an object"),
        }
    }

    #[test]
    fn an_object_of_the_wrong_shape_keeps_its_last_form_and_says_why() {
        let object = serde_json::json!({
            "metadata": {"namespace": "d", "name": "web"}, "spec": {"ports": "eighty"}
        });
        let message = convert(heard::<Service>("ADDED", &object), Kind::Service, Event::Service);
        let Message::Event { event, reports, .. } = message else { panic!("an event") };
        assert_eq!(event, Event::Service(Update::Unreadable(ObjectKey::new("d", "web"))));
        assert_eq!(reports[0].reason, "Unreadable");
        assert!(reports[0].message.contains("eighty"), "{}", reports[0].message);
    }

    #[test]
    fn the_time_of_a_change_is_the_most_precise_one_there_is() {
        let object = |annotations: serde_json::Value| {
            serde_json::json!({
                "addressType": "IPv4",
                "metadata": {"namespace": "d", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z",
                             "annotations": annotations,
                             "managedFields": [{"time": "2026-01-01T00:00:07Z", "fieldsV1": {"f:metadata": {}}},
                                               {"time": "2026-01-01T00:00:05Z"}, {}]}
            })
        };
        let precise = object(serde_json::json!({TRIGGER_TIME: "2026-01-01T00:00:01.5Z"}));
        for (object, millis) in [(precise, 1_500), (object(serde_json::json!({})), 7_000)] {
            let heard = heard::<EndpointSlice>("MODIFIED", &object);
            let message = convert(heard, Kind::EndpointSlice, Event::Slice);
            let Message::Event { happened: Some(at), .. } = message else { panic!("a time") };
            let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("after the epoch");
            assert_eq!(since.as_millis() % 10_000, millis);
        }
    }

    #[test]
    fn a_deleted_object_needs_no_shape() {
        let object = serde_json::json!({"metadata": {"namespace": "d", "name": "web"}, "spec": 1});
        let heard = heard::<Service>("DELETED", &object);
        let message = convert::<Service, model::Service>(heard, Kind::Service, Event::Service);
        let Message::Event { event, .. } = message else { panic!("an event") };
        assert_eq!(event, Event::Service(Update::Deleted(ObjectKey::new("d", "web"))));
    }
}
