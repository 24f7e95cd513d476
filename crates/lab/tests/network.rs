//! The wiring of a lab with real namespaces: who reaches whom, who is told "unreachable", and that a sweep removes it all.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use lab::layout::{API_PORT, CLIENT_V4, Layout, NodePlan, SWITCH_V4};
use lab::network::Network;
use lab::{lock, preflight, teardown};
use link::Namespace;

fn privileged() -> bool {
    if preflight::root().is_ok() {
        return true;
    }
    let strict = ["CI", "FAIRWAY_REQUIRE_ALL"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!strict, "this test needs root");
    println!("SKIP: this test needs root");
    false
}

/// Takes the lab down also when the test fails.
struct TakenDown(Layout);

impl Drop for TakenDown {
    fn drop(&mut self) {
        drop(teardown::sweep(&self.0));
        drop(teardown::remove_run_dir(&self.0));
    }
}

fn connect(from: &str, to: impl Into<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(to.into(), port);
    let from = Namespace::open(from).unwrap();
    from.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2))).unwrap()
}

#[test]
fn nodes_and_client_reach_each_other_and_the_rest_is_unreachable_at_once() {
    if !privileged() {
        return;
    }
    let layout = Layout::new(format!("net-{}", std::process::id()).parse().unwrap());
    let nodes = NodePlan::all(3);
    let held = lock::create_and_lock(&layout.run_dir()).unwrap();
    let _down = TakenDown(layout.clone());
    let began = Instant::now();
    let network = Network::build(&layout, &nodes).unwrap();
    println!("three nodes wired in {:?}", began.elapsed());

    // The API server's inner address is reached from every node and from the client.
    let api = network.listen(SWITCH_V4.into(), API_PORT).unwrap();
    for from in [
        layout.node_namespace("node-1"),
        layout.node_namespace("node-3"),
        layout.client_namespace(),
    ] {
        connect(&from, SWITCH_V4, API_PORT).unwrap();
        api.accept().unwrap();
    }
    // Node to node and client to node, IPv4 and IPv6, without a pause for address detection.
    let inside = Namespace::open(&layout.node_namespace("node-2")).unwrap();
    for address in [IpAddr::V4(nodes[1].v4), IpAddr::V6(nodes[1].v6)] {
        let listener =
            inside.run(|| TcpListener::bind(SocketAddr::new(address, 7000))).unwrap().unwrap();
        for from in [layout.node_namespace("node-1"), layout.client_namespace()] {
            let began = Instant::now();
            let mut near = connect(&from, address, 7000).unwrap();
            assert!(
                began.elapsed() < Duration::from_millis(500),
                "{address}: {:?}",
                began.elapsed()
            );
            let (mut far, peer) = listener.accept().unwrap();
            assert!(
                peer.ip() == IpAddr::V4(CLIENT_V4)
                    || from != layout.client_namespace()
                    || peer.is_ipv6()
            );
            near.write_all(b"hello").unwrap();
            let mut word = [0; 5];
            far.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"hello");
        }
    }
    // What the switch does not know is refused at once, again and again, not swallowed.
    for to in ["10.96.0.1", "10.244.1.2", "fd00:10:96::1", "10.96.0.1", "fd00:10:244:1::2"] {
        let began = Instant::now();
        let address = to.parse::<IpAddr>().unwrap();
        let error = connect(&layout.client_namespace(), address, 80).unwrap_err();
        let refusals = [libc::EHOSTUNREACH, libc::ENETUNREACH];
        assert!(error.raw_os_error().is_some_and(|code| refusals.contains(&code)), "{to}: {error}");
        println!("{to}: {error} after {:?}", began.elapsed());
        // The kernel's TCP over IPv6 believes it only at its second try, a second later.
        let patience = Duration::from_millis(if address.is_ipv4() { 500 } else { 1900 });
        assert!(began.elapsed() < patience, "{to}: {:?}", began.elapsed());
    }

    let swept = teardown::sweep(&layout).unwrap();
    assert_eq!(swept.namespaces, 5);
    teardown::remove_run_dir(&layout).unwrap();
    drop(held);
    assert!(!layout.run_dir().exists());
    assert!(!Path::new("/run/netns").join(layout.switch_namespace()).exists());
    assert!(!teardown::sweep(&layout).unwrap().any(), "a second sweep finds nothing");
}

#[test]
fn a_sweep_ends_processes_mounts_and_files() {
    if !privileged() {
        return;
    }
    let layout = Layout::new(format!("swp-{}", std::process::id()).parse().unwrap());
    let held = lock::create_and_lock(&layout.run_dir()).unwrap();
    let _down = TakenDown(layout.clone());
    drop(Network::build(&layout, &NodePlan::all(1)).unwrap());
    // A process inside by namespace, one outside by its mark, a mount below the run directory.
    let inside = Namespace::open(&layout.node_namespace("node-1")).unwrap();
    let mut by_place =
        inside.run(|| std::process::Command::new("sleep").arg("60").spawn()).unwrap().unwrap();
    let mut by_mark = std::process::Command::new("sleep")
        .arg("60")
        .env(teardown::MARKER, layout.name().as_str())
        .spawn()
        .unwrap();
    drop(inside);
    let mounted = layout.run_dir().join("mounted");
    std::fs::create_dir(&mounted).unwrap();
    rustix::mount::mount("tmpfs", &mounted, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
    std::fs::write(mounted.join("file"), "x").unwrap();
    std::fs::write(layout.run_dir().join("file"), "x").unwrap();
    std::thread::sleep(Duration::from_millis(50)); // let both exec

    let swept = teardown::sweep(&layout).unwrap();
    assert_eq!((swept.processes, swept.namespaces, swept.mounts), (2, 3, 1));
    assert!(!by_place.wait().unwrap().success() && !by_mark.wait().unwrap().success(), "killed");
    teardown::remove_run_dir(&layout).unwrap();
    assert!(!layout.run_dir().exists());
    drop(held);
}
