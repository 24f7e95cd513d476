//! Two nodes on one switch and pods on them, all namespaces with random names, all removed at the
//! end. Nothing of the host's network is touched.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use cni::Environment;
use link::kernel::Netlink;
use link::namespace::CommandInNamespace;
use link::{Address, Bridge, Change, LinkEnd, LinkSettings, Namespace, Veth};
use serde_json::Value;

pub struct World {
    prefix: String,
    pub nodes: Vec<Node>,
    names: Vec<String>,
}

pub struct Node {
    pub number: u8,
    pub namespace: Namespace,
    pub data_dir: PathBuf,
    pub uplink: u32,
}

pub struct Pod {
    pub namespace: Namespace,
    pub env: Environment,
    pub result: Value,
}

/// Whether the test can run; says so when not.
pub fn ready() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let required = std::env::var_os("CI").or(std::env::var_os("FAIRWAY_REQUIRE_ALL"));
    assert!(required.is_none(), "network namespaces need root");
    println!("SKIP: network namespaces need root");
    false
}

impl World {
    pub fn new(nodes: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("fwtest-cni-{}-{number}", std::process::id());
        let mut world = Self { prefix, nodes: Vec::new(), names: Vec::new() };
        let switch = world.namespace("switch");
        let mut ports = Netlink::in_namespace(&switch).unwrap();
        let bridge =
            Bridge { name: "br0".to_owned(), mac: None, mtu: None, multicast_snooping: false };
        let up = |name: &str| Change::SetLink(name.into(), LinkSettings::up());
        ports.apply(&[Change::AddBridge(bridge), up("br0")]).unwrap();
        let br0 = ports.link("br0").unwrap().unwrap().index;
        for number in 1..=nodes {
            let namespace = world.namespace(&format!("node-{number}"));
            let port = format!("n{number}");
            // The uplink speaks at once: until its link-local address is out of detection, nothing
            // forwarded by IPv6 leaves (the kernel asks for neighbours with that address).
            let no_dad = || link::sysctl::ensure("net/ipv6/conf/default/accept_dad", "0").unwrap();
            namespace.run(no_dad).unwrap();
            let veth = Veth::new(LinkEnd::named(&port), LinkEnd::named("eth0"))
                .master(br0)
                .peer_in(namespace.as_fd());
            ports.apply(&[Change::AddVeth(veth), up(&port)]).unwrap();
            let mut node = Netlink::in_namespace(&namespace).unwrap();
            let uplink = node.link("eth0").unwrap().unwrap().index;
            let address =
                |text: String| Change::AddAddress(Address::new(uplink, text.parse().unwrap()));
            node.apply(&[
                up("lo"),
                up("eth0"),
                address(format!("172.30.1.{number}/16")),
                address(format!("fd00:172:30::1:{number}/64")),
            ])
            .unwrap();
            let data_dir = std::env::temp_dir().join(format!("{}-{number}", world.prefix));
            world.nodes.push(Node { number, namespace, data_dir, uplink });
        }
        world
    }

    pub fn namespace(&mut self, name: &str) -> Namespace {
        let name = format!("{}-{name}", self.prefix);
        let namespace = Namespace::create(&name).unwrap();
        self.names.push(name);
        namespace
    }

    pub fn pod_env(&mut self, name: &str) -> (Namespace, Environment) {
        let namespace = self.namespace(name);
        let env = Environment {
            command: "ADD".to_owned(),
            container_id: format!("{name}-0123456789abcdef"),
            netns: namespace.path().display().to_string(),
            ifname: "eth0".to_owned(),
            args: format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}"),
            ..Environment::default()
        };
        (namespace, env)
    }

    /// A new pod on that node (from 0).
    pub fn pod(&mut self, node: usize, name: &str) -> Pod {
        let (namespace, env) = self.pod_env(name);
        let node = &self.nodes[node];
        let result = node.call(&env, &node.config("1.1.0")).unwrap();
        Pod { namespace, env, result }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.names {
            let gone = Namespace::delete(name);
            if !std::thread::panicking() {
                gone.unwrap();
            }
        }
        for node in &self.nodes {
            match std::fs::remove_dir_all(&node.data_dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    eprintln!("{}: {error}", node.data_dir.display());
                }
                _ => {}
            }
        }
    }
}

