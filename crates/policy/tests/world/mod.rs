//! A node with nine pods (three in each of three namespaces) and a client outside, as network namespaces. They live as long as
//! the test; policies are swapped. Packets are sent all at once and each says who sent it, so a round takes milliseconds.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    reason = "each test program uses a part of it; what is left behind is said"
)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use link::Namespace;
use nft::conntrack::Conntrack;
use nft::kernel::Netlink;
use nft::{Family, Kernel as _, Name, Table, Transaction};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The ports everybody listens on.
pub(crate) const PORTS: [u16; 2] = [80, 81];
/// The transport protocols.
pub(crate) const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// The client outside, behind the nine pods.
pub(crate) const CLIENT: usize = 9;
/// The node itself.
pub(crate) const NODE: usize = 10;

/// From whom to whom, by which protocol, to which port, in which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Probe {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) v6: bool,
}

pub(crate) fn address(who: usize, v6: bool) -> IpAddr {
    match (who, v6) {
        (CLIENT, false) => Ipv4Addr::new(172, 30, 0, 2).into(),
        (CLIENT, true) => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 2).into(),
        (NODE, false) => Ipv4Addr::new(172, 30, 1, 1).into(),
        (NODE, true) => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 0x101).into(),
        (pod, false) => Ipv4Addr::new(10, 244, 1, 10 + pod as u8).into(),
        (pod, true) => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0x10 + pod as u16).into(),
    }
}

/// Who listens for what.
struct Ears {
    udp: Vec<(u16, bool, Socket)>,
    tcp: Vec<Socket>,
    /// SCTP by hand: the packet that opens an association.
    raw: [Socket; 2],
}

pub(crate) struct World {
    prefix: String,
    pub(crate) pods: Vec<Namespace>,
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    ears: Vec<Ears>,
}

impl World {
    /// Wires it; says why not when this machine cannot, and fails where nothing may be left out.
    pub(crate) fn or_skip() -> Option<Self> {
        match Self::new() {
            Ok(world) => Some(world),
            Err(reason) => {
                let required = ["CI", "FAIRWAY_REQUIRE_ALL"]
                    .iter()
                    .any(|name| std::env::var_os(name).is_some());
                assert!(!required, "missing: {reason}");
                println!("SKIP: {reason}");
                None
            }
        }
    }

    /// Wires it; the reason when this machine cannot.
    fn new() -> Result<Self, String> {
        let prefix =
            format!("fwpol-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let create = |part: String| {
            Namespace::create(&format!("{prefix}-{part}"))
                .map_err(|error| format!("namespaces (root is needed): {error}"))
        };
        let node = create("node".into())?;
        let client = create("client".into())?;
        let pods = (0..9).map(|number| create(format!("pod{number}"))).collect::<Result<_, _>>()?;
        let mut world = Self { prefix, pods, client, node, ears: Vec::new() };
        world.wire();
        for who in 0..=CLIENT {
            let ears = world.at(who).run(|| Ears::open(who)).expect("enter the namespace");
            world.ears.push(ears);
        }
        Ok(world)
    }

    pub(crate) fn at(&self, who: usize) -> &Namespace {
        match who {
            CLIENT => &self.client,
            NODE => &self.node,
            pod => &self.pods[pod],
        }
    }

