//! `fairway-bench policy`: what network policy costs and how fast it is enforced, in a cluster of many pods and policies: the
//! planner and the kernel alone, an agent before the embedded API, packets whose fate must not change while everything else
//! does, a burst of new pods, and what a connection notices.

mod burst;
mod churn;
mod full;
mod objects;
mod packets;
mod speed;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::api::Api;
use crate::arguments::PolicyOptions;
use crate::ask::{Until, wait};
use crate::backend;
use crate::churn::Dice;
use crate::numbers::Numbers;
use crate::objects::{NODE_NAME, Objects, endpoint};
use crate::plane::{Plane, wait_for_sync};
use crate::process::Process;
use crate::report::{Measured, Metric, load, machine, rows};
use crate::samples::Samples;
use crate::say::say;
use crate::services::mebibytes;
use crate::world::{CLIENT, World};
use churn::Change;
use objects::{Cluster, OWN};
use packets::{Ear, Fate, Pair};

/// Everything that is measured but for what connections notice: key, words, unit, decimals.
const METRICS: &[Metric] = &[
    ("full_s", "planner and kernel: the whole from the facts until committed, p50", "s", 3),
    ("full_kernel_s", "  of it the kernel", "s", 3),
    ("elements", "  elements in the kernel's table", "", 0),
    ("chains", "  chains in it", "", 0),
    ("again_s", "  again with nothing changed: planned, listed, compared, p50", "s", 3),
    ("again_operations", "  operations of it", "", 0),
    ("plan_elsewhere_ms_p99", "  a pod elsewhere changes its labels, p99", "ms", 2),
    ("plan_here_ms_p99", "  a pod here changes its labels, p99", "ms", 2),
    ("plan_policy_ms_p99", "  a policy changes its port, p99", "ms", 2),
    ("agent_start_s", "agent: start → policies in the kernel", "s", 2),
    ("agent_sync_s", "  of it the sync itself, without the lists", "s", 2),
    ("resident_mib", "  memory after it, resident", "MiB", 1),
    ("granted_ms_p50", "pod elsewhere labelled → it may connect here, p50", "ms", 1),
    ("granted_ms_p99", "  p99", "ms", 1),
    ("revoked_ms_p50", "its label removed → it may not, p50", "ms", 1),
    ("revoked_ms_p99", "  p99", "ms", 1),
    ("isolated_ms_p50", "pod here labelled → isolated, p50", "ms", 1),
    ("isolated_ms_p99", "  p99", "ms", 1),
    ("freed_ms_p50", "its label removed → open, p50", "ms", 1),
    ("freed_ms_p99", "  p99", "ms", 1),
    ("api_ms_p50", "  in all of these: until the API answered, p50", "ms", 1),
    ("never", "  changes that had no effect in time", "", 0),
    ("churn_s", "changes of labels and policies for", "s", 0),
    ("churn_changes", "  changes made", "", 0),
    ("churn_operations", "  operations of them", "", 0),
    ("churn_allowed", "  packets that were allowed all the time", "", 0),
    ("churn_lost", "    of these lost", "", 0),
    ("churn_denied", "  packets that were denied all the time", "", 0),
    ("churn_passed", "    of these passed", "", 0),
    ("churn_broken", "  times an allowed connection broke", "", 0),
    ("churn_commit_ms_p99", "  a policy's change received → committed, p99 at most", "ms", 1),
    ("churn_resident_mib", "  memory after it, resident", "MiB", 1),
    ("restart_s", "agent started again with nothing changed", "s", 2),
    ("restart_operations", "  operations of it", "", 0),
    ("restart_lost", "  allowed packets lost meanwhile", "", 0),
    ("restart_passed", "  denied packets that passed meanwhile", "", 0),
    ("burst_pods", "pods added at once under a policy that denies all", "", 0),
    ("burst_ms_p50", "  ADD, the wait for its policy included, p50", "ms", 1),
    ("burst_ms_p99", "  p99", "ms", 1),
    ("burst_whole_ms", "  all of them", "ms", 0),
    ("burst_sent", "  packets the pods sent meanwhile", "", 0),
    ("burst_passed", "  packets in or out that passed", "", 0),
];

/// Promised figures, at most, for 10,000 pods and 500 policies.
const PROMISES: &[(&str, f64)] = &[
    ("full_s", 1.0),
    ("again_operations", 0.0),
    ("granted_ms_p99", 100.0),
    ("revoked_ms_p99", 100.0),
    ("isolated_ms_p99", 100.0),
    ("freed_ms_p99", 100.0),
    ("never", 0.0),
    ("churn_lost", 0.0),
    ("churn_passed", 0.0),
    ("churn_broken", 0.0),
    ("restart_operations", 0.0),
    ("restart_lost", 0.0),
    ("restart_passed", 0.0),
    ("burst_passed", 0.0),
];
/// So much slower than without any table policies may make a connection, or a stream.
const SLOWER: f64 = 0.03;

