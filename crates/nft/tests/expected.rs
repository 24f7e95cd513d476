//! Listing by asking for what is expected gives what a plain listing gives, whatever is really there: elements nobody
//! expects, elements that are missing, others than expected, and a table that goes away meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netns::in_namespace;
use nft::kernel::{Expected, Netlink};
use nft::{
    Chain, Data, Element, Elements, Family, Kernel, Name, Op, Packed, Selector, Set, SetData,
    SetSpec, Table, Transaction, Verdict, diff,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn slots() -> SetSpec {
    let key = [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    SetSpec::new(name("slot4"), key)
        .with_data(SetData::value([Selector::IpDaddr, Selector::ThDport]))
}

fn frontends() -> SetSpec {
    let key = [Selector::IpDaddr, Selector::MetaL4proto, Selector::ThDport];
    SetSpec::new(name("frontend4"), key).with_data(SetData::Verdict)
}

/// A single component shorter than four bytes, which the wire form does not pad.
fn ports() -> SetSpec {
    SetSpec::new(name("ports"), [Selector::ThDport])
}

fn key(number: u32) -> Packed {
    Packed::new().ipv4((0x0a60_0000 + number).into()).proto(6).port(80)
}

fn slot(number: u32, endpoint: u32) -> Element {
    let data = Packed::new().ipv4((0x0a80_0000 + endpoint).into()).port(8080);
    Element::new(key(number), Data::Value(data))
}

fn fill(spec: SetSpec, elements: impl Iterator<Item = Element>) -> Set {
    let mut set = Set::new(spec);
    for element in elements {
        set.elements.insert(&element).unwrap();
    }
    set
}

fn table(count: u32) -> Table {
    let mut table = Table::new(Family::Inet, name("expected"));
    table.insert_chain(Chain::new(name("one")));
    table.insert_chain(Chain::new(name("two")));
    table.insert_set(fill(slots(), (0..count).map(|number| slot(number, number))));
    let goto = |number| Element::verdict(key(number), Verdict::Goto(name("one")));
    table.insert_set(fill(frontends(), (0..count).map(goto)));
    let port = |number: u32| Element::key(Packed::new().port(number as u16));
    table.insert_set(fill(ports(), (1..count).map(port)));
    table
}

/// A small random number generator: the same edits in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % end
    }
}

fn edit(wanted: &Table, random: &mut Random, count: u32) -> Table {
    let mut edited = wanted.clone();
    // Few edits, many edits, and half of everything.
    let edits = [0, 1, 3, 100, count / 2][random.below(5) as usize];
    for _ in 0..edits {
        let (number, kind) = (random.below(count), random.below(6));
        let slots = &mut edited.sets.get_mut("slot4").unwrap().elements;
        match kind {
            0 => drop(slots.remove(&key(number))),
            1 => drop(slots.insert(&slot(number, number + 1)).unwrap()),
            2 => drop(slots.insert(&slot(count + number, 7)).unwrap()),
            _ => {
                let set = if kind == 5 { "ports" } else { "frontend4" };
                let elements: &mut Elements = &mut edited.sets.get_mut(set).unwrap().elements;
                let goto = |chain| Verdict::Goto(name(chain));
                match kind {
                    3 => drop(elements.remove(&key(number))),
                    4 => {
                        drop(elements.insert(&Element::verdict(key(number), goto("two"))).unwrap())
                    }
                    _ => drop(elements.remove(&Packed::new().port(number as u16))),
                }
            }
        }
    }
    edited
}

