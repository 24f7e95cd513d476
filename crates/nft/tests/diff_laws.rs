//! What a diff must be, whatever the tables: applying it gives what was wanted, and then nothing is left to do.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;
mod program;

use nft::{
    Chain, Data, Double, Element, Family, Field, Hook, HookKind, HookPoint, Kernel, Name, Op,
    Opaque, Packed, Policy, Rule, Selector, Set, SetData, SetFlags, SetSpec, Statement, Table,
    Verdict, diff,
};
use program::{everything, name};
use proptest::prelude::*;

const CHAINS: [&str; 4] = ["a", "b", "c", "d"];
const SETS: [&str; 4] = ["s", "m", "v", "r"];

/// Elements of a generated set: small numbers, so that two tables share many.
fn elements(kind: usize) -> impl Strategy<Value = Vec<(u8, u8)>> {
    proptest::collection::vec((0_u8..8, 0_u8..3), if kind == 3 { 0..2 } else { 0..8 })
}

fn set(
    kind: usize,
    wide: bool,
    comment: Option<String>,
    elements: Vec<(u8, u8)>,
    chains: &[Name],
) -> Set {
    let mut key = vec![Field::Ipv4Addr];
    if wide {
        key.push(Field::InetService);
    }
    let mut spec = SetSpec::new(name(SETS[kind]), key);
    spec.comment = comment;
    match kind {
        1 => spec.data = SetData::value([Field::Ipv4Addr]),
        2 => spec.data = SetData::Verdict,
        3 => spec.flags = SetFlags { interval: true, ..SetFlags::default() },
        _ => {}
    }
    let mut set = Set::new(spec);
    for (key, datum) in elements {
        let mut packed = Packed::new().ipv4([10, key, 0, 0].into());
        let mut end = Packed::new().ipv4([10, key, datum, 255].into());
        if wide {
            packed = packed.port(80);
            end = end.port(80);
        }
        let element = match kind {
            1 => Element::new(packed, Data::Value(Packed::new().ipv4([1, 1, 1, datum].into()))),
            2 => match chains.get(usize::from(datum)) {
                Some(chain) => Element::verdict(packed, Verdict::Goto(chain.clone())),
                None => Element::verdict(packed, Verdict::Drop),
            },
            3 => Element::key(packed).to(end),
            _ if datum == 2 => Element::key(packed).with_comment("two"),
            _ => Element::key(packed),
        };
        set.elements.insert(&element).unwrap();
    }
    set
}

fn table() -> impl Strategy<Value = Table> {
    let hooks = proptest::collection::vec(
        (
            any::<bool>(),
            proptest::option::of((0_i32..3, any::<bool>())),
            proptest::option::of("[a-z]{1,3}"),
        ),
        CHAINS.len(),
    );
    let sets = (0..SETS.len())
        .map(|kind| {
            proptest::option::of((
                any::<bool>(),
                proptest::option::of("[a-z]{1,2}"),
                elements(kind),
            ))
        })
        .collect::<Vec<_>>();
    let rules = proptest::collection::vec(
        proptest::collection::vec((0_u8..7, 0_u8..4), 0..4),
        CHAINS.len(),
    );
    (hooks, sets, rules, any::<bool>(), proptest::option::weighted(0.2, "[a-z]{1,2}")).prop_map(
        |(hooks, sets, rules, dormant, comment)| {
            let mut table = Table::new(Family::Inet, name("t"));
            table.dormant = dormant;
            table.comment = comment;
            for (index, (there, hook, comment)) in hooks.into_iter().enumerate() {
                // Only the first chain hangs on a hook: the others can be gone to.
                let hook = hook.filter(|_| index == 0).map(|(priority, drop)| Hook {
                    kind: HookKind::Filter,
                    point: HookPoint::Input,
                    priority,
                    policy: if drop { Policy::Drop } else { Policy::Accept },
                });
                if there {
                    let chain = name(CHAINS[index]);
                    table.insert_chain(Chain { name: chain, hook, rules: Vec::new(), comment });
                }
            }
            let targets: Vec<Name> =
                table.chains.keys().filter(|it| it.as_str() == "d").cloned().collect();
            for (kind, set_of) in sets.into_iter().enumerate() {
                if let Some((wide, comment, elements)) = set_of {
                    table.insert_set(set(kind, wide, comment, elements, &targets));
                }
            }
            for (index, rules) in rules.into_iter().enumerate() {
                let later: Vec<_> =
                    table.chains.keys().filter(|it| it.as_str() > CHAINS[index]).cloned().collect();
                let rules: Vec<_> = rules
                    .into_iter()
                    .filter_map(|(what, which)| rule(&table, &later, what, which, index == 3))
                    .collect();
                if let Some(chain) = table.chains.get_mut(CHAINS[index]) {
                    chain.rules = rules;
                }
            }
            table
        },
    )
}

