//! A client, a node and a pod, each a namespace of its own; removed at the end.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use link::Namespace;
use nft::Kernel as _;

/// The namespaces. Names are random; dropping removes them.
pub struct World {
    pub client: Namespace,
    pub node: Namespace,
    pub pod: Namespace,
    names: Vec<String>,
    pub dir: PathBuf,
}

/// Whether this machine can run the tests; says what is missing, and panics where nothing may be skipped.
pub fn ready(programs: &[&str]) -> bool {
    let mut missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| {
            let script = format!("command -v {program}");
            !Command::new("sh").args(["-c", &script]).output().unwrap().status.success()
        })
        .collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("root");
    }
    if missing.is_empty() {
        return true;
    }
    let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!strict, "missing: {}", missing.join(", "));
    println!("SKIP: needs {}", missing.join(", "));
    false
}

/// Runs a script in a namespace; its output, or a panic with what it said.
pub fn sh(namespace: &Namespace, script: &str) -> String {
    let output = namespace.run(|| Command::new("sh").args(["-ec", script]).output().unwrap());
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Gives a program input in a namespace.
pub fn feed(namespace: &Namespace, program: &[&str], input: &str) {
    let outcome = namespace.run(|| {
        let mut child = Command::new(program[0])
            .args(&program[1..])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = outcome.unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    /// Client 10.1.0.2 — node 10.1.0.1, 10.244.0.1 — pod 10.244.0.2.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let names: Vec<String> = ["c", "n", "p"]
            .iter()
            .map(|part| format!("fwadopt-{}-{number}-{part}", std::process::id()))
            .collect();
        let mut made = names.iter().map(|name| Namespace::create(name).unwrap());
        let (client, node, pod) =
            (made.next().unwrap(), made.next().unwrap(), made.next().unwrap());
        let dir = std::env::temp_dir().join(&names[1]);
        std::fs::create_dir_all(&dir).unwrap();
        let [c, _, p] = [&names[0], &names[1], &names[2]];
        sh(&node, &format!(
            "for which in all default; do echo 1 > /proc/sys/net/ipv6/conf/$which/disable_ipv6; done
             ip link set lo up
             ip link add out type veth peer name eth0 netns {c}; ip link add in type veth peer name eth0 netns {p}
             ip addr add 10.1.0.1/24 dev out; ip addr add 10.244.0.1/24 dev in
             ip link set out up; ip link set in up; echo 1 > /proc/sys/net/ipv4/ip_forward"
        ));
        sh(
            &client,
            "ip link set lo up; ip addr add 10.1.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.1.0.1",
        );
        sh(
            &pod,
            "ip link set lo up; ip addr add 10.244.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.244.0.1",
        );
        // A link that just came up is still without a carrier to the routes that use it.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while sh(&node, "ip route show table all").contains("linkdown") {
            assert!(std::time::Instant::now() < until, "the links do not come up");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self { client, node, pod, names, dir }
    }

    /// Commits what the agent would for the Service `web`: 10.96.0.10, 80/TCP and 53/UDP, at the pod's 8080 and 5353.
    pub fn serve(&self) {
        let mut writer = model::SnapshotWriter::default();
        let service: k8s_openapi::api::core::v1::Service =
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "web", "namespace": "d"},
                "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [
                    {"name": "tcp", "port": 80}, {"name": "udp", "port": 53, "protocol": "UDP"}]},
            }))
            .unwrap();
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.0.2"]}],
            "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 5353, "protocol": "UDP"}],
        }))
        .unwrap();
        let node: k8s_openapi::api::core::v1::Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}}))
        .unwrap();
        use model::{Event, Parsed, Update};
        let service = Parsed::<model::Service>::try_from(&service).unwrap().value;
        let slice = Parsed::<model::EndpointSlice>::try_from(&slice).unwrap().value;
        let node = Parsed::<model::NodeFacts>::try_from(&node).unwrap().value;
        writer.apply(Event::Service(Update::Applied(service)));
        writer.apply(Event::Slice(Update::Applied(slice)));
        writer.apply(Event::Node(Update::Applied(node)));
        let mut planner =
            service::Planner::new(model::NodeName::new("node-1"), service::Config::default());
        let table = planner.full(writer.snapshot(), None).table;
        let committed = self.node.run(|| {
            let mut kernel = nft::kernel::Netlink::open().unwrap();
            kernel.commit(&nft::diff(&table, None))
        });
        committed.unwrap().unwrap();
    }

    /// Rules, routes, links and policy of the node, as the tools print them; counters and times left out.
    pub fn network(&self) -> String {
        sh(
            &self.node,
            "nft -n -s list ruleset; ip route show table all; ip -6 route show table all; ip -br link; ip rule; ip -6 rule",
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.names {
            Namespace::delete(name).ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}
