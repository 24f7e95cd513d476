//! One suite over the real kernel and the double: the same transactions must succeed or fail with the same errno at the
//! same operation, and leave the same table behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;
mod program;

use std::sync::Arc;
use std::time::Duration;

use netns::in_namespace;
use nft::kernel::Netlink;
use nft::{
    Chain, CommitError, Data, Double, Element, Family, Field, Hook, HookKind, HookPoint, IpFamily,
    Kernel, MatchOp, Name, NatFlags, Op, Packed, RejectWith, Right, Rule, Selector, SetData,
    SetFlags, SetSpec, Statement, Transaction, UpdateOp, Verdict, VerdictMap, diff,
};
use program::{everything, frontend, key4, name, statement};

/// What came of a commit: the operation to blame (or none, for the whole) and the errno.
type Verdicts = Result<(), (Option<usize>, i32)>;

fn outcome(result: Result<nft::Committed, CommitError>) -> Verdicts {
    match result {
        Ok(_) => Ok(()),
        Err(CommitError::Refused { first, .. }) => Err((Some(first.op), first.errno.0)),
        Err(CommitError::Whole { errno, .. } | CommitError::Socket { errno, .. }) => {
            Err((None, errno.0))
        }
        Err(CommitError::Rule { op, .. }) => Err((Some(op), -1)),
    }
}

struct Scenario {
    what: &'static str,
    steps: Vec<(Vec<Op>, Verdicts)>,
}

fn table() -> Op {
    Op::AddTable { comment: None, dormant: false }
}

fn chain(text: &str) -> Op {
    Op::AddChain { name: name(text), hook: None, comment: None }
}

fn base(text: &str, kind: HookKind, point: HookPoint, priority: i32) -> Op {
    Op::AddChain { name: name(text), hook: Some(Hook::new(kind, point, priority)), comment: None }
}

fn rule(text: &str, statements: Vec<Statement>) -> Op {
    Op::AddRule { chain: name(text), rule: Rule::new(statements) }
}

fn delete_chain(text: &str) -> Op {
    Op::DeleteChain { name: name(text) }
}

fn delete_set(text: &str) -> Op {
    Op::DeleteSet { name: name(text) }
}

fn vmap() -> Arc<SetSpec> {
    let key = [Field::Ipv4Addr, Field::InetProto, Field::InetService];
    Arc::new(SetSpec::new(name("vm"), key).with_data(SetData::Verdict))
}

fn plain() -> Arc<SetSpec> {
    Arc::new(SetSpec::new(name("plain"), [Field::Ipv4Addr]))
}

fn map() -> Arc<SetSpec> {
    let data = SetData::value([Field::Ipv4Addr, Field::InetService]);
    Arc::new(
        SetSpec::new(name("slots"), [Field::Ipv4Addr, Field::InetProto, Field::InetService])
            .with_data(data),
    )
}

fn interval() -> Arc<SetSpec> {
    let flags = SetFlags { interval: true, ..SetFlags::default() };
    Arc::new(SetSpec::new(name("cidrs"), [Field::Ipv4Addr]).with_flags(flags))
}

fn ranges() -> Arc<SetSpec> {
    let flags = SetFlags { interval: true, ..SetFlags::default() };
    Arc::new(SetSpec::new(name("ranges"), [Field::InetService, Field::Ipv4Addr]).with_flags(flags))
}

fn dynamic() -> Arc<SetSpec> {
    let flags = SetFlags { dynamic: true, timeout: true, ..SetFlags::default() };
    Arc::new(SetSpec::new(name("dyn"), [Field::Ipv4Addr]).with_flags(flags).with_size(2))
}

fn add(set: &Arc<SetSpec>, elements: Vec<Element>) -> Op {
    Op::AddElements { set: Arc::clone(set), elements }
}

fn delete(set: &Arc<SetSpec>, elements: Vec<Element>) -> Op {
    Op::DeleteElements { set: Arc::clone(set), elements }
}

fn ip(address: [u8; 4]) -> Packed {
    Packed::new().ipv4(address.into())
}