/// A rule that only refers to what is there, and only to chains that come later: no loops.
fn rule(table: &Table, later: &[Name], what: u8, which: u8, last: bool) -> Option<Rule> {
    let key = |set: &Set| {
        let mut key = vec![Selector::IpSaddr];
        if set.spec.is_concatenation() {
            key.push(Selector::ThDport);
        }
        key
    };
    let statements = match what {
        0 => vec![Statement::accept()],
        1 => vec![
            Statement::equals(Selector::TcpDport, Packed::new().port(which.into())),
            Statement::drop(),
        ],
        2 => vec![Statement::jump(later.get(usize::from(which))?.clone())],
        3 => {
            let set = table.sets.get("s")?;
            vec![Statement::in_set(key(set), name("s")), Statement::Counter]
        }
        4 => {
            let set = table.sets.get("r")?;
            vec![Statement::not_in_set(key(set), name("r")), Statement::return_()]
        }
        // Elements of "v" go to chain "d": not from there.
        5 if !last => {
            let set = table.sets.get("v")?;
            vec![Statement::vmap(key(set), name("v"))]
        }
        _ => vec![Statement::any_transport(), Statement::Counter],
    };
    let rule = Rule::new(statements);
    Some(if which == 3 { rule.with_comment("third") } else { rule })
}

