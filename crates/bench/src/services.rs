//! `fairway-bench services`: every data plane in turn, in namespaces of its own, before the same objects.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::api::{DeleteParams, PostParams};
use nft::Kernel as _;
use tokio::runtime::Handle;

use crate::api::Api;
use crate::arguments::ServicesOptions;
use crate::ask::{Until, ask, wait};
use crate::backend;
use crate::numbers::Numbers;
use crate::objects::{Objects, PORT, cluster_ip, endpoint, service, slice};
use crate::plane::{Plane, wait_for_sync};
use crate::process::Process;
use crate::report::{Measured, Report, load};
use crate::samples::Samples;
use crate::say::say;
use crate::world::World;

/// How many Services are asked to know that a sync is complete, and are dialled for latencies.
const SAMPLED: usize = 100;
/// Where the edited Service moves to.
const OTHER_PORT: u16 = 81;
/// How long one change of ours may take; a peer has as long as a sync.
const CHANGE: Duration = Duration::from_secs(20);
/// Number of the first endpoint that no filled Service has.
const SPARE: u32 = 0x20_0000;

/// Measures everything and gives the report.
pub(crate) fn run(options: &ServicesOptions, dir: &Path) -> anyhow::Result<Report> {
    let load_before = load();
    let common = &options.common;
    let mut planes = Vec::new();
    if !options.peer_only {
        planes.push(Plane::Fairway { binary: crate::fairway_binary(common)? });
    }
    if let Some(peer) = &options.peer {
        let modes = options.peer_mode.iter();
        planes.extend(modes.map(|mode| Plane::KubeProxy { binary: peer.clone(), mode: *mode }));
    }
    let worlds = planes.iter().map(|_| World::new()).collect::<anyhow::Result<Vec<_>>>()?;
    for world in &worlds {
        backend::serve(&world.backend)?;
    }
    let runtime = crate::runtime()?;
    let nodes: Vec<_> = worlds.iter().map(|world| &world.node).collect();
    let api = runtime.block_on(Api::start(common.kubeconfig.as_deref(), &nodes, dir))?;
    let objects = Objects::new(&api.client);
    runtime.block_on(objects.prepare())?;
    let addresses = runtime.block_on(objects.fill(common.services, common.endpoints, |_| "TCP"));
    let measured = addresses.and_then(|addresses| {
        planes
            .iter()
            .zip(&worlds)
            .map(|(plane, world)| {
                let bench = Bench {
                    options,
                    plane,
                    world,
                    objects: &objects,
                    runtime: runtime.handle(),
                    kubeconfig: &api.kubeconfig,
                    dir: dir.join(plane.title().replace(' ', "-")),
                    addresses: &addresses,
                };
                let title = plane.title();
                let measured = bench.measure().with_context(|| format!("measuring {title}"))?;
                Ok((title, measured))
            })
            .collect::<anyhow::Result<Vec<_>>>()
    });
    runtime.block_on(objects.clear())?;
    Ok(Report {
        services: common.services,
        endpoints: common.endpoints,
        api: api.name.clone(),
        planes: measured?,
        load_before,
    })
}

/// One data plane being measured.
struct Bench<'a> {
    options: &'a ServicesOptions,
    plane: &'a Plane,
    world: &'a World,
    objects: &'a Objects,
    runtime: &'a Handle,
    kubeconfig: &'a Path,
    dir: PathBuf,
    addresses: &'a [Ipv4Addr],
}

