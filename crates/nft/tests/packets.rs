//! What the evaluator says about packets, on the data plane's own rules.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod program;

use std::net::IpAddr;

use nft::{
    Data, Double, Element, EvaluateError, Family, Fate, HookPoint, Kernel, NatTarget, Opaque,
    Packed, Packet, RejectWith, Rule, Selector, Statement, diff, evaluate,
};
use program::{everything, frontend, name};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn syn(to: &str, port: u16) -> Packet {
    Packet::new(6, (ip("10.244.9.9"), 40000), (ip(to), port))
}

#[test]
fn a_connection_to_a_frontend_goes_to_the_slot_the_number_names() {
    let table = everything();
    for slot in 0..5_u8 {
        let packet = syn("10.96.0.3", 80);
        let outcome =
            evaluate(&table, HookPoint::Prerouting, &packet, &mut |_| slot.into()).unwrap();
        let to = outcome.translation.expect("a translation");
        assert_eq!((to.address, to.port), (IpAddr::from([10, 244, 3, slot]), Some(8080)));
        assert_eq!(to.map, Some(name("slot4")));
        assert_eq!(outcome.fate, Fate::Accepted);
        assert!(outcome.rules.contains(&(name("random-5"), 0)));
    }
    let elsewhere =
        evaluate(&table, HookPoint::Prerouting, &syn("10.96.0.3", 81), &mut |_| 0).unwrap();
    assert_eq!((elsewhere.translation, elsewhere.fate), (None, Fate::Accepted));
}

#[test]
fn a_packet_of_a_known_connection_does_not_see_nat_chains() {
    let mut packet = syn("10.96.0.3", 80);
    packet.conntrack.state = 2;
    let outcome = evaluate(&everything(), HookPoint::Prerouting, &packet, &mut |_| 0).unwrap();
    assert_eq!(outcome.translation, None);
}

#[test]
fn a_verdict_element_can_drop_and_a_rule_refuse() {
    let table = everything();
    let dropped =
        evaluate(&table, HookPoint::Prerouting, &syn("10.96.0.99", 443), &mut |_| 0).unwrap();
    assert_eq!(dropped.fate, Fate::Dropped);
    let refused = evaluate(&table, HookPoint::Forward, &syn("10.1.1.1", 80), &mut |_| 0).unwrap();
    assert_eq!(refused.fate, Fate::Rejected(RejectWith::TcpReset));
    // "meta mark set meta mark | 0x4000", "& 0xffffbfff", "7", and the connection's mark from and to it.
    assert_eq!((refused.mark, refused.connection_mark), (7, 0x17));
}

#[test]
fn the_first_choice_of_an_affine_client_is_kept() {
    let mut table = everything();
    let sticky = table.sets.get_mut("affine4-slot-0").unwrap();
    let to = Data::Value(Packed::new().ipv4([10, 244, 50, 1].into()).port(9000));
    sticky.elements.insert(&Element::new(frontend(50, 80), to)).unwrap();
    let mut double = Double::new();
    double.commit(&diff(&table, None)).unwrap();
    let mut packet = syn("10.96.0.50", 80);
    packet.destination_type = 2;
    let mut asked = Vec::new();
    let mut deliver = |numbers: &mut nft::Numbers<'_>| {
        double.deliver(Family::Inet, &table.name, HookPoint::Prerouting, &packet, numbers).unwrap()
    };
    let first = deliver(&mut |selector| {
        asked.push(selector.clone());
        0
    });
    assert_eq!(asked, [Selector::NumgenRandom { modulus: 3, offset: 0 }]);
    assert_eq!(first.translation.unwrap().address, ip("10.244.50.1"));
    assert_eq!(first.updates.len(), 1);
    assert_eq!(first.updates[0].timeout, Some(std::time::Duration::from_secs(10800)));
    let second = deliver(&mut |_| panic!("an affine client is not drawn for again"));
    assert_eq!(second.translation.unwrap().address, ip("10.244.50.1"));
}

#[test]
fn marked_and_hairpin_connections_are_masqueraded() {
    let table = everything();
    let mut marked = syn("10.1.1.1", 80);
    marked.mark = 0x4000;
    let outcome = evaluate(&table, HookPoint::Postrouting, &marked, &mut |_| 0).unwrap();
    assert!(outcome.masquerade.is_some_and(|flags| flags.fully_random));
    assert_eq!(outcome.mark, 0);
    let hairpin = Packet::new(6, (ip("10.244.1.1"), 1), (ip("10.244.1.1"), 2));
    assert!(
        evaluate(&table, HookPoint::Postrouting, &hairpin, &mut |_| 0)
            .unwrap()
            .masquerade
            .is_some()
    );
    let plain = evaluate(&table, HookPoint::Postrouting, &syn("10.1.1.1", 80), &mut |_| 0).unwrap();
    assert_eq!((plain.masquerade, plain.translation), (None, None));
}

#[test]
fn ipv6_goes_through_its_own_maps() {
    let mut table = everything();
    let key = Packed::new().ipv6("fd00:10:96::1".parse().unwrap()).proto(17).port(53);
    let frontends = table.sets.get_mut("frontend6").unwrap();
    frontends
        .elements
        .insert(&Element::verdict(key, nft::Verdict::Goto(name("random6-5"))))
        .unwrap();
    let packet = Packet::new(17, (ip("fd00:10:244::9"), 1), (ip("fd00:10:96::1"), 53));
    let outcome = evaluate(&table, HookPoint::Prerouting, &packet, &mut |_| 0).unwrap();
    assert_eq!(outcome.translation.unwrap().address, ip("fd00:10:244::1:7"));
}

#[test]
fn a_hash_is_the_kernels_and_nobody_is_asked_for_it() {
    let mut table = everything();
    let chain = table.chains.get_mut("maglev-251").unwrap();
    let Statement::Nat { to: NatTarget::Map { key, .. }, .. } =
        chain.rules[0].statements.last_mut().unwrap()
    else {
        panic!("a translation");
    };
    let Some(Selector::Jhash { modulus, .. }) = key.last_mut() else { panic!("a hash") };
    *modulus = 5;
    let goes = nft::Verdict::Goto(name("maglev-251"));
    let elements = &mut table.sets.get_mut("frontend4").unwrap().elements;
    elements.remove(&frontend(3, 80));
    elements.insert(&Element::verdict(frontend(3, 80), goes)).unwrap();
    let mut seen = [0; 5];
    for port in 40_000..40_100_u16 {
        let packet = Packet::new(6, (ip("10.244.9.9"), port), (ip("10.96.0.3"), 80));
        let outcome = evaluate(&table, HookPoint::Prerouting, &packet, &mut |_| panic!("asked"));
        let IpAddr::V4(to) = outcome.unwrap().translation.unwrap().address else { panic!("IPv4") };
        let port = port.to_be_bytes();
        let hash = nft::jhash(&[10, 244, 9, 9, port[0], port[1], 0, 0], 1);
        assert_eq!(u32::from(to.octets()[3]), nft::jhash_scale(hash, 5));
        seen[usize::from(to.octets()[3])] += 1;
    }
    assert!(seen.iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn what_it_does_not_know_is_an_error() {
    let mut table = everything();
    let opaque = Statement::Opaque(Opaque { what: "quota".into(), attributes: Vec::new() });
    table.chains.get_mut("forward").unwrap().rules.insert(0, Rule::new([opaque]));
    let error = evaluate(&table, HookPoint::Forward, &syn("10.1.1.1", 80), &mut |_| 0).unwrap_err();
    assert!(matches!(error, EvaluateError::Unknown { rule: 0, .. }));
}