fn span(from: [u8; 4], to: [u8; 4]) -> Element {
    Element::key(ip(from)).to(ip(to))
}

fn to_pod(last: u8) -> Data {
    Data::Value(ip([10, 244, 0, last]).port(80))
}

const NOENT: i32 = libc::ENOENT;

fn refused(op: usize, errno: i32) -> Verdicts {
    Err((Some(op), errno))
}

fn scenarios() -> Vec<Scenario> {
    let goto = |key, to: &str| Element::verdict(key, Verdict::Goto(name(to)));
    let nat = |key: Vec<Selector>| Statement::dnat(IpFamily::V4, key, name("slots"));
    let masquerade = || Statement::Masquerade(NatFlags::default());
    let update = |timeout| Statement::Update {
        op: UpdateOp::Update,
        set: name("dyn"),
        key: vec![Selector::IpSaddr],
        timeout,
    };
    let one = |what, steps| Scenario { what, steps };
    vec![
        one(
            "without a table",
            vec![
                (vec![chain("a")], refused(0, NOENT)),
                (vec![Op::AddSet(plain())], refused(0, NOENT)),
                (vec![Op::DeleteTable], refused(0, NOENT)),
            ],
        ),
        one(
            "a table made and deleted in one go",
            vec![
                (vec![table(), chain("a"), Op::DeleteTable], Ok(())),
                (vec![chain("a")], refused(0, NOENT)),
                (vec![table(), table(), chain("a"), chain("a")], Ok(())),
            ],
        ),
        one(
            "all or nothing",
            vec![
                (vec![table(), chain("kept")], Ok(())),
                (vec![chain("b"), Op::AddSet(plain()), delete_chain("nowhere")], refused(2, NOENT)),
            ],
        ),
        one(
            "things that are not there",
            vec![
                (vec![table(), chain("a")], Ok(())),
                (vec![delete_chain("b")], refused(0, NOENT)),
                (vec![Op::FlushChain { chain: name("b") }], refused(0, NOENT)),
                (vec![delete_set("b")], refused(0, NOENT)),
                (vec![Op::FlushSet { set: name("b") }], refused(0, NOENT)),
                (vec![add(&plain(), vec![Element::key(ip([1, 2, 3, 4]))])], refused(0, NOENT)),
                (vec![rule("b", vec![Statement::accept()])], refused(0, NOENT)),
                (vec![rule("a", vec![Statement::jump(name("b"))])], refused(0, NOENT)),
                (vec![rule("a", vec![Statement::vmap(key4(), name("b"))])], refused(0, NOENT)),
                (vec![rule("a", vec![update(None)])], refused(0, NOENT)),
            ],
        ),
        one(
            "chains in use",
            vec![
                (
                    vec![
                        table(),
                        chain("a"),
                        chain("b"),
                        rule("a", vec![Statement::jump(name("b"))]),
                    ],
                    Ok(()),
                ),
                (vec![delete_chain("b")], refused(0, libc::EBUSY)),
                (vec![Op::FlushChain { chain: name("a") }, delete_chain("b")], Ok(())),
                (
                    vec![
                        chain("b"),
                        Op::AddSet(vmap()),
                        add(&vmap(), vec![goto(frontend(1, 80), "b")]),
                    ],
                    Ok(()),
                ),
                (vec![delete_chain("b")], refused(0, libc::EBUSY)),
                (
                    vec![delete(&vmap(), vec![Element::key(frontend(1, 80))]), delete_chain("b")],
                    Ok(()),
                ),
                (vec![rule("a", vec![Statement::accept()]), delete_chain("a")], Ok(())),
            ],
        ),
        one(
            "sets in use",
            vec![
                (vec![table(), Op::AddSet(vmap()), chain("a")], Ok(())),
                (vec![rule("a", vec![Statement::vmap(key4(), name("vm"))])], Ok(())),
                (vec![delete_set("vm")], refused(0, libc::EBUSY)),
                (vec![delete_chain("a"), delete_set("vm")], Ok(())),
            ],
        ),
        one(
            "elements twice",
            vec![
                (vec![table(), Op::AddSet(map())], Ok(())),
                (vec![add(&map(), vec![Element::new(frontend(1, 80), to_pod(1))])], Ok(())),
                (vec![add(&map(), vec![Element::new(frontend(1, 80), to_pod(1))])], Ok(())),
                (
                    vec![add(&map(), vec![Element::new(frontend(1, 80), to_pod(2))])],
                    refused(0, libc::EEXIST),
                ),
                (
                    vec![
                        delete(&map(), vec![Element::key(frontend(1, 80))]),
                        add(&map(), vec![Element::new(frontend(1, 80), to_pod(2))]),
                    ],
                    Ok(()),
                ),
                (vec![delete(&map(), vec![Element::key(frontend(2, 80))])], refused(0, NOENT)),
                (vec![Op::FlushSet { set: name("slots") }], Ok(())),
                (vec![delete(&map(), vec![Element::key(frontend(1, 80))])], refused(0, NOENT)),
            ],
        ),
        one(
            "elements of the wrong shape",
            vec![
                (vec![table(), Op::AddSet(map()), Op::AddSet(plain()), Op::AddSet(vmap())], Ok(())),
                (
                    vec![add(&map(), vec![Element::new(ip([1, 2, 3, 4]), to_pod(1))])],
                    refused(0, libc::EINVAL),
                ),
                (vec![add(&map(), vec![Element::key(frontend(1, 80))])], refused(0, libc::EINVAL)),
                (
                    vec![add(&plain(), vec![Element::new(ip([1, 2, 3, 4]), to_pod(1))])],
                    refused(0, libc::EINVAL),
                ),
                (vec![add(&vmap(), vec![goto(frontend(1, 80), "nowhere")])], refused(0, NOENT)),
                (
                    vec![add(
                        &plain(),
                        vec![Element::key(ip([1, 2, 3, 4])).with_timeout(Duration::from_secs(9))],
                    )],
                    refused(0, libc::EINVAL),
                ),
            ],
        ),
        one(
            "declarations twice",
            vec![
                (vec![table(), Op::AddSet(map())], Ok(())),
                (vec![Op::AddSet(map())], Ok(())),
                (
                    vec![Op::AddSet(Arc::new(SetSpec::new(name("slots"), [Field::Ipv4Addr])))],
                    refused(0, libc::EEXIST),
                ),
            ],
        ),
        one(
            "size limits",
            vec![
                (vec![table(), Op::AddSet(Arc::new((*plain()).clone().with_size(2)))], Ok(())),
                (
                    vec![add(
                        &plain(),
                        vec![Element::key(ip([1, 0, 0, 1])), Element::key(ip([1, 0, 0, 2]))],
                    )],
                    Ok(()),
                ),
                (
                    vec![add(&plain(), vec![Element::key(ip([1, 0, 0, 3]))])],
                    refused(0, libc::ENFILE),
                ),
                (
                    vec![
                        delete(&plain(), vec![Element::key(ip([1, 0, 0, 1]))]),
                        add(&plain(), vec![Element::key(ip([1, 0, 0, 3]))]),
                    ],
                    Ok(()),
                ),
            ],
        ),
        one(
            "intervals",
            vec![
                (vec![table(), Op::AddSet(interval()), Op::AddSet(ranges())], Ok(())),
                (vec![add(&interval(), vec![span([10, 0, 0, 0], [10, 0, 255, 255])])], Ok(())),
                (vec![add(&interval(), vec![span([10, 0, 0, 0], [10, 0, 255, 255])])], Ok(())),
                (
                    vec![add(
                        &interval(),
                        vec![
                            span([10, 1, 0, 0], [10, 1, 0, 9]),
                            span([10, 1, 0, 10], [10, 1, 0, 20]),
                        ],
                    )],
                    Ok(()),
                ),
                (
                    vec![add(&interval(), vec![span([10, 0, 4, 0], [10, 0, 4, 255])])],
                    refused(0, libc::EEXIST),
                ),
                (vec![delete(&interval(), vec![span([10, 1, 0, 0], [10, 1, 0, 9])])], Ok(())),
                (
                    vec![add(&interval(), vec![span([255, 255, 0, 0], [255, 255, 255, 255])])],
                    Ok(()),
                ),
                (
                    vec![delete(&interval(), vec![span([11, 0, 0, 0], [11, 0, 0, 9])])],
                    refused(0, NOENT),
                ),
                (
                    vec![add(
                        &ranges(),
                        vec![
                            Element::key(Packed::new().port(80).then(&ip([10, 0, 0, 0])))
                                .to(Packed::new().port(80).then(&ip([10, 0, 0, 255]))),
                            Element::key(Packed::new().port(81).then(&ip([10, 0, 0, 7]))),
                        ],
                    )],
                    Ok(()),
                ),
                (
                    vec![add(
                        &ranges(),
                        vec![
                            Element::key(Packed::new().port(80).then(&ip([10, 0, 0, 0])))
                                .to(Packed::new().port(80).then(&ip([10, 0, 0, 127]))),
                        ],
                    )],
                    refused(0, libc::EEXIST),
                ),
                (
                    vec![delete(
                        &ranges(),
                        vec![Element::key(Packed::new().port(81).then(&ip([10, 0, 0, 7])))],
                    )],
                    Ok(()),
                ),
            ],
        ),
        one(
            "base chains",
            vec![
                (vec![table(), base("pre", HookKind::Nat, HookPoint::Prerouting, -100)], Ok(())),
                (
                    vec![base("pre", HookKind::Nat, HookPoint::Output, -100)],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![base("pre", HookKind::Filter, HookPoint::Prerouting, -100)],
                    refused(0, libc::EEXIST),
                ),
                (vec![chain("pre")], Ok(())),
                (
                    vec![base("pre", HookKind::Nat, HookPoint::Prerouting, -99)],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![base("through", HookKind::Nat, HookPoint::Forward, 0)],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![base("early", HookKind::Nat, HookPoint::Prerouting, -200)],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![base("route", HookKind::Route, HookPoint::Input, 0)],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![chain("a"), rule("a", vec![Statement::jump(name("pre"))])],
                    refused(1, libc::EOPNOTSUPP),
                ),
                (
                    vec![chain("b"), base("b", HookKind::Nat, HookPoint::Prerouting, 0)],
                    refused(1, libc::EOPNOTSUPP),
                ),
                (
                    vec![Op::AddChain {
                        name: name("pre"),
                        hook: Some(
                            Hook::new(HookKind::Nat, HookPoint::Prerouting, -100).dropping(),
                        ),
                        comment: None,
                    }],
                    Ok(()),
                ),
            ],
        ),
        one(
            "statements in hooks that do not have them",
            vec![
                (
                    vec![
                        table(),
                        chain("masq"),
                        rule("masq", vec![masquerade()]),
                        chain("refuse"),
                        rule("refuse", vec![Statement::Reject(RejectWith::PortUnreachable)]),
                        base("pre", HookKind::Nat, HookPoint::Prerouting, -100),
                        base("post", HookKind::Nat, HookPoint::Postrouting, 100),
                        base("through", HookKind::Filter, HookPoint::Forward, 0),
                    ],
                    Ok(()),
                ),
                (vec![rule("pre", vec![masquerade()])], refused(0, libc::EOPNOTSUPP)),
                (
                    vec![rule("pre", vec![Statement::jump(name("masq"))])],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (vec![rule("post", vec![Statement::jump(name("masq"))])], Ok(())),
                (vec![rule("through", vec![Statement::jump(name("refuse"))])], Ok(())),
                (
                    vec![rule("post", vec![Statement::jump(name("refuse"))])],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![
                        Op::AddSet(vmap()),
                        rule("pre", vec![Statement::vmap(key4(), name("vm"))]),
                        add(&vmap(), vec![goto(frontend(1, 80), "masq")]),
                    ],
                    refused(2, libc::EOPNOTSUPP),
                ),
            ],
        ),
        one(
            "loops",
            vec![
                (
                    vec![
                        table(),
                        chain("a"),
                        chain("b"),
                        base("pre", HookKind::Filter, HookPoint::Prerouting, 0),
                        rule("pre", vec![Statement::jump(name("a"))]),
                        rule("a", vec![Statement::jump(name("b"))]),
                    ],
                    Ok(()),
                ),
                (vec![rule("b", vec![Statement::jump(name("a"))])], refused(0, libc::EMLINK)),
                (vec![rule("b", vec![Statement::goto(name("b"))])], refused(0, libc::EMLINK)),
                (
                    vec![
                        Op::AddSet(vmap()),
                        rule("b", vec![Statement::vmap(key4(), name("vm"))]),
                        add(&vmap(), vec![goto(frontend(1, 80), "a")]),
                    ],
                    refused(2, libc::EMLINK),
                ),
            ],
        ),
        one(
            "lookups that do not fit their set",
            vec![
                (
                    vec![
                        table(),
                        chain("a"),
                        Op::AddSet(vmap()),
                        Op::AddSet(map()),
                        Op::AddSet(plain()),
                        Op::AddSet(dynamic()),
                    ],
                    Ok(()),
                ),
                (
                    vec![rule("a", vec![Statement::vmap(vec![Selector::IpDaddr], name("vm"))])],
                    refused(0, libc::ENODATA),
                ),
                (vec![rule("a", vec![Statement::in_set(key4(), name("vm"))])], Ok(())),
                (
                    vec![rule("a", vec![Statement::vmap(vec![Selector::IpDaddr], name("plain"))])],
                    refused(0, libc::EINVAL),
                ),
                (vec![rule("a", vec![Statement::in_set(key4(), name("slots"))])], Ok(())),
                (vec![rule("a", vec![nat(vec![Selector::IpDaddr])])], refused(0, libc::ENODATA)),
                (vec![rule("a", vec![nat(key4())])], Ok(())),
                (vec![rule("a", vec![update(Some(Duration::from_secs(5)))])], Ok(())),
                (
                    vec![rule(
                        "a",
                        vec![Statement::Update {
                            op: UpdateOp::Update,
                            set: name("plain"),
                            key: vec![Selector::IpSaddr],
                            timeout: Some(Duration::from_secs(5)),
                        }],
                    )],
                    refused(0, libc::EOPNOTSUPP),
                ),
                (
                    vec![rule(
                        "a",
                        vec![Statement::Vmap {
                            key: vec![program::numgen(2)],
                            map: VerdictMap::Inline(vec![(
                                Packed::new().index(0),
                                Verdict::Jump(name("nowhere")),
                            )]),
                        }],
                    )],
                    refused(0, NOENT),
                ),
            ],
        ),
        one(
            "constant sets",
            vec![
                (
                    vec![
                        table(),
                        chain("a"),
                        Op::AddSet(Arc::new(
                            SetSpec::new(name("plain"), [Field::Ipv4Addr])
                                .with_flags(SetFlags { constant: true, ..SetFlags::default() }),
                        )),
                    ],
                    Ok(()),
                ),
                (vec![add(&plain(), vec![Element::key(ip([1, 0, 0, 1]))])], Ok(())),
                (
                    vec![rule(
                        "a",
                        vec![
                            Statement::in_set([Selector::IpSaddr], name("plain")),
                            Statement::drop(),
                        ],
                    )],
                    Ok(()),
                ),
                (
                    vec![add(&plain(), vec![Element::key(ip([1, 0, 0, 2]))])],
                    refused(0, libc::EBUSY),
                ),
            ],
        ),
        one(
            "a table switched off and on",
            vec![
                (
                    vec![table(), chain("a"), base("in", HookKind::Filter, HookPoint::Input, 0)],
                    Ok(()),
                ),
                (vec![Op::AddTable { comment: None, dormant: true }], Ok(())),
                (vec![base("out", HookKind::Filter, HookPoint::Output, 0)], Ok(())),
                (
                    vec![table(), base("through", HookKind::Filter, HookPoint::Forward, 0)],
                    refused(1, libc::EINVAL),
                ),
                (vec![table(), chain("b")], Ok(())),
            ],
        ),
        one(
            "a rule said in two ways",
            vec![
                (vec![table(), chain("a")], Ok(())),
                (
                    vec![rule(
                        "a",
                        vec![
                            Statement::equals(Selector::MetaNfproto, Packed::new().proto(2)),
                            statement(
                                Selector::IpSaddr,
                                MatchOp::Ne,
                                Right::Value(ip([1, 2, 3, 4])),
                            ),
                            Statement::equals(Selector::MetaL4proto, Packed::new().proto(6)),
                            Statement::equals(Selector::ThDport, Packed::new().port(80)),
                            Statement::accept(),
                        ],
                    )],
                    Ok(()),
                ),
            ],
        ),
    ]
}

#[test]
fn the_double_and_the_kernel_agree() {
    let ran = in_namespace(|| {
        let family = Family::Inet;
        let mut failures = Vec::new();
        let mut steps = 0;
        for scenario in scenarios() {
            let table: Name = name("scenario");
            let mut kernel = Netlink::open().unwrap();
            let mut double = Double::new();
            for (step, (ops, expected)) in scenario.steps.into_iter().enumerate() {
                steps += 1;
                let transaction = Transaction { family, table: table.clone(), ops };
                let real = outcome(kernel.commit(&transaction));
                let ours = outcome(double.commit(&transaction));
                if real != expected || ours != expected {
                    failures.push(format!(
                        "{}, step {step}: expected {expected:?}, the kernel {real:?}, the double {ours:?}\n{transaction}",
                        scenario.what
                    ));
                }
                let text = |listed: Option<nft::Table>| {
                    listed.map(|table| table.to_string()).unwrap_or_default()
                };
                let real = text(kernel.list(family, &table).unwrap());
                let ours = text(double.list(family, &table).unwrap());
                if real != ours {
                    failures.push(format!(
                        "{}, step {step}: the kernel lists\n{real}\nthe double\n{ours}",
                        scenario.what
                    ));
                }
            }
            let mut delete = Transaction::new(family, table);
            delete.push(Op::DeleteTable);
            kernel.commit(&delete).ok();
        }
        assert!(failures.is_empty(), "{}", failures.join("\n\n"));
        assert!(steps > 80, "only {steps} steps ran");
    });
    assert!(ran.is_some() || std::env::var_os("FAIRWAY_REQUIRE_ALL").is_none());
}

#[test]
fn both_take_everything_and_list_it_the_same() {
    in_namespace(|| {
        let table = everything();
        let all = diff(&table, None);
        let (mut kernel, mut double) = (Netlink::open().unwrap(), Double::new());
        kernel.commit(&all).unwrap();
        double.commit(&all).unwrap();
        let real = kernel.list(table.family, &table.name).unwrap().unwrap();
        let ours = double.list(table.family, &table.name).unwrap().unwrap();
        assert!(real == ours, "the kernel:\n{real}\nthe double:\n{ours}");
        let mut changed = table.clone();
        changed.chains.retain(|name, _| name.as_str() != "maglev-251");
        if let Some(dispatch) = changed.chains.get_mut("dispatch") {
            dispatch.rules.truncate(1);
            dispatch.hook = dispatch.hook.map(|hook| Hook { priority: -90, ..hook });
        }
        changed.chains.insert(name("new"), Chain::new(name("new")).rule([Statement::accept()]));
        let frontends = changed.sets.get_mut("frontend4").unwrap();
        frontends
            .elements
            .insert(&Element::verdict(frontend(1, 80), Verdict::Goto(name("new"))))
            .unwrap();
        frontends.elements.remove(&frontend(2, 80));
        changed.sets.remove("t-tcp");
        let step = diff(&changed, Some(&real));
        assert_eq!(step, diff(&changed, Some(&ours)));
        kernel.commit(&step).unwrap_or_else(|error| panic!("{error}\n{step}"));
        double.commit(&step).unwrap();
        let real = kernel.list(table.family, &table.name).unwrap().unwrap();
        assert!(diff(&changed, Some(&real)).is_empty());
        assert!(real == double.list(table.family, &table.name).unwrap().unwrap());
    });
}
