//! Nodes as namespaces, an agent in each on a thread of its own, an API server, pods made by the plugin, and questions asked
//! between them.
//!
//! ```text
//!   net: br30 172.30.1.254/24, br31 172.31.1.254/24 (a router), the API at 172.30.1.254:6443, outside 192.0.2.1
//!     ├─ node-1, node-2   172.30.1.1, .2    fd00:172:30::1, ::2
//!     └─ node-3           172.31.1.3        fd00:172:31::3
//! ```
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test binary uses its part, fails by panicking and says why"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::{AgentConfig, Ipam, Without};
use apiserver::auth::Authority;
use link::Namespace;
use link::namespace::CommandInNamespace as _;
use serde_json::{Value, json};

use crate::world;

const PORT: u16 = 7777;
const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
const CRDS: &str = include_str!("../../../../deploy/manifests/pools.yaml");

pub struct Cluster {
    tag: String,
    dir: PathBuf,
    numbers: Vec<u8>,
    ipam: Ipam,
    api: RefCell<Option<Process>>,
    kubeconfig: PathBuf,
    agents: RefCell<BTreeMap<u8, Process>>,
    echoes: RefCell<Vec<Arc<AtomicBool>>>,
    pods: RefCell<Vec<String>>,
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

/// What would be a process of its own: an agent, the API server.
struct Process {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Process {
    fn end(self) {
        // One that ended by itself does not listen any more.
        self.stop.send(()).ok();
        self.thread.join().unwrap();
    }
}

pub struct Pinger {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32)>,
}

impl Pinger {
    /// How many were sent, how many had no answer.
    pub fn stop(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

pub fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    let within = patience(within);
    while !holds() {
        assert!(start.elapsed() < within, "{what} did not happen within {within:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// The same wait, longer in a machine that emulates every instruction (tests/in_a_kernel).
fn patience(usual: Duration) -> Duration {
    if std::env::var_os("FAIRWAY_IN_A_KERNEL").is_some() { usual * 6 } else { usual }
}

fn run(namespace: &Namespace, script: &str) -> String {
    let mut command = Command::new("sh");
    let output = command.args(["-c", script]).in_namespace(namespace).unwrap().output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !errors.is_empty() {
        println!("{script}: {errors}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Cluster {
    /// The wiring, the API with its kinds and a Node per number. `None` (said) without root.
    pub fn start(numbers: &[u8], ipam: Ipam) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            let strict =
                ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|it| std::env::var_os(it).is_some());
            assert!(!strict, "network namespaces need root");
            println!("SKIP: network namespaces need root");
            return None;
        }
        let tag = format!("fwbn{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&tag);
        std::fs::create_dir_all(&dir).unwrap();
        let net = Namespace::create(&format!("{tag}-net")).unwrap();
        run(&net, "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip link set lo up; ip addr add 192.0.2.1/32 dev lo
            for n in 30 31; do ip link add br$n type bridge mcast_snooping 0; ip link set br$n up
            ip addr add 172.$n.1.254/24 dev br$n; ip addr add fd00:172:$n::254/64 dev br$n nodad; done");
        for n in numbers {
            let node = Namespace::create(&format!("{tag}-{n}")).unwrap();
            let subnet = if *n == 3 { 31 } else { 30 };
            run(
                &net,
                &format!(
                    "ip link add p{n} type veth peer name eth0 netns {tag}-{n}; ip link set p{n} master br{subnet} up"
                ),
            );
            run(&node, &format!("sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
                ip link set lo up; ip link set eth0 up
                ip addr add 172.{subnet}.1.{n}/24 dev eth0; ip addr add fd00:172:{subnet}::{n}/64 dev eth0 nodad
                ip route add default via 172.{subnet}.1.254; ip -6 route add default via fd00:172:{subnet}::254"));
        }
        let address: SocketAddr = "172.30.1.254:6443".parse().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (told, known) = std::sync::mpsc::channel();
        let (home, at) = (dir.clone(), Namespace::open(&format!("{tag}-net")).unwrap());
        let thread = std::thread::spawn(move || {
            let serve = async {
                let (_server, kubeconfig) =
                    world::api_at(&home, address, Authority::generate().unwrap());
                told.send(kubeconfig).unwrap();
                drop(stopped.await);
            };
            let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
            at.run(|| runtime().unwrap().block_on(serve)).unwrap();
        });
        let kubeconfig = known.recv().unwrap();
        let server = Process { stop, thread };
        // The test's own client connects from the network of the API.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = async { cluster::connect(Some(&kubeconfig)).await.unwrap() };
        let client = net.run(|| runtime.block_on(connect)).unwrap();
        let this = Self {
            tag,
            dir,
            numbers: numbers.to_vec(),
            ipam,
            api: RefCell::new(Some(server)),
            kubeconfig,
            agents: RefCell::default(),
            echoes: RefCell::default(),
            pods: RefCell::default(),
            runtime,
            client,
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple(CRDS).unwrap();
        for crd in documents.iter().filter(|it| it["kind"] == "CustomResourceDefinition") {
            this.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd);
        }
        for n in numbers {
            let subnet = if *n == 3 { 31 } else { 30 };
            this.node(*n, &format!("172.{subnet}.1.{n}"));
        }
        this.echo(&net, [192, 0, 2, 1].into());
        for n in numbers {
            this.echo(&this.node_namespace(*n), ANY);
        }
        Some(this)
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let kind =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
            .unwrap();
        let net = self.place("net");
        let (runtime, client) = (&self.runtime, &self.client);
        let answer = net.run(|| runtime.block_on(client.request::<Value>(request)));
        answer.unwrap().map_err(|error| error.to_string())
    }

    pub fn get(&self, path: &str) -> Result<Value, String> {
        self.request("GET", path, None)
    }

    pub fn post(&self, path: &str, object: &Value) {
        self.request("POST", path, Some(object)).unwrap();
    }

    pub fn patch(&self, path: &str, patch: &Value) {
        self.request("PATCH", path, Some(patch)).unwrap();
    }

    pub fn delete(&self, path: &str) {
        self.request("DELETE", path, None).unwrap();
    }

    /// A Node of this number and IPv4 address, made or changed.
    pub fn node(&self, n: u8, address: &str) {
        let subnet = if n == 3 { 31 } else { 30 };
        let path = format!("/api/v1/nodes/node-{n}");
        if self.get(&path).is_err() {
            self.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{n}"), "labels": {"rack": format!("r{n}")}},
                "spec": {"podCIDRs": [format!("10.244.{n}.0/24"), format!("fd00:10:244:{n}::/64")]}}));
        }
        let addresses = json!([{"type": "InternalIP", "address": address},
            {"type": "InternalIP", "address": format!("fd00:172:{subnet}::{n}")}]);
        self.patch(&format!("{path}/status"), &json!({"status": {"addresses": addresses}}));
    }

    pub fn delete_node(&self, n: u8) {
        self.delete(&format!("/api/v1/nodes/node-{n}"));
    }

    /// A pool with this vxlanMode, made or changed.
    pub fn pool(&self, name: &str, cidr: &str, vxlan: &str) {
        self.pool_with(name, json!({"cidr": cidr, "vxlanMode": vxlan, "natOutgoing": true}));
    }

    pub fn pool_with(&self, name: &str, spec: Value) {
        let all = "/apis/crd.projectcalico.org/v1/ippools";
        let path = format!("{all}/{name}");
        if self.get(&path).is_ok() {
            self.patch(&path, &json!({"spec": spec}));
        } else {
            self.post(
                all,
                &json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
                "metadata": {"name": name}, "spec": spec}),
            );
        }
    }

    fn node_namespace(&self, n: u8) -> Namespace {
        Namespace::open(&format!("{}-{n}", self.tag)).unwrap()
    }

    fn config(&self, n: u8) -> AgentConfig {
        let dir = self.dir.join(format!("node-{n}"));
        AgentConfig {
            node_name: format!("node-{n}"),
            ipam: self.ipam,
            // The API has no pods here, and a pod nobody knows waits for its policy.
            without: Without { policy: true, ..Without::default() },
            ..world::config(&dir, &self.kubeconfig)
        }
    }

    pub fn run_agents(&self) {
        for n in &self.numbers {
            self.run_agent(*n);
        }
        for n in &self.numbers {
            let ready = || self.is_ready(*n);
            eventually(&format!("agent {n} is ready"), Duration::from_secs(20), ready);
        }
    }

    fn is_ready(&self, n: u8) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(world::HEALTH).ok()?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.split(' ').nth(1).map(|code| code == "200")
        };
        self.node_namespace(n).run(ask).unwrap() == Some(true)
    }

