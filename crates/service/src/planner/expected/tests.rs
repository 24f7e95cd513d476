//! What changed while nobody was there is expected too.

use model::{NodeName, Snapshot};
use nft::{Data, Element, Name, Packed, Table, Verdict};

use crate::{Config, Planner};

fn frontend(number: u8) -> Packed {
    Packed::new().ipv4([10, 96, 0, number].into()).proto(6).port(80)
}

/// The program with frontends of so many slots each.
fn table(slots: &[(u8, u32)]) -> Table {
    let plan =
        Planner::new(NodeName::new("node-1"), Config::default()).full(&Snapshot::default(), None);
    let mut table = plan.table;
    for (number, count) in slots {
        let key = frontend(*number);
        let mut insert = |set: &str, element| {
            let set = table.sets.get_mut(set).expect("a set of the program");
            set.elements.insert(&element).expect("an element of its shape");
        };
        if *count <= 8 {
            insert(&format!("cluster4-{count}"), Element::key(key));
        } else {
            let chain = Name::new(&format!("cluster-random-{count}")).expect("a name");
            insert("frontend4", Element::verdict(key, Verdict::Goto(chain)));
        }
        for slot in 0..*count {
            let endpoint = Packed::new().ipv4([10, 244, *number, slot as u8].into()).port(80);
            insert("slot4", Element::new(key.index(slot), Data::Value(endpoint)));
        }
    }
    table
}

#[test]
fn slots_of_frontends_that_grew_shrank_or_went_are_all_expected() {
    let table_of = |slots: &[(u8, u32)]| table(slots);
    let plan = super::Plan { table: table_of(&[(1, 3), (2, 5), (4, 2)]), reports: Vec::new() };
    let listed = table_of(&[(1, 3), (2, 2), (3, 9), (4, 6)]);
    let expected = plan.probable(&listed.sets["slot4"].spec, &listed);
    for key in listed.sets["slot4"].elements.keys() {
        assert!(expected.contains(&key), "{key:?} would need a walk");
    }
    for key in plan.table.sets["slot4"].elements.keys() {
        assert!(expected.contains(&key), "{key:?} is wanted");
    }
    assert_eq!(expected.len(), 3 + 5 + 2 + 2 + 9 + 6, "no more than that");
    // Small sets are left to a walk.
    assert_eq!(nft::kernel::Expected::keys(&plan, &listed.sets["slot4"].spec, &listed), None);
}
