//! A table with everything the Service data plane says, in both families.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nft::{
    Chain, Data, Direction, Element, Family, Field, Hook, HookKind, HookPoint, IpFamily, LogInto,
    MarkPlace, MarkValue, Match, MatchOp, Name, NatFlags, NatKind, NatTarget, Packed, RejectWith,
    Right, Rule, Selector, Set, SetData, SetFlags, SetSpec, Statement, Table, UpdateOp, Verdict,
    VerdictMap,
};

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 0, last)
}

pub fn frontend(last: u8, port: u16) -> Packed {
    Packed::new().ipv4(v4(last)).proto(6).port(port)
}

pub fn numgen(modulus: u32) -> Selector {
    Selector::NumgenRandom { modulus, offset: 0 }
}

pub fn key4() -> Vec<Selector> {
    vec![Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport]
}

pub fn key6() -> Vec<Selector> {
    vec![Selector::Ip6Daddr, Selector::MetaL4proto, Selector::ThDport]
}

pub fn and(mut key: Vec<Selector>, more: Selector) -> Vec<Selector> {
    key.push(more);
    key
}

pub fn statement(left: Selector, op: MatchOp, right: Right) -> Statement {
    Statement::Match(Match { left: vec![left], op, right })
}

fn sets(table: &mut Table) {
    let mut frontends = Set::new(
        SetSpec::new(name("frontend4"), [Field::Ipv4Addr, Field::InetProto, Field::InetService])
            .with_data(SetData::Verdict)
            .with_comment("who serves this address"),
    );
    let slot_key = |key: Vec<Selector>| and(key, numgen(2));
    let mut slots = Set::new(
        SetSpec::new(name("slot4"), slot_key(key4()))
            .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport])),
    );
    for last in 1..=20 {
        let key = frontend(last, 80);
        frontends.elements.insert(&Element::verdict(key, Verdict::Goto(name("random-5")))).unwrap();
        for slot in 0..5 {
            let to = Packed::new().ipv4(Ipv4Addr::new(10, 244, last, slot)).port(8080);
            slots.elements.insert(&Element::new(key.index(slot.into()), Data::Value(to))).unwrap();
        }
    }
    let commented = Element::verdict(frontend(99, 443), Verdict::Drop).with_comment("none ready");
    frontends.elements.insert(&commented).unwrap();
    table.insert_set(frontends);
    table.insert_set(slots);

    let mut slots6 = Set::new(
        SetSpec::new(name("slot6"), slot_key(key6()))
            .with_data(SetData::value([Selector::Ip6Daddr, Selector::ThDport])),
    );
    let address: Ipv6Addr = "fd00:10:96::1".parse().unwrap();
    let pod: Ipv6Addr = "fd00:10:244::1:7".parse().unwrap();
    let key = Packed::new().ipv6(address).proto(17).port(53).index(0);
    slots6
        .elements
        .insert(&Element::new(key, Data::Value(Packed::new().ipv6(pod).port(53))))
        .unwrap();
    table.insert_set(slots6);
    table.insert_set(Set::new(
        SetSpec::new(name("frontend6"), [Field::Ipv6Addr, Field::InetProto, Field::InetService])
            .with_data(SetData::Verdict),
    ));

    let dynamic = SetFlags { dynamic: true, timeout: true, ..SetFlags::default() };
    let mut clients = vec![Selector::IpSaddr];
    clients.extend(key4());
    table.insert_set(Set::new(
        SetSpec::new(name("affine4-0"), clients).with_flags(dynamic).with_size(65535),
    ));
    table.insert_set(Set::new(
        SetSpec::new(name("affine4-slot-0"), key4())
            .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport])),
    ));

    let interval = SetFlags { interval: true, ..SetFlags::default() };
    let mut sources = Set::new(
        SetSpec::new(
            name("sources4"),
            [Field::Ipv4Addr, Field::InetProto, Field::InetService, Field::Ipv4Addr],
        )
        .with_flags(interval),
    );
    let from = frontend(1, 80).ipv4(Ipv4Addr::new(192, 168, 0, 0));
    let to = frontend(1, 80).ipv4(Ipv4Addr::new(192, 168, 255, 255));
    sources.elements.insert(&Element::key(from).to(to)).unwrap();
    sources
        .elements
        .insert(&Element::key(frontend(2, 80).ipv4(Ipv4Addr::new(1, 2, 3, 4))))
        .unwrap();
    table.insert_set(sources);

    let mut cidrs = Set::new(SetSpec::new(name("pods4"), [Field::Ipv4Addr]).with_flags(interval));
    let range = |from: [u8; 4], to: [u8; 4]| {
        Element::key(Packed::new().ipv4(from.into())).to(Packed::new().ipv4(to.into()))
    };
    for element in [
        range([10, 244, 0, 0], [10, 244, 255, 255]).with_comment("pods"),
        range([10, 10, 0, 1], [10, 10, 0, 1]),
        range([10, 11, 0, 3], [10, 11, 0, 9]),
        range([10, 11, 0, 10], [10, 11, 0, 12]),
        range([255, 255, 255, 0], [255, 255, 255, 255]),
    ] {
        cidrs.elements.insert(&element).unwrap();
    }
    table.insert_set(cidrs);
    let mut ports =
        Set::new(SetSpec::new(name("ports"), [Field::InetService]).with_flags(interval));
    ports
        .elements
        .insert(&Element::key(Packed::new().port(30000)).to(Packed::new().port(32767)))
        .unwrap();
    table.insert_set(ports);

    let mut hairpin = Set::new(SetSpec::new(name("hairpin4"), [Field::Ipv4Addr, Field::Ipv4Addr]));
    let pair = Packed::new().ipv4(Ipv4Addr::new(10, 244, 1, 1)).ipv4(Ipv4Addr::new(10, 244, 1, 1));
    hairpin.elements.insert(&Element::key(pair)).unwrap();
    table.insert_set(hairpin);
    let mut names = Set::new(SetSpec::new(name("links"), [Field::IfName]));
    names.elements.insert(&Element::key(Packed::new().ifname("eth0"))).unwrap();
    table.insert_set(names);
    let mut marks = Set::new(
        SetSpec::new(name("marks"), [Selector::MetaMark])
            .with_data(SetData::value([Selector::IpSaddr])),
    );
    let to = Data::Value(Packed::new().ipv4(v4(9)));
    marks.elements.insert(&Element::new(Packed::new().mark(0x4000), to)).unwrap();
    table.insert_set(marks);
    let mut spec = SetSpec::new(name("recent"), [Field::Ipv4Addr]);
    spec.flags.timeout = true;
    spec.timeout = Some(Duration::from_secs(3600));
    let mut recent = Set::new(spec);
    let soon = Element::key(Packed::new().ipv4(v4(7))).with_timeout(Duration::from_secs(600));
    recent.elements.insert(&soon).unwrap();
    recent.elements.insert(&Element::key(Packed::new().ipv4(v4(8)))).unwrap();
    table.insert_set(recent);
    let mut originals = Set::new(SetSpec::new(
        name("originals"),
        [Selector::CtIpDaddr(Direction::Original), Selector::CtStatus, Selector::FibDaddrType],
    ));
    let key = Packed::new().ipv4(v4(1)).index(0x20).index(2);
    originals.elements.insert(&Element::key(key)).unwrap();
    table.insert_set(originals);
    for (set, selector) in [
        ("t-tcp", Selector::TcpDport),
        ("t-udp", Selector::UdpSport),
        ("t-sctp", Selector::SctpDport),
        ("t-icmp", Selector::IcmpType),
        ("t-icmpv6", Selector::Icmpv6Type),
        ("t-iif", Selector::MetaIifname),
        ("t-state", Selector::CtState),
        ("t-dir", Selector::CtDirection),
        ("t-nfproto", Selector::MetaNfproto),
        ("t-ctmark", Selector::CtMark),
        ("t-fib", Selector::FibSaddrType),
    ] {
        table.insert_set(Set::new(SetSpec::new(name(set), [selector])));
    }
}

