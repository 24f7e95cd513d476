//! Many pods at once by the CNI plugin, in a namespace where everything is denied: how long each ADD takes, and whether a packet
//! goes in or out before or after. Everybody sends all the time: the pods as soon as they have a route, a client to all of them.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use link::Namespace;
use link::namespace::CommandInNamespace as _;
use serde_json::{Value, json};

use super::Live;
use super::objects::{OWN, policy};
use super::packets::{Ear, PORT, one};
use crate::objects::NODE_NAME;
use crate::report::Measured;
use crate::samples::Samples;
use crate::say::say;
use crate::world::{CLIENT, unnamed};

/// The namespace in which everything is denied.
const SHUT: &str = "bench-burst";
/// ADDs at a time, as a kubelet with its usual settings.
const WORKERS: usize = 10;
/// Between two packets of a pod, and of the client to a pod.
const OUT: Duration = Duration::from_millis(5);
const IN: Duration = Duration::from_millis(20);
/// After its ADD a pod goes on for so long.
const AFTER: Duration = Duration::from_millis(30);
/// Kinds of packets: of the pods that may not, and of the one that may.
const SHUT_KIND: u8 = 6;
const OPEN_KIND: u8 = 7;

/// What the plugin is given: the agent's configuration as a runtime hands it on.
fn plugin(dir: &Path) -> anyhow::Result<String> {
    let path = dir.join("cni/10-fairway.conflist");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("the agent wrote no {}", path.display()))?;
    let list: Value = serde_json::from_str(&text)?;
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    Ok(plugin.to_string())
}

/// Measures.
pub(super) fn measure(
    live: &Live<'_>,
    binary: &Path,
    dir: &Path,
    count: u32,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let conf = plugin(dir)?;
    let nobody = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let bare = |namespace: &str, name: &str| -> anyhow::Result<_> {
        Ok(serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"nodeName": NODE_NAME, "containers": [{"name": "c", "image": "bench"}]}}))?)
    };
    live.runtime.block_on(async {
        live.cluster.namespace(SHUT).await?;
        live.cluster.put(&policy(SHUT, "nobody", &nobody)?).await?;
        for number in 0..count {
            live.cluster.run(&bare(SHUT, &format!("burst-{number}"))?).await?;
        }
        live.cluster.run(&bare(OWN, "open")?).await
    })?;
    let ear = Ear::open(&live.world.client)?;
    let burst =
        Burst { live, binary, conf: &conf, came_in: AtomicU64::new(0), sent: AtomicU64::new(0) };

    // A pod nobody isolates: were its packets not seen, the silence of the others would say nothing.
    burst.add(u32::MAX, (OWN, "open"), OPEN_KIND, true)?;
    if ear.heard(OPEN_KIND.into()) == 0 || burst.came_in.swap(0, Ordering::Relaxed) == 0 {
        bail!(
            "no packet of a pod without policies went through; nothing could be said about others"
        );
    }
    burst.sent.store(0, Ordering::Relaxed);

    say!("{count} pods, {WORKERS} at a time");
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let (times, whole) = thread::scope(|scope| -> anyhow::Result<_> {
        let client = scope.spawn(|| live.world.client.run(|| shout(count, &stop)));
        let worker = || -> anyhow::Result<Vec<f64>> {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed) as u32;
                if number >= count {
                    return Ok(times);
                }
                let name = format!("burst-{number}");
                times.push(burst.add(number, (SHUT, &name), SHUT_KIND, false)?);
            }
        };
        let workers: Vec<_> =
            (0..WORKERS.min(count as usize)).map(|_| scope.spawn(worker)).collect();
        let times: Vec<_> = workers
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        let whole = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
        Ok((times.into_iter().collect::<anyhow::Result<Vec<_>>>()?, whole))
    })?;
    let times: Samples = times.into_iter().flatten().collect();
    measured.insert("burst_pods", f64::from(count));
    measured.extend(times.quantile(0.5).map(|value| ("burst_ms_p50", value)));
    measured.extend(times.quantile(0.99).map(|value| ("burst_ms_p99", value)));
    measured.insert("burst_whole_ms", whole.as_secs_f64() * 1e3);
    measured.insert("burst_sent", burst.sent.load(Ordering::Relaxed) as f64);
    let passed = ear.heard(SHUT_KIND.into()) + burst.came_in.load(Ordering::Relaxed);
    measured.insert("burst_passed", passed as f64);
    Ok(())
}

/// Sends to every address a pod may get, until told to stop.
fn shout(count: u32, stop: &AtomicBool) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((CLIENT, 0))?;
    while !stop.load(Ordering::Relaxed) {
        for number in 0..=count + 1 {
            // An address nobody has yet answers with an error, or not at all.
            drop(socket.send_to(&[0], (Ipv4Addr::from(0x0a80_0002 + number), PORT)));
        }
        thread::sleep(IN);
    }
    Ok(())
}

struct Burst<'a> {
    live: &'a Live<'a>,
    binary: &'a Path,
    conf: &'a str,
    /// Packets that pods received, and sent.
    came_in: AtomicU64,
    sent: AtomicU64,
}

impl Burst<'_> {
    /// One ADD, in milliseconds, while the pod sends and listens.
    fn add(
        &self,
        number: u32,
        (namespace, name): (&str, &str),
        kind: u8,
        answered: bool,
    ) -> anyhow::Result<f64> {
        let pod = unnamed("pod")?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let chatter = scope.spawn(|| pod.run(|| self.chatter(kind, &stop)));
            let took = self.exec(number, namespace, name, &pod);
            if let Ok((_, address)) = &took
                && answered
            {
                let send = || (0..20).try_for_each(|_| one(CLIENT, *address, 0));
                drop(self.live.world.client.run(send));
            }
            thread::sleep(AFTER);
            stop.store(true, Ordering::Relaxed);
            chatter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
            Ok(took?.0)
        })
    }

    /// In the pod: sends to the client and hears who sends to it.
    fn chatter(&self, kind: u8, stop: &AtomicBool) -> anyhow::Result<()> {
        let ear = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        ear.set_nonblocking(true)?;
        while !stop.load(Ordering::Relaxed) {
            // Without an address or a route it is not sent.
            let sent = one(Ipv4Addr::UNSPECIFIED, CLIENT, kind).is_ok();
            self.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
            while ear.recv(&mut [0; 8]).is_ok() {
                self.came_in.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(OUT);
        }
        while ear.recv(&mut [0; 8]).is_ok() {
            self.came_in.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The plugin as a process of the node: how long it took, and the address it gave.
    fn exec(
        &self,
        number: u32,
        namespace: &str,
        name: &str,
        pod: &Namespace,
    ) -> anyhow::Result<(f64, Ipv4Addr)> {
        let place = format!("/proc/{}/fd/{}", std::process::id(), pod.as_fd().as_raw_fd());
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        let mut command = Command::new(self.binary);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", format!("{number:064x}"))
            .env("CNI_NETNS", place)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.binary.parent().unwrap_or(Path::new("/")))
            .env("CNI_ARGS", arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.in_namespace(&self.live.world.node)?;
        let began = Instant::now();
        let mut child = command.spawn().context("cannot start the plugin")?;
        child.stdin.take().context("no standard input")?.write_all(self.conf.as_bytes())?;
        let output = child.wait_with_output()?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("ADD of {name}: {said}{}", String::from_utf8_lossy(&output.stderr));
        }
        let result: Value = serde_json::from_str(&said)?;
        let address = result["ips"][0]["address"].as_str().unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        let address = address.parse().with_context(|| format!("no address in {said}"))?;
        Ok((took, address))
    }
}