/// The pods that are timed and probed: their addresses.
const TARGET: u32 = 0x20_0000;
const KEPT: u32 = TARGET + 1;
const SEALED: u32 = TARGET + 2;
const FREE: u32 = TARGET + 3;
const STEADY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 4);

/// How long one change may take.
const CHANGE: Duration = Duration::from_secs(20);
/// How long a start may take.
const START: Duration = Duration::from_secs(300);
/// Between two packets of each probed pair.
const PROBE: Duration = Duration::from_millis(10);

/// The result.
#[derive(Debug)]
pub(crate) struct Outcome {
    pods: u32,
    policies: u32,
    api: String,
    load_before: String,
    measured: Measured,
    speed: Vec<speed::Seen>,
}

fn promise(key: &str) -> Option<f64> {
    PROMISES.iter().find(|(promised, _)| *promised == key).map(|(_, most)| *most)
}

impl Outcome {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let measured = rows(METRICS, promise, &[&self.measured]);
        let base = &self.speed[0];
        let speed: Vec<Vec<String>> = self
            .speed
            .iter()
            .map(|seen| {
                let promised = |sign: &str, factor: f64| {
                    if seen.promised { format!("{sign} {factor:.2}") } else { String::new() }
                };
                vec![
                    seen.what.clone(),
                    format!("{:.2} Gbit/s", seen.gigabits),
                    format!("{:.3}", seen.gigabits / base.gigabits),
                    promised("≥", 1.0 - SLOWER),
                    format!("{:.1} µs", seen.micros),
                    format!("{:.3}", seen.micros / base.micros),
                    promised("≤", 1.0 + SLOWER),
                ]
            })
            .collect();
        format!(
            "{} pods, {} policies; API server {}\n{}; load average before {}, after {}\n\n{}\n{}",
            self.pods,
            self.policies,
            self.api,
            machine(),
            self.load_before,
            load(),
            print::table(&["WHAT", "PROMISED", "FAIRWAY"], &measured),
            print::table(
                &["POD TO POD", "STREAM", "RATIO", "PROMISED", "CONNECTION", "RATIO", "PROMISED"],
                &speed
            )
        )
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let promised: serde_json::Map<String, Value> =
            PROMISES.iter().map(|(key, most)| ((*key).to_owned(), json!(most))).collect();
        let speed = self.speed.iter().map(|seen| {
            json!({"what": seen.what, "gigabitsPerSecond": seen.gigabits, "connectionMicros": seen.micros,
                "promised": seen.promised.then_some(SLOWER)})
        });
        json!({
            "pods": self.pods,
            "policies": self.policies,
            "api": self.api,
            "machine": machine(),
            "loadBefore": self.load_before,
            "loadAfter": load(),
            "promised": promised,
            "measured": self.measured,
            "speed": speed.collect::<Vec<_>>(),
        })
    }
}

/// Measures everything.
pub(crate) fn run(options: &PolicyOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let load_before = load();
    let binary = crate::binary(options.fairway.as_deref())?.canonicalize()?;
    let mut measured = Measured::new();
    say!("the planner and the kernel");
    full::measure(options.pods, options.policies, &mut measured)?;
    say!("packets from pod to pod");
    let speed = speed::measure(options.pods.min(2000), options.policies, options.rounds)?;

    let world = World::new()?;
    world.add_client_addresses(&[STEADY, OTHER])?;
    backend::serve(&world.backend)?;
    packets::echo(&world.backend)?;
    let ear = Ear::open(&world.backend)?;
    let runtime = crate::runtime()?;
    let api = runtime.block_on(Api::start(None, &[&world.node], dir))?;
    let cluster = Cluster(api.client.clone());
    runtime.block_on(async {
        Objects::new(&api.client).prepare().await?;
        cluster.fill(options.pods, options.policies).await?;
        own_pods(&cluster).await
    })?;
    let plane = Plane::Fairway { binary: binary.clone() };
    let live = Live { world: &world, cluster: &cluster, runtime: runtime.handle(), plane: &plane };
    let files = dir.join("fairway");
    let start = || live.start(&api.kubeconfig, &files);

    let (mut process, took, numbers) = start()?;
    measured.insert("agent_start_s", took.as_secs_f64());
    measured.extend(plane.whole_syncs(&numbers).map(|seconds| ("agent_sync_s", seconds)));
    process.settle(Duration::from_secs(60))?;
    measured.insert("resident_mib", mebibytes(process.memory().resident));
    live.labels(options.samples, &mut process, &mut measured)?;
    live.churn(options, &ear, &mut process, &mut measured)?;

    say!("the agent starts again");
    process.settle(Duration::from_secs(60))?;
    let again = || {
        process.stop()?;
        start()
    };
    let ((mut process, took, numbers), fate) = live.probe(&ear, again)?;
    measured.insert("restart_s", took.as_secs_f64());
    measured.insert("restart_operations", plane.operations(&numbers).unwrap_or(f64::NAN));
    measured.insert("restart_lost", (fate.lost + fate.broken) as f64);
    measured.insert("restart_passed", fate.passed as f64);

    burst::measure(&live, &binary, &files, options.burst, &mut measured)?;
    process.check()?;
    process.stop()?;
    Ok(Outcome {
        pods: options.pods,
        policies: options.policies,
        api: api.name.clone(),
        load_before,
        measured,
        speed,
    })
}