    pub fn run_agent(&self, n: u8) {
        let (config, namespace) = (self.config(n), self.node_namespace(n));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            namespace
                .run(|| {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        tokio::select! {
                            ended = agent::run(config) => println!("agent {n} ended: {ended:?}"),
                            _ = stopped => {}
                        }
                    });
                })
                .unwrap();
        });
        self.agents.borrow_mut().insert(n, Process { stop, thread });
    }

    /// As a kill: the agent gets no chance to do anything.
    pub fn stop_agent(&self, n: u8) {
        let agent = self.agents.borrow_mut().remove(&n).unwrap();
        agent.end();
    }

    pub fn restart_agent(&self, n: u8) {
        self.stop_agent(n);
        self.run_agent(n);
        eventually("ready again", Duration::from_secs(20), || self.is_ready(n));
    }

    pub fn stop_api(&self) {
        if let Some(api) = self.api.borrow_mut().take() {
            api.end();
        }
    }

    /// As after a reboot: nothing of ours is in the kernel.
    pub fn forget_everything(&self, n: u8) {
        self.on(
            n,
            "nft flush ruleset; ip route flush proto 250; ip -6 route flush proto 250
            for l in vxlan.fairway vxlan6.fairway; do ip link del $l 2>/dev/null; done; true",
        );
    }

    /// What a shell prints on a node.
    pub fn on(&self, n: u8, script: &str) -> String {
        run(&self.node_namespace(n), script)
    }

    pub fn in_pod(&self, pod: &str, script: &str) -> String {
        run(&self.place(pod), script)
    }

    /// "1" is a node, "1a" its pod a.
    fn place(&self, name: &str) -> Namespace {
        Namespace::open(&format!("{}-{name}", self.tag)).unwrap()
    }

    pub fn conflist(&self, n: u8) -> String {
        let path = self.config(n).cni_conf_dir.join("10-fairway.conflist");
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// The file of facts an agent keeps.
    pub fn facts(&self, n: u8) -> String {
        std::fs::read_to_string(self.config(n).state_dir.join("facts.log")).unwrap_or_default()
    }

    /// Calls the plugin as a runtime does, with the configuration the agent wrote; its answer.
    pub fn cni(&self, n: u8, pod: &str, command: &str) -> (i32, Value) {
        call(&self.tag, &self.conflist(n), n, pod, command)
    }

    /// Makes a pod that answers; its addresses.
    pub fn pod(&self, n: u8, pod: &str) -> Vec<String> {
        let name = format!("{}-{n}{pod}", self.tag);
        let namespace = Namespace::create(&name).unwrap();
        self.pods.borrow_mut().push(name);
        run(
            &namespace,
            "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0",
        );
        let (code, answer) = self.cni(n, pod, "ADD");
        assert_eq!(code, 0, "{answer}");
        self.echo(&namespace, ANY);
        addresses_of(&answer)
    }

    /// That many ADDs at once; all addresses given.
    pub fn burst(&self, n: u8, count: usize) -> Vec<String> {
        for at in 0..count {
            let name = format!("{}-{n}x{at}", self.tag);
            drop(Namespace::create(&name).unwrap());
            self.pods.borrow_mut().push(name);
        }
        let list = self.conflist(n);
        let threads: Vec<_> = (0..count)
            .map(|at| {
                let (tag, list) = (self.tag.clone(), list.clone());
                std::thread::spawn(move || call(&tag, &list, n, &format!("x{at}"), "ADD"))
            })
            .collect();
        let mut given = Vec::new();
        for thread in threads {
            let (code, answer) = thread.join().unwrap();
            assert_eq!(code, 0, "{answer}");
            given.extend(addresses_of(&answer));
        }
        given
    }

    /// Their DELs.
    pub fn burst_ends(&self, n: u8, count: usize) {
        for at in 0..count {
            assert_eq!(self.cni(n, &format!("x{at}"), "DEL").0, 0);
        }
    }

    /// The list of blocks the plugin goes by.
    pub fn list(&self, n: u8) -> String {
        std::fs::read_to_string(self.ipam_dir(n).join("blocks.json")).unwrap_or_default()
    }

    pub fn ipam_dir(&self, n: u8) -> PathBuf {
        self.config(n).state_dir.join("ipam/fairway")
    }

    /// Answers every datagram with the address it came from.
    fn echo(&self, namespace: &Namespace, at: IpAddr) {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = namespace.run(|| UdpSocket::bind((at, PORT)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        self.echoes.borrow_mut().push(stop.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let seen = from.ip().to_canonical().to_string();
                    drop(socket.send_to(seen.as_bytes(), from));
                }
            }
        });
    }

    /// Asks an echo from a node ("1") or a pod ("1a"); whom it saw.
    pub fn asks(&self, from: &str, to: &str) -> Option<String> {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        self.place(from)
            .run(|| question(to, &[0; 8], patience(Duration::from_millis(300))))
            .unwrap()
    }

    /// Whether a datagram of that many bytes goes whole: it may not be cut on the way.
    pub fn passes(&self, from: &str, to: &str, bytes: usize) -> bool {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        let asked = self.place(from).run(|| {
            let socket = socket_for(to).unwrap();
            never_cut(&socket, to.is_ipv4());
            ask(&socket, to, &vec![0; bytes], patience(Duration::from_millis(500)))
        });
        asked.unwrap().is_some()
    }

    /// Sends that many bytes from one pod to another in one TCP connection; how many arrived as they were sent.
    pub fn carries(&self, from: &str, at: &str, to: &str, bytes: usize) -> Option<usize> {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        let listener = self.place(at).run(|| TcpListener::bind((ANY, PORT)).unwrap()).unwrap();
        let receiver = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(patience(Duration::from_secs(3)))).unwrap();
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).ok()?;
            let right = |(at, byte): &(usize, &u8)| **byte == (at % 251) as u8;
            Some(seen.iter().enumerate().filter(right).count())
        });
        let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        let connect = || TcpStream::connect_timeout(&to, patience(Duration::from_secs(2)));
        let mut stream = self.place(from).run(connect).unwrap().ok()?;
        stream.set_write_timeout(Some(patience(Duration::from_secs(3)))).unwrap();
        stream.write_all(&sent).ok()?;
        drop(stream);
        receiver.join().unwrap()
    }

    /// Asks every 5 ms until it is stopped.
    pub fn ping(&self, from: &str, to: &str) -> Pinger {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        let socket = self.place(from).run(|| socket_for(to).unwrap()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut sent, mut answered) = (0, 0);
            let mut buffer = [0; 64];
            socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                if Instant::now() >= next {
                    next += Duration::from_millis(5);
                    sent += 1;
                    // A route that is missing for a moment is a lost ping like another.
                    drop(socket.send_to(&[0], to));
                }
                answered += u32::from(socket.recv(&mut buffer).is_ok());
            }
            let until = Instant::now() + Duration::from_millis(300);
            while Instant::now() < until && answered < sent {
                answered += u32::from(socket.recv(&mut buffer).is_ok());
            }
            (sent, sent - answered)
        });
        Pinger { stop, thread }
    }
}

