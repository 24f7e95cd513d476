//! ServiceCIDR: Ready while its addresses are given, kept while Services need them (KEP-1880).
//!
//! Upstream's `pkg/controller/servicecidrs`. Opening and closing the ranges is the registry's; here
//! are the finalizer and the condition. What is in use is read from the Services themselves: this
//! server writes no IPAddress objects, a Service and its address are one write in one process.

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::net::IpAddr;

use super::engine::{Controller, Wakes};
use super::object::{
    condition, has_finalizer, is_deleting, list_at, member_at, name, str_at, time_at,
};
use super::view::{Change, View};
use super::write::{ObjectRef, Op, Outcome, SERVICE_CIDRS, SERVICES};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// A write that took an address before the range was closed has come to the view by then. Upstream waits ten seconds
/// for several API servers; here there is one.
const GRACE: SignedDuration = SignedDuration::from_secs(1);

/// Queues the ServiceCIDRs a change concerns.
pub(crate) fn wakes(change: &Change, view: &View, out: &mut Wakes) {
    let resource = &change.target.resource;
    if *resource == SERVICE_CIDRS && change.new.is_some() {
        out.push(Controller::ServiceCidr, change.target.clone());
    }
    let frees = *resource == SERVICES && change.old.is_some();
    if frees || *resource == SERVICE_CIDRS {
        for waiting in view.all(&SERVICE_CIDRS).filter(|object| is_deleting(object)) {
            out.push(Controller::ServiceCidr, ObjectRef::of(SERVICE_CIDRS, waiting));
        }
    }
}

/// Brings one ServiceCIDR a step further: finalizer, condition, end.
pub(crate) fn reconcile(view: &View, target: &ObjectRef, now: Timestamp) -> Outcome {
    let mut out = Outcome::default();
    let Some(object) = view.get(target) else { return out };
    let guarded = has_finalizer(object, FINALIZER);
    if !is_deleting(object) {
        if !guarded {
            let mut finalizers = list_at(object, &["metadata", "finalizers"]).to_vec();
            finalizers.push(FINALIZER.into());
            out.push(with_finalizers(object, finalizers));
        } else {
            let message = "Kubernetes Service CIDR is ready";
            out.writes.extend(ready(object, true, "", message, now));
        }
        return out;
    }
    if !guarded {
        return out;
    }
    if is_needed(view, object) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove \
                       them or create a new ServiceCIDR";
        out.writes.extend(ready(object, false, "Terminating", message, now));
        return out;
    }
    let closed = time_at(object, &["metadata", "deletionTimestamp"])
        .and_then(|at| at.checked_add(GRACE).ok())
        .unwrap_or(now);
    if now < closed {
        out.look_again(closed);
        return out;
    }
    let mut finalizers = list_at(object, &["metadata", "finalizers"]).to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    out.push(with_finalizers(object, finalizers));
    out
}

fn with_finalizers(object: &Value, finalizers: Vec<Value>) -> Op {
    let mut object = object.clone();
    member_at(&mut object, &["metadata"]).insert("finalizers".into(), finalizers.into());
    Op::Update { resource: SERVICE_CIDRS, object }
}

/// The write that makes the Ready condition say this, if it does not.
fn ready(
    object: &Value,
    is: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<super::write::Write> {
    let status = if is { "True" } else { "False" };
    let old = condition(object, "Ready");
    if old.is_some_and(|old| str_at(old, &["status"]) == status) {
        return None;
    }
    let mut conditions = list_at(object, &["status", "conditions"]).to_vec();
    conditions.retain(|condition| str_at(condition, &["type"]) != "Ready");
    conditions.push(json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": super::object::time(now),
    }));
    let mut object = object.clone();
    member_at(&mut object, &["status"]).insert("conditions".into(), conditions.into());
    Some(super::write::Write::quiet(Op::UpdateStatus { resource: SERVICE_CIDRS, object }))
}

fn cidrs(object: &Value) -> impl Iterator<Item = IpNet> + '_ {
    list_at(object, &["spec", "cidrs"]).iter().filter_map(|cidr| cidr.as_str()?.parse().ok())
}

/// Whether a Service has an address in this object's ranges and in no other's.
fn is_needed(view: &View, object: &Value) -> bool {
    let own: Vec<IpNet> = cidrs(object).collect();
    let others: Vec<IpNet> = view
        .all(&SERVICE_CIDRS)
        .filter(|other| name(other) != name(object) && !is_deleting(other))
        .flat_map(|other| cidrs(other))
        .collect();
    let within = |ranges: &[IpNet], ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    view.all(&SERVICES)
        .flat_map(|service| list_at(service, &["spec", "clusterIPs"]))
        .filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok())
        .any(|ip| within(&own, &ip) && !within(&others, &ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fixtures::{after, lines, ops, put, service, t0, view, with};
    use crate::controllers::object::at;

    fn range(range_name: &str, cidr: &str) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": { "name": range_name, "uid": format!("uid-{range_name}") },
            "spec": { "cidrs": [cidr] },
        })
    }

    fn target(range_name: &str) -> ObjectRef {
        ObjectRef::new(SERVICE_CIDRS, "", range_name)
    }

    /// The object a reconcile writes.
    fn written(outcome: &Outcome) -> Value {
        match ops(outcome).as_slice() {
            [Op::Update { object, .. } | Op::UpdateStatus { object, .. }] => object.clone(),
            other => panic!("not one write: {other:?}"),
        }
    }

    #[test]
    fn a_new_range_gets_its_finalizer_and_then_is_ready() {
        let mut view = view(&[(SERVICE_CIDRS, range("more", "10.1.0.0/24"))]);
        let guarded = written(&reconcile(&view, &target("more"), t0()));
        assert_eq!(guarded["metadata"]["finalizers"], json!([FINALIZER]));
        put(&mut view, SERVICE_CIDRS, guarded);
        let ready = written(&reconcile(&view, &target("more"), t0()));
        let condition = at(&ready, &["status", "conditions"]).expect("conditions")[0].clone();
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Ready"), &json!("True")));
        put(&mut view, SERVICE_CIDRS, ready);
        assert!(lines(&reconcile(&view, &target("more"), t0())).is_empty(), "settled");
    }

    #[test]
    fn a_range_stays_while_a_service_has_an_address_only_there() {
        let going = json!({ "metadata": {
            "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        let addressed = with(service("web"), json!({ "spec": { "clusterIPs": ["10.1.0.9"] } }));
        let mut view = view(&[
            (SERVICE_CIDRS, with(range("more", "10.1.0.0/24"), going)),
            (SERVICES, addressed.clone()),
        ]);
        let held = written(&reconcile(&view, &target("more"), after(60)));
        let condition = at(&held, &["status", "conditions"]).expect("conditions")[0].clone();
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "Terminating");
        assert_eq!(held["metadata"]["finalizers"], json!([FINALIZER]));

        // Another range holds the address too, or the Service is elsewhere: it may go, after the grace.
        put(&mut view, SERVICE_CIDRS, range("wide", "10.1.0.0/16"));
        let early = reconcile(&view, &target("more"), t0());
        assert!(ops(&early).is_empty() && early.again_at == Some(after(1)), "{early:?}");
        let gone = written(&reconcile(&view, &target("more"), after(1)));
        assert_eq!(gone["metadata"]["finalizers"], json!([]));
    }
}