fn translations(table: &mut Table) {
    let slot4 = |key| Statement::dnat(IpFamily::V4, key, name("slot4"));
    let jhash = |source, modulus| Selector::Jhash {
        over: vec![source, Selector::ThSport],
        modulus,
        seed: 1,
        offset: 0,
    };
    table.insert_chain(
        Chain::new(name("random-5"))
            .rule([Statement::any_transport(), slot4(and(key4(), numgen(5)))]),
    );
    table.insert_chain(
        Chain::new(name("maglev-251"))
            .rule([Statement::any_transport(), slot4(and(key4(), jhash(Selector::IpSaddr, 251)))]),
    );
    let turn = Selector::NumgenInc { modulus: 5, offset: 0 };
    table.insert_chain(
        Chain::new(name("turns-10.96.0.3-tcp-80-5"))
            .rule([Statement::any_transport(), slot4(and(key4(), turn))]),
    );
    table.insert_chain(Chain::new(name("random6-5")).rule([
        Statement::any_transport(),
        Statement::dnat(IpFamily::V6, and(key6(), numgen(5)), name("slot6")),
    ]));
    table.insert_chain(Chain::new(name("maglev6-251")).rule([
        Statement::any_transport(),
        Statement::dnat(IpFamily::V6, and(key6(), jhash(Selector::Ip6Saddr, 251)), name("slot6")),
    ]));
    let mut clients = vec![Selector::IpSaddr];
    clients.extend(key4());
    let timeout = Some(Duration::from_secs(10800));
    let update = Statement::Update {
        op: UpdateOp::Update,
        set: name("affine4-0"),
        key: clients.clone(),
        timeout,
    };
    let choice = vec![
        (Packed::new().index(0), Verdict::Goto(name("affine-3-slot-0"))),
        (Packed::new().index(1), Verdict::Goto(name("random-5"))),
        (Packed::new().index(2), Verdict::Accept),
    ];
    table.insert_chain(
        Chain::new(name("affine-3"))
            .rule([
                Statement::in_set(clients, name("affine4-0")),
                Statement::goto(name("affine-3-slot-0")),
            ])
            .rule([Statement::Vmap { key: vec![numgen(3)], map: VerdictMap::Inline(choice) }]),
    );
    table.insert_chain(Chain::new(name("affine-3-slot-0")).rule([
        update,
        Statement::any_transport(),
        Statement::dnat(IpFamily::V4, key4(), name("affine4-slot-0")),
    ]));
    let fixed = |address: &str, port| NatTarget::Fixed(address.parse().unwrap(), port);
    let nat = |kind, family, to| Statement::Nat { kind, family, to, flags: NatFlags::default() };
    let tcp = || Statement::equals(Selector::MetaL4proto, Packed::new().proto(6));
    table.insert_chain(
        Chain::new(name("fixed"))
            .rule([tcp(), nat(NatKind::Dnat, IpFamily::V4, fixed("10.0.0.1", Some(80)))])
            .rule([tcp(), nat(NatKind::Dnat, IpFamily::V6, fixed("fd00::1", Some(80)))])
            .rule([nat(NatKind::Dnat, IpFamily::V4, fixed("10.0.0.2", None))]),
    );
    let mut dispatch =
        Chain::base(name("dispatch"), Hook::new(HookKind::Nat, HookPoint::Prerouting, -100))
            .rule([Statement::vmap(key4(), name("frontend4"))])
            .rule([Statement::vmap(key6(), name("frontend6"))])
            .rule([
                statement(
                    Selector::FibDaddrType,
                    MatchOp::Eq,
                    Right::Value(Packed::new().index(2)),
                ),
                Statement::jump(name("affine-3")),
            ]);
    dispatch.comment = Some("services".into());
    table.insert_chain(dispatch);
    let flags = NatFlags { fully_random: true, ..NatFlags::default() };
    table.insert_chain(
        Chain::base(name("postrouting"), Hook::new(HookKind::Nat, HookPoint::Postrouting, 100))
            .rule([
                statement(
                    Selector::MetaMark,
                    MatchOp::Eq,
                    Right::Masked { mask: 0x4000, value: 0x4000 },
                ),
                Statement::SetMark { place: MarkPlace::Packet, value: MarkValue::Xor(0x4000) },
                Statement::Masquerade(flags),
            ])
            .rule([
                Statement::in_set([Selector::IpSaddr, Selector::IpDaddr], name("hairpin4")),
                Statement::Masquerade(NatFlags::default()),
            ])
            .rule([nat(
                NatKind::Snat,
                IpFamily::V4,
                NatTarget::Map {
                    key: vec![Selector::MetaMark],
                    map: name("marks"),
                    with_port: false,
                },
            )]),
    );
}

