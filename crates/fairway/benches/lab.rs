//! The promises of a lab, as numbers: bring-up, memory, programming latency, full sync, repair, an agent's death.
//!
//! `make bench` (root, release build). Prints a table and, with `--json`, one JSON object. Nothing is asserted here: tests hold
//! effects, this shows speed. Load is bounded: a few thousand requests inside the lab's own namespaces.

#![allow(clippy::print_stdout, reason = "printing is what a bench is for")]

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, PostParams};
use lab::demo::request;
use serde_json::{Value, json};

const FAIRWAY: &str = env!("CARGO_BIN_EXE_fairway");
const NAME: &str = "bench";
/// Services created one by one, each timed until it answers on another node.
const CREATED: usize = 50;
/// The size of the full sync.
const SERVICES: usize = 1000;
const ENDPOINTS: usize = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let json_only = std::env::args().any(|word| word == "--json");
    // `cargo test --benches` must not start a lab.
    if std::env::args().any(|word| word == "--test")
        || !std::env::args().any(|word| word == "--bench")
    {
        return Ok(());
    }
    let mut rows = Vec::new();
    let outcome = measure(&mut rows);
    drop(fairway(&["lab", "down", "--purge", "--name", NAME]));
    outcome?;
    if json_only {
        let object: serde_json::Map<String, Value> =
            rows.iter().map(|row| (row.key.to_owned(), json!(row.value))).collect();
        println!("{}", Value::Object(object));
    } else {
        println!("{:<58} {:>12}   {:>12}", "WHAT", "MEASURED", "PROMISED");
        for row in &rows {
            println!("{:<58} {:>12}   {:>12}", row.what, row.shown(), row.promise);
        }
    }
    Ok(())
}

/// One line of the result.
struct Row {
    key: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    promise: &'static str,
}

impl Row {
    fn shown(&self) -> String {
        format!("{:.*} {}", if self.value < 10.0 { 1 } else { 0 }, self.value, self.unit)
    }
}

fn measure(rows: &mut Vec<Row>) -> Outcome<()> {
    let mut row = |key, what: &str, value, unit, promise| {
        rows.push(Row { key, what: what.to_owned(), value, unit, promise });
    };

    let mut ups = Vec::new();
    for _ in 0..5 {
        drop(fairway(&["lab", "down", "--purge", "--name", NAME]));
        let began = Instant::now();
        fairway(&["lab", "up", "--detach", "--nodes", "3", "--name", NAME])?;
        ups.push(millis(began.elapsed()));
    }
    row(
        "lab_up_ms",
        "lab up --nodes 3 to all nodes Ready, median of 5",
        median(&mut ups),
        "ms",
        "2000",
    );

    std::thread::sleep(Duration::from_secs(5));
    let status: Value =
        serde_json::from_str(&fairway(&["lab", "status", "--name", NAME, "-o", "json"])?)?;
    let agents: Vec<u64> =
        (1..=3).filter_map(|n| resident(&status, &format!("node-{n}"))).collect();
    let most = agents.iter().copied().max().ok_or("no agent in lab status")?;
    row(
        "agent_rss_mib",
        "idle agent, resident (largest of 3)",
        most as f64 / (1 << 20) as f64,
        "MiB",
        "15",
    );

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(async {
        let file =
            kube::config::Kubeconfig::read_from(format!("/run/fairway/labs/{NAME}/kubeconfig"))?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        Ok::<_, Box<dyn std::error::Error>>(kube::Client::try_from(config)?)
    })?;

    // One Service after the other, asked from another node until it answers.
    let backend = backend(&runtime, &client)?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let from = netns(if backend == "node-3" { "node-2" } else { "node-3" });
    let mut waits = Vec::new();
    for n in 0..CREATED {
        let service = service(&format!("timed-{n}"), json!({ "app": "bench" }), 9376);
        let created = runtime.block_on(services.create(&PostParams::default(), &service))?;
        waits.push(until_answers(&from, address(&created)?)?);
    }
    row(
        "service_p50_ms",
        "Service created → answers on another node, p50 of 50",
        quantile(&mut waits, 0.5),
        "ms",
        "",
    );
    row(
        "service_p99_ms",
        "Service created → answers on another node, p99 of 50",
        quantile(&mut waits, 0.99),
        "ms",
        "20",
    );

    // A stream of requests over the death and return of the agent.
    let (asked, lost) =
        requests_while(&from, runtime.block_on(async { services.get("timed-0").await })?, || {
            fairway(&["lab", "node", "kill", "--agent-only", from_node(&from), "--name", NAME])?;
            std::thread::sleep(Duration::from_millis(500));
            fairway(&["lab", "node", "restart", "--agent-only", from_node(&from), "--name", NAME])?;
            std::thread::sleep(Duration::from_millis(1000));
            Ok(())
        })?;
    row("requests_asked", "requests while an agent is killed and comes back", asked as f64, "", "");
    row("requests_lost", "  of these lost", lost as f64, "", "0");

    // Everything flushed by somebody else.
    let target = address(&runtime.block_on(services.get("timed-0"))?)?;
    let mut repairs = Vec::new();
    for _ in 0..10 {
        fairway(&[
            "lab",
            "exec",
            "--name",
            NAME,
            from_node(&from),
            "--",
            "nft",
            "flush",
            "ruleset",
        ])?;
        repairs.push(until_answers(&from, target)?);
        std::thread::sleep(Duration::from_millis(100));
    }
    row(
        "flush_repair_ms",
        "nft flush ruleset → answers again, worst of 10",
        quantile(&mut repairs, 1.0),
        "ms",
        "500",
    );

    // Many Services, an agent that starts with an empty kernel, and one that finds it as it should be.
    runtime.block_on(fill(&client))?;
    wait_for_services("node-1", SERVICES)?;
    let (_, first) = full_sync("node-1", true)?;
    row(
        "full_sync_ms",
        &format!("{SERVICES} Services × {ENDPOINTS}: full sync of an empty kernel"),
        first.1,
        "ms",
        "100",
    );
    row("full_sync_operations", "  operations in its one transaction", first.0 as f64, "", "");
    let (_, again) = full_sync("node-1", false)?;
    row("restart_operations", "  operations of an agent started again", again.0 as f64, "", "0");
    row("restart_sync_ms", "  which takes", again.1, "ms", "");
    let status: Value =
        serde_json::from_str(&fairway(&["lab", "status", "--name", NAME, "-o", "json"])?)?;
    let full = resident(&status, "node-2").ok_or("no agent in lab status")?;
    row(
        "agent_full_rss_mib",
        "  resident memory of an agent that saw them come",
        full as f64 / (1 << 20) as f64,
        "MiB",
        "",
    );
    let params = DeleteParams::default();
    runtime.block_on(
        services.delete_collection(&params, &kube::api::ListParams::default().labels("bench=fill")),
    )?;
    Ok(())
}