fn addresses_of(answer: &Value) -> Vec<String> {
    let ips = answer["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}

fn call(tag: &str, list: &str, n: u8, pod: &str, command: &str) -> (i32, Value) {
    let list: Value = serde_json::from_str(list).unwrap();
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    let name = format!("{tag}-{n}{pod}");
    let env = cni::Environment {
        command: command.to_owned(),
        container_id: name.clone(),
        netns: format!("/run/netns/{name}"),
        ifname: "eth0".to_owned(),
        args: format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"),
        ..cni::Environment::default()
    };
    let mut answer = Vec::new();
    let text = config.to_string();
    let node = Namespace::open(&format!("{tag}-{n}")).unwrap();
    let code = node.run(|| cni::main(&env, &mut text.as_bytes(), &mut answer)).unwrap();
    (code, serde_json::from_slice(&answer).unwrap_or(Value::Null))
}

fn socket_for(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    UdpSocket::bind((any, 0))
}

/// Packets are sent whole or not at all.
#[allow(unsafe_code, reason = "neither the standard library nor rustix has this option")]
fn never_cut(socket: &UdpSocket, v4: bool) {
    use std::os::fd::AsRawFd as _;
    let (level, option, value) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    };
    // SAFETY: the value is an int that lives through the call, and its size is told.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4)
    };
    assert_eq!(set, 0);
}

fn question(to: SocketAddr, bytes: &[u8], within: Duration) -> Option<String> {
    ask(&socket_for(to).ok()?, to, bytes, within)
}

fn ask(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], within: Duration) -> Option<String> {
    socket.set_read_timeout(Some(within)).ok()?;
    socket.send_to(bytes, to).ok()?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    String::from_utf8(buffer[..length].to_vec()).ok()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for stop in self.echoes.borrow().iter() {
            stop.store(true, Ordering::Relaxed);
        }
        let numbers: Vec<u8> = self.agents.borrow().keys().copied().collect();
        for n in numbers {
            self.stop_agent(n);
        }
        self.stop_api();
        let names = self.pods.borrow().clone();
        let nodes = self.numbers.iter().map(|n| format!("{}-{n}", self.tag));
        for name in names.into_iter().chain(nodes).chain([format!("{}-net", self.tag)]) {
            drop(Namespace::delete(&name));
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