/// The pods that are timed and probed, and what decides about them.
async fn own_pods(cluster: &Cluster) -> anyhow::Result<()> {
    for (name, node, address) in [
        ("caller", "node-1", CLIENT),
        ("steady", "node-1", STEADY),
        ("other", "node-1", OTHER),
        ("target", NODE_NAME, endpoint(TARGET)),
        ("kept", NODE_NAME, endpoint(KEPT)),
        ("sealed", NODE_NAME, endpoint(SEALED)),
        ("free", NODE_NAME, endpoint(FREE)),
    ] {
        cluster.run(&objects::pod((OWN, name), node, address, &json!({"app": name}))?).await?;
    }
    let target = json!({"podSelector": {"matchLabels": {"app": "target"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"access": "granted"}}}]}]});
    let shut = |key: &str, value: &str| json!({"podSelector": {"matchLabels": {key: value}}, "policyTypes": ["Ingress"]});
    cluster.put(&objects::policy(OWN, "target", &target)?).await?;
    cluster.put(&objects::policy(OWN, "seal", &shut("app", "sealed"))?).await?;
    cluster.put(&objects::policy(OWN, "quarantine", &shut("quarantine", "yes"))?).await?;
    cluster.put(&churn::keep(0)?).await
}

/// An agent before an API, with packets.
struct Live<'a> {
    world: &'a World,
    cluster: &'a Cluster,
    runtime: &'a Handle,
    plane: &'a Plane,
}

