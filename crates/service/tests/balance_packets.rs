//! Balancing with real packets: whom the kernel chooses is whom the annotation promises, in both families.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking and says why"
)]

mod objects;
mod world;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use link::Namespace;
use nft::Packet;
use world::{World, ask_tcp, ask_udp};

const NODE: &str = r#"
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
"#;

/// A Service on `10.96.0.<number>` and `fd00:10:96::<number>` with pods 5 and 6, and what is written as its annotations.
fn service(number: u8, annotations: &str) -> String {
    let slice = |family: &str, prefix: &str| {
        format!(
            "---\nkind: EndpointSlice\nmetadata: {{namespace: default, name: s{number}-{family}, labels: \
             {{kubernetes.io/service-name: s{number}}}}}\naddressType: {family}\nports: [{{name: tcp, port: 8080}}, \
             {{name: udp, port: 8081, protocol: UDP}}]\nendpoints:\n- {{addresses: ['{prefix}5'], nodeName: node-1, \
             zone: a}}\n- {{addresses: ['{prefix}6'], nodeName: node-1, zone: b}}\n"
        )
    };
    format!(
        "---\nkind: Service\nmetadata: {{namespace: default, name: s{number}, annotations: {{{annotations}}}}}\nspec:\n  \
         type: NodePort\n  clusterIPs: [10.96.0.{number}, 'fd00:10:96::{number:x}']\n  ports: [{{name: tcp, port: 80, \
         nodePort: {}}}, {{name: udp, port: 81, nodePort: {}, protocol: UDP}}]\n{}{}",
        30_100 + u16::from(number),
        30_200 + u16::from(number),
        slice("IPv4", "10.244.1."),
        slice("IPv6", "fd00:10:244:1::"),
    )
}

/// Who answered, as a letter per connection.
fn pod(answer: &str) -> char {
    answer.chars().last().unwrap_or('?')
}

#[test]
fn turns_are_strict_for_each_service_however_they_interleave() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!(
        "{NODE}{}{}{}",
        service(1, "fairway.dev/balance: round-robin"),
        service(2, "fairway.dev/balance: round-robin"),
        service(3, "fairway.dev/balance: round-robin, fairway.dev/weights: 'zone:a=2'"),
    ));
    for frontends in [
        ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80"],
        ["[fd00:10:96::1]:80", "[fd00:10:96::2]:80", "[fd00:10:96::3]:80"],
        ["172.30.1.1:30101", "172.30.1.1:30102", "172.30.1.1:30103"],
    ] {
        let from = if frontends[0].starts_with("172") { &world.client } else { &world.pods[0] };
        let mut answers = [const { String::new() }; 3];
        for which in [0, 0, 1, 2, 0, 1, 1, 2, 2, 0, 1, 2, 0, 2, 1, 1, 2, 0, 0, 1, 2] {
            let (who, _) = ask_tcp(from, frontends[which]).expect("an answer");
            answers[which].push(pod(&who));
        }
        for (answers, cycle) in answers.iter().zip(["56", "56", "565"]) {
            let expected: String = cycle.chars().cycle().take(answers.len()).collect();
            assert_eq!(*answers, expected, "{frontends:?}");
        }
    }
}

#[test]
fn the_kernel_hashes_as_the_evaluator_does() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!(
        "{NODE}{}{}",
        service(1, "fairway.dev/balance: maglev"),
        service(2, "fairway.dev/balance: maglev, fairway.dev/weights: 'zone:b=3'")
    ));
    let (mut asked, mut fives) = (0, 0);
    for (source, to) in [
        ("10.244.1.5", "10.96.0.1"),
        ("fd00:10:244:1::5", "fd00:10:96::1"),
        ("10.244.1.5", "10.96.0.2"),
        ("fd00:10:244:1::5", "fd00:10:96::2"),
    ] {
        let (source, to): (IpAddr, IpAddr) = (source.parse().unwrap(), to.parse().unwrap());
        for port in 41_000..41_024 {
            let packet = Packet::new(17, (source, port), (to, 81));
            let expected = world.evaluate(&packet).expect("a translation");
            let (who, _) = ask_udp(&world.pods[0], &SocketAddr::new(to, 81).to_string(), port)
                .expect("an answer");
            assert_eq!(pod(&who), pod(&expected.to_string()), "port {port} to {to}");
            asked += 1;
            fives += u32::from(pod(&who) == '5');
        }
    }
    assert!(asked == 96 && (15..=65).contains(&fives), "{fives} of {asked}");
}