fn holding(table: &Table) -> Double {
    let mut double = Double::new();
    let all = diff(table, None);
    double.commit(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    double
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_difference_gives_what_is_wanted(wanted in table(), held in table()) {
        let mut double = holding(&held);
        let listed = double.list(Family::Inet, &wanted.name).unwrap();
        let step = diff(&wanted, listed.as_ref());
        if let Err(error) = double.commit(&step) {
            prop_assert!(false, "{error}\nheld:\n{held}\nwanted:\n{wanted}\nstep:\n{step}");
        }
        let after = double.list(Family::Inet, &wanted.name).unwrap().unwrap();
        let again = diff(&wanted, Some(&after));
        prop_assert!(again.is_empty(), "held:\n{held}\nwanted:\n{wanted}\nstep:\n{step}\nstill to do:\n{again}");
        prop_assert_eq!(after.to_string(), holding(&wanted).list(Family::Inet, &wanted.name).unwrap().unwrap().to_string());
    }

    #[test]
    fn a_table_does_not_differ_from_itself(table in table()) {
        prop_assert!(diff(&table, Some(&table)).is_empty());
        let listed = holding(&table).list(Family::Inet, &table.name).unwrap().unwrap();
        prop_assert!(diff(&table, Some(&listed)).is_empty());
    }
}

fn ops(table: &Table, held: &Table) -> Vec<Op> {
    diff(table, Some(held)).ops
}

#[test]
fn one_changed_slot_is_two_operations_and_no_rule() {
    let table = everything();
    let mut changed = table.clone();
    let slots = changed.sets.get_mut("slot4").unwrap();
    let key = program::frontend(3, 80).index(2);
    let to = Data::Value(Packed::new().ipv4([10, 244, 77, 7].into()).port(8080));
    slots.elements.insert(&Element::new(key, to.clone())).unwrap();
    let step = diff(&changed, Some(&table));
    assert_eq!(step.len(), 2);
    assert!(
        matches!(&step.ops[..], [Op::DeleteElements { .. }, Op::AddElements { elements, .. }] if elements[0].data == to)
    );
}

#[test]
fn elements_the_kernel_put_into_a_dynamic_set_are_left_alone() {
    let table = everything();
    let mut held = table.clone();
    let affine = held.sets.get_mut("affine4-0").unwrap();
    let key = Packed::new().ipv4([10, 1, 1, 1].into()).then(&program::frontend(1, 80));
    affine.elements.insert(&Element::key(key)).unwrap();
    assert!(ops(&table, &held).is_empty());
}

#[test]
fn what_somebody_else_put_there_is_removed() {
    let table = everything();
    let mut held = table.clone();
    let mut foreign = Chain::new(name("foreign"));
    let opaque = Opaque { what: "limit".into(), attributes: vec![1, 2, 3] };
    foreign.rules.push(Rule::new([Statement::Opaque(opaque.clone())]));
    held.insert_chain(foreign);
    held.insert_set(Set::new(SetSpec::new(name("theirs"), [Field::Mark])));
    let random = held.chains.get_mut("random-5").unwrap();
    random.rules.push(Rule::new([Statement::Opaque(opaque)]));
    held.sets.get_mut("hairpin4").unwrap().elements.clear();
    let mut double = Double::new();
    double.commit(&diff(&table, None)).unwrap();
    *double.table_mut(table.family, &table.name).unwrap() = held.clone();
    let step = diff(&table, Some(&held));
    assert!(step.ops.contains(&Op::DeleteChain { name: name("foreign") }), "{step}");
    assert!(step.ops.contains(&Op::DeleteSet { name: name("theirs") }), "{step}");
    assert!(step.ops.contains(&Op::FlushChain { chain: name("random-5") }), "{step}");
    assert_eq!(step.ops.iter().filter(|op| matches!(op, Op::AddRule { .. })).count(), 1, "{step}");
    double.commit(&step).unwrap();
    let after = double.list(table.family, &table.name).unwrap().unwrap();
    assert!(diff(&table, Some(&after)).is_empty());
}

#[test]
fn a_set_declared_anew_takes_its_rules_with_it() {
    let table = everything();
    let mut changed = table.clone();
    let mut spec = (*table.sets["affine4-0"].spec).clone();
    spec.size = Some(1000);
    changed.insert_set(Set::new(spec));
    let mut double = Double::new();
    double.commit(&diff(&table, None)).unwrap();
    let step = diff(&changed, Some(&double.list(table.family, &table.name).unwrap().unwrap()));
    double.commit(&step).unwrap_or_else(|error| panic!("{error}\n{step}"));
    let after = double.list(table.family, &table.name).unwrap().unwrap();
    assert!(diff(&changed, Some(&after)).is_empty());
    assert_eq!(after.sets["affine4-0"].spec.size, Some(1000));
}

/// The laws again, on the real kernel; and the double must have foretold every listing.
#[test]
fn the_kernel_keeps_the_laws_too() {
    netns::in_namespace(|| {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 60,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let kernel = std::cell::RefCell::new(nft::kernel::Netlink::open().unwrap());
        let name = name("t");
        runner
            .run(&table(), |wanted| {
                let mut kernel = kernel.borrow_mut();
                let listed = kernel.list(Family::Inet, &name).unwrap();
                let step = diff(&wanted, listed.as_ref());
                let mut double = Double::new();
                if let Some(listed) = &listed {
                    double = holding(listed);
                }
                if let Err(error) = kernel.commit(&step) {
                    prop_assert!(false, "{error}\nwanted:\n{wanted}\nstep:\n{step}");
                }
                double.commit(&step).unwrap();
                let after = kernel.list(Family::Inet, &name).unwrap().unwrap();
                let again = diff(&wanted, Some(&after));
                prop_assert!(
                    again.is_empty(),
                    "wanted:\n{wanted}\nstep:\n{step}\nstill to do:\n{again}"
                );
                let foretold = double.list(Family::Inet, &name).unwrap().unwrap();
                prop_assert_eq!(after.to_string(), foretold.to_string());
                let from_nothing = holding(&wanted).list(Family::Inet, &name).unwrap().unwrap();
                prop_assert_eq!(after.to_string(), from_nothing.to_string());
                Ok(())
            })
            .unwrap();
    });
}