/// How long until `address` takes a connection, in milliseconds.
///
/// Each try waits 5 ms at most: a refusal that arrives while `connect` still holds its socket is only a hint to the kernel's
/// TCP, which would then try again after a second.
fn until_answers(from: &Path, address: SocketAddr) -> Outcome<f64> {
    let inside = link::namespace::Namespace::open_path(from)?;
    let waited = inside.run(|| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            if std::net::TcpStream::connect_timeout(&address, Duration::from_millis(5)).is_ok() {
                return Some(millis(began.elapsed()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    })?;
    waited.ok_or_else(|| format!("{address} never answered").into())
}

/// An agnhost pod that answers; its node.
fn backend(runtime: &tokio::runtime::Runtime, client: &kube::Client) -> Outcome<String> {
    use k8s_openapi::api::core::v1::Pod;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "backend", "labels": { "app": "bench" } },
        "spec": { "containers": [{ "name": "agnhost", "image": "agnhost", "args": ["netexec", "--http-port=9376"] }] }
    }))?;
    runtime.block_on(pods.create(&PostParams::default(), &pod))?;
    for _ in 0..500 {
        let pod = runtime.block_on(pods.get("backend"))?;
        let ready = pod
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten())
            .any(|c| c.type_ == "Ready" && c.status == "True");
        if let (true, Some(node)) = (ready, pod.spec.and_then(|spec| spec.node_name)) {
            return Ok(node);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("the backend pod is not Ready after 10 s".into())
}

fn service(name: &str, selector: Value, target: u16) -> Service {
    let mut service = json!({
        "metadata": { "name": name, "labels": { "bench": "fill" } },
        "spec": { "ports": [{ "port": 80, "targetPort": target }] }
    });
    if selector.is_object() {
        service["spec"]["selector"] = selector;
    }
    serde_json::from_value(service).expect("invariant: a Service")
}

/// Services with endpoints written by hand.
async fn fill(client: &kube::Client) -> Outcome<()> {
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    for n in 0..SERVICES {
        let name = format!("many-{n}");
        services.create(&PostParams::default(), &service(&name, Value::Null, 8080)).await?;
        let endpoints: Vec<Value> = (0..ENDPOINTS)
            .map(|e| json!({ "addresses": [format!("10.244.{}.{}", 10 + n / 50, 2 + (n % 50) * ENDPOINTS + e)], "conditions": { "ready": true } }))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "port": 8080, "protocol": "TCP" }]
        }))?;
        slices.create(&PostParams::default(), &slice).await?;
    }
    Ok(())
}