#[test]
fn asking_finds_what_a_dump_finds() {
    in_namespace(|| {
        let count = 2500;
        let wanted = table(count);
        let mut kernel = Netlink::open().unwrap();
        let mut there: Option<Table> = None;
        let mut random = Random(0x5eed);
        for round in 0..8 {
            let edited = edit(&wanted, &mut random, count);
            kernel.commit(&diff(&edited, there.as_ref())).unwrap();
            let asked =
                kernel.list_expecting(Family::Inet, &wanted.name, &wanted).unwrap().unwrap();
            assert!(asked == edited, "round {round}: asking finds something else than is there");
            assert!(diff(&edited, Some(&asked)).is_empty());
            there = Some(asked);
        }
        // And what it found is enough to mend everything.
        kernel.commit(&diff(&wanted, there.as_ref())).unwrap();
        assert!(kernel.list(Family::Inet, &wanted.name).unwrap().unwrap() == wanted);
    });
}

/// Expects things that never were.
struct Wrong;

impl Expected for Wrong {
    fn keys(&self, set: &SetSpec, _: &Table) -> Option<Vec<Packed>> {
        match set.name.as_str() {
            "ports" => None, // walk it
            // Keys of another length, and one of them twice.
            "frontend4" => Some(vec![Packed::new().port(1), Packed::new().port(1)]),
            _ => Some((0..3000).map(|number| key(1_000_000 + number)).collect()),
        }
    }
}

#[test]
fn wrong_expectations_cost_time_and_nothing_else() {
    in_namespace(|| {
        let there = table(3000);
        let mut kernel = Netlink::open().unwrap();
        assert_eq!(kernel.list_expecting(Family::Inet, &there.name, &there).unwrap(), None);
        assert!(!kernel.is_filled(Family::Inet, &there.name).unwrap());
        kernel.commit(&diff(&Table::new(Family::Inet, there.name.clone()), None)).unwrap();
        assert!(!kernel.is_filled(Family::Inet, &there.name).unwrap());
        kernel.commit(&diff(&there, None)).unwrap();
        let listed = kernel.list_expecting(Family::Inet, &there.name, &Wrong).unwrap().unwrap();
        assert!(listed == there);
        assert!(kernel.is_filled(Family::Inet, &there.name).unwrap());
    });
}

#[test]
fn single_elements_can_be_asked_for() {
    in_namespace(|| {
        let there = table(100);
        let mut kernel = Netlink::open().unwrap();
        let absent = kernel.get(Family::Inet, &there.name, &slots(), &[key(1)]);
        assert!(absent.is_err(), "no table: {absent:?}");
        kernel.commit(&diff(&there, None)).unwrap();
        let keys = [key(200), key(7), key(300), key(9), key(400)];
        let found = kernel.get(Family::Inet, &there.name, &slots(), &keys).unwrap();
        assert_eq!(found.sorted(), [slot(7, 7), slot(9, 9)]);
        let none = SetSpec::new(name("nothing"), [Selector::ThDport]);
        assert!(kernel.get(Family::Inet, &there.name, &none, &[Packed::new().port(1)]).is_err());
    });
}

#[test]
fn a_table_deleted_meanwhile_is_found_whole_or_not_at_all() {
    in_namespace(|| {
        let wanted = table(2500);
        let mut kernel = Netlink::open().unwrap();
        let mut vandal = Netlink::open().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let vandal = std::thread::spawn({
            let (wanted, done) = (wanted.clone(), done.clone());
            move || {
                let build = diff(&wanted, None);
                let mut delete = Transaction::new(Family::Inet, wanted.name.clone());
                delete.push(Op::DeleteTable);
                while !done.load(Ordering::Relaxed) {
                    vandal.commit(&build).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    vandal.commit(&delete).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        });
        let (mut whole, mut gone) = (0, 0);
        for _ in 0..50 {
            match kernel.list_expecting(Family::Inet, &wanted.name, &wanted) {
                Ok(Some(listed)) => {
                    assert!(listed == wanted, "a part of the table was taken for the whole");
                    whole += 1;
                }
                Ok(None) => gone += 1,
                // A machine too slow to list between two changes says so.
                Err(error) => assert!(matches!(error, nft::ListError::Unstable { .. }), "{error}"),
            }
        }
        done.store(true, Ordering::Relaxed);
        vandal.join().unwrap();
        println!("listed whole {whole} times, found gone {gone} times");
    });
}
