//! Where the demo plays: namespaces to ask from, objects to wait for, a tally of what went well.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::{Api, ListParams};

use super::kubectl::Kubectl;
use super::request;
use crate::layout::{Layout, NETNS_ROOT};
use crate::say::{Mark, Voice};

/// How long anything may take to become true.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often the API is asked while waiting; it is on this machine.
const PERIOD: Duration = Duration::from_millis(15);

/// The lab, a client for it, and the tally.
pub struct Stage {
    /// The lab.
    pub layout: Layout,
    /// A client of its API.
    pub client: Client,
    /// Where lines go.
    pub voice: Voice,
    /// The commands shown.
    pub kubectl: Kubectl,
    good: usize,
    bad: usize,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct RunningPod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its node.
    pub node: String,
    /// Its network namespace.
    pub netns: PathBuf,
}

impl Stage {
    /// A stage with nothing tallied yet.
    #[must_use]
    pub fn new(layout: Layout, client: Client, voice: Voice) -> Self {
        let kubectl = Kubectl::find(layout.kubeconfig());
        Self { layout, client, voice, kubectl, good: 0, bad: 0 }
    }

    /// Checks that went well, and that did not.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.good, self.bad)
    }

    /// Tallies and prints one check.
    pub fn check(&mut self, holds: bool, text: &str, took: Option<Duration>) {
        if holds {
            self.good += 1;
        } else {
            self.bad += 1;
        }
        self.voice.result(if holds { Mark::Good } else { Mark::Bad }, text, took);
    }

    /// Prints a command and what it said.
    pub fn show(&self, command: &str, said: &str) {
        self.voice.command(command);
        self.voice.output(said);
    }

    /// The client's namespace.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        Path::new(NETNS_ROOT).join(self.layout.client_namespace())
    }

    /// A node's namespace.
    #[must_use]
    pub fn node(&self, name: &str) -> PathBuf {
        Path::new(NETNS_ROOT).join(self.layout.node_namespace(name))
    }

    /// Waits until exactly `count` pods with the label are Ready and none other is left; tallies it.
    ///
    /// # Errors
    /// When it takes too long: the reason is in the message.
    pub async fn pods(&mut self, label: &str, count: usize) -> anyhow::Result<Vec<RunningPod>> {
        let began = Instant::now();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let parameters = ListParams::default().labels(label);
        loop {
            let list = pods.list(&parameters).await?.items;
            let ready: Vec<RunningPod> =
                list.iter().filter_map(|pod| running(&self.layout, pod)).collect();
            if ready.len() == count && list.len() == count {
                let nodes: BTreeMap<&str, usize> =
                    ready.iter().fold(BTreeMap::new(), |mut nodes, pod| {
                        *nodes.entry(pod.node.as_str()).or_default() += 1;
                        nodes
                    });
                let text = match count {
                    0 => format!("no pod with {label} is left"),
                    1 => format!("1 pod Ready on {}", ready[0].node),
                    _ => format!("{count} pods Ready on {} nodes", nodes.len()),
                };
                self.check(true, &text, Some(began.elapsed()));
                return Ok(ready);
            }
            if began.elapsed() > PATIENCE {
                let state: Vec<String> = list.iter().map(why).collect();
                bail!(
                    "{} of {count} pods with {label} are Ready after {} s: {}",
                    ready.len(),
                    PATIENCE.as_secs(),
                    state.join("; ")
                );
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// A Service's ClusterIP and the given port of it.
    ///
    /// # Errors
    /// When there is no such Service.
    pub async fn cluster_ip(&self, name: &str, port: u16) -> anyhow::Result<SocketAddr> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
        let spec = services.get(name).await?.spec.context("a Service without spec")?;
        let address: IpAddr = spec.cluster_ip.context("a Service without ClusterIP")?.parse()?;
        Ok(SocketAddr::new(address, port))
    }

    /// Asks until an answer comes (a change may still be on its way to the node), and says how long that took.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn ask(
        &self,
        from: &Path,
        to: SocketAddr,
        path: &str,
    ) -> anyhow::Result<(io::Result<String>, Duration)> {
        let began = Instant::now();
        loop {
            let answer = request::get(from, to, path)?;
            if answer.is_ok() || began.elapsed() > Duration::from_secs(3) {
                return Ok((answer, began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks, and tallies whether the answer holds `expected`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn expect(
        &mut self,
        who: &str,
        from: &Path,
        to: SocketAddr,
        path: &str,
        expected: &str,
    ) -> anyhow::Result<()> {
        let (answer, took) = self.ask(from, to, path)?;
        match answer {
            Ok(body) => {
                let body = body.trim();
                let first = body.lines().next().unwrap_or_default();
                self.check(body.contains(expected), &format!("{who}  {to}  {first}"), Some(took));
            }
            Err(error) => self.check(false, &format!("{who}  {to}  {error}"), Some(took)),
        }
        Ok(())
    }
}

/// How often each answer came; requests that failed count under their error.
#[must_use]
pub fn spread(answers: Vec<io::Result<String>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        let who = match answer {
            Ok(body) => body.trim().to_owned(),
            Err(error) => format!("failed: {error}"),
        };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

/// Whether every one of `backends` got its even share of `total`, within `points` percentage points.
#[must_use]
pub fn is_even(
    counts: &BTreeMap<String, usize>,
    backends: usize,
    total: usize,
    points: f64,
) -> bool {
    let share = 100.0 / as_f64(backends);
    counts.len() == backends
        && counts.values().sum::<usize>() == total
        && counts.values().all(|count| (percent(*count, total) - share).abs() <= points)
}

/// `count` of `total` in percent.
#[must_use]
pub fn percent(count: usize, total: usize) -> f64 {
    100.0 * as_f64(count) / as_f64(total.max(1))
}

fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn running(layout: &Layout, pod: &Pod) -> Option<RunningPod> {
    let status = pod.status.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if !ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(RunningPod {
        name: pod.metadata.name.clone()?,
        address: status.pod_ip.as_ref()?.parse().ok()?,
        node: pod.spec.as_ref()?.node_name.clone()?,
        netns: Path::new(NETNS_ROOT).join(layout.pod_namespace(pod.metadata.uid.as_ref()?)),
    })
}

fn why(pod: &Pod) -> String {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let waiting = status.container_statuses.unwrap_or_default().into_iter().find_map(|container| {
        let waiting = container.state?.waiting?;
        Some(format!(
            "{} {}",
            waiting.reason.unwrap_or_default(),
            waiting.message.unwrap_or_default()
        ))
    });
    let phase = status.phase.unwrap_or_else(|| "no status".to_owned());
    format!("{name} {phase} {}", waiting.unwrap_or_default()).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_spread_is_within_the_points() {
        let counts = |numbers: &[usize]| -> BTreeMap<String, usize> {
            numbers.iter().enumerate().map(|(at, count)| (format!("pod-{at}"), *count)).collect()
        };
        assert!(is_even(&counts(&[1000, 1040, 960]), 3, 3000, 5.0));
        assert!(is_even(&counts(&[851, 1000, 1149]), 3, 3000, 5.0));
        assert!(!is_even(&counts(&[849, 1000, 1151]), 3, 3000, 5.0), "more than five points");
        assert!(!is_even(&counts(&[1500, 1500]), 3, 3000, 5.0), "one got nothing");
        assert!(!is_even(&counts(&[1000, 1000, 990]), 3, 3000, 5.0), "some got lost");
    }

    #[test]
    fn failures_are_counted_by_what_they_say() {
        let counts =
            spread(vec![Ok("a\n".into()), Ok("a".into()), Err(io::ErrorKind::TimedOut.into())]);
        assert_eq!(counts.get("a"), Some(&2));
        assert_eq!(counts.len(), 2);
    }
}
