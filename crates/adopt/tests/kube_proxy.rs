//! A TCP connection and a UDP flow live through taking over from kube-proxy and giving back, in both of its modes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod world;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use adopt::kube_proxy::{self, Options, Rules};
use world::{World, feed, ready, sh};

/// kube-proxy's nftables mode, in its shape: verdict maps, a chain per Service and per endpoint.
const NFTABLES: &str = r#"
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 10.96.0.10 . tcp . 80 : goto service-A-d/web/tcp/tcp, 10.96.0.10 . udp . 53 : goto service-B-d/web/udp/udp }; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark xor 0x4000; masquerade fully-random; }
  chain endpoint-A { ip saddr 10.244.0.2 jump mark-for-masquerade; meta l4proto tcp dnat to 10.244.0.2:8080; }
  chain endpoint-B { ip saddr 10.244.0.2 jump mark-for-masquerade; meta l4proto udp dnat to 10.244.0.2:5353; }
  chain service-A-d/web/tcp/tcp { ip daddr 10.96.0.10 tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
    numgen random mod 1 vmap { 0 : goto endpoint-A }; }
  chain service-B-d/web/udp/udp { ip daddr 10.96.0.10 udp dport 53 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
    numgen random mod 1 vmap { 0 : goto endpoint-B }; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
"#;

/// Its iptables mode, and beside it a rule of another program and the kubelet's chain.
const IPTABLES: &str = r#"*nat
:DOCKER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SVC-B - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A DOCKER -i docker0 -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SEP-A -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A KUBE-SEP-B -p udp -m udp -j DNAT --to-destination 10.244.0.2:5353
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "d/web:tcp cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment "d/web:udp cluster IP" -m udp --dport 53 -j KUBE-SVC-B
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-A ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SVC-B ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-MARK-MASQ
-A KUBE-SVC-B -j KUBE-SEP-B
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"#;

/// A process that looks like another one to whoever reads `/proc`; ended when dropped.
struct Disguised(Child);

impl Disguised {
    fn start(world: &World, script: &str, seen: fn() -> Vec<adopt::processes::Process>) -> Self {
        let dir = world.dir.clone();
        let child = world
            .node
            .run(|| Command::new("bash").args(["-c", script]).current_dir(dir).spawn().unwrap());
        let disguised = Self(child.unwrap());
        let until = Instant::now() + PATIENCE;
        while world.node.run(seen).unwrap().is_empty() {
            assert!(Instant::now() < until, "{script} does not look like it should");
            std::thread::sleep(Duration::from_millis(5));
        }
        disguised
    }

    fn kube_proxy(world: &World) -> Self {
        Self::start(
            world,
            "exec -a /usr/local/bin/kube-proxy sleep 1000",
            adopt::processes::kube_proxies,
        )
    }

    /// `fairway agent`: a reader of a pipe of that name.
    fn agent(world: &World) -> Self {
        Self::start(world, "mkfifo agent; exec -a fairway cat agent", adopt::processes::agents)
    }

    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Disguised {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers on both ports of the pod with what it hears.
fn echo(world: &World) {
    let (tcp, udp) = world
        .pod
        .run(|| {
            (
                TcpListener::bind("10.244.0.2:8080").unwrap(),
                UdpSocket::bind("10.244.0.2:5353").unwrap(),
            )
        })
        .unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..length]).unwrap();
                }
            });
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            udp.send_to(&bytes[..length], from).unwrap();
        }
    });
}

/// A client's connection and flow that must not break.
struct Flows {
    tcp: TcpStream,
    udp: UdpSocket,
}

const PATIENCE: Duration = Duration::from_secs(3);

impl Flows {
    fn open(world: &World) -> Self {
        let tcp = world.client.run(|| {
            TcpStream::connect_timeout(&"10.96.0.10:80".parse().unwrap(), PATIENCE).unwrap()
        });
        let udp = world.client.run(|| UdpSocket::bind("10.1.0.2:0").unwrap());
        let (tcp, udp) = (tcp.unwrap(), udp.unwrap());
        udp.connect("10.96.0.10:53").unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { tcp, udp }
    }

    fn work(&mut self, when: &str) {
        let mut bytes = [0; 64];
        self.tcp.write_all(when.as_bytes()).unwrap();
        let length =
            self.tcp.read(&mut bytes).unwrap_or_else(|error| panic!("TCP {when}: {error}"));
        assert_eq!(&bytes[..length], when.as_bytes(), "TCP {when}");
        self.udp.send(when.as_bytes()).unwrap();
        let length =
            self.udp.recv(&mut bytes).unwrap_or_else(|error| panic!("UDP {when}: {error}"));
        assert_eq!(&bytes[..length], when.as_bytes(), "UDP {when}");
    }
}

