//! `fairway-bench cni`: what a container runtime waits for when it attaches and detaches a pod, beside the reference
//! plugins: one configuration (bridge, host-local, ipMasq) through both, as processes, in turns.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use link::Namespace;
use serde_json::{Value, json};

use crate::arguments::CniOptions;
use crate::say::say;

/// What the issue promises, in milliseconds.
const PROMISED: [(&str, f64); 3] =
    [("add_ms_p50", 3.0), ("del_ms_p50", 3.0), ("burst_ms_p99", 20.0)];

/// One implementation's plugins and the node they work on.
struct Side {
    name: String,
    /// Where its plugins are.
    bin: PathBuf,
    node: Namespace,
    conf: String,
}

/// What was measured of one side.
#[derive(Debug)]
struct Measured {
    name: String,
    add: Vec<Duration>,
    del: Vec<Duration>,
    burst: Vec<Duration>,
    burst_whole: Duration,
}

/// What comes out.
#[derive(Debug)]
pub(crate) struct Outcome {
    measured: Vec<Measured>,
    pods: u32,
    burst: u32,
    workers: u32,
}

/// Namespaces made here, removed when this is dropped.
struct Names(Vec<String>);

impl Names {
    fn make(&mut self, name: &str) -> anyhow::Result<Namespace> {
        let name = format!("fwbench-cni-{}-{name}", std::process::id());
        let namespace = Namespace::create(&name)?;
        self.0.push(name);
        Ok(namespace)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in &self.0 {
            if let Err(error) = Namespace::delete(name) {
                say!("{name} is left behind: {error}");
            }
        }
    }
}

pub(crate) fn run(options: &CniOptions, dir: &Path) -> anyhow::Result<Outcome> {
    let fairway = crate::binary(options.fairway.as_deref())?.canonicalize()?;
    let ours = dir.join("bin");
    fs::create_dir_all(&ours)?;
    for name in ["bridge", "host-local"] {
        symlink(&fairway, ours.join(name))?;
    }
    let mut bins = vec![("fairway".to_owned(), ours)];
    if let Some(peer) = &options.peer {
        for name in ["bridge", "host-local"] {
            if !peer.join(name).exists() {
                bail!("there is no {} in {}", name, peer.display());
            }
        }
        bins.push((format!("reference ({})", peer.display()), peer.clone()));
    }
    let mut names = Names(Vec::new());
    let mut sides = Vec::new();
    for (at, (name, bin)) in bins.into_iter().enumerate() {
        let node = names.make(&format!("node-{at}"))?;
        let conf = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "cni0",
            "isDefaultGateway": true, "ipMasq": true,
            "ipam": {
                "type": "host-local", "subnet": "10.88.0.0/16",
                "dataDir": dir.join(format!("ipam-{at}")),
            },
        });
        sides.push(Side { name, bin, node, conf: conf.to_string() });
    }
    let pods = options.pods.max(options.burst);
    let namespaces: Vec<Namespace> =
        (0..pods).map(|n| names.make(&format!("pod-{n}"))).collect::<Result<_, _>>()?;
    let mut measured: Vec<Measured> = sides
        .iter()
        .map(|side| Measured {
            name: side.name.clone(),
            add: Vec::new(),
            del: Vec::new(),
            burst: Vec::new(),
            burst_whole: Duration::ZERO,
        })
        .collect();
    say!("{} pods one after the other, implementations in turns", options.pods);
    // The first pod of a node pays for the bridge and the rules that stay: it is not counted.
    for command in ["ADD", "DEL"] {
        for (number, pod) in namespaces.iter().enumerate().take(options.pods as usize) {
            for (at, side) in sides.iter().enumerate() {
                let took = side.call(command, number, pod, at)?;
                let times = &mut measured[at];
                let list = if command == "ADD" { &mut times.add } else { &mut times.del };
                if number > 0 || options.pods == 1 {
                    list.push(took);
                }
            }
        }
    }
    say!("a burst of {} pods, {} at a time", options.burst, options.workers);
    for (at, side) in sides.iter().enumerate() {
        let (times, whole) = side.burst(&namespaces, options, at)?;
        measured[at].burst = times;
        measured[at].burst_whole = whole;
    }
    for times in &mut measured {
        times.add.sort();
        times.del.sort();
        times.burst.sort();
    }
    Ok(Outcome { measured, pods: options.pods, burst: options.burst, workers: options.workers })
}