    fn wire(&self) {
        let p = &self.prefix;
        let script = format!(
            "set -e
            n={p}-node
            ip -n $n link set lo up; ip -n {p}-client link set lo up
            ip -n {p}-client link add eth0 type veth peer name eth0 netns $n
            ip -n {p}-client addr add 172.30.0.2/16 dev eth0
            ip -n {p}-client addr add fd00:172:30::2/64 dev eth0 nodad
            ip -n $n addr add 172.30.1.1/16 dev eth0
            ip -n $n addr add fd00:172:30::101/64 dev eth0 nodad
            ip -n {p}-client link set eth0 up; ip -n $n link set eth0 up
            ip -n {p}-client route add 10.244.0.0/16 via 172.30.1.1
            ip -n {p}-client -6 route add fd00:10:244::/48 via fd00:172:30::101
            for i in 0 1 2 3 4 5 6 7 8; do
              pod={p}-pod$i; v4=10.244.1.$((10 + i)); v6=fd00:10:244:1::1$i
              ip -n $pod link set lo up
              ip -n $pod link add eth0 type veth peer name fwpod$i netns $n
              ip -n $pod addr add $v4/32 dev eth0; ip -n $pod addr add $v6/128 dev eth0 nodad
              ip -n $n addr add fe80::1/64 dev fwpod$i nodad
              ip -n $pod link set eth0 up; ip -n $n link set fwpod$i up
              ip -n $pod route add 172.30.1.1 dev eth0; ip -n $pod route add default via 172.30.1.1
              ip -n $pod -6 route add default via fe80::1 dev eth0
              ip -n $n route add $v4 dev fwpod$i; ip -n $n -6 route add $v6 dev fwpod$i
            done
            for i in $(seq 50); do
              [ -z \"$(for i in 0 8; do ip -n {p}-pod$i -6 addr show tentative; done)\" ] && break
              sleep 0.1
            done"
        );
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sysctls = || {
            link::sysctl::ensure("net/ipv4/ip_forward", "1")?;
            link::sysctl::ensure("net/ipv6/conf/all/forwarding", "1")
        };
        self.node.run(sysctls).expect("enter the node").expect("sysctls");
    }

    /// In the node: commits, and gives the table as the kernel has it.
    pub(crate) fn commit(&self, transaction: &Transaction) -> Table {
        let commit = || {
            let mut kernel = Netlink::open().expect("nf_tables");
            if !transaction.is_empty()
                && let Err(error) = kernel.commit(transaction)
            {
                panic!("{error}\n{transaction}");
            }
            let table = Name::new(policy::TABLE).expect("a name");
            kernel.list(Family::Inet, &table).expect("a listing").expect("the table")
        };
        self.node.run(commit).expect("enter the node")
    }

    /// Forgets every connection.
    pub(crate) fn forget(&self) {
        let forget = || {
            let mut conntrack = Conntrack::open().expect("conntrack");
            let flows = conntrack.list().expect("a listing");
            conntrack.delete(&flows).expect("deleted");
        };
        self.node.run(forget).expect("enter the node");
    }

    /// Sends a packet for each of these, and says which arrived. Waits so long for those that are expected, and a little longer for
    /// those that are not.
    pub(crate) fn send(
        &self,
        probes: &BTreeSet<Probe>,
        expected: &BTreeSet<Probe>,
        patience: Duration,
    ) -> BTreeSet<Probe> {
        self.hear();
        let mut dialled: Vec<(Probe, Socket)> = Vec::new();
        for who in 0..=CLIENT {
            let own: Vec<Probe> =
                probes.iter().filter(|probe| probe.from == who).copied().collect();
            if own.is_empty() {
                continue;
            }
            dialled.extend(self.at(who).run(|| say(who, &own)).expect("enter the namespace"));
        }
        let mut arrived = BTreeSet::new();
        let deadline = Instant::now() + patience;
        let mut rest = None;
        loop {
            arrived.extend(self.hear());
            dialled.retain(|(probe, socket)| {
                // An answer of either kind says that the packet arrived.
                let connected = socket.peer_addr().is_ok();
                if connected {
                    arrived.insert(*probe);
                }
                !connected
            });
            if rest.is_none() && (arrived.is_superset(expected) || Instant::now() > deadline) {
                rest = Some(Instant::now() + Duration::from_millis(25));
            }
            if rest.is_some_and(|rest| Instant::now() > rest) {
                return arrived;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What was received since the last time.
    fn hear(&self) -> BTreeSet<Probe> {
        let mut heard = BTreeSet::new();
        for (to, ears) in self.ears.iter().enumerate() {
            for (port, v6, socket) in &ears.udp {
                let mut buffer = [0; 8];
                let mut socket = socket;
                while let Ok(1) = socket.read(&mut buffer) {
                    let from = usize::from(buffer[0]);
                    heard.insert(Probe { from, to, protocol: "UDP", port: *port, v6: *v6 });
                }
            }
            for (socket, v6) in ears.raw.iter().zip([false, true]) {
                let mut buffer = [0; 256];
                let mut socket = socket;
                while let Ok(length) = socket.read(&mut buffer) {
                    let header = if v6 { 0 } else { usize::from(buffer[0] & 15) * 4 };
                    let packet = &buffer[header..length];
                    // The sender's port says who it is.
                    let number = |at| u16::from_be_bytes([packet[at], packet[at + 1]]);
                    let from = usize::from(number(0)) - 50_000;
                    heard.insert(Probe { from, to, protocol: "SCTP", port: number(2), v6 });
                }
            }
            for socket in &ears.tcp {
                while socket.accept().is_ok() {}
            }
        }
        heard
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let parts = ["node".to_owned(), "client".to_owned()];
        for part in parts.into_iter().chain((0..9).map(|number| format!("pod{number}"))) {
            if let Err(error) = Namespace::delete(&format!("{}-{part}", self.prefix)) {
                eprintln!("{error}");
            }
        }
    }
}

fn domain(v6: bool) -> Domain {
    if v6 { Domain::IPV6 } else { Domain::IPV4 }
}

impl Ears {
    fn open(who: usize) -> Self {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for v6 in [false, true] {
            for port in PORTS {
                let at: SockAddr = SocketAddr::new(address(who, v6), port).into();
                let socket = Socket::new(domain(v6), Type::DGRAM, None).expect("a socket");
                socket.bind(&at).expect("bound");
                socket.set_nonblocking(true).expect("non-blocking");
                udp.push((port, v6, socket));
                let socket = Socket::new(domain(v6), Type::STREAM, None).expect("a socket");
                socket.bind(&at).expect("bound");
                socket.listen(1024).expect("listening");
                socket.set_nonblocking(true).expect("non-blocking");
                tcp.push(socket);
            }
        }
        let raw = [false, true].map(|v6| {
            let socket = Socket::new(domain(v6), Type::RAW, Some(Protocol::from(132)));
            let socket = socket.expect("a raw socket");
            socket.set_nonblocking(true).expect("non-blocking");
            socket
        });
        Self { udp, tcp, raw }
    }
}

/// In a pod: sends its packets; the TCP sockets that wait for an answer are given back.
fn say(who: usize, probes: &[Probe]) -> Vec<(Probe, Socket)> {
    let mut dialled = Vec::new();
    for v6 in [false, true] {
        let from: SockAddr = SocketAddr::new(address(who, v6), 0).into();
        let udp = Socket::new(domain(v6), Type::DGRAM, None).expect("a socket");
        udp.bind(&from).expect("bound");
        let raw = Socket::new(domain(v6), Type::RAW, Some(Protocol::from(132))).expect("raw");
        for probe in probes.iter().filter(|probe| probe.v6 == v6) {
            let to = SocketAddr::new(address(probe.to, v6), probe.port);
            match probe.protocol {
                "UDP" => drop(udp.send_to(&[who as u8], &to.into())),
                "SCTP" => {
                    // The kernel takes a raw packet's port for the protocol's.
                    let to = SocketAddr::new(to.ip(), 0);
                    drop(raw.send_to(&init(who, probe.port), &to.into()));
                }
                _ => {
                    let socket = Socket::new(domain(v6), Type::STREAM, None).expect("a socket");
                    socket.bind(&from).expect("bound");
                    socket.set_nonblocking(true).expect("non-blocking");
                    drop(socket.connect(&to.into()));
                    dialled.push((*probe, socket));
                }
            }
        }
    }
    dialled
}

/// An SCTP packet with one INIT chunk (RFC 9260, 3.3.2).
fn init(who: usize, port: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend((50_000 + who as u16).to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// CRC-32C, as SCTP's checksum is (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    };
    !bytes.iter().fold(!0, step)
}
