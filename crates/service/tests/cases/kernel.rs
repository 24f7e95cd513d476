//! Real packets: a node with pods of its own, pods that come from elsewhere, and a machine outside, as namespaces.
#![allow(clippy::print_stderr, reason = "a namespace that is left behind must be heard of")]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use link::Namespace;
use model::{Family, NodeName, SnapshotWriter};
use nft::kernel::Netlink;
use nft::{Kernel as _, Name};
use service::{Planner, TABLE};

use super::case::{Case, Expect, Probe, Source, is_of_node, pod};
use super::objects;

/// Namespace, node of its pods, number.
const PODS: [(&str, u8, u8); 6] = [
    ("pod-5", 1, 5),
    ("pod-6", 1, 6),
    ("pod-9", 1, 9),
    ("far-5", 2, 5),
    ("far-6", 2, 6),
    ("far-9", 2, 9),
];
/// How long silence must last to be called that. Answers take microseconds; the machine may be busy.
const SILENCE: Duration = Duration::from_millis(900);
/// Threads per source.
const CALLERS: usize = 24;

/// The namespaces.
pub(crate) struct World {
    prefix: String,
    namespaces: Vec<(String, Namespace)>,
}

impl World {
    /// Wires it; without the means says so, or panics where they are required.
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

    fn new() -> Result<Self, String> {
        let mut world =
            Self { prefix: format!("fwcase-{}", std::process::id()), namespaces: Vec::new() };
        for part in ["client", "node"].into_iter().chain(PODS.map(|(name, ..)| name)) {
            let namespace = Namespace::create(&format!("{}-{part}", world.prefix))
                .map_err(|error| format!("namespaces (root is needed): {error}"))?;
            world.namespaces.push((part.to_owned(), namespace));
        }
        world.wire();
        let sysctls = || {
            link::sysctl::ensure("net/ipv4/ip_forward", "1")?;
            link::sysctl::ensure("net/ipv6/conf/all/forwarding", "1")?;
            link::sysctl::ensure("net/ipv4/conf/all/route_localnet", "1")?;
            // Refusals are counted here, not rationed.
            link::sysctl::ensure("net/ipv4/icmp_ratelimit", "0")?;
            link::sysctl::ensure("net/ipv6/icmp/ratelimit", "0")
        };
        world.of("node").run(sysctls).expect("enter the node").expect("sysctls");
        for (name, node, which) in PODS {
            let addresses = Family::BOTH.map(|family| pod(node, which, family));
            world.of(name).run(|| serve(addresses)).expect("enter the pod").expect("serve");
        }
        Ok(world)
    }

    fn of(&self, part: &str) -> &Namespace {
        &self.namespaces.iter().find(|(name, _)| name == part).expect("a part").1
    }

