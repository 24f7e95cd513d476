//! Plugins killed at any moment (`kill -9`), over and over; then everything is deleted, and nothing may be left: no link, no
//! address, no rule, no file.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a test")]

mod world;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use cni::Environment;
use link::namespace::CommandInNamespace as _;
use serde_json::{Value, json};
use world::{World, ready};

/// Calls of plugins, most of them killed. `FAIRWAY_KILLS` for more of them than a test has time for.
const CALLS: u64 = 150;
const PODS: usize = 6;
/// Says to this program that it is the plugin.
const IS_PLUGIN: &str = "FAIRWAY_TEST_IS_PLUGIN";

/// Not a test: the plugin, as a process of its own.
#[test]
fn plugin_process() {
    let Ok(program) = std::env::var(IS_PLUGIN) else { return };
    let env = Environment { program, ..Environment::from_process() };
    let code = cni::main(&env, &mut std::io::stdin().lock(), &mut std::io::sink());
    std::process::exit(code);
}

/// Numbers that look random (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn plugins(data_dir: &std::path::Path, run_dir: &std::path::Path, pod: usize) -> Vec<Value> {
    let ipam = json!({ "type": "host-local", "dataDir": data_dir, "ranges": [
        [{ "subnet": "10.88.0.0/24" }], [{ "subnet": "fd00:88::/64" }],
    ]});
    let mut plugins = vec![
        json!({ "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "ipam": ipam }),
        json!({ "type": "portmap" }),
        json!({ "type": "bandwidth" }),
        json!({ "type": "fairway", "ipam": ipam }),
    ];
    for plugin in &mut plugins {
        plugin["name"] =
            if plugin["type"] == "fairway" { json!("routed") } else { json!("bridged") };
        plugin["cniVersion"] = json!("1.1.0");
        plugin["runDir"] = json!(run_dir);
        plugin["runtimeConfig"] = json!({
            "portMappings": [{ "hostPort": 9000 + pod, "containerPort": 80, "protocol": "udp" }],
            "bandwidth": { "egressRate": 8_000_000, "egressBurst": 800_000, "ingressRate": 8_000_000, "ingressBurst": 800_000 },
        });
    }
    plugins
}

#[test]
fn nothing_is_left_of_plugins_killed_at_any_moment() {
    if !ready() {
        return;
    }
    let calls = std::env::var("FAIRWAY_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(CALLS);
    let mut world = World::new(1);
    let pods: Vec<_> = (0..PODS).map(|n| world.pod_env(&format!("p{n}"))).collect();
    let node = &world.nodes[0];
    let run_dir = node.data_dir.join("run");
    let before: Vec<String> =
        node.netlink().links().unwrap().into_iter().map(|it| it.name).collect();
    let seed = u64::from(std::process::id())
        ^ std::time::SystemTime::now().elapsed().unwrap_or_default().as_nanos() as u64;
    let mut dice = Dice(seed);
    println!("seed {seed}, {calls} calls");
    let start = |command: &str, pod: usize, plugin: &Value, previous: Option<Value>| {
        let mut conf = plugin.clone();
        if let Some(previous) = previous {
            conf["prevResult"] = previous;
        }
        let env = &pods[pod].1;
        // Bridged and routed are two interfaces of one pod.
        let ifname = if conf["type"] == "fairway" { "eth1" } else { "eth0" };
        let mut process = Command::new(std::env::current_exe().unwrap());
        process
            .args(["--exact", "plugin_process", "--nocapture"])
            .env(IS_PLUGIN, conf["type"].as_str().unwrap())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &env.container_id)
            .env("CNI_NETNS", &env.netns)
            .env("CNI_IFNAME", ifname)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = process.in_namespace(&node.namespace).unwrap().spawn().unwrap();
        child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        child
    };
    let previous = |pod: usize| {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "cni0" },
                { "name": "eth0", "sandbox": pods[pod].1.netns },
            ],
            "ips": [{ "interface": 1, "address": format!("10.88.0.{}/24", pod + 2) }],
        })
    };
    let mut killed = 0;
    for _ in 0..calls {
        let pod = dice.below(PODS as u64) as usize;
        let all = plugins(&node.data_dir, &run_dir, pod);
        let plugin = &all[dice.below(all.len() as u64) as usize];
        let chained = plugin["type"] == "portmap" || plugin["type"] == "bandwidth";
        let command = if dice.below(3) == 0 { "DEL" } else { "ADD" };
        let mut child = start(command, pod, plugin, chained.then(|| previous(pod)));
        std::thread::sleep(Duration::from_micros(dice.below(40_000)));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
    }
    println!("{killed} of {calls} calls did not end well");
    for pod in 0..PODS {
        for plugin in plugins(&node.data_dir, &run_dir, pod).iter().rev() {
            let status = start("DEL", pod, plugin, None).wait().unwrap();
            assert!(status.success(), "DEL of {plugin}");
        }
    }
    let after: Vec<String> = node
        .netlink()
        .links()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .filter(|name| name != "cni0")
        .collect();
    assert_eq!(after, before);
    assert_eq!(node.netlink().routes(cni::attachment::ROUTE_PROTOCOL).unwrap(), []);
    let rules =
        String::from_utf8(world::inside(&node.namespace, &["nft", "list", "ruleset"]).stdout)
            .unwrap();
    assert_eq!(rules, "");
    for network in ["bridged", "routed"] {
        let names = std::fs::read_dir(node.data_dir.join(network)).unwrap();
        let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
        let held: Vec<_> = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect();
        assert_eq!(held, Vec::<String>::new(), "{network}");
    }
    let records = std::fs::read_dir(run_dir.join("cni")).into_iter().flatten().count();
    assert_eq!(records, 0, "records are left");
}
