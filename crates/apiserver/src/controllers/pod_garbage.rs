//! Pods nobody will ever finish: those of a node that does not exist, and those that were deleted
//! before they had a node. Upstream's `pkg/controller/podgc`.

use jiff::Timestamp;

use super::config::Config;
use super::engine::{Controller, Wakes};
use super::object::{is_deleting, uid};
use super::pod::node_name;
use super::view::{Change, View};
use super::write::{NODES, ObjectRef, Op, Outcome, PODS, Propagation};

/// Queues the pods a change concerns; those of a missing node after the quarantine, in which it
/// may register again.
pub(crate) fn wakes(
    change: &Change,
    view: &View,
    config: &Config,
    now: Timestamp,
    out: &mut Wakes,
) {
    let resource = &change.target.resource;
    let later = now.saturating_add(config.node_quarantine).unwrap_or(now);
    if *resource == PODS {
        let Some(pod) = &change.new else { return };
        let node = node_name(pod);
        if node.is_empty() {
            if is_deleting(pod) {
                out.push(Controller::PodGarbage, change.target.clone());
            }
        } else if view.find(&NODES, "", node).is_none() {
            out.push_at(Controller::PodGarbage, change.target.clone(), later);
        }
    } else if *resource == NODES && change.new.is_none() {
        for pod in view.pods_on(&change.target.name) {
            out.push_at(Controller::PodGarbage, ObjectRef::of(PODS, pod), later);
        }
    }
}

/// Removes one pod at once, if it is still without a node.
pub(crate) fn reconcile(view: &View, target: &ObjectRef) -> Outcome {
    let mut out = Outcome::default();
    let Some(pod) = view.get(target) else { return out };
    let node = node_name(pod);
    let lost =
        if node.is_empty() { is_deleting(pod) } else { view.find(&NODES, "", node).is_none() };
    if lost {
        out.push(Op::Delete {
            target: target.clone(),
            uid: uid(pod).to_owned(),
            grace_seconds: Some(0),
            propagation: Propagation::Background,
        });
    }
    out
}