    fn wire(&self) {
        let p = &self.prefix;
        let mut script = format!(
            "set -e
            for n in client node; do ip -n {p}-$n link set lo up; done
            ip -n {p}-client link add eth0 type veth peer name eth0 netns {p}-node
            ip -n {p}-client addr add 172.30.0.2/16 dev eth0
            ip -n {p}-client addr add fd00:172:30::2/64 dev eth0 nodad
            ip -n {p}-node addr add 172.30.1.1/16 dev eth0
            ip -n {p}-node addr add fd00:172:30::101/64 dev eth0 nodad
            ip -n {p}-client link set eth0 up
            ip -n {p}-node link set eth0 up
            ip -n {p}-node link add other type veth peer name other-end
            ip -n {p}-node link set other-end up
            ip -n {p}-node addr add 172.31.1.1/16 dev other
            ip -n {p}-node addr add fd00:172:31::101/64 dev other nodad
            ip -n {p}-node link set other up
            for net in 10.96.0.0/12 203.0.113.0/24 198.51.100.0/24 172.31.0.0/16; do
              ip -n {p}-client route add $net via 172.30.1.1
            done
            for net in fd00:10:96::/48 2001:db8::/32 fd00:172:31::/64; do
              ip -n {p}-client -6 route add $net via fd00:172:30::101
            done
            ip -n {p}-node route add default via 172.30.0.2
            ip -n {p}-node -6 route add default via fd00:172:30::2\n"
        );
        for (name, node, which) in PODS {
            let link = name.replace('-', "");
            script += &format!(
                "ip -n {p}-{name} link set lo up
                ip -n {p}-{name} link add eth0 type veth peer name {link} netns {p}-node
                ip -n {p}-{name} addr add 10.244.{node}.{which}/32 dev eth0
                ip -n {p}-{name} addr add fd00:10:244:{node}::{which}/128 dev eth0 nodad
                ip -n {p}-node addr add fe80::1/64 dev {link} nodad
                ip -n {p}-{name} link set eth0 up
                ip -n {p}-node link set {link} up
                ip -n {p}-{name} route add 172.30.1.1 dev eth0
                ip -n {p}-{name} route add default via 172.30.1.1
                ip -n {p}-{name} -6 route add default via fe80::1 dev eth0
                ip -n {p}-node route add 10.244.{node}.{which} dev {link}
                ip -n {p}-node -6 route add fd00:10:244:{node}::{which} dev {link}\n"
            );
        }
        // Neighbours answer for certain once no link-local address is being tried out any more.
        script += &format!(
            "for n in client node {}; do
              for i in $(seq 50); do
                [ -z \"$(ip -n {p}-$n -6 addr show tentative)\" ] && break
                sleep 0.1
              done
            done",
            PODS.map(|(name, ..)| name).join(" ")
        );
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Puts a case's table in place of whatever is there.
    pub(crate) fn load(&mut self, case: &Case) {
        let mut writer = SnapshotWriter::default();
        let reports = objects::apply(&mut writer, &case.objects);
        assert!(reports.is_empty(), "{}: {reports:?}", case.name);
        let mut planner = Planner::new(NodeName::new("node-1"), case.config.clone());
        let plan = planner.full(writer.snapshot(), None);
        let name = Name::new(TABLE).expect("a name");
        let commit = || {
            let mut kernel = Netlink::open().expect("nf_tables");
            let before = kernel.list(nft::Family::Inet, &name).expect("a listing");
            let transaction = nft::diff(&plan.table, before.as_ref());
            kernel.commit(&transaction).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let listed = kernel.list(nft::Family::Inet, &name).expect("a listing");
            let again = nft::diff(&plan.table, listed.as_ref());
            assert!(again.is_empty(), "{}: a second sync does something:\n{again}", case.name);
        };
        self.of("node").run(commit).expect("enter the node");
    }

    /// Sends every probe that sockets can send; returns how many there were.
    pub(crate) fn check(&mut self, case: &Case, wrong: &mut Vec<String>) -> usize {
        let mut groups: std::collections::BTreeMap<Source, Vec<&Probe>> = Default::default();
        let mut count = 0;
        for probe in case.probes.iter().filter(|probe| can_be_sent(probe)) {
            groups.entry(probe.from).or_default().push(probe);
            count += 1;
        }
        let found: Vec<String> = std::thread::scope(|scope| {
            let mut callers = Vec::new();
            for (source, probes) in &groups {
                let namespace = self.of(&match source {
                    Source::Node => "node".to_owned(),
                    Source::Outside => "client".to_owned(),
                    pod => pod.to_string(),
                });
                for chunk in probes.chunks(probes.len().div_ceil(CALLERS)) {
                    callers.push(scope.spawn(move || {
                        let ask_all = || -> Vec<String> {
                            let differ = |probe: &&Probe| {
                                let differs = differs(probe)?;
                                Some(format!("{}: {probe}\n    {differs}", case.name))
                            };
                            chunk.iter().filter_map(differ).collect()
                        };
                        namespace.run(ask_all).expect("enter the namespace")
                    }));
                }
            }
            callers.into_iter().flat_map(|caller| caller.join().expect("a caller")).collect()
        });
        wrong.extend(found);
        count
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (part, _) in &self.namespaces {
            if let Err(error) = Namespace::delete(&format!("{}-{part}", self.prefix)) {
                eprintln!("{error}");
            }
        }
    }
}

/// Sockets of the standard library speak TCP and UDP, and a packet that is none of ours goes nowhere here.
fn can_be_sent(probe: &Probe) -> bool {
    matches!(probe.protocol, 6 | 17) && probe.expect != Expect::Untouched
}

/// What is different from what was expected, if anything is.
fn differs(probe: &Probe) -> Option<String> {
    let answer = if probe.protocol == 6 { ask_tcp(probe.to) } else { ask_udp(probe.to) };
    match (&probe.expect, answer) {
        (Expect::Answer(endpoints), Ok((endpoint, seen))) => {
            let Some(hidden) = endpoints.get(&endpoint) else {
                return Some(format!("{endpoint} answered"));
            };
            let client = probe.from.address(probe.to.ip());
            // A node that is masqueraded still looks like the node.
            let as_expected = if *hidden { is_of_node(seen) } else { seen == client };
            (!as_expected).then(|| format!("{endpoint} saw {seen}"))
        }
        (Expect::Refused, Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        // What the output hook refuses, `send` itself says.
        (Expect::Refused, Err(error))
            if probe.from == Source::Node
                && probe.protocol == 17
                && error.kind() == io::ErrorKind::PermissionDenied =>
        {
            None
        }
        (Expect::Dropped, Err(error))
            if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
        {
            None
        }
        (_, Ok((endpoint, seen))) => Some(format!("{endpoint} answered {seen}")),
        (_, Err(error)) => Some(format!("{error} ({:?})", error.kind())),
    }
}

/// In a pod: answers TCP on 8080 and 8081 and UDP on 8080 with its own address and whom it sees.
fn serve(addresses: [IpAddr; 2]) -> io::Result<()> {
    for address in addresses {
        for port in [8080, 8081] {
            let listener = TcpListener::bind((address, port))?;
            // These end with the test process; they hold nothing but their sockets.
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    if let (Ok(own), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) {
                        drop(write!(stream, "{own} {}", peer.ip()));
                    }
                }
            });
        }
        let socket = UdpSocket::bind((address, 8080))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let (Ok((_, peer)), Ok(own)) =
                (socket.recv_from(&mut buffer), socket.local_addr())
            {
                drop(socket.send_to(format!("{own} {}", peer.ip()).as_bytes(), peer));
            }
        });
    }
    Ok(())
}

fn answer(text: &str) -> io::Result<(SocketAddr, IpAddr)> {
    let (own, seen) = text.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let own = own.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((own, seen.parse().map_err(|_| io::ErrorKind::InvalidData)?))
}

fn ask_tcp(to: SocketAddr) -> io::Result<(SocketAddr, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    answer(&text)
}

fn ask_udp(to: SocketAddr) -> io::Result<(SocketAddr, IpAddr)> {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(SILENCE))?;
    socket.send(b"?")?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    answer(&String::from_utf8_lossy(&buffer[..length]))
}
