//! Whose connections end, and whose never do.

use model::Protocol;

use super::*;

const A: &str = "10.244.1.5:53";
const B: &str = "10.244.2.5:53";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn frontend(protocol: Protocol) -> Frontend {
    Frontend::Address { address: [203, 0, 113, 7].into(), protocol, port: 53 }
}

/// Lists of a test live as long as it does.
fn list(texts: &[&str]) -> &'static [SocketAddr] {
    texts.iter().map(|text| at(text)).collect::<Vec<_>>().leak()
}

/// What becomes stale when a frontend goes from one pair of lists to another; an outside of `None` is a single side.
fn stale(
    before: Option<(&[&str], Option<&[&str]>)>,
    after: Option<(&[&str], Option<&[&str]>)>,
) -> Vec<(Option<SocketAddr>, Option<Side>)> {
    let slots = |lists: Option<(&[&str], Option<&[&str]>)>| {
        let mut slots = Slots::new();
        if let Some((inside, outside)) = lists {
            let backends = Backends { inside: list(inside), outside: outside.map(list), idle: &[] };
            slots.extend([Protocol::Udp, Protocol::Tcp].map(|it| (frontend(it), backends)));
        }
        slots
    };
    let found = between(&slots(before), &slots(after));
    assert!(found.iter().all(|it| it.frontend == frontend(Protocol::Udp)), "TCP ends by itself");
    found.iter().map(|it| (it.endpoint, it.clients)).collect()
}

#[test]
fn an_endpoint_that_leaves_takes_its_connections_and_no_others() {
    assert_eq!(stale(Some((&[A, B], None)), Some((&[B], None))), [(Some(at(A)), None)]);
    assert_eq!(stale(Some((&[A], None)), Some((&[A, B], None))), []);
    assert_eq!(stale(Some((&[A], None)), Some((&[], None))), [(Some(at(A)), None)]);
}

#[test]
fn the_first_endpoint_frees_clients_from_before() {
    assert_eq!(stale(None, Some((&[A], None))), [(None, None)]);
    assert_eq!(stale(Some((&[], None)), Some((&[A], None))), [(None, None)]);
    assert_eq!(stale(Some((&[A], None)), None), [(None, None)]);
    assert_eq!(stale(None, Some((&[], None))), []);
}

#[test]
fn a_policy_that_becomes_local_ends_what_outsiders_have_elsewhere() {
    assert_eq!(
        stale(Some((&[A, B], None)), Some((&[A, B], Some(&[A])))),
        [(Some(at(B)), Some(Side::Outside))]
    );
    assert_eq!(stale(Some((&[A, B], Some(&[A]))), Some((&[A, B], None))), []);
    assert_eq!(
        stale(Some((&[B], None)), Some((&[B], Some(&[])))),
        [(Some(at(B)), Some(Side::Outside))]
    );
}

#[test]
fn sides_are_told_apart() {
    // The local endpoint terminates while others are ready: insiders leave it, outsiders have nothing else.
    assert_eq!(
        stale(Some((&[A, B], Some(&[A]))), Some((&[B], Some(&[A])))),
        [(Some(at(A)), Some(Side::Inside))]
    );
    // The first local endpoint: outsiders found silence before.
    assert_eq!(
        stale(Some((&[B], Some(&[]))), Some((&[A, B], Some(&[A])))),
        [(None, Some(Side::Outside))]
    );
}

#[test]
fn pods_and_the_node_stand_inside() {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let insiders = Insiders {
        pods: vec![(address("10.244.0.0"), address("10.244.255.255"))],
        node: vec![address("172.30.1.1")],
    };
    for (client, side) in [
        ("10.244.1.5", Side::Inside),
        ("10.245.0.0", Side::Outside),
        ("fd00::1", Side::Outside),
        ("172.30.1.1", Side::Inside),
        ("172.30.0.2", Side::Outside),
        ("127.0.0.1", Side::Inside),
        ("::1", Side::Inside),
    ] {
        assert_eq!(insiders.side_of(address(client)), side, "{client}");
        let flow =
            |clients| StaleFlow { frontend: frontend(Protocol::Udp), endpoint: None, clients };
        assert!(flow(None).concerns(address(client), &insiders));
        assert!(flow(Some(side)).concerns(address(client), &insiders));
    }
}
