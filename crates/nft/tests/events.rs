//! Foreign changes are noticed, our own are not; foreign edits of rules are differences.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;
mod program;

use netns::{in_namespace, nft as run_nft};
use nft::kernel::{Change, Netlink, Watch};
use nft::{CommitError, Element, Kernel, Op, Packed, Table, Transaction, diff};
use program::{everything, frontend, name};

#[test]
fn only_what_others_do_to_our_table_is_a_change() {
    in_namespace(|| {
        let table = everything();
        let mut kernel = Netlink::open().unwrap();
        let mut watch = Watch::open(table.family, table.name.clone()).unwrap();
        watch.ignore(kernel.port()).unwrap();
        kernel.commit(&diff(&table, None)).unwrap();
        assert_eq!(watch.read().unwrap(), Change::None);
        run_nft(&["add", "table", "inet", "other"], "").unwrap();
        run_nft(&["add", "table", "ip", "fairway"], "").unwrap();
        assert_eq!(watch.read().unwrap(), Change::None);
        run_nft(&["add", "element", "inet", "fairway", "hairpin4", "{ 1.2.3.4 . 1.2.3.4 }"], "")
            .unwrap();
        assert_eq!(watch.read().unwrap(), Change::Foreign);
        assert_eq!(watch.read().unwrap(), Change::None);
        run_nft(&["flush", "ruleset"], "").unwrap();
        assert_eq!(watch.read().unwrap(), Change::Foreign);
        let gone = kernel.list(table.family, &table.name).unwrap();
        assert_eq!(gone, None);
        kernel.commit(&diff(&table, None)).unwrap();
        assert_eq!(watch.read().unwrap(), Change::None);
    });
}

#[test]
fn lost_events_are_told() {
    in_namespace(|| {
        let table = everything();
        let mut watch = Watch::open(table.family, table.name.clone()).unwrap();
        let mut kernel = Netlink::open().unwrap();
        kernel.commit(&diff(&table, None)).unwrap();
        pile_up(&mut kernel, &table);
        assert_eq!(watch.read().unwrap(), Change::Lost);
    });
}

#[test]
fn our_own_events_push_nobody_elses_out() {
    in_namespace(|| {
        let table = everything();
        let mut kernel = Netlink::open().unwrap();
        let mut watch = Watch::open(table.family, table.name.clone()).unwrap();
        watch.ignore(1).unwrap();
        watch.ignore(kernel.port()).unwrap();
        kernel.commit(&diff(&table, None)).unwrap();
        pile_up(&mut kernel, &table);
        assert_eq!(watch.read().unwrap(), Change::None);
        run_nft(
            &["delete", "element", "inet", "fairway", "hairpin4", "{ 10.0.0.0 . 1.1.1.1 }"],
            "",
        )
        .unwrap();
        assert_eq!(watch.read().unwrap(), Change::Foreign);
    });
}

/// Every element is an event; nobody reads while many of them pile up.
fn pile_up(kernel: &mut Netlink, table: &Table) {
    let spec = &table.sets["hairpin4"].spec;
    for round in 0..20_u8 {
        let all = (0..=9999_u16).map(|at| {
            let [high, low] = at.to_be_bytes();
            Element::key(
                Packed::new().ipv4([10, round, high, low].into()).ipv4([1, 1, 1, 1].into()),
            )
        });
        let mut step = Transaction::new(table.family, table.name.clone());
        step.push(Op::AddElements { set: spec.clone(), elements: all.collect() });
        kernel.commit(&step).unwrap();
    }
}

#[test]
fn a_foreign_edit_is_a_difference_and_is_repaired() {
    in_namespace(|| {
        let table = everything();
        let mut kernel = Netlink::open().unwrap();
        kernel.commit(&diff(&table, None)).unwrap();
        let edits = [
            "add rule inet fairway random-5 limit rate 10/second accept",
            "insert rule inet fairway random-5 ip saddr 10.0.0.0/8 drop",
            "add rule inet fairway dispatch tcp dport { 1-3, 7 } accept",
            "add rule inet fairway affine-3 counter",
            "flush chain inet fairway maglev-251",
            "add chain inet fairway theirs { type filter hook input priority 5; }",
            "add counter inet fairway theirs",
            "add set inet fairway theirset { type ether_addr . mark; }
             add element inet fairway theirset { 00:11:22:33:44:55 . 7 }",
            "add map inet fairway theirmap { type ipv4_addr : counter; }",
            "add map inet fairway theirport { type inet_service : mark; flags interval; }
             add element inet fairway theirport { 1-5 : 7 }
             add rule inet fairway fixed meta mark set th dport map @theirport",
            "delete element inet fairway slot4 { 10.96.0.1 . tcp . 80 . 0 }",
            "add element inet fairway pods4 { 172.16.0.0/12 }",
            "chain inet fairway forward { policy accept; }",
        ];
        for edit in edits {
            run_nft(&["-f", "-"], edit).unwrap_or_else(|error| panic!("{edit}: {error}"));
            let listed = kernel.list(table.family, &table.name).unwrap();
            let repair = diff(&table, listed.as_ref());
            if edit.contains("counter inet") {
                continue; // A named counter is no chain and no set: it harms nobody and stays.
            }
            assert!(!repair.is_empty(), "{edit}: not seen");
            kernel.commit(&repair).unwrap_or_else(|error| panic!("{edit}: {error}\n{repair}"));
            let listed = kernel.list(table.family, &table.name).unwrap();
            let again = diff(&table, listed.as_ref());
            assert!(again.is_empty(), "{edit}: after the repair\n{repair}\nstill\n{again}");
        }
    });
}

#[test]
fn an_error_names_the_operation_and_the_element() {
    in_namespace(|| {
        let table = everything();
        let mut kernel = Netlink::open().unwrap();
        kernel.commit(&diff(&table, None)).unwrap();
        let mut step = Transaction::new(table.family, table.name.clone());
        step.push(Op::AddChain { name: name("fine"), hook: None, comment: None });
        let goto =
            |last, chain| Element::verdict(frontend(last, 7), nft::Verdict::Goto(name(chain)));
        let elements =
            (1..=200).map(|last| goto(last, if last == 150 { "nowhere" } else { "random-5" }));
        step.push(Op::AddElements {
            set: table.sets["frontend4"].spec.clone(),
            elements: elements.collect(),
        });
        let error = kernel.commit(&step).unwrap_err();
        let CommitError::Refused { first, .. } = &error else { panic!("{error:?}") };
        assert_eq!((first.op, first.errno.0), (1, libc::ENOENT));
        assert_eq!(first.element.as_ref().map(|element| element.key), Some(frontend(150, 7)));
        let text = error.to_string();
        let expected = "table fairway: adding element 10.96.0.150 . tcp . 7 to map frontend4: No such file or directory";
        assert!(text.starts_with(expected), "{text}");
    });
}