impl Node {
    pub fn config(&self, version: &str) -> Value {
        let n = self.number;
        serde_json::json!({
            "cniVersion": version, "name": "fairway", "type": "fairway", "mtu": 1450,
            "ipam": { "type": "host-local", "dataDir": self.data_dir, "ranges": [
                [{ "subnet": format!("10.244.{n}.0/24") }],
                [{ "subnet": format!("fd00:10:244:{n}::/64") }],
            ]},
        })
    }

    /// What the runtime's exec of the plugin on this node does. Errors are (code, message).
    pub fn call(&self, env: &Environment, config: &Value) -> Result<Value, (u64, String)> {
        let stdin = config.to_string();
        let (code, text) = self
            .namespace
            .run(|| {
                let mut out = Vec::new();
                let code = cni::main(env, &mut stdin.as_bytes(), &mut out);
                (code, String::from_utf8(out).unwrap())
            })
            .unwrap();
        let json = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        match code {
            0 => Ok(json),
            _ => Err((json["code"].as_u64().unwrap(), json["msg"].as_str().unwrap().to_owned())),
        }
    }

    pub fn netlink(&self) -> Netlink {
        Netlink::in_namespace(&self.namespace).unwrap()
    }

    /// Files of reservations, without the bookkeeping.
    pub fn reserved(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.data_dir.join("fairway")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n.parse::<IpAddr>().is_ok()).collect();
        names.sort();
        names
    }
}

impl Pod {
    pub fn with_command(&self, command: &str) -> Environment {
        Environment { command: command.to_owned(), ..self.env.clone() }
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().unwrap().iter();
        ips.map(|ip| ip["address"].as_str().unwrap().split_once('/').unwrap().0.parse().unwrap())
            .collect()
    }

    pub fn node_link(&self) -> String {
        self.result["interfaces"][0]["name"].as_str().unwrap().to_owned()
    }
}

/// Runs a command inside a namespace.
pub fn inside(namespace: &Namespace, command: &[&str]) -> Output {
    let mut process = std::process::Command::new(command[0]);
    process.args(&command[1..]).in_namespace(namespace).unwrap().output().unwrap()
}

/// One echo, at once: no neighbour discovery or address detection has time to hide in it.
pub fn ping(from: &Namespace, to: IpAddr) -> bool {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    let (family, protocol, request, reply) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let echo = move || {
        link::sysctl::ensure("net/ipv4/ping_group_range", "0\t2147483647").unwrap();
        let socket = socket(family, SocketType::DGRAM, Some(protocol)).unwrap();
        let socket = std::net::UdpSocket::from(socket);
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        socket.connect((to, 0))?;
        socket.send(&[request, 0, 0, 0, 0, 0, 0, 1, b'f', b'w'])?;
        let mut answer = [0; 64];
        let length = socket.recv(&mut answer)?;
        assert_eq!((answer[0], &answer[8..length]), (reply, &b"fw"[..]));
        Ok::<(), std::io::Error>(())
    };
    match from.run(echo).unwrap() {
        Ok(()) => true,
        Err(error) => {
            println!("ping {to}: {error}");
            false
        }
    }
}

/// A TCP exchange; returns the address the server saw.
pub fn tcp(from: &Namespace, server: &Namespace, to: IpAddr) -> IpAddr {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;
    let listener = server.run(|| TcpListener::bind((to, 0)).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let accept = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        peer.ip()
    });
    let stream = from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(3)));
    let mut text = String::new();
    stream.unwrap().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    accept.join().unwrap()
}