impl Bench<'_> {
    fn measure(&self) -> anyhow::Result<Measured> {
        let mut measured = Measured::new();
        let mut process = self.start()?;
        self.first_sync(&mut process, &mut measured)?;
        self.connections(&mut measured)?;
        self.changes(&mut process, &mut measured)?;
        self.restart(process, &mut measured)?.stop()?;
        Ok(measured)
    }

    fn start(&self) -> anyhow::Result<Process> {
        say!("{}: starting", self.plane.title());
        self.plane.start(self.world, self.kubeconfig, &self.dir)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.options.timeout)
    }

    /// Services spread over all of them, the last among them.
    fn sampled(&self) -> Vec<SocketAddrV4> {
        let step = self.addresses.len().div_ceil(SAMPLED).max(1);
        let spread = self.addresses.iter().rev().step_by(step);
        spread.map(|address| SocketAddrV4::new(*address, PORT)).collect()
    }

    fn first_sync(&self, process: &mut Process, measured: &mut Measured) -> anyhow::Result<()> {
        let sampled = self.sampled();
        let (began, patience) = (process.started, self.timeout());
        // Until the first answers, in short waits: a process that ended will never answer.
        if let Some(first) = sampled.first() {
            let answers =
                || wait(*first, Until::Answers, Instant::now(), Duration::from_millis(500));
            while self.world.client.run(answers)?.is_none() && began.elapsed() < patience {
                process.check()?;
            }
        }
        let complete = self.world.client.run(|| {
            sampled.iter().all(|to| {
                let left = patience.saturating_sub(began.elapsed());
                wait(*to, Until::Answers, Instant::now(), left).is_some()
            })
        })?;
        let took = began.elapsed();
        process.check()?;
        if !complete {
            bail!("no complete sync within {patience:?}: {}", process.last_words());
        }
        measured.insert("first_sync_s", took.as_secs_f64());
        say!("{}: first sync {took:.2?}", self.plane.title());
        process.settle(Duration::from_secs(60))?;
        measured.insert("first_sync_cpu_s", process.cpu());
        let itself = self.plane.whole_syncs(&self.plane.numbers(self.world)?);
        measured.extend(itself.map(|seconds| ("first_sync_itself_s", seconds)));
        let memory = process.memory();
        measured.insert("resident_mib", mebibytes(memory.resident));
        measured.insert("anonymous_mib", mebibytes(memory.anonymous));
        measured.insert("proportional_mib", mebibytes(memory.proportional));
        measured.insert("peak_mib", mebibytes(memory.peak));
        if self.plane.is_ours() {
            let table = our_table(self.world)?;
            measured.insert("kernel_elements", table.element_count() as f64);
            measured.insert("kernel_chains", table.chains.len() as f64);
        }
        Ok(())
    }

    /// Direct and through ClusterIPs by turns, so that both see the same machine.
    fn connections(&self, measured: &mut Measured) -> anyhow::Result<()> {
        let sampled = self.sampled();
        let count = self.options.connections;
        let timed = |to: SocketAddrV4| {
            let began = Instant::now();
            ask(to).map(|_| began.elapsed().as_secs_f64() * 1e6)
        };
        let (direct, service) = self
            .world
            .client
            .run(|| {
                let (mut direct, mut service) = (Samples::default(), Samples::default());
                for (turn, to) in (0..count).zip(sampled.iter().cycle()) {
                    direct.add(timed(SocketAddrV4::new(endpoint(turn % 1000), backend::PORT))?);
                    service.add(timed(*to)?);
                }
                std::io::Result::Ok((direct, service))
            })?
            .context("a connection failed")?;
        let p50 = |samples: &Samples| samples.quantile(0.5).unwrap_or(f64::NAN);
        measured.insert("direct_us_p50", p50(&direct));
        measured.insert("service_us_p50", p50(&service));
        measured.insert("service_us_p99", service.quantile(0.99).unwrap_or(f64::NAN));
        measured.insert("service_ratio", p50(&service) / p50(&direct));
        measured.insert("direct_per_s", 1e6 / direct.mean().unwrap_or(f64::NAN));
        measured.insert("service_per_s", 1e6 / service.mean().unwrap_or(f64::NAN));
        Ok(())
    }

    fn changes(&self, process: &mut Process, measured: &mut Measured) -> anyhow::Result<()> {
        let ours = self.plane.is_ours();
        let samples = if ours { self.options.samples } else { self.options.peer_samples };
        let patience = if ours { CHANGE } else { self.timeout() };
        let (before, cpu) = (self.plane.numbers(self.world)?, process.cpu());
        let mut changes = Changes::default();
        for number in 0..samples {
            self.one_of_each(number, patience, &mut changes)
                .with_context(|| format!("{}, change {number}", process.last_words()))?;
            process.check()?;
            if !ours {
                say!("{}: {} of {samples} rounds of changes", self.plane.title(), number + 1);
            }
        }
        process.settle(Duration::from_secs(30))?;
        let after = self.plane.numbers(self.world)?;
        let made = changes.api.len() as f64;
        measured.insert("changes", f64::from(samples));
        measured.insert("never", changes.never);
        for (samples, p50, p99) in [
            (&changes.add, "add_ms_p50", "add_ms_p99"),
            (&changes.scale_up, "scale_up_ms_p50", "scale_up_ms_p99"),
            (&changes.scale_down, "scale_down_ms_p50", "scale_down_ms_p99"),
            (&changes.edit, "edit_ms_p50", "edit_ms_p99"),
            (&changes.delete, "delete_ms_p50", "delete_ms_p99"),
        ] {
            measured.extend(samples.quantile(0.5).map(|value| (p50, value)));
            measured.extend(samples.quantile(0.99).map(|value| (p99, value)));
        }
        measured.extend(changes.api.quantile(0.5).map(|value| ("api_ms_p50", value)));
        measured.insert("cpu_ms_per_change", (process.cpu() - cpu) * 1e3 / made);
        let operations = |numbers: &Numbers| self.plane.operations(numbers);
        if let (Some(after), Some(before)) = (operations(&after), operations(&before)) {
            measured.insert("operations_per_change", (after - before) / made);
        }
        let histogram = "fairway_change_to_commit_seconds";
        let commit = after.quantile_since(&before, histogram, "since=\"watch\"", 0.99);
        measured.extend(commit.map(|seconds| ("commit_ms_p99", seconds * 1e3)));
        measured.insert("resident_after_mib", mebibytes(process.memory().resident));
        Ok(())
    }

    /// A Service comes, grows, shrinks, moves and goes.
    fn one_of_each(
        &self,
        number: u32,
        patience: Duration,
        changes: &mut Changes,
    ) -> anyhow::Result<()> {
        let name = format!("timed-{number}");
        let (first, second) = (endpoint(SPARE + 2 * number), endpoint(SPARE + 2 * number + 1));
        let objects = self.objects;
        let create = PostParams::default();
        let slice = slice(&name, &[first], "TCP")?;
        self.runtime.block_on(objects.slices.create(&create, &slice))?;

        let began = Instant::now();
        let new = service(&name, PORT, "TCP")?;
        let made = self.runtime.block_on(objects.services.create(&create, &new))?;
        changes.api.add(millis(began.elapsed()));
        let address = cluster_ip(&made)?;
        let to = SocketAddrV4::new(address, PORT);
        let see =
            |to, until, began, samples: &mut Samples, never: &mut f64| -> anyhow::Result<()> {
                match self.world.client.run(|| wait(to, until, began, patience))? {
                    Some(took) => samples.add(millis(took)),
                    None => *never += 1.0,
                }
                Ok(())
            };
        see(to, Until::Answers, began, &mut changes.add, &mut changes.never)?;

        let began = Instant::now();
        self.runtime.block_on(objects.set_endpoints(&name, &[first, second]))?;
        changes.api.add(millis(began.elapsed()));
        see(to, Until::AnswersFrom(second), began, &mut changes.scale_up, &mut changes.never)?;

        let began = Instant::now();
        self.runtime.block_on(objects.set_endpoints(&name, &[second]))?;
        changes.api.add(millis(began.elapsed()));
        see(to, Until::LeftOut(first), began, &mut changes.scale_down, &mut changes.never)?;

        let began = Instant::now();
        self.runtime.block_on(objects.set_port(&name, OTHER_PORT, "TCP"))?;
        changes.api.add(millis(began.elapsed()));
        let to = SocketAddrV4::new(address, OTHER_PORT);
        see(to, Until::Answers, began, &mut changes.edit, &mut changes.never)?;

        let began = Instant::now();
        self.runtime.block_on(objects.services.delete(&name, &DeleteParams::default()))?;
        changes.api.add(millis(began.elapsed()));
        see(to, Until::Refuses, began, &mut changes.delete, &mut changes.never)?;
        self.runtime.block_on(objects.slices.delete(&name, &DeleteParams::default()))?;
        Ok(())
    }

    /// Stops it and starts it again while a client goes on asking.
    fn restart(&self, process: Process, measured: &mut Measured) -> anyhow::Result<Process> {
        let (sampled, stop) = (self.sampled(), AtomicBool::new(false));
        let asking = || {
            let (mut asked, mut lost) = (0_u32, 0_u32);
            for to in sampled.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                asked += 1;
                lost += u32::from(ask(*to).is_err());
                sleep(Duration::from_millis(2));
            }
            (asked, lost)
        };
        let again = || -> anyhow::Result<(Process, Duration, Numbers)> {
            process.stop()?;
            let mut process = self.start()?;
            let numbers = wait_for_sync(self.plane, self.world, &mut process, self.timeout())?;
            let took = process.started.elapsed();
            Ok((process, took, numbers))
        };
        let ((asked, lost), outcome) = std::thread::scope(|scope| {
            let client = scope.spawn(|| self.world.client.run(asking));
            let outcome = again();
            stop.store(true, Ordering::Relaxed);
            let counts = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            counts.map(|counts| (counts, outcome))
        })?;
        let (process, took, numbers) = outcome?;
        measured.insert("restart_s", took.as_secs_f64());
        let itself = self.plane.whole_syncs(&numbers);
        measured.extend(itself.map(|seconds| ("restart_itself_s", seconds)));
        measured.insert("restart_asked", f64::from(asked));
        measured.insert("restart_lost", f64::from(lost));
        measured.extend(self.plane.operations(&numbers).map(|count| ("restart_operations", count)));
        say!("{}: restart {took:.2?}", self.plane.title());
        Ok(process)
    }
}

/// How long changes took to have effect, in milliseconds from the request to the API on.
#[derive(Default)]
struct Changes {
    add: Samples,
    scale_up: Samples,
    scale_down: Samples,
    edit: Samples,
    delete: Samples,
    api: Samples,
    never: f64,
}

/// Our table as the kernel has it.
pub(crate) fn our_table(world: &World) -> anyhow::Result<nft::Table> {
    let name = nft::Name::new("fairway")?;
    let listed = world.node.run(|| -> anyhow::Result<_> {
        Ok(nft::kernel::Netlink::open()?.list(nft::Family::Inet, &name)?)
    })??;
    listed.context("the kernel has no table inet fairway")
}

/// Memory, for people.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