impl Side {
    fn command(&self, command: &str, number: usize, pod: &Namespace, at: usize) -> Command {
        let mut process = Command::new(self.bin.join("bridge"));
        process
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", format!("{number:064x}"))
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", format!("eth{at}"))
            .env("CNI_PATH", &self.bin)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=bench")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        process
    }

    /// Runs one command on the calling thread, which is in the node's namespace, to its end.
    fn exec(&self, mut process: Command) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut child = process.spawn().context("cannot start the plugin")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(self.conf.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        if !output.status.success() {
            bail!(
                "{}: {}{}",
                self.name,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(took)
    }

    fn call(
        &self,
        command: &str,
        number: usize,
        pod: &Namespace,
        at: usize,
    ) -> anyhow::Result<Duration> {
        let process = self.command(command, number, pod, at);
        self.node.run(|| self.exec(process))?
    }

    /// Every pod at once, as many at a time as the runtime has workers; then all away.
    fn burst(
        &self,
        pods: &[Namespace],
        options: &CniOptions,
        at: usize,
    ) -> anyhow::Result<(Vec<Duration>, Duration)> {
        let count = options.burst as usize;
        let workers = (options.workers as usize).clamp(1, count);
        let next = std::sync::atomic::AtomicUsize::new(0);
        let start = Barrier::new(workers + 1);
        let (times, whole) = std::thread::scope(|scope| {
            let worker = || {
                scope.spawn(|| {
                    self.node.run(|| {
                        start.wait();
                        let mut times = Vec::new();
                        loop {
                            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            let Some(pod) = pods.get(number).filter(|_| number < count) else {
                                return Ok::<_, anyhow::Error>(times);
                            };
                            times.push(self.exec(self.command("ADD", number, pod, at))?);
                        }
                    })
                })
            };
            let threads: Vec<_> = (0..workers).map(|_| worker()).collect();
            start.wait();
            let started = Instant::now();
            let mut all = Vec::new();
            for thread in threads {
                let Ok(times) = thread.join() else { bail!("a worker panicked") };
                all.extend(times??);
            }
            Ok((all, started.elapsed()))
        })?;
        for (number, pod) in pods.iter().enumerate().take(count) {
            self.call("DEL", number, pod, at)?;
        }
        Ok((times, whole))
    }
}

/// The value below which `part` of the sorted times lie, in milliseconds.
fn quantile(sorted: &[Duration], part: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list of samples"
    )]
    let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

impl Measured {
    fn numbers(&self) -> [(&'static str, f64); 8] {
        [
            ("add_ms_p50", quantile(&self.add, 0.5)),
            ("add_ms_p99", quantile(&self.add, 0.99)),
            ("del_ms_p50", quantile(&self.del, 0.5)),
            ("del_ms_p99", quantile(&self.del, 0.99)),
            ("burst_ms_p50", quantile(&self.burst, 0.5)),
            ("burst_ms_p99", quantile(&self.burst, 0.99)),
            ("burst_ms_max", quantile(&self.burst, 1.0)),
            ("burst_whole_ms", self.burst_whole.as_secs_f64() * 1e3),
        ]
    }
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        let side = |one: &Measured| {
            let numbers: serde_json::Map<String, Value> = one
                .numbers()
                .into_iter()
                .map(|(name, number)| (name.to_owned(), json!(number)))
                .collect();
            json!({ "name": one.name, "measured": numbers })
        };
        let promised: serde_json::Map<String, Value> =
            PROMISED.iter().map(|(name, number)| ((*name).to_owned(), json!(number))).collect();
        json!({
            "pods": self.pods, "burst": self.burst, "workers": self.workers, "promised": promised,
            "sides": self.measured.iter().map(side).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "CNI ADD and DEL, bridge + host-local + ipMasq: {} pods one by one; a burst of {} pods, {} at a time\n",
            self.pods, self.burst, self.workers
        );
        text.push_str(&format!("{:<18}{:>10}", "", "promised"));
        for side in &self.measured {
            text.push_str(&format!("  {:>26}", side.name));
        }
        text.push('\n');
        let columns: Vec<_> = self.measured.iter().map(Measured::numbers).collect();
        for row in 0..columns[0].len() {
            let name = columns[0][row].0;
            let promise = PROMISED.iter().find(|(promised, _)| *promised == name);
            let promise = promise.map_or(String::new(), |(_, number)| format!("< {number:.0}"));
            text.push_str(&format!("{name:<18}{promise:>10}"));
            for column in &columns {
                text.push_str(&format!("  {:>26.2}", column[row].1));
            }
            text.push('\n');
        }
        text
    }
}
