//! The pod runner without an API server: real namespaces, real processes, pods handed to the engine directly.
//!
//! The CNI plugin is a shell script that makes a veth pair and an address; everything else is the real thing. Each test
//! runs as the only thread of its process that matters, inside a network namespace of its own.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(
    unsafe_code,
    reason = "this test binary also plays the shim, before its test harness starts"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lab::container::process::ProcessId;
use lab::runner::engine::{Edges, Engine};
use lab::runner::events::{EventSink, Note};
use lab::runner::lookup::Lookup;
use lab::runner::{RunnerConfig, cleanup, server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, watch};

/// Runs before the harness: when this binary was started as a shim, exec helper or image program, it is that.
extern "C" fn before_main() {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let args: Vec<String> =
        line.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    let args = &args[..args.len().saturating_sub(1)];
    if let Some(code) = lab::container::dispatch(args) {
        std::process::exit(code);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

const PLUGIN: &str = r#"#!/bin/sh
set -e
exec 2>&1
n=$(printf %s "$CNI_CONTAINERID" | cut -c1-8)
ns=$(basename "$CNI_NETNS")
case "$CNI_COMMAND" in
ADD)
  cat > /dev/null
  if [ -e "$(dirname "$0")/fail" ]; then
    echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses left","details":"pool is empty"}'; exit 1
  fi
  c=$(cat "$(dirname "$0")/count" 2>/dev/null || echo 1); c=$((c+1)); echo $c > "$(dirname "$0")/count"
  ip link add "h$n" type veth peer name eth0 netns "$ns"
  ip link set "h$n" up
  ip route add "10.77.0.$c/32" dev "h$n"
  ip netns exec "$ns" ip addr add "10.77.0.$c/32" dev eth0
  ip netns exec "$ns" ip link set eth0 up
  ip netns exec "$ns" ip route add 10.77.1.1 dev eth0
  ip netns exec "$ns" ip route add default via 10.77.1.1 dev eth0
  echo "{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.77.0.$c/32\"}]}" ;;
DEL) cat > /dev/null; ip link del "h$n" 2>/dev/null || true ;;
esac
"#;

/// Whether tests that need root can run; says so when not, and fails in CI.
fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let tools = Command::new("ip").arg("-V").output().is_ok();
    if root && tools {
        return true;
    }
    let required =
        std::env::var_os("CI").is_some() || std::env::var_os("FAIRWAY_REQUIRE_ALL").is_some();
    assert!(!required, "root and iproute2 are required");
    eprintln!("SKIP: needs root and iproute2");
    false
}

struct Node {
    dir: PathBuf,
    lab: String,
    network: watch::Sender<bool>,
}

struct Running {
    engine: Rc<Engine>,
    notes: mpsc::Receiver<Note>,
    seen: Vec<String>,
}