fn there_and_back(world: &World, load: impl Fn()) {
    let options = Options { force: false, patience: Duration::from_secs(5) };
    echo(world);
    load();
    let others = sh(&world.node, "nft -n -s list ruleset | grep -c docker0 || true");
    let mut kube_proxy = Disguised::kube_proxy(world);
    let mut flows = Flows::open(world);
    flows.work("with kube-proxy");

    // Without the agent nothing is touched.
    let refused = world.node.run(|| kube_proxy::check(options).err()).unwrap().unwrap();
    assert!(refused.to_string().contains("start the agent first"), "{refused}");
    world.serve();
    let refused = world.node.run(|| kube_proxy::check(options).err()).unwrap().unwrap();
    assert!(refused.to_string().contains("no Fairway agent runs"), "{refused}");
    let mut agent = Disguised::agent(world);
    flows.work("with both");
    Flows::open(world).work("new, with both");

    let mut said = Vec::new();
    let mut say = |text: &str| said.push(text.to_owned());
    let stop = || {
        kube_proxy.end();
        Ok(true)
    };
    // Commands of the take-over run in the node's namespace, on this thread.
    world.node.visit(|| kube_proxy::take_over(options, stop, &mut say)).unwrap().unwrap();
    println!("{}", said.join("\n"));
    flows.work("after taking over");
    Flows::open(world).work("new, after taking over");
    let left = world.node.visit(|| Rules::find().unwrap().words()).unwrap();
    assert_eq!(left, "no rules of kube-proxy");
    let after = sh(&world.node, "nft -n -s list ruleset | grep -c docker0 || true");
    assert_eq!(after, others, "another program's rules stay");

    let mut said = Vec::new();
    let mut say = |text: &str| said.push(text.to_owned());
    let start = || {
        load();
        agent.end();
        Ok(true)
    };
    world.node.visit(|| kube_proxy::give_back(options, start, &mut say)).unwrap().unwrap();
    println!("{}", said.join("\n"));
    flows.work("after giving back");
    Flows::open(world).work("new, after giving back");
    assert!(!sh(&world.node, "nft list tables").contains("fairway"));
}

#[test]
fn nftables_mode() {
    if !ready(&["nft", "ip", "bash", "mkfifo"]) {
        return;
    }
    let world = World::new();
    there_and_back(&world, || feed(&world.node, &["nft", "-f", "-"], NFTABLES));
}

#[test]
fn iptables_mode() {
    if !ready(&["nft", "ip", "bash", "mkfifo", "iptables-nft-restore"]) {
        return;
    }
    let world = World::new();
    there_and_back(&world, || feed(&world.node, &["iptables-nft-restore"], IPTABLES));
}

#[test]
fn iptables_mode_with_the_old_kernel_interface() {
    if !ready(&["nft", "ip", "bash", "mkfifo", "iptables-legacy-restore"]) {
        return;
    }
    let world = World::new();
    let works = world
        .node
        .run(|| Command::new("iptables-legacy").args(["-t", "nat", "-S"]).output().unwrap());
    if !works.unwrap().status.success() {
        println!("SKIP: this kernel has no iptables of the old kind, so neither has kube-proxy");
        return;
    }
    there_and_back(&world, || feed(&world.node, &["iptables-legacy-restore"], IPTABLES));
}

#[test]
fn what_fairway_does_not_serve_keeps_kube_proxy() {
    if !ready(&["nft", "ip", "bash", "mkfifo"]) {
        return;
    }
    let world = World::new();
    feed(&world.node, &["nft", "-f", "-"], NFTABLES);
    sh(
        &world.node,
        "nft add element ip kube-proxy service-ips '{ 10.96.0.99 . tcp . 443 : drop }'",
    );
    world.serve();
    let _agent = Disguised::agent(&world);
    let options = Options { force: false, patience: Duration::from_millis(300) };
    let before = world.network();
    let outcome = world.node.visit(|| kube_proxy::take_over(options, || Ok(true), &mut |_| {}));
    let error = outcome.unwrap().unwrap_err().to_string();
    assert!(error.contains("10.96.0.99:443/TCP"), "{error}");
    assert_eq!(world.network(), before, "nothing was touched");
}