impl Live<'_> {
    /// Starts the agent and waits until it says that policies are in the kernel: how long that took, and what it counted.
    fn start(&self, kubeconfig: &Path, dir: &Path) -> anyhow::Result<(Process, Duration, Numbers)> {
        let mut process = self.plane.start(self.world, kubeconfig, dir)?;
        wait_for_sync(self.plane, self.world, &mut process, START)?;
        loop {
            let numbers = self.plane.numbers(self.world)?;
            if numbers.sum("fairway_policy_identities").is_some_and(|count| count > 0.0) {
                let took = process.started.elapsed();
                return Ok((process, took, numbers));
            }
            if process.started.elapsed() > START {
                bail!("no policy within {START:?}: {}", process.last_words());
            }
            process.check()?;
            sleep(Duration::from_millis(4));
        }
    }

    /// Packets whose fate is always the same, while `work` runs.
    fn probe<T>(
        &self,
        ear: &Ear,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, Fate)> {
        let pair = |from, to, allowed| Pair { from, to: endpoint(to), allowed };
        let pairs = [
            pair(STEADY, KEPT, true),
            pair(OTHER, FREE, true),
            pair(OTHER, KEPT, false),
            pair(STEADY, SEALED, false),
        ];
        packets::probe(&self.world.client, ear, &pairs, PROBE, work)
    }

    /// One pod's label, here and elsewhere, from the request until packets are treated otherwise.
    fn labels(
        &self,
        samples: u32,
        process: &mut Process,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        say!("{samples} times labels");
        let at = |number| SocketAddrV4::new(endpoint(number), backend::PORT);
        let (mut api, mut never) = (Samples::default(), 0.0);
        let mut took: [Samples; 4] = Default::default();
        let steps = [
            ("caller", json!({"access": "granted"}), at(TARGET), Until::Answers),
            ("caller", json!({"access": null}), at(TARGET), Until::Refuses),
            ("free", json!({"quarantine": "yes"}), at(FREE), Until::Refuses),
            ("free", json!({"quarantine": null}), at(FREE), Until::Answers),
        ];
        for _ in 0..samples {
            for ((name, labels, to, until), took) in steps.iter().zip(&mut took) {
                let began = Instant::now();
                self.runtime.block_on(self.cluster.label(OWN, name, labels))?;
                api.add(began.elapsed().as_secs_f64() * 1e3);
                match self.world.client.run(|| wait(*to, *until, began, CHANGE))? {
                    Some(time) => took.add(time.as_secs_f64() * 1e3),
                    None => never += 1.0,
                }
            }
            process.check()?;
        }
        let keys = [
            ("granted_ms_p50", "granted_ms_p99"),
            ("revoked_ms_p50", "revoked_ms_p99"),
            ("isolated_ms_p50", "isolated_ms_p99"),
            ("freed_ms_p50", "freed_ms_p99"),
        ];
        for ((p50, p99), took) in keys.into_iter().zip(&took) {
            measured.extend(took.quantile(0.5).map(|value| (p50, value)));
            measured.extend(took.quantile(0.99).map(|value| (p99, value)));
        }
        measured.extend(api.quantile(0.5).map(|value| ("api_ms_p50", value)));
        measured.insert("never", never);
        Ok(())
    }

    /// Labels and policies change all the time, packets are probed.
    fn churn(
        &self,
        options: &PolicyOptions,
        ear: &Ear,
        process: &mut Process,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        say!("changes for {} s", options.seconds);
        let before = self.plane.numbers(self.world)?;
        let began = Instant::now();
        let changes = || self.runtime.block_on(self.changes(options, process));
        let (made, fate) = self.probe(ear, changes)?;
        let after = self.plane.numbers(self.world)?;
        measured.insert("churn_s", began.elapsed().as_secs_f64());
        measured.insert("churn_changes", f64::from(made));
        let operations = |numbers| self.plane.operations(numbers).unwrap_or(f64::NAN);
        measured.insert("churn_operations", operations(&after) - operations(&before));
        measured.insert("churn_allowed", fate.allowed as f64);
        measured.insert("churn_lost", fate.lost as f64);
        measured.insert("churn_denied", fate.denied as f64);
        measured.insert("churn_passed", fate.passed as f64);
        measured.insert("churn_broken", fate.broken as f64);
        let histogram = "fairway_policy_change_to_commit_seconds";
        let commit = after.quantile_since(&before, histogram, "", 0.99);
        measured.extend(commit.map(|seconds| ("churn_commit_ms_p99", seconds * 1e3)));
        measured.insert("churn_resident_mib", mebibytes(process.memory().resident));
        Ok(())
    }

    async fn changes(&self, options: &PolicyOptions, process: &mut Process) -> anyhow::Result<u32> {
        let mut dice = Dice::new(options.seed);
        let mut ticks =
            tokio::time::interval(Duration::from_secs_f64(1.0 / f64::from(options.rate)));
        let deadline = Instant::now() + Duration::from_secs(options.seconds);
        let mut made = 0;
        while Instant::now() < deadline {
            ticks.tick().await;
            match churn::draw(&mut dice, options.pods, options.policies)? {
                Change::Labels(namespace, name, labels) => {
                    self.cluster.label(&namespace, &name, &labels).await?;
                }
                Change::Put(policy) => self.cluster.put(&policy).await?,
                Change::Remove(namespace, name) => self.cluster.remove(&namespace, &name).await?,
            }
            made += 1;
            if made % 100 == 0 {
                process.check()?;
            }
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_is_measured_and_slowness_is_a_ratio() {
        for (key, _) in PROMISES {
            assert!(METRICS.iter().any(|(metric, ..)| metric == key), "{key} is not measured");
        }
        let seen = |what: &str, gigabits, micros, promised| speed::Seen {
            what: what.into(),
            gigabits,
            micros,
            promised,
        };
        let outcome = Outcome {
            pods: 1,
            policies: 1,
            api: "a".into(),
            load_before: "0".into(),
            measured: [("full_s", 0.25), ("churn_lost", 0.0)].into(),
            speed: vec![seen("none", 10.0, 80.0, false), seen("some", 9.0, 88.0, true)],
        };
        let table = outcome.table();
        for word in ["0.250 s", "≤ 1 s", "0.900", "1.100", "≥ 0.97", "≤ 1.03"] {
            assert!(table.contains(word), "{word}: {table}");
        }
        assert!(!table.contains("burst"), "what nobody measured is left out: {table}");
        assert_eq!(outcome.json()["measured"]["full_s"], 0.25);
    }
}
