//! The query log: one line per query as CoreDNS writes it, with the pod that asked where it is known.

use std::sync::PoisonError;
use std::time::Instant;

use super::{Carrier, Shared};
use crate::config::{Log, LogClass};
use crate::metrics::Seen;
use crate::query::{Query, code};
use crate::reply::Reply;
use crate::text::{code_name, kind_name};

/// Of which class an answer is.
pub(crate) fn class(reply: &Reply) -> LogClass {
    match reply.code {
        code::NOERROR if !reply.answers.is_empty() => LogClass::Success,
        code::NOERROR | code::NXDOMAIN => LogClass::Denial,
        _ => LogClass::Error,
    }
}

/// Writes the line, where the log wants it.
pub(super) fn line(
    shared: &Shared,
    log: &Log,
    query: &Query,
    seen: &Seen,
    reply: &Reply,
    port: u16,
    since: Instant,
) {
    let is_named = |zone: &crate::Name| query.name.above(zone.wire()).is_some();
    if !log.zones.is_empty() && !log.zones.iter().any(is_named)
        || !log.classes.is_empty() && !log.classes.contains(&class(reply))
    {
        return;
    }
    let mut pod = String::new();
    if let Ok(facts) = shared.facts.try_read().or_else(|error| match error {
        std::sync::TryLockError::Poisoned(facts) => Ok(PoisonError::into_inner(facts)),
        std::sync::TryLockError::WouldBlock => Err(()),
    }) && let Some(key) = facts.pod_at(seen.client)
    {
        pod.push_str(&key.to_string());
    }
    let mut flags = String::from("qr");
    for (is_set, flag) in [
        (reply.authoritative, ",aa"),
        (seen.truncated, ",tc"),
        (query.recursion_desired, ",rd"),
        (true, ",ra"),
        (query.checking_disabled, ",cd"),
    ] {
        flags.push_str(if is_set { flag } else { "" });
    }
    let carrier = match seen.carrier {
        Carrier::Udp => "udp",
        Carrier::Tcp => "tcp",
    };
    tracing::info!(
        target: "dns",
        pod,
        client = %seen.client,
        port,
        "{} \"{} IN {}. {carrier} {} {}\" {} {flags} {} {:.9}s",
        query.id,
        kind_name(query.kind),
        query.name,
        query.edns.is_some_and(|edns| edns.dnssec_ok),
        query.edns.map_or(crate::query::PLAIN_UDP, |edns| edns.payload),
        code_name(reply.code),
        seen.size,
        since.elapsed().as_secs_f64(),
    );
}
