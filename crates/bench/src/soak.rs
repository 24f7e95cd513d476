//! `fairway-bench soak`: many changes for a long time; then the kernel must be what it should be and nothing may have leaked.
//!
//! What it should be is found out three ways: an agent started again finds nothing to do; the table of a second agent, which
//! has only seen the last state, has the same chains, the same keys and as many of each value; and clients are answered where
//! the drawn state says so.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::api::{DeleteParams, PostParams};
use nft::conntrack::Conntrack;
use serde_json::{Value, json};

use crate::api::Api;
use crate::arguments::SoakOptions;
use crate::ask::{Until, ask, wait};
use crate::backend;
use crate::churn::{Change, Dice, Wanted, draw};
use crate::objects::{Objects, PORT, cluster_ip, endpoint, name_of, service};
use crate::plane::{Plane, wait_for_sync};
use crate::process::Process;
use crate::report::load;
use crate::say::say;
use crate::services::{mebibytes, our_table};
use crate::world::World;

/// Services that are left alone, and must answer all the time.
const UNTOUCHED: u32 = 50;
/// Every so many Services one is UDP.
const UDP_EVERY: u32 = 4;
/// Numbers of endpoints no filled Service has begin here.
const SPARE: u32 = 0x20_0000;
/// Services that are asked at the end.
const CHECKED: usize = 400;
/// How long the agent may take to become quiet at the end.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// Over this many seconds growth of memory can be told from warming up.
const JUDGED_AFTER: u64 = 60;

/// TCP, or UDP for one in four.
fn protocol(number: u32) -> &'static str {
    if number % UDP_EVERY == UDP_EVERY - 1 { "UDP" } else { "TCP" }
}

/// One Service: what it should be, and where.
#[derive(Debug, Clone)]
struct Slot {
    wanted: Wanted,
    address: Ipv4Addr,
    busy: bool,
}

type Slots = Arc<Mutex<Vec<Slot>>>;

/// What came out.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was seen, in the order it is printed.
    pub(crate) seen: Vec<(&'static str, Value)>,
    /// What is wrong.
    pub(crate) wrong: Vec<String>,
}

impl Outcome {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let lines = self.seen.iter().map(|(what, value)| format!("{what:<58} {value}\n"));
        let wrong = self.wrong.iter().map(|wrong| format!("WRONG: {wrong}\n"));
        lines.chain(wrong).collect()
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let seen: serde_json::Map<String, Value> =
            self.seen.iter().map(|(what, value)| ((*what).to_owned(), value.clone())).collect();
        json!({"seen": seen, "wrong": self.wrong})
    }
}

/// Runs it.
pub(crate) fn run(options: &SoakOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let common = &options.common;
    let plane = Plane::Fairway { binary: crate::fairway_binary(common)? };
    let (world, second) = (World::new()?, World::new()?);
    backend::serve(&world.backend)?;
    let runtime = crate::runtime()?;
    let nodes = [&world.node, &second.node];
    let api = runtime.block_on(Api::start(common.kubeconfig.as_deref(), &nodes, dir))?;
    let objects = Objects::new(&api.client);
    runtime.block_on(objects.prepare())?;
    let addresses = runtime.block_on(objects.fill(common.services, common.endpoints, protocol))?;
    let slots: Slots = Arc::new(Mutex::new(
        (0..)
            .zip(addresses)
            .map(|(number, address): (u32, _)| {
                let endpoints = (0..common.endpoints)
                    .map(|e| endpoint(number * common.endpoints + e))
                    .collect();
                let wanted = Wanted { exists: true, port: PORT, endpoints };
                Slot { wanted, address, busy: false }
            })
            .collect(),
    ));
    let mut outcome =
        Outcome { seen: vec![("load average before", json!(load()))], wrong: Vec::new() };
    let soak = Soak { options, plane: &plane, world: &world, slots: &slots };
    let mut process = plane.start(&world, &api.kubeconfig, &dir.join("first"))?;
    wait_for_sync(&plane, &world, &mut process, Duration::from_secs(60))?;
    process.settle(Duration::from_secs(20))?;
    runtime.block_on(async { soak.churn(&objects, &mut process, &mut outcome).await })?;
    process.settle(QUIET_WITHIN)?;
    soak.answers(&mut outcome)?;
    soak.flows(&mut outcome)?;
    soak.leaks(&second, &api.kubeconfig, dir, &mut outcome)?;

    process.stop()?;
    let mut process = plane.start(&world, &api.kubeconfig, &dir.join("first"))?;
    let numbers = wait_for_sync(&plane, &world, &mut process, Duration::from_secs(60))?;
    let operations = plane.operations(&numbers).unwrap_or(f64::NAN);
    outcome.expect_zero("operations of an agent started again", operations as u64);
    process.stop()?;
    runtime.block_on(objects.clear())?;
    outcome.seen.push(("load average after", json!(load())));
    Ok(outcome)
}