impl Node {
    fn new(name: &str) -> Node {
        let lab = format!("t{}{name}", std::process::id());
        let dir = std::env::temp_dir().join(format!("fairway-runner-{lab}"));
        std::fs::create_dir_all(dir.join("cni")).unwrap();
        std::fs::create_dir_all(dir.join("net.d")).unwrap();
        let plugin = dir.join("cni/script");
        std::fs::write(&plugin, PLUGIN).unwrap();
        run("chmod", &["+x", plugin.to_str().unwrap()]);
        let conf = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"script"}]}"#;
        std::fs::write(dir.join("net.d/10-n.conflist"), conf).unwrap();
        Node { dir, lab, network: watch::channel(true).0 }
    }

    fn config(&self) -> RunnerConfig {
        RunnerConfig {
            kubelet: None,
            labels: Vec::new(),
            lab: self.lab.clone(),
            node: "node-1".into(),
            kubeconfig: PathBuf::new(),
            run_dir: self.dir.join("run"),
            node_ips: vec!["10.77.1.1".parse().unwrap()],
            cni_conf_dir: self.dir.join("net.d"),
            cni_bin: self.dir.join("cni"),
            socket: self.dir.join("runner.sock"),
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
        }
    }

    fn start(&self) -> Running {
        let (events, notes) = EventSink::new();
        let network = self.network.subscribe();
        let edges = Edges { lookup: Lookup::default(), events, api: None, network };
        let engine = Engine::new(self.config(), edges).unwrap();
        Running { engine, notes, seen: Vec::new() }
    }

    /// Everything that must be gone after a cleanup.
    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let netns = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        left.extend(
            netns.map(|e| e.path().display().to_string()).filter(|p| p.contains(&self.lab)),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(&self.lab)).map(str::to_owned));
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("container-shim") && line.contains(&self.lab) {
                left.push(line);
            }
        }
        let pods = self.dir.join("run/pods");
        left.extend(
            std::fs::read_dir(pods)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path().display().to_string()),
        );
        left
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        cleanup(&self.dir.join("run")).unwrap();
        let left = self.leftovers();
        std::fs::remove_dir_all(&self.dir).unwrap();
        if !std::thread::panicking() {
            assert_eq!(left, Vec::<String>::new(), "cleanup leaves nothing");
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

impl Running {
    async fn until(&mut self, uid: &str, what: &str, ok: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut status = self.engine.status(uid).expect("the pod is known");
        let wait = async {
            loop {
                if let Some(now) = status.borrow_and_update().clone().filter(|s| ok(s)) {
                    return now;
                }
                if status.changed().await.is_err() {
                    panic!("the pod is gone before: {what}");
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), wait).await {
            Ok(found) => found,
            Err(_) => {
                let now = self.engine.status(uid).map(|s| s.borrow().clone());
                panic!("never: {what}; now {now:#?}; events {:#?}", self.events());
            }
        }
    }

    async fn gone(&self, uid: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.engine.status(uid).is_some() {
            assert!(Instant::now() < until, "the pod is still here");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn events(&mut self) -> Vec<String> {
        while let Ok(note) = self.notes.try_recv() {
            self.seen.push(format!("{} {}", note.reason, note.message));
        }
        self.seen.clone()
    }
}

fn pod(uid: &str, spec: serde_json::Value) -> Pod {
    let name = format!("pod-{uid}");
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid}, "spec": spec}))
    .unwrap()
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    pod.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

fn ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Runs a test body on one thread in a network namespace of its own with 10.77.1.1 as the node's address.
fn on_a_node<F: Future<Output = ()>>(body: impl FnOnce() -> F + Send + 'static) {
    if !able() {
        return;
    }
    let thread = std::thread::spawn(move || {
        lab::container::sys::new_network().unwrap();
        lab::container::sys::loopback_up().unwrap();
        run("ip", &["addr", "add", "10.77.1.1/32", "dev", "lo"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, body());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

async fn get(ip: &str, port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((ip, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

async fn ask(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[test]
fn an_httpd_pod_runs_serves_and_goes_without_a_trace() {
    on_a_node(|| async {
        let node = Node::new("httpd");
        let mut r = node.start();
        let web = pod(
            "web-1",
            json!({"containers": [{"name": "httpd", "image": "httpd",
            "readinessProbe": {"httpGet": {"port": 80}}}]}),
        );
        let began = Instant::now();
        r.engine.apply(web.clone());
        let status = r.until("web-1", "Running", |s| s.phase.as_deref() == Some("Running")).await;
        let took = began.elapsed();
        eprintln!("pod seen to Running: {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let status = if ready(&status) { status } else { r.until("web-1", "Ready", ready).await };
        eprintln!("pod seen to Ready: {:?}", began.elapsed());
        let ip = status.pod_ip.unwrap();
        let page = get(&ip, 80, "/").await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.ends_with("<html><body><h1>It works!</h1></body></html>\n"), "{page}");
        assert!(get(&ip, 80, "/nope").await.unwrap().starts_with("HTTP/1.1 404"));
        let events = r.events();
        assert!(events.contains(&"Started Started container httpd".to_owned()), "{events:?}");

        r.engine.apply(deleted(web, 30));
        let began = Instant::now();
        r.gone("web-1").await;
        assert!(began.elapsed() < Duration::from_secs(3), "SIGTERM ends it, not SIGKILL");
        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(r.events().contains(&"Killing Stopping container httpd".to_owned()));
    });
}

#[test]
fn a_container_has_its_own_hostname_files_variables_and_root() {
    on_a_node(|| async {
        let node = Node::new("inside");
        let mut r = node.start();
        let script = "hostname; cat /etc/hostname; grep nameserver /etc/resolv.conf; echo $NAME-$IP; echo x > /etc/mine; \
            echo $$$$; ls /proc | grep -c '^[0-9]'; cat /data/f; readlink /proc/self/ns/net; id -u; echo out >&2; exit 3";
        let p = pod(
            "in-1",
            json!({"restartPolicy": "Never",
            "volumes": [{"name": "d", "emptyDir": {}}],
            "initContainers": [{"name": "i", "image": "busybox", "command": ["sh", "-c", "echo shared > /data/f"],
                "volumeMounts": [{"name": "d", "mountPath": "/data"}]}],
            "containers": [{"name": "c", "image": "busybox:1.36", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "d", "mountPath": "/data", "readOnly": true}],
                "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]}),
        );
        r.engine.apply(p);
        let status = r.until("in-1", "Failed", |s| s.phase.as_deref() == Some("Failed")).await;
        let c = &status.container_statuses.unwrap()[0];
        let ended = c.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (3, Some("Error")));
        assert!(!Path::new("/etc/mine").exists(), "writes stay inside");
        let log = std::fs::read_to_string(node.dir.join("run/pods/in-1/logs/c/0.log")).unwrap();
        let stdout = log.lines().filter(|l| l.contains(" stdout F "));
        let lines: Vec<&str> = stdout.map(|l| l.splitn(4, ' ').nth(3).unwrap()).collect();
        let outer = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        assert_eq!(
            lines[..4],
            ["pod-in-1", "pod-in-1", "nameserver 10.96.0.10", "pod-in-1-10.77.0.2"]
        );
        assert_eq!(lines[4], "2", "the program is pid 2, init is 1");
        assert_eq!(lines[6], "shared");
        assert_ne!(lines[7], outer.to_str().unwrap());
        assert_eq!(lines[8], "0");
        assert!(log.contains("stderr F out"));
    });
}

#[test]
fn a_crashing_container_backs_off_and_an_unknown_image_says_so() {
    on_a_node(|| async {
        let node = Node::new("crash");
        let mut r = node.start();
        r.engine.apply(pod(
            "cr-1",
            json!({"containers": [{"name": "c", "image": "busybox", "command": ["false"]}]}),
        ));
        r.engine.apply(pod("im-1", json!({"containers": [{"name": "c", "image": "redis:7"}]})));
        r.engine.apply(pod(
            "no-1",
            json!({"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "busybox", "command": ["no-such-program"]}]}),
        ));
        let waiting = |reason: &'static str| {
            move |s: &PodStatus| {
                let c = &s.container_statuses.as_ref().unwrap()[0];
                let state = c.state.as_ref().and_then(|s| s.waiting.as_ref());
                state.is_some_and(|w| w.reason.as_deref() == Some(reason))
            }
        };
        let status = r.until("cr-1", "CrashLoopBackOff", waiting("CrashLoopBackOff")).await;
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.container_statuses.unwrap()[0].restart_count, 1);
        let status = r.until("im-1", "ErrImagePull", waiting("ErrImagePull")).await;
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        let status = r.until("no-1", "Failed", |s| s.phase.as_deref() == Some("Failed")).await;
        let state =
            status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!((state.exit_code, state.reason.as_deref()), (128, Some("StartError")));
        assert!(state.message.unwrap().contains("executable file not found in $PATH"));
        let events = r.events();
        assert!(
            events
                .iter()
                .any(|e| e.starts_with("BackOff Back-off restarting failed container c in pod")),
            "{events:#?}"
        );
        assert!(
            events.iter().any(|e| e.contains("redis:7") && e.contains("httpd, nginx, busybox")),
            "{events:#?}"
        );
    });
}

#[test]
fn probes_drive_readiness_and_restarts() {
    on_a_node(|| async {
        let node = Node::new("probe");
        let mut r = node.start();
        r.engine.apply(pod("pr-1", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "busybox",
            "command": ["sh", "-c", "touch /tmp/ok; exec sleep 1000"],
            "readinessProbe": {"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 1},
            "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/tmp/dead"]}, "periodSeconds": 1, "failureThreshold": 1}}]})));
        r.until("pr-1", "Ready", ready).await;
        let path = |r: &Running| {
            let record = r.engine.record("default", "pod-pr-1").unwrap();
            match &record.containers["c"].phase {
                lab::runner::state::Phase::Running { init, .. } => {
                    PathBuf::from(format!("/proc/{}/root/tmp", init.pid))
                }
                other => panic!("{other:?}"),
            }
        };
        std::fs::remove_file(path(&r).join("ok")).unwrap();
        r.until("pr-1", "not ready", |s| !ready(s)).await;
        std::fs::write(path(&r).join("ok"), "").unwrap();
        r.until("pr-1", "Ready again", ready).await;
        std::fs::write(path(&r).join("dead"), "").unwrap();
        let status = r
            .until("pr-1", "restarted", |s| {
                s.container_statuses.as_ref().unwrap()[0].restart_count == 1
            })
            .await;
        assert!(
            status.container_statuses.unwrap()[0].last_state.as_ref().unwrap().terminated.is_some()
        );
        let events = r.events();
        assert!(
            events.iter().any(|e| e.starts_with("Unhealthy Readiness probe failed: ")),
            "{events:#?}"
        );
        assert!(
            events.contains(
                &"Killing Container c failed liveness probe, will be restarted".to_owned()
            ),
            "{events:#?}"
        );
    });
}

#[test]
fn a_new_runner_adopts_what_runs_and_forgets_what_is_gone() {
    on_a_node(|| async {
        let node = Node::new("adopt");
        let spec = json!({"containers": [{"name": "c", "image": "agnhost", "args": ["netexec", "--http-port=8080"]}]});
        let (keep, drop_) = (pod("ad-1", spec.clone()), pod("ad-2", spec));
        let first = tokio::task::LocalSet::new();
        let (before, ip) = first
            .run_until(async {
                let mut r = node.start();
                r.engine.apply(keep.clone());
                r.engine.apply(drop_);
                r.until("ad-2", "Ready", ready).await;
                let status = r.until("ad-1", "Ready", ready).await;
                (status.container_statuses.unwrap()[0].container_id.clone(), status.pod_ip.unwrap())
            })
            .await;
        // what kill -9 does to it: nothing of the old engine is asked to stop, all its memory is forgotten
        drop(first);
        let mut r = node.start();
        r.engine.apply(keep.clone());
        r.engine.only(&["ad-1".to_owned()]).await;
        let status = r.until("ad-1", "Ready", ready).await;
        let c = &status.container_statuses.unwrap()[0];
        assert_eq!((c.container_id.clone(), c.restart_count), (before, 0), "the same container");
        let page = get(&ip, 8080, "/hostname").await.unwrap();
        assert!(page.ends_with("pod-ad-1"), "{page}");
        let left = node.leftovers();
        assert!(!left.iter().any(|l| l.contains("ad-2")), "{left:?}");
        r.engine.apply(deleted(keep, 5));
        r.gone("ad-1").await;
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

#[test]
fn a_failing_network_is_reported_and_tried_again() {
    on_a_node(|| async {
        let node = Node::new("cni");
        std::fs::write(node.dir.join("cni/fail"), "").unwrap();
        let mut r = node.start();
        r.engine.apply(pod("cn-1", json!({"containers": [{"name": "c", "image": "pause"}]})));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let events = r.events();
        let wanted = "FailedCreatePodSandBox Failed to create pod sandbox: failed to setup network for sandbox";
        assert!(
            events
                .iter()
                .any(|e| e.starts_with(wanted) && e.contains("no addresses left; pool is empty")),
            "{events:#?}"
        );
        std::fs::remove_file(node.dir.join("cni/fail")).unwrap();
        r.until("cn-1", "Ready", ready).await;
    });
}

#[test]
fn logs_and_exec_over_the_socket() {
    on_a_node(|| async {
        use futures::{SinkExt, StreamExt};
        use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
        let node = Node::new("stream");
        let mut r = node.start();
        let socket = node.dir.join("runner.sock");
        let listener = server::bind(&socket).unwrap();
        tokio::task::spawn_local(server::serve(r.engine.clone(), listener));
        r.engine.apply(pod(
            "st-1",
            json!({"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "busybox", "stdin": true,
            "command": ["sh", "-c", "echo one; echo two; while read l; do echo got $l; done"]}]}),
        ));
        r.until("st-1", "Ready", ready).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let logs = ask(&socket, "/containerLogs/default/pod-st-1/c?tailLines=1").await;
        assert!(logs.contains("two\n") && !logs.contains("one\n"), "{logs}");
        assert!(ask(&socket, "/containerLogs/default/nope/c").await.starts_with("HTTP/1.1 404"));

        let session = |path: String| {
            let socket = socket.clone();
            async move {
                let stream = UnixStream::connect(socket).await.unwrap();
                let mut request = format!("ws://x{path}").into_client_request().unwrap();
                let protocols = "v5.channel.k8s.io".parse().unwrap();
                request.headers_mut().insert("Sec-WebSocket-Protocol", protocols);
                tokio_tungstenite::client_async(request, stream).await.unwrap().0
            }
        };
        let all = |mut ws: tokio_tungstenite::WebSocketStream<UnixStream>| async move {
            let mut out = vec![Vec::new(); 4];
            while let Some(Ok(message)) = ws.next().await {
                if let Message::Binary(bytes) = message {
                    out[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
                }
            }
            out.into_iter().map(|o| String::from_utf8(o).unwrap()).collect::<Vec<_>>()
        };
        let exec =
            "/exec/default/pod-st-1/c?stdout=true&stderr=true&command=sh&command=-c&command=";
        let out = all(session(format!("{exec}hostname;echo%20err%20%3E%262;exit%203")).await).await;
        assert_eq!(out[1], "pod-st-1\n");
        assert_eq!(out[2], "err\n");
        let status: serde_json::Value = serde_json::from_str(&out[3]).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");

        let mut ws = session(format!("{exec}cat&stdin=true")).await;
        ws.send(Message::binary(&b"\0hello\n"[..])).await.unwrap();
        ws.send(Message::binary(vec![255, 0])).await.unwrap();
        let out = all(ws).await;
        assert_eq!((out[1].as_str(), out[3].contains("Success")), ("hello\n", true));

        let ws = session(format!("{exec}tty;stty%20size&stdin=true&tty=true")).await;
        let out = all(ws).await;
        assert!(out[1].starts_with("/dev/pts/"), "{out:?}");

        let mut ws = session("/attach/default/pod-st-1/c?stdin=true&stdout=true".into()).await;
        ws.send(Message::binary(&b"\0hey\n"[..])).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"got hey\n") {
            let message = tokio::time::timeout(Duration::from_secs(5), ws.next()).await;
            let message = message.expect("in time").expect("open").unwrap();
            text.extend_from_slice(&message.into_data()[1..]);
        }
    });
}

#[test]
fn cleanup_removes_what_a_dead_runner_left() {
    on_a_node(|| async {
        let node = Node::new("clean");
        let first = tokio::task::LocalSet::new();
        let inits: Vec<ProcessId> = first
            .run_until(async {
                let mut r = node.start();
                for uid in ["cl-1", "cl-2"] {
                    r.engine
                        .apply(pod(uid, json!({"containers": [{"name": "c", "image": "nginx"}]})));
                }
                for uid in ["cl-1", "cl-2"] {
                    r.until(uid, "Ready", ready).await;
                }
                let record = |n: &str| r.engine.record("default", n).unwrap();
                ["pod-cl-1", "pod-cl-2"]
                    .map(|n| match record(n).containers["c"].phase {
                        lab::runner::state::Phase::Running { init, .. } => init,
                        ref other => panic!("{other:?}"),
                    })
                    .into()
            })
            .await;
        drop(first);
        assert!(node.leftovers().len() >= 6, "there is something to clean: {:?}", node.leftovers());
        cleanup(&node.dir.join("run")).unwrap();
        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(inits.iter().all(|i| !i.alive()));
        cleanup(&node.dir.join("run")).unwrap();
    });
}
