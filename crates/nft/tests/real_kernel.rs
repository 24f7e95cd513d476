//! The netlink and the text form against the real kernel and the real `nft`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod netns;
mod program;

use netns::{in_namespace, nft};
use nft::kernel::Netlink;
use nft::{Kernel, Table, diff};
use program::everything;

fn listed(kernel: &mut Netlink, table: &Table) -> Table {
    kernel.list(table.family, &table.name).unwrap().expect("the table is there")
}

#[test]
fn what_is_committed_is_listed_back_and_nothing_is_left_to_do() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        let table = everything();
        assert_eq!(kernel.list(table.family, &table.name).unwrap(), None);
        let all = diff(&table, None);
        let done = kernel.commit(&all).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(done.operations, all.len());
        let listed = listed(&mut kernel, &table);
        let again = diff(&table, Some(&listed));
        assert!(again.is_empty(), "a second diff wants:\n{again}");
        // Not only the same to diff: the same text, so nothing was lost on the way.
        assert_eq!(listed.to_string(), table.to_string());
    });
}

/// A listing without what changes by itself, its spaces made one.
fn normalised(listing: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut words = listing.split_whitespace();
    while let Some(word) = words.next() {
        if word == "expires" {
            // "expires 59m59s998ms," keeps only its comma.
            if words.next().is_some_and(|time| time.ends_with(','))
                && let Some(last) = kept.last_mut()
            {
                last.push(',');
            }
            continue;
        }
        kept.push(word.to_owned());
    }
    kept.join(" ")
}

fn assert_same_listing(ours: &str, theirs: &str) {
    let (ours, theirs) = (normalised(ours), normalised(theirs));
    if ours != theirs {
        let same = ours.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
        let around = |text: &str| {
            String::from_utf8_lossy(text.as_bytes())
                .chars()
                .skip(same.saturating_sub(100))
                .take(400)
                .collect::<String>()
        };
        panic!("ours:\n{}\n\ntheirs:\n{}", around(&ours), around(&theirs));
    }
}

#[test]
fn nft_lists_the_same_from_our_netlink_as_from_our_text() {
    let ours = in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        kernel.commit(&diff(&everything(), None)).unwrap();
        nft(&["list", "ruleset"], "").unwrap()
    });
    let Some(ours) = ours else { return };
    assert!(
        ours.contains("typeof ip daddr . meta l4proto . th dport . numgen random mod 2"),
        "{ours}"
    );
    in_namespace(move || {
        let text = everything().to_string();
        nft(&["-c", "-f", "-"], &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        // What nft prints of ours, nft reads.
        nft(&["-c", "-f", "-"], &ours).unwrap_or_else(|error| panic!("{error}\n{ours}"));
        nft(&["-f", "-"], &text).unwrap();
        assert_same_listing(&ours, &nft(&["list", "ruleset"], "").unwrap());
    });
}

#[test]
fn nft_reads_a_transaction_and_does_the_same() {
    in_namespace(|| {
        let mut kernel = Netlink::open().unwrap();
        let table = everything();
        let first = diff(&table, None);
        nft(&["-f", "-"], &first.to_string()).unwrap_or_else(|error| panic!("{error}\n{first}"));
        // nft writes prefixes as shorter loads, so only rules without any come back as ours.
        let listed = listed(&mut kernel, &table);
        assert!(listed.sets == table.sets, "{listed}");
        let slot = nft::Packed::new().ipv4([10, 96, 0, 1].into()).proto(6).port(80).index(0);
        let mut changed = table.clone();
        let set = changed.sets.get_mut("slot4").unwrap();
        set.elements.remove(&slot);
        changed.sets.get_mut("pods4").unwrap().elements.clear();
        changed.chains.remove("maglev-251");
        changed.chains.get_mut("random-5").unwrap().rules.truncate(0);
        let step = diff(&changed, Some(&table));
        assert!(step.len() > 5, "{step}");
        nft(&["-f", "-"], &step.to_string()).unwrap_or_else(|error| panic!("{error}\n{step}"));
        let after = kernel.list(table.family, &table.name).unwrap().unwrap();
        assert!(after.sets == changed.sets, "{after}");
        assert_eq!(
            after.chains.keys().collect::<Vec<_>>(),
            changed.chains.keys().collect::<Vec<_>>()
        );
    });
}

#[test]
fn a_table_that_changes_while_it_is_listed_is_listed_whole() {
    in_namespace(|| {
        let mut table = Table::new(nft::Family::Inet, program::name("busy"));
        let spec = nft::SetSpec::new(program::name("versions"), [nft::Field::Ipv4Addr])
            .with_data(nft::SetData::value([nft::Field::Mark]));
        let fill = move |version: u32| {
            let mut set = nft::Set::new(spec.clone());
            for key in 0..3000_u32 {
                let data = nft::Data::Value(nft::Packed::new().mark(version));
                set.elements
                    .insert(&nft::Element::new(nft::Packed::new().ipv4(key.into()), data))
                    .unwrap();
            }
            set
        };
        table.insert_set(fill(0));
        let mut writer = Netlink::open().unwrap();
        let mut reader = Netlink::open().unwrap();
        writer.commit(&diff(&table, None)).unwrap();
        let writing = {
            let mut table = table.clone();
            std::thread::spawn(move || {
                for version in 1..=60 {
                    let mut next = table.clone();
                    next.insert_set(fill(version));
                    writer.commit(&diff(&next, Some(&table))).unwrap();
                    table = next;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            })
        };
        let mut seen = std::collections::BTreeSet::new();
        while !writing.is_finished() {
            // Twenty attempts may not be enough against a writer that never rests: that is said, never a mixture.
            let Ok(Some(listed)) = reader.list(table.family, &table.name) else { continue };
            let elements = &listed.sets["versions"].elements;
            assert_eq!(elements.len(), 3000);
            let versions: std::collections::BTreeSet<_> =
                elements.iter().map(|element| format!("{:?}", element.data)).collect();
            assert_eq!(versions.len(), 1, "a mixture of {versions:?}");
            seen.extend(versions);
        }
        writing.join().unwrap();
        assert!(seen.len() > 3, "only {} versions were seen", seen.len());
    });
}