#[test]
fn a_client_is_its_address_for_source_hash() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!("{NODE}{}", service(1, "fairway.dev/balance: source-hash")));
    let clients = "for i in $(seq 30); do
        ip addr add 172.30.9.$i/16 dev eth0
        ip addr add fd00:172:30::9:$i/64 dev eth0 nodad
    done";
    let added =
        world.client.run(|| std::process::Command::new("sh").args(["-ec", clients]).status());
    assert!(added.expect("enter the client").expect("sh").success());
    for (prefix, to) in [
        ("172.30.9.", "172.30.1.1:30201"),
        ("172.30.9.", "10.96.0.1:81"),
        ("fd00:172:30::9:", "[fd00:172:30::101]:30201"),
    ] {
        let mut choices = String::new();
        for client in 1..=30 {
            let from: IpAddr = format!("{prefix}{client}").parse().unwrap();
            let answers: String =
                (0..4).map(|_| pod(&ask_from(&world.client, from, to.parse().unwrap()))).collect();
            let first = answers.chars().next().unwrap();
            assert!(answers.chars().all(|one| one == first), "{from} to {to}: {answers}");
            choices.push(first);
        }
        let fives = choices.chars().filter(|one| *one == '5').count();
        assert!((5..=25).contains(&fives), "{to}: {choices}");
    }
}

#[test]
fn weights_are_shares_of_connections() {
    let Some(mut world) = World::or_skip() else { return };
    world.set(&format!(
        "{NODE}{}{}",
        service(1, "fairway.dev/weights: '10.244.1.5=3'"),
        service(2, "fairway.dev/weights: 'zone:b=0'")
    ));
    let ask = |to: &str| pod(&ask_tcp(&world.client, to).expect("an answer").0);
    let fives = (0..400).filter(|_| ask("172.30.1.1:30101") == '5').count();
    // Three quarters of 400, and six standard deviations either way.
    assert!((248..=352).contains(&fives), "{fives}");
    assert!((0..40).all(|_| ask("172.30.1.1:30102") == '5'), "weight 0 gets nothing");
}

#[test]
fn whoever_holds_more_connections_gets_fewer() {
    let Some(mut world) = World::or_skip() else { return };
    // Thirty flows to pod 5, which the kernel tracks for half a minute.
    world.set(&format!("{NODE}{}", service(1, "fairway.dev/weights: 'zone:b=0'")));
    for port in 42_000..42_030 {
        assert_eq!(ask_udp(&world.client, "10.96.0.1:81", port).expect("an answer").0, "pod-5");
    }
    world.set(&service(1, "fairway.dev/balance: least-connections"));
    assert!(world.steer() > 0);
    let sixes = (43_000..43_060)
        .filter(|port| {
            pod(&ask_udp(&world.client, "10.96.0.1:81", *port).expect("an answer").0) == '6'
        })
        .count();
    // Seven of eight slots, 52 of 60; half would be 30.
    assert!(sixes >= 40, "{sixes}");
}

/// Asks over UDP from an address and a fresh port.
fn ask_from(namespace: &Namespace, from: IpAddr, to: SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        let socket = UdpSocket::bind((from, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send(b"?")?;
        let mut buffer = [0; 128];
        let length = socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(text.split(' ').next().unwrap_or_default().to_owned())
    };
    namespace
        .run(ask)
        .expect("enter the namespace")
        .unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
}