struct Soak<'a> {
    options: &'a SoakOptions,
    plane: &'a Plane,
    world: &'a World,
    slots: &'a Slots,
}

fn lock(slots: &Slots) -> std::sync::MutexGuard<'_, Vec<Slot>> {
    slots.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outcome {
    fn expect_zero(&mut self, what: &'static str, count: u64) {
        self.seen.push((what, json!(count)));
        if count != 0 {
            self.wrong.push(format!("{what}: {count}"));
        }
    }
}

impl Soak<'_> {
    /// Makes the changes while clients ask and memory is read.
    async fn churn(
        &self,
        objects: &Objects,
        process: &mut Process,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let (before, cpu) = (self.plane.numbers(self.world)?, process.cpu());
        let stop = AtomicBool::new(false);
        let refused = AtomicU32::new(0);
        let began = Instant::now();
        let mut resident = Vec::new();
        let (made, asked) = std::thread::scope(|scope| {
            let clients = scope.spawn(|| self.world.client.run(|| self.ask_all_the_time(&stop)));
            let made = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(self.changes(
                    objects,
                    process,
                    &mut resident,
                    &refused,
                ))
            });
            stop.store(true, Ordering::Relaxed);
            let asked = clients.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (made, asked)
        });
        let ((asked, lost), spent) = (asked?, began.elapsed().as_secs_f64());
        let made = made?;
        let deadline = Instant::now() + QUIET_WITHIN;
        process.settle(QUIET_WITHIN)?;
        while !self.plane.is_up_to_date(&self.plane.numbers(self.world)?) {
            anyhow::ensure!(
                Instant::now() < deadline,
                "the agent is still behind {QUIET_WITHIN:?} after the last change"
            );
            process.settle(QUIET_WITHIN)?;
        }
        let after = self.plane.numbers(self.world)?;
        let since = |name: &str| after.sum(name).unwrap_or(0.0) - before.sum(name).unwrap_or(0.0);
        let histogram = "fairway_change_to_commit_seconds";
        let commit = |q| after.quantile_since(&before, histogram, "since=\"watch\"", q);
        outcome.seen.extend([
            ("changes made", json!(made)),
            ("changes a second", json!((made as f64 / spent * 10.0).round() / 10.0)),
            ("transactions", json!(since("fairway_transactions_total"))),
            ("operations", json!(since("fairway_transaction_operations_sum"))),
            ("received → committed, p50 at most (ms)", json!(commit(0.5).map(|s| s * 1e3))),
            ("received → committed, p99 at most (ms)", json!(commit(0.99).map(|s| s * 1e3))),
            (
                "processor time (ms per change)",
                json!(((process.cpu() - cpu) * 1e6 / made as f64).round() / 1e3),
            ),
            ("stale connections deleted", json!(since("fairway_stale_flows_deleted_total"))),
            ("requests to Services left alone", json!(asked)),
        ]);
        outcome.expect_zero("  of these lost", u64::from(lost));
        outcome.expect_zero("requests refused by the API", u64::from(refused.into_inner()));
        outcome.expect_zero("failures the agent counted", since("fairway_failures_total") as u64);
        self.judge_memory(&resident, outcome);
        Ok(())
    }

    /// One change after the other at the rate asked for.
    async fn changes(
        &self,
        objects: &Objects,
        process: &mut Process,
        resident: &mut Vec<u64>,
        refused: &AtomicU32,
    ) -> anyhow::Result<u64> {
        let mut dice = Dice::new(self.options.seed);
        let mut ticks =
            tokio::time::interval(Duration::from_secs_f64(1.0 / f64::from(self.options.rate)));
        let deadline = Instant::now() + Duration::from_secs(self.options.seconds);
        let count = self.options.common.services;
        let untouched = UNTOUCHED.min(count / 2);
        let mut tasks = tokio::task::JoinSet::new();
        let mut made = 0;
        let mut next_look = Instant::now();
        while Instant::now() < deadline {
            ticks.tick().await;
            let drawn = {
                let mut slots = lock(self.slots);
                let number = untouched + dice.below(count - untouched);
                let slot = &mut slots[number as usize];
                // One request at a time for each Service, or their order would be unknown.
                (!slot.busy).then(|| {
                    slot.busy = true;
                    (number, draw(&mut dice, &mut slot.wanted, SPARE))
                })
            };
            let Some((number, change)) = drawn else { continue };
            made += 1;
            let (objects, slots) = (objects.clone(), Arc::clone(self.slots));
            tasks.spawn(async move {
                let outcome = make(&objects, number, &change).await;
                let mut slots = lock(&slots);
                let slot = &mut slots[number as usize];
                slot.busy = false;
                outcome.map(|address| slot.address = address.unwrap_or(slot.address))
            });
            while let Some(done) = tasks.try_join_next() {
                note(done?, refused);
            }
            if Instant::now() >= next_look {
                next_look += Duration::from_secs(1);
                process.check()?;
                resident.push(process.memory().resident);
                if resident.len().is_multiple_of(60) {
                    say!("{made} changes, {} s", resident.len());
                }
            }
        }
        while let Some(done) = tasks.join_next().await {
            note(done?, refused);
        }
        Ok(made)
    }

    /// TCP to Services left alone, UDP to the others: (asked, lost) of the TCP ones.
    fn ask_all_the_time(&self, stop: &AtomicBool) -> (u32, u32) {
        let untouched = UNTOUCHED.min(self.options.common.services / 2);
        let alone: Vec<SocketAddrV4> = {
            let slots = lock(self.slots);
            (0..untouched)
                .filter(|number| protocol(*number) == "TCP")
                .map(|number| SocketAddrV4::new(slots[number as usize].address, PORT))
                .collect()
        };
        // Few source ports, so that flows live on and become stale.
        let senders: Vec<_> = (0..4).filter_map(|_| UdpSocket::bind("0.0.0.0:0").ok()).collect();
        let mut dice = Dice::new(!self.options.seed);
        let (mut asked, mut lost) = (0, 0);
        for to in alone.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            asked += 1;
            lost += u32::from(ask(*to).is_err());
            for sender in &senders {
                let number = UDP_EVERY * dice.below(self.options.common.services / UDP_EVERY)
                    + UDP_EVERY
                    - 1;
                let (address, port) = {
                    let slots = lock(self.slots);
                    let slot = &slots[number as usize];
                    (slot.address, slot.wanted.port)
                };
                // A refusal of an earlier datagram is reported here; it is expected.
                drop(sender.send_to(&[1], (address, port)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        (asked, lost)
    }

    /// Flat: the last quarter's largest is hardly above the first quarter's.
    fn judge_memory(&self, resident: &[u64], outcome: &mut Outcome) {
        let quarter = (resident.len() / 4).max(1);
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        let first = most(&resident[..quarter.min(resident.len())]);
        let last = most(&resident[resident.len().saturating_sub(quarter)..]);
        let shown = |bytes: u64| json!((mebibytes(bytes) * 10.0).round() / 10.0);
        outcome.seen.extend([
            ("resident, least (MiB)", shown(resident.iter().copied().min().unwrap_or(0))),
            ("resident, most (MiB)", shown(most(resident))),
            ("resident, most in the first quarter (MiB)", shown(first)),
            ("resident, most in the last quarter (MiB)", shown(last)),
        ]);
        if self.options.seconds >= JUDGED_AFTER && last > first + first / 10 + (2 << 20) {
            outcome.wrong.push(format!(
                "resident memory grew from {:.1} to {:.1} MiB",
                mebibytes(first),
                mebibytes(last)
            ));
        }
    }

    /// Clients are answered exactly where they should be.
    fn answers(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let slots = lock(self.slots);
        let step = slots.len().div_ceil(CHECKED);
        let wrong = self.world.client.run(|| {
            let checked = (0..).zip(slots.iter()).step_by(step.max(1));
            let tcp = checked.filter(|(number, _)| protocol(*number) == "TCP");
            tcp.filter(|(_, slot)| {
                let wanted = &slot.wanted;
                let reachable = wanted.exists && !wanted.endpoints.is_empty();
                let until = if reachable { Until::Answers } else { Until::Refuses };
                let to = SocketAddrV4::new(slot.address, wanted.port);
                // An address that was given back may be another Service's by now.
                let reused = !wanted.exists
                    && slots
                        .iter()
                        .any(|other| other.wanted.exists && other.address == slot.address);
                !reused && wait(to, until, Instant::now(), Duration::from_secs(1)).is_none()
            })
            .count()
        })?;
        outcome.expect_zero("Services that answer differently than they should", wrong as u64);
        Ok(())
    }

    /// Tracked UDP connections lead to endpoints their Service has.
    fn flows(&self, outcome: &mut Outcome) -> anyhow::Result<()> {
        let slots = lock(self.slots);
        let services: BTreeMap<(Ipv4Addr, u16), &Wanted> = (0..)
            .zip(slots.iter())
            .filter(|(number, slot)| protocol(*number) == "UDP" && slot.wanted.exists)
            .map(|(_, slot)| ((slot.address, slot.wanted.port), &slot.wanted))
            .collect();
        let flows = self.world.node.run(|| Conntrack::open()?.list())??;
        let udp = flows.iter().filter(|flow| flow.original.protocol == 17);
        let (mut all, mut stale) = (0, 0);
        for flow in udp {
            let (std::net::IpAddr::V4(to), std::net::IpAddr::V4(endpoint)) =
                (flow.original.destination, flow.reply.source)
            else {
                continue;
            };
            all += 1;
            let wanted = services.get(&(to, flow.original.destination_port));
            let right = wanted.is_some_and(|wanted| wanted.endpoints.contains(&endpoint));
            stale += u64::from(!right);
        }
        outcome.seen.push(("UDP connections tracked at the end", json!(all)));
        outcome.expect_zero("  of these to an endpoint their Service does not have", stale);
        Ok(())
    }

    /// The table beside that of an agent which has only seen the last state.
    fn leaks(
        &self,
        second: &World,
        kubeconfig: &Path,
        dir: &Path,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let mut process = self.plane.start(second, kubeconfig, &dir.join("second"))?;
        wait_for_sync(self.plane, second, &mut process, Duration::from_secs(60))?;
        let (soaked, fresh) = (our_table(self.world)?, our_table(second)?);
        process.stop()?;
        let differences = differences(&soaked, &fresh);
        outcome.seen.push(("elements in the kernel", json!(soaked.element_count())));
        outcome.seen.push(("chains in the kernel", json!(soaked.chains.len())));
        outcome.expect_zero(
            "chains, keys and values a fresh agent has or has not",
            differences.len() as u64,
        );
        for difference in differences.iter().take(5) {
            outcome.wrong.push(difference.clone());
        }
        Ok(())
    }
}

fn note(outcome: anyhow::Result<()>, refused: &AtomicU32) {
    if let Err(error) = outcome {
        refused.fetch_add(1, Ordering::Relaxed);
        say!("the API refused a change: {error:#}");
    }
}

/// Asks the API for a change; the new ClusterIP when there is one.
async fn make(objects: &Objects, number: u32, change: &Change) -> anyhow::Result<Option<Ipv4Addr>> {
    let (name, protocol) = (name_of(number), protocol(number));
    match change {
        Change::Endpoints(addresses) => objects.set_endpoints(&name, addresses).await?,
        Change::Port(port) => objects.set_port(&name, *port, protocol).await?,
        Change::Create(port) => {
            let new = service(&name, *port, protocol)?;
            let made = objects.services.create(&PostParams::default(), &new).await;
            return Ok(Some(cluster_ip(&made.with_context(|| format!("creating {name}"))?)?));
        }
        Change::Delete => {
            let deleted = objects.services.delete(&name, &DeleteParams::default()).await;
            drop(deleted.with_context(|| format!("deleting {name}"))?);
        }
    }
    Ok(None)
}

/// What one table has and the other has not, but for the order in which slots were given and what packets put there.
fn differences(soaked: &nft::Table, fresh: &nft::Table) -> Vec<String> {
    let mut found = Vec::new();
    let mut both = |what: &str, soaked: Vec<String>, fresh: Vec<String>| {
        let (mut soaked, mut fresh) = (counted(soaked), counted(fresh));
        for (value, count) in std::mem::take(&mut soaked) {
            let other = fresh.remove(&value).unwrap_or(0);
            if count != other {
                found.push(format!("{what} {value}: {count} times, {other} in a fresh table"));
            }
        }
        found.extend(fresh.into_iter().map(|(value, count)| {
            format!("{what} {value}: never, {count} times in a fresh table")
        }));
    };
    let names = |table: &nft::Table| table.chains.keys().map(ToString::to_string).collect();
    both("chain", names(soaked), names(fresh));
    let names = |table: &nft::Table| table.sets.keys().map(ToString::to_string).collect();
    both("set", names(soaked), names(fresh));
    for (name, set) in soaked.sets.iter().filter(|(_, set)| !set.spec.flags.dynamic) {
        let Some(other) = fresh.sets.get(name) else { continue };
        let keys = |set: &nft::Set| set.elements.iter().map(|e| format!("{:?}", e.key)).collect();
        both(&format!("key of {name}"), keys(set), keys(other));
        let values =
            |set: &nft::Set| set.elements.iter().map(|e| format!("{:?}", e.data)).collect();
        both(&format!("value of {name}"), values(set), values(other));
    }
    found
}

fn counted(values: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use nft::{Data, Element, Family, Name, Packed, Selector, Set, SetData, SetSpec, Table};

    use super::*;

    fn table(elements: &[(u16, u16)]) -> Table {
        let spec = SetSpec::new(Name::new("slots").unwrap(), [Selector::ThDport])
            .with_data(SetData::value([Selector::ThDport]));
        let mut set = Set::new(spec);
        for (key, value) in elements {
            let data = Data::Value(Packed::new().port(*value));
            set.elements.insert(&Element::new(Packed::new().port(*key), data)).unwrap();
        }
        let mut table = Table::new(Family::Inet, Name::new("t").unwrap());
        table.insert_set(set);
        table
    }

    #[test]
    fn the_order_of_slots_is_no_difference_and_everything_else_is() {
        let fresh = table(&[(1, 10), (2, 20)]);
        assert!(differences(&table(&[(1, 20), (2, 10)]), &fresh).is_empty());
        assert_eq!(differences(&table(&[(1, 10), (2, 20), (3, 20)]), &fresh).len(), 2);
        assert_eq!(differences(&table(&[(1, 10), (2, 21)]), &fresh).len(), 2);
        assert_eq!(differences(&table(&[]), &fresh).len(), 4);
        let mut more = table(&[(1, 10), (2, 20)]);
        more.insert_chain(nft::Chain::new(Name::new("left").unwrap()));
        assert_eq!(differences(&more, &fresh), ["chain left: 1 times, 0 in a fresh table"]);
    }
}
