//! Events go after an hour: upstream's `--event-ttl`, which etcd leases do there.

use jiff::Timestamp;
use serde_json::Value;

use super::config::Config;
use super::engine::{Controller, Wakes};
use super::object::{created, time_at, uid};
use super::view::{Change, View};
use super::write::{ObjectRef, Op, Outcome, Propagation};

/// Plans the end of a new or repeated Event.
pub(crate) fn wakes(change: &Change, config: &Config, now: Timestamp, out: &mut Wakes) {
    if let Some(event) = &change.new {
        let at = expires(event, config).unwrap_or(now);
        out.push_at(Controller::EventExpiry, change.target.clone(), at);
    }
}

fn expires(event: &Value, config: &Config) -> Option<Timestamp> {
    let last = [
        time_at(event, &["series", "lastObservedTime"]),
        time_at(event, &["lastTimestamp"]),
        time_at(event, &["eventTime"]),
        created(event),
    ]
    .into_iter()
    .flatten()
    .max()?;
    last.checked_add(config.event_ttl).ok()
}

/// Deletes one Event if its time has come.
pub(crate) fn reconcile(
    view: &View,
    target: &ObjectRef,
    config: &Config,
    now: Timestamp,
) -> Outcome {
    let mut out = Outcome::default();
    let Some(event) = view.get(target) else { return out };
    match expires(event, config) {
        Some(at) if at > now => out.look_again(at),
        _ => out.push(Op::Delete {
            target: target.clone(),
            uid: uid(event).to_owned(),
            grace_seconds: None,
            propagation: Propagation::Background,
        }),
    }
    out
}
