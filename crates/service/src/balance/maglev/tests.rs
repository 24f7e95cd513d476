//! Evenness, and who moves.
#![allow(clippy::print_stdout, reason = "the fractions are what users are told")]

use std::collections::BTreeMap;

use super::*;

fn endpoints(count: u16, seed: u16) -> Vec<(SocketAddr, u16)> {
    let endpoint = |at: u16| {
        let at = at + seed * 1000;
        (SocketAddr::new([10, 244, (at / 250) as u8, (at % 250) as u8].into(), 8080), 1)
    };
    (0..count).map(endpoint).collect()
}

fn counts(slots: &[SocketAddr]) -> BTreeMap<SocketAddr, usize> {
    let mut counts = BTreeMap::new();
    for endpoint in slots {
        *counts.entry(*endpoint).or_default() += 1;
    }
    counts
}

fn moved(before: &[SocketAddr], after: &[SocketAddr]) -> f64 {
    assert_eq!(before.len(), after.len());
    let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
    moved as f64 / before.len() as f64
}

#[test]
fn a_table_is_even_and_complete() {
    for count in [2, 3, 5, 10, 25, 26, 50, 102, 150] {
        let slots = table(&endpoints(count, 0));
        let counts = counts(&slots);
        assert_eq!(counts.len(), usize::from(count), "everybody has slots");
        let mean = slots.len() as f64 / f64::from(count);
        let most = *counts.values().max().expect("a count") as f64 / mean;
        let least = *counts.values().min().expect("a count") as f64 / mean;
        println!("{count} endpoints, {} slots: {least:.2} to {most:.2} of the mean", slots.len());
        assert!(most <= 1.1 + 1.0 / mean, "{most}");
        assert!(least >= 0.2, "{least}");
    }
}

#[test]
fn few_clients_move() {
    for count in [5, 10, 25, 50, 100] {
        let (mut leaving, mut joining) = (0.0, 0.0);
        let rounds = 6;
        for seed in 0..rounds {
            let all = endpoints(count + 1, seed);
            let (joined, rest) = (all[usize::from(seed * 3 % count)], &all);
            let fewer: Vec<_> = rest.iter().copied().filter(|one| *one != joined).collect();
            let gone = fewer[usize::from(seed * 5 % count)];
            let fewest: Vec<_> = fewer.iter().copied().filter(|one| *one != gone).collect();
            if table(&all).len() == table(&fewer).len() {
                joining += moved(&table(&fewer), &table(&all));
            }
            leaving += moved(&table(&fewer), &table(&fewest));
        }
        let (leaving, joining) = (leaving / f64::from(rounds), joining / f64::from(rounds));
        let ideal = 1.0 / f64::from(count);
        println!(
            "{count} endpoints: one leaves: {:.1} % of clients move (at best {:.1} %); one joins: {:.1} % (at best {:.1} %)",
            leaving * 100.0,
            ideal * 100.0,
            joining * 100.0,
            100.0 / f64::from(count + 1)
        );
        assert!(leaving <= 1.6 * ideal + 0.01, "{leaving} of {ideal}");
        assert!(joining <= 1.6 * ideal + 0.01, "{joining} of {ideal}");
    }
}

#[test]
fn the_order_of_endpoints_does_not_matter() {
    let mut all = endpoints(12, 3);
    all[4].1 = 3;
    let before = table(&all);
    all.reverse();
    all.swap(2, 7);
    assert_eq!(table(&all), before);
}

/// Nodes of different versions must agree: a change of this value changes every client's endpoint in a rolling update.
#[test]
fn the_table_is_the_same_in_every_release() {
    let mut all = endpoints(5, 0);
    all.push(("[fd00:10:244::5]:8080".parse().expect("an address"), 2));
    let mut digest = 0;
    for endpoint in table(&all) {
        digest = mix(digest ^ identity(endpoint));
    }
    assert_eq!(digest, 1_699_866_594_433_583_815);
}

#[test]
fn weights_are_shares_of_the_table() {
    let mut all = endpoints(4, 0);
    all[0].1 = 3;
    all[3].1 = 0;
    let counts = counts(&table(&all));
    let share = |at: usize| counts.get(&all[at].0).copied().unwrap_or(0) as f64 / 251.0;
    assert!((0.52..=0.68).contains(&share(0)), "{counts:?}");
    assert!((0.12..=0.24).contains(&share(1)), "{counts:?}");
    assert_eq!(share(3), 0.0);
    assert_eq!(table(&[]), []);
}

#[test]
fn a_lighter_endpoint_gives_clients_away_and_others_stay() {
    let mut all = endpoints(6, 2);
    all.iter_mut().for_each(|one| one.1 = 2);
    let before = table(&all);
    all[1].1 = 1;
    let after = table(&all);
    // A twelfth of the clients must go: 8.3 %.
    assert!(moved(&before, &after) <= 0.15, "{}", moved(&before, &after));
}
