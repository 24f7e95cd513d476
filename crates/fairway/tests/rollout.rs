//! A Deployment is updated under load and nobody notices: no request fails through ClusterIP, NodePort and a Service with
//! affinity, while every pod behind them is replaced, twice.
//!
//! The pods do what the documentation of Kubernetes asks: after SIGTERM they go on serving for a while, then finish what
//! they have. Pods that stop at once lose requests, whatever the proxy does; the test was seen to fail with them
//! (`ROLLOUT_DELAY=0`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::demo::request;
use support::{Lab, ready};

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  replicas: 3
  strategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } }
  selector: { matchLabels: { app: web } }
  template:
    metadata: { labels: { app: web } }
    spec:
      terminationGracePeriodSeconds: 15
      containers:
      - name: netexec
        image: registry.k8s.io/e2e-test-images/agnhost:2.47
        args: ["netexec", "--http-port=8080", "--delay-shutdown=DELAY"]
        ports: [{ name: http, containerPort: 8080 }]
        readinessProbe: { httpGet: { path: /healthz, port: http }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { type: NodePort, selector: { app: web }, ports: [{ port: 80, targetPort: http, nodePort: 30123 }] }
---
apiVersion: v1
kind: Service
metadata: { name: sticky }
spec: { sessionAffinity: ClientIP, selector: { app: web }, ports: [{ port: 80, targetPort: http }] }
"#;

/// Who asks what, over and over.
struct Load {
    what: &'static str,
    from: PathBuf,
    address: SocketAddr,
}

/// What came of it.
#[derive(Debug, Default)]
struct Told {
    requests: usize,
    pods: BTreeSet<String>,
    failures: Vec<String>,
}

/// Asks until told to stop, a new connection each time.
fn ask(load: &Load, stop: &AtomicBool) -> Told {
    let began = Instant::now();
    let mut told = Told::default();
    while !stop.load(Ordering::Relaxed) {
        for answer in request::many(&load.from, load.address, "/hostname", 20).unwrap() {
            told.requests += 1;
            match answer {
                Ok(name) => drop(told.pods.insert(name)),
                Err(error) => told.failures.push(format!("{:?}: {error}", began.elapsed())),
            }
        }
        // Load, not a race for the test's own processors.
        std::thread::sleep(Duration::from_millis(10));
    }
    told
}

#[test]
fn a_rolling_update_loses_no_request() {
    if !ready(&["ip", "kubectl", "bash"]) {
        return;
    }
    let delay = std::env::var("ROLLOUT_DELAY").unwrap_or_else(|_| "2".to_owned());
    let lab = Lab::up("rollout", &["--nodes", "3"]);
    let manifest = MANIFEST.replace("DELAY", &delay);
    lab.sh(&format!(
        "kubectl apply -f - <<'EOF'\n{manifest}\nEOF\nkubectl rollout status deployment/web --timeout=60s"
    ));
    let inside = lab.cluster_ip("web", 80);
    let sticky = lab.cluster_ip("sticky", 80);
    let node = |number: u8| SocketAddr::from(([172, 30, 1, number], 30123));
    let loads = [
        Load { what: "ClusterIP", from: lab.netns("node-1"), address: inside },
        Load { what: "ClusterIP from another node", from: lab.netns("node-3"), address: inside },
        Load { what: "NodePort", from: lab.netns("client"), address: node(1) },
        Load { what: "NodePort of another node", from: lab.netns("client"), address: node(2) },
        Load { what: "affinity", from: lab.netns("node-2"), address: sticky },
    ];
    support::eventually("every way answers", Duration::from_secs(10), || {
        for load in &loads {
            let answer = request::get(&load.from, load.address, "/hostname").unwrap();
            answer.map_err(|error| format!("{}: {error}", load.what))?;
        }
        Ok(())
    });

    let before: BTreeSet<String> = lab.pods("app=web").into_keys().collect();
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let told: Vec<Told> = std::thread::scope(|scope| {
        let asking: Vec<_> = loads.iter().map(|load| scope.spawn(|| ask(load, &stop))).collect();
        let updated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for change in [
                "kubectl rollout restart deployment/web",
                "kubectl set image deployment/web netexec=registry.k8s.io/e2e-test-images/agnhost:2.48",
            ] {
                lab.sh(&format!("{change} && kubectl rollout status deployment/web --timeout=60s"));
            }
            // The last old pods serve a little longer.
            std::thread::sleep(Duration::from_secs(3));
        }));
        stop.store(true, Ordering::Relaxed);
        let told = asking.into_iter().map(|asking| asking.join().unwrap()).collect();
        updated.unwrap();
        told
    });
    println!("two updates of three pods under load in {:?}", began.elapsed());

    let after: BTreeSet<String> = lab.pods("app=web").into_keys().collect();
    assert!(before.is_disjoint(&after), "not every pod was replaced: {before:?} {after:?}");
    for (load, told) in loads.iter().zip(&told) {
        println!(
            "{}: {} requests, {} pods answered, {} failed",
            load.what,
            told.requests,
            told.pods.len(),
            told.failures.len()
        );
    }
    for (load, told) in loads.iter().zip(&told) {
        assert!(told.failures.is_empty(), "{}: {:?}", load.what, told.failures);
        assert!(told.requests > 200, "{}: hardly any load", load.what);
        let (old, new) = (told.pods.intersection(&before), told.pods.intersection(&after));
        assert!(old.count() > 0 && new.count() > 0, "{}: {told:?}", load.what);
    }
}
