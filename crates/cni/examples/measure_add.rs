//! Measures ADD and DEL as the runtime sees them, minus the exec: 200 dual-stack pods on one node,
//! each in its own namespace. Needs root; makes and removes its namespaces and files.
//!
//! `cargo run --release -p fairway-cni --example measure_add`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example that prints its findings")]

use std::time::{Duration, Instant};

use cni::Environment;
use link::Namespace;

const PODS: usize = 200;

fn main() {
    let prefix = format!("fwmeasure-{}", std::process::id());
    let data_dir = std::env::temp_dir().join(&prefix);
    let node = Namespace::create(&format!("{prefix}-node")).unwrap();
    let mut names = vec![format!("{prefix}-node")];
    let config = serde_json::json!({
        "cniVersion": "1.0.0", "name": "fairway", "type": "fairway", "mtu": 1500,
        "ipam": { "type": "host-local", "dataDir": data_dir, "ranges": [
            [{ "subnet": "10.244.1.0/24" }], [{ "subnet": "fd00:10:244:1::/64" }],
        ]},
    })
    .to_string();
    let pods: Vec<Environment> = (0..PODS)
        .map(|n| {
            let name = format!("{prefix}-{n}");
            let namespace = Namespace::create(&name).unwrap();
            names.push(name);
            Environment {
                command: "ADD".to_owned(),
                container_id: format!("{n:064x}"),
                netns: namespace.path().display().to_string(),
                ifname: "eth0".to_owned(),
                args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{n}"),
                ..Environment::default()
            }
        })
        .collect();
    let measure = |command: &str| {
        let mut times: Vec<Duration> = node
            .run(|| {
                pods.iter()
                    .map(|env| {
                        let env = Environment { command: command.to_owned(), ..env.clone() };
                        let mut out = Vec::new();
                        let start = Instant::now();
                        let code = cni::main(&env, &mut config.as_bytes(), &mut out);
                        let took = start.elapsed();
                        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&out));
                        took
                    })
                    .collect()
            })
            .unwrap();
        times.sort();
        let (p50, p99, max) = (times[PODS / 2], times[PODS * 99 / 100], times[PODS - 1]);
        println!("{command}: {PODS} pods, p50 {p50:.2?}, p99 {p99:.2?}, max {max:.2?}");
    };
    measure("ADD");
    measure("DEL");
    drop(node);
    for name in names {
        Namespace::delete(&name).unwrap();
    }
    std::fs::remove_dir_all(data_dir).unwrap();
}
