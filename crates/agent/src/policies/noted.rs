//! What was denied of late: the kernel notes each flow once a minute, this tells who it was and why, and counts.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nft::kernel::Netlink;
use nft::{ListError, Name};
use policy::{By, DeniedFlow, Planner};

use crate::metrics::Metrics;

/// The kernel is asked this often.
pub(crate) const EVERY: Duration = Duration::from_secs(1);
/// A flow is said again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Lines of one look; the rest is counted.
const LINES: usize = 20;

/// Reads what the kernel noted.
pub(crate) fn read(kernel: &mut Netlink, table: &Name) -> Result<Vec<DeniedFlow>, ListError> {
    let mut flows = Vec::new();
    for (set, direction, audit) in policy::denied_sets() {
        let noted = kernel.live_elements(nft::Family::Inet, table, &set)?;
        let traffic = noted.iter().filter_map(|element| policy::flow_of_key(&element.key));
        flows.extend(traffic.map(|traffic| DeniedFlow { traffic, direction, audit }));
    }
    Ok(flows)
}

/// Flows that were said already.
#[derive(Debug, Default)]
pub(crate) struct Noted(HashMap<DeniedFlow, Instant>);

impl Noted {
    pub(super) fn take(&mut self, flows: Vec<DeniedFlow>, planner: &Planner, metrics: &Metrics) {
        let now = Instant::now();
        self.0.retain(|_, said| now.duration_since(*said) < AGAIN);
        let fresh: Vec<_> = flows.into_iter().filter(|flow| !self.0.contains_key(flow)).collect();
        for (at, flow) in fresh.iter().enumerate() {
            self.0.insert(*flow, now);
            say(flow, planner, metrics, at < LINES);
        }
        if fresh.len() > LINES {
            let more = fresh.len() - LINES;
            tracing::warn!(more, "more flows were denied; `fairway policy show` has the counts");
        }
    }
}

fn say(flow: &DeniedFlow, planner: &Planner, metrics: &Metrics, aloud: bool) {
    let traffic = &flow.traffic;
    let name = |address| match planner.name_of(address) {
        Some(pod) => pod.to_string(),
        None => String::from("-"),
    };
    let judgement = planner.judge(traffic);
    let mut findings = judgement.findings();
    // The policies may have changed since: then there is nothing to explain any more.
    let finding = findings.find(|finding| finding.direction == flow.direction);
    let (policies, nearest) = match finding.map(|finding| &finding.by) {
        Some(By::Isolation { policies, nearest, .. }) => (policies.as_slice(), nearest.as_ref()),
        Some(By::Denied(rule)) => (std::slice::from_ref(&rule.policy), None),
        _ => (&[][..], None),
    };
    for policy in policies {
        metrics.flow_denied(policy, flow.direction.as_str(), flow.audit);
    }
    if !aloud {
        return;
    }
    let list: Vec<String> = policies.iter().map(ToString::to_string).collect();
    tracing::warn!(
        from = name(traffic.source),
        to = name(traffic.destination),
        source = %traffic.source,
        destination = %traffic.destination,
        protocol = traffic.protocol,
        port = traffic.port,
        direction = flow.direction.as_str(),
        policies = list.join(","),
        nearest = nearest.map(ToString::to_string).unwrap_or_default(),
        "{}",
        if flow.audit { "a policy would deny this flow" } else { "denied by policy" }
    );
}