fn filters(table: &mut Table) {
    let mark = |place, value| Statement::SetMark { place, value };
    let cidr = |address: Packed, length| Right::Prefix { address, length };
    let pods = Packed::new().ipv4(Ipv4Addr::new(10, 244, 0, 0));
    let pods6 = Packed::new().ipv6("fd00:10:244::".parse().unwrap());
    let odd = Packed::new().ipv4(Ipv4Addr::new(10, 3, 4, 0));
    let port = |number| Packed::new().port(number);
    let mut forward =
        Chain::base(name("forward"), Hook::new(HookKind::Filter, HookPoint::Forward, 0).dropping());
    let rules = [
        vec![statement(Selector::CtState, MatchOp::Eq, Right::AnyBit(2 | 4)), Statement::accept()],
        vec![statement(Selector::CtState, MatchOp::Eq, Right::AnyBit(8)), Statement::Counter],
        vec![statement(Selector::CtStatus, MatchOp::Eq, Right::AnyBit(0x20)), Statement::accept()],
        vec![
            Statement::equals(Selector::CtDirection, Packed::new().proto(1)),
            Statement::return_(),
        ],
        vec![
            statement(
                Selector::CtIpDaddr(Direction::Original),
                MatchOp::Eq,
                Right::Value(Packed::new().ipv4(v4(1))),
            ),
            Statement::drop(),
        ],
        vec![
            Statement::in_set(
                [
                    Selector::CtIpDaddr(Direction::Original),
                    Selector::CtStatus,
                    Selector::FibDaddrType,
                ],
                name("originals"),
            ),
            Statement::Counter,
        ],
        vec![mark(MarkPlace::Packet, MarkValue::Or(0x4000))],
        vec![mark(MarkPlace::Packet, MarkValue::And(0xffff_bfff))],
        vec![mark(MarkPlace::Packet, MarkValue::Fixed(7))],
        vec![mark(MarkPlace::Connection, MarkValue::Copy)],
        vec![mark(MarkPlace::Packet, MarkValue::Copy)],
        vec![mark(MarkPlace::Connection, MarkValue::Or(0x10))],
        vec![
            statement(
                Selector::MetaMark,
                MatchOp::Ne,
                Right::Masked { mask: 0x4000, value: 0x4000 },
            ),
            Statement::Counter,
        ],
        vec![statement(Selector::MetaMark, MatchOp::Eq, Right::AnyBit(0x30)), Statement::Counter],
        vec![
            statement(Selector::MetaMark, MatchOp::Eq, Right::Value(Packed::new().mark(5))),
            Statement::Counter,
        ],
        vec![
            statement(Selector::IpSaddr, MatchOp::Eq, cidr(pods, 16)),
            statement(Selector::IpDaddr, MatchOp::Ne, cidr(odd, 22)),
            Statement::Counter,
        ],
        vec![statement(Selector::Ip6Saddr, MatchOp::Eq, cidr(pods6, 56)), Statement::Counter],
        vec![Statement::not_in_set([Selector::IpSaddr], name("pods4")), Statement::Counter],
        vec![
            Statement::in_set(and(key4(), Selector::IpSaddr), name("sources4")),
            Statement::accept(),
        ],
        vec![
            Statement::equals(Selector::MetaNfproto, Packed::new().proto(10)),
            Statement::Reject(RejectWith::AdminProhibited),
        ],
        vec![
            Statement::equals(Selector::TcpDport, port(80)),
            Statement::Reject(RejectWith::TcpReset),
        ],
        vec![Statement::in_set([Selector::ThDport], name("ports")), Statement::Counter],
        vec![
            statement(Selector::TcpDport, MatchOp::Eq, Right::Range(port(1000), port(2000))),
            Statement::drop(),
        ],
        vec![
            statement(Selector::MetaIifname, MatchOp::Ne, Right::NamePrefix("veth".into())),
            statement(Selector::UdpDport, MatchOp::Ne, Right::Range(port(1000), port(2000))),
            Statement::drop(),
        ],
        vec![
            statement(Selector::TcpDport, MatchOp::Eq, Right::OneOf(vec![port(443), port(80)])),
            Statement::drop(),
        ],
        vec![
            statement(Selector::TcpDport, MatchOp::Ge, Right::Value(port(1024))),
            Statement::Counter,
        ],
        vec![
            statement(Selector::TcpFlags, MatchOp::Eq, Right::AnyBit(2)),
            Statement::Reject(RejectWith::PortUnreachable),
        ],
        vec![
            statement(Selector::MetaIifname, MatchOp::Ne, Right::Value(Packed::new().ifname("lo"))),
            Statement::Counter,
        ],
        vec![
            statement(
                Selector::MetaOifname,
                MatchOp::Eq,
                Right::OneOf(vec![Packed::new().ifname("eth0"), Packed::new().ifname("lo")]),
            ),
            Statement::Log(LogInto { prefix: Some("to ".into()), group: Some(3) }),
        ],
        vec![Statement::equals(Selector::IcmpType, Packed::new().proto(8)), Statement::accept()],
        vec![
            Statement::one_of(
                Selector::Icmpv6Type,
                [135, 136].map(|kind| Packed::new().proto(kind)),
            ),
            Statement::accept(),
        ],
        vec![
            Statement::equals(Selector::FibSaddrType, Packed::new().index(2)),
            Statement::Reject(RejectWith::NoRoute),
        ],
        vec![Statement::Reject(RejectWith::HostUnreachable)],
        vec![Statement::Log(LogInto::default()), Statement::Verdict(Verdict::Continue)],
    ];
    forward.rules.extend(rules.map(Rule::new));
    forward.rules[0].comment = Some("the way back".into());
    table.insert_chain(forward);
    table.insert_chain(
        Chain::base(name("early"), Hook::new(HookKind::Filter, HookPoint::Prerouting, -300))
            .rule([Statement::equals(Selector::UdpDport, port(4789)), Statement::Notrack]),
    );
    table.insert_chain(Chain::base(
        name("reroute"),
        Hook::new(HookKind::Route, HookPoint::Output, -151),
    ));
}

/// The whole table.
pub fn everything() -> Table {
    let mut table = Table::new(Family::Inet, name("fairway"));
    table.comment = Some("a test's".into());
    sets(&mut table);
    translations(&mut table);
    filters(&mut table);
    table
}