/// Stops the agent, empties the kernel if asked, starts it: (log line, (operations, milliseconds)) of its first sync.
fn full_sync(node: &str, empty: bool) -> Outcome<(String, (u64, f64))> {
    fairway(&["lab", "node", "kill", "--agent-only", node, "--name", NAME])?;
    if empty {
        fairway(&[
            "lab", "exec", "--name", NAME, node, "--", "nft", "delete", "table", "inet", "fairway",
        ])?;
    }
    let log = PathBuf::from(format!("/run/fairway/labs/{NAME}/nodes/{node}/agent.log"));
    let before = std::fs::metadata(&log)?.len() as usize;
    fairway(&["lab", "node", "restart", "--agent-only", node, "--name", NAME])?;
    for _ in 0..500 {
        let text = std::fs::read(&log)?;
        let fresh = String::from_utf8_lossy(text.get(before..).unwrap_or_default()).into_owned();
        if let Some(line) = fresh.lines().find(|line| line.contains("table compared whole")) {
            let field = |name: &str| {
                line.split_whitespace().find_map(|w| w.strip_prefix(name)).map(str::to_owned)
            };
            let operations =
                field("operations=").ok_or("no operations in the log line")?.parse()?;
            let spent = field("spent=").ok_or("no time in the log line")?;
            return Ok((line.to_owned(), (operations, duration_ms(&spent).ok_or(spent)?)));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the agent of {node} did not sync within 10 s").into())
}

/// Waits until a node's agent knows this many Services.
fn wait_for_services(node: &str, count: usize) -> Outcome<()> {
    let metrics = SocketAddr::from(([127, 0, 0, 1], 10256));
    for _ in 0..500 {
        let text = request::get(&netns(node), metrics, "/metrics")??;
        let known = text.lines().find_map(|l| l.strip_prefix("fairway_objects{kind=\"service\"} "));
        if known.and_then(|n| n.parse::<usize>().ok()).is_some_and(|n| n >= count) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("the agent of {node} does not know {count} Services after 10 s").into())
}

/// A client that asks one request after the other while something happens: how many, how many failed.
fn requests_while(
    from: &Path,
    service: Service,
    happens: impl FnOnce() -> Outcome<()>,
) -> Outcome<(usize, usize)> {
    let target = address(&service)?;
    let stop = Arc::new(AtomicBool::new(false));
    let asking = {
        let (stop, from) = (Arc::clone(&stop), from.to_owned());
        std::thread::spawn(move || {
            let (mut asked, mut lost) = (0, 0);
            while !stop.load(Ordering::Relaxed) && asked < 100_000 {
                asked += 1;
                let answer = request::get(&from, target, "/hostname");
                lost += usize::from(!matches!(answer, Ok(Ok(_))));
            }
            (asked, lost)
        })
    };
    std::thread::sleep(Duration::from_millis(300));
    let outcome = happens();
    stop.store(true, Ordering::Relaxed);
    let counts = asking.join().map_err(|_| "the asking thread panicked")?;
    outcome.map(|()| counts)
}

fn fairway(words: &[&str]) -> Outcome<String> {
    let out = Command::new(FAIRWAY).args(words).output()?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!("fairway {}: {}", words.join(" "), said.trim()).into());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn netns(place: &str) -> PathBuf {
    PathBuf::from(format!("/run/netns/fairway-{NAME}-{place}"))
}

fn from_node(netns: &Path) -> &str {
    let name = netns.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.strip_prefix("fairway-bench-").unwrap_or(name)
}

fn address(service: &Service) -> Outcome<SocketAddr> {
    let ip =
        service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).ok_or("no ClusterIP")?;
    Ok(SocketAddr::new(ip.parse().map_err(io::Error::other)?, 80))
}

/// Resident bytes of a node's agent in `lab status -o json`.
fn resident(status: &Value, node: &str) -> Option<u64> {
    let nodes = status["nodes"].as_array()?;
    nodes.iter().find(|n| n["name"] == node)?["agent"]["residentBytes"].as_u64()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `12.3ms`, `850µs`, `1.2s` as milliseconds.
fn duration_ms(text: &str) -> Option<f64> {
    let scale = [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6), ("s", 1e3)];
    scale.iter().find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<f64>().ok().map(|n| n * ms))
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get(((last as f64) * q).round() as usize).copied().unwrap_or(f64::NAN)
}
