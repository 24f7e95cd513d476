//! A client, a node and two pods (5 and 6) as namespaces, removed at the end.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what is skipped or left behind must be heard of"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use link::Namespace;
use model::{NodeName, SnapshotWriter};
use nft::conntrack::{Conntrack, Flow};
use nft::kernel::Netlink;
use nft::{Double, Family, HookPoint, Kernel as _, Name, Op, Packet, Table, Transaction};
use service::{Config, Loads, Planner, StaleFlows, TABLE};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The namespaces and what was put into the node's.
pub(crate) struct World {
    prefix: String,
    pub(crate) client: Namespace,
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 2],
    writer: SnapshotWriter,
    planner: Option<Planner>,
    double: Double,
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
            format!("fwsvc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let create = |part: &str| {
            Namespace::create(&format!("{prefix}-{part}"))
                .map_err(|error| format!("namespaces (root is needed): {error}"))
        };
        let client = create("client")?;
        let node = create("node")?;
        let pods = [create("pod-5")?, create("pod-6")?];
        let world = Self {
            client,
            node,
            pods,
            writer: SnapshotWriter::default(),
            planner: None,
            double: Double::new(),
            prefix,
        };
        world.wire();
        for (pod, number) in world.pods.iter().zip([5, 6]) {
            pod.run(|| serve(number)).expect("enter the pod").expect("serve in the pod");
        }
        Ok(world)
    }

    fn wire(&self) {
        let p = &self.prefix;
        let script = format!(
            "set -e
            for n in client node pod-5 pod-6; do ip -n {p}-$n link set lo up; done
            ip -n {p}-client link add eth0 type veth peer name eth0 netns {p}-node
            ip -n {p}-client addr add 172.30.0.2/16 dev eth0
            ip -n {p}-client addr add fd00:172:30::2/64 dev eth0 nodad
            ip -n {p}-node addr add 172.30.1.1/16 dev eth0
            ip -n {p}-node addr add fd00:172:30::101/64 dev eth0 nodad
            ip -n {p}-client link set eth0 up
            ip -n {p}-node link set eth0 up
            ip -n {p}-client route add 10.96.0.0/16 via 172.30.1.1
            ip -n {p}-node route add default via 172.30.0.2
            ip -n {p}-node -6 route add default via fd00:172:30::2
            for i in 5 6; do
              ip -n {p}-pod-$i link add eth0 type veth peer name pod$i netns {p}-node
              ip -n {p}-pod-$i addr add 10.244.1.$i/32 dev eth0
              ip -n {p}-pod-$i addr add fd00:10:244:1::$i/128 dev eth0 nodad
              ip -n {p}-node addr add fe80::1/64 dev pod$i nodad
              ip -n {p}-pod-$i link set eth0 up
              ip -n {p}-node link set pod$i up
              ip -n {p}-pod-$i route add 172.30.1.1 dev eth0
              ip -n {p}-pod-$i route add default via 172.30.1.1
              ip -n {p}-pod-$i -6 route add default via fe80::1 dev eth0
              ip -n {p}-node route add 10.244.1.$i dev pod$i
              ip -n {p}-node -6 route add fd00:10:244:1::$i dev pod$i
            done
            # Neighbours answer for certain once no link-local address is being tried out any more.
            for n in client node pod-5 pod-6; do
              for i in $(seq 50); do
                [ -z \"$(ip -n {p}-$n -6 addr show tentative)\" ] && break
                sleep 0.1
              done
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

    /// Applies objects to the cluster, and what follows to the kernel and the double.
    pub(crate) fn set(&mut self, yaml: &str) {
        let reports = objects(&mut self.writer, yaml);
        assert!(reports.is_empty(), "{reports:?}");
        let change = self.writer.take_change();
        let (transaction, stale) = match &mut self.planner {
            Some(planner) => {
                let delta = planner.update(self.writer.snapshot(), &change);
                (delta.transaction, delta.stale)
            }
            None => {
                let mut planner = Planner::new(NodeName::new("node-1"), Config::default());
                let plan = planner.full(self.writer.snapshot(), None);
                self.planner = Some(planner);
                (nft::diff(&plan.table, None), Vec::new())
            }
        };
        self.double.commit(&transaction).expect("the double takes it");
        let listed = self.node.run(|| commit(&transaction)).expect("enter the node");
        let name = Name::new(TABLE).expect("a name");
        let doubled = self.double.list(Family::Inet, &name).expect("a listing").expect("the table");
        assert_eq!(without_clients(listed).to_string(), without_clients(doubled).to_string());
        let insiders = self.planner.as_ref().expect("planned").insiders();
        let delete = || {
            let mut conntrack = Conntrack::open().expect("conntrack");
            let (mut flows, stale) = (Vec::new(), StaleFlows::new(&stale, &insiders));
            let take = |flow: &Flow| {
                // Every address a test dials a node port at is this node's.
                flows.extend(stale.covers(flow, |_| true).then(|| flow.clone()));
            };
            conntrack.each(take).expect("a listing");
            conntrack.delete(&flows).expect("delete");
        };
        self.node.run(delete).expect("enter the node");
    }
}

#[allow(dead_code, reason = "each test program uses a part of the world")]
impl World {
    /// The endpoint the first packet of a connection goes to, as the evaluator says.
    pub(crate) fn evaluate(&mut self, packet: &Packet) -> Option<IpAddr> {
        let name = Name::new(TABLE).expect("a name");
        let table = self.double.list(Family::Inet, &name).expect("a listing").expect("the table");
        let outcome = nft::evaluate(&table, HookPoint::Prerouting, packet, &mut |_| 0);
        outcome.expect("known rules").translation.map(|translation| translation.address)
    }

    /// Counts the node's connections and steers by them; how many elements changed.
    pub(crate) fn steer(&mut self) -> usize {
        let planner = self.planner.as_mut().expect("objects were set");
        let mut loads = Loads::of(planner.steered());
        let count =
            || Conntrack::open().and_then(|mut tracked| tracked.each(|flow| loads.add(flow)));
        self.node.run(count).expect("enter the node").expect("conntrack");
        let transaction = planner.set_loads(self.writer.snapshot(), &loads).transaction;
        self.double.commit(&transaction).expect("the double takes it");
        self.node.run(|| commit(&transaction)).expect("enter the node");
        let elements = transaction.ops.iter().map(|op| match op {
            Op::AddElements { elements, .. } => elements.len(),
            _ => 0,
        });
        elements.sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for part in ["client", "node", "pod-5", "pod-6"] {
            if let Err(error) = Namespace::delete(&format!("{}-{part}", self.prefix)) {
                eprintln!("{error}");
            }
        }
    }
}

fn objects(writer: &mut SnapshotWriter, yaml: &str) -> Vec<model::Report> {
    super::objects::apply(writer, yaml)
}

/// In the node: commits and lists.
fn commit(transaction: &Transaction) -> Table {
    let mut kernel = Netlink::open().expect("nf_tables");
    if let Err(error) = kernel.commit(transaction) {
        panic!("{error}\n{transaction}");
    }
    kernel
        .list(Family::Inet, &Name::new(TABLE).expect("a name"))
        .expect("a listing")
        .expect("the table")
}

/// What rules put into dynamic sets is the kernel's own.
fn without_clients(mut table: Table) -> Table {
    for set in table.sets.values_mut().filter(|set| set.spec.flags.dynamic) {
        set.elements.clear();
    }
    table
}

/// In a pod: answers TCP on 8080 and UDP on 8081 with its name and whom it sees.
fn serve(number: u8) -> io::Result<()> {
    let name = format!("pod-{number}");
    let addresses: [IpAddr; 2] = [
        std::net::Ipv4Addr::new(10, 244, 1, number).into(),
        std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, u16::from(number)).into(),
    ];
    for address in addresses {
        let listener = TcpListener::bind((address, 8080))?;
        let socket = UdpSocket::bind((address, 8081))?;
        let (tcp_name, udp_name) = (name.clone(), name.clone());
        // These end with the test process; they hold nothing but their sockets.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                if let Ok(peer) = stream.peer_addr() {
                    drop(write!(stream, "{tcp_name} {}", peer.ip()));
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(format!("{udp_name} {}", peer.ip()).as_bytes(), peer));
            }
        });
    }
    Ok(())
}

fn answer(text: &str) -> io::Result<(String, String)> {
    let (who, seen) = text.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    Ok((who.to_owned(), seen.to_owned()))
}

/// Who answers a TCP connection, and whom they see.
pub(crate) fn ask_tcp(from: &Namespace, to: &str) -> io::Result<(String, String)> {
    let to: SocketAddr = to.parse().expect("an address");
    from.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        answer(&text)
    })
    .expect("enter the namespace")
}

/// Who answers a UDP datagram from `port` (0: any), and whom they see.
pub(crate) fn ask_udp(from: &Namespace, to: &str, port: u16) -> io::Result<(String, String)> {
    let to: SocketAddr = to.parse().expect("an address");
    from.run(|| {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, port))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        socket.send(b"?")?;
        let mut buffer = [0; 128];
        let length = socket.recv(&mut buffer)?;
        answer(&String::from_utf8_lossy(&buffer[..length]))
    })
    .expect("enter the namespace")
}
