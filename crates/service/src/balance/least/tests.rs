//! What steering reaches, in a simulation whose random numbers are always the same.
#![allow(clippy::print_stdout, reason = "the figures are what users are told")]

use proptest::prelude::*;

use super::super::weights::turns;
use super::*;

fn endpoints(weights: &[u16]) -> Vec<(SocketAddr, u16)> {
    let endpoint = |(at, weight): (usize, &u16)| (([10, 244, 0, at as u8], 80).into(), *weight);
    weights.iter().enumerate().map(endpoint).collect()
}

fn slots(endpoints: &Weighted, each: &[u32]) -> Vec<SocketAddr> {
    turns(each).into_iter().map(|at| endpoints[at].0).collect()
}

fn loads(endpoints: &Weighted, counts: &[u32]) -> HashMap<SocketAddr, u32> {
    endpoints.iter().zip(counts).map(|((at, _), count)| (*at, *count)).collect()
}

#[test]
fn even_loads_change_nothing() {
    let endpoints = endpoints(&[1, 1, 1]);
    let each = carry(&[], &endpoints);
    assert_eq!(each, [8, 8, 8]);
    let mut levels = Levels::default();
    let slots = slots(&endpoints, &each);
    for _ in 0..100 {
        assert_eq!(levels.step(&endpoints, &slots, &loads(&endpoints, &[20, 20, 20])), each);
    }
    assert_eq!(Levels::default().step(&endpoints, &slots, &HashMap::new()), each, "idle");
}

#[test]
fn the_one_that_holds_more_gets_less_and_never_nothing() {
    let endpoints = endpoints(&[1, 1, 1]);
    let mut levels = Levels::default();
    let start = slots(&endpoints, &[8, 8, 8]);
    let first = levels.step(&endpoints, &start, &loads(&endpoints, &[60, 20, 20]));
    assert!(first[0] < first[1] && first[0] >= 3, "{first:?}");
    let mut each = first;
    for _ in 0..200 {
        each = levels.step(&endpoints, &start, &loads(&endpoints, &[1000, 0, 0]));
    }
    assert_eq!(each[0], 1);
    assert_eq!(each.iter().sum::<u32>(), 24);
}

#[test]
fn weights_are_what_it_steers_to() {
    let endpoints = endpoints(&[3, 1, 0]);
    let each = carry(&[], &endpoints);
    assert_eq!(each, [12, 4, 0]);
    let slots = slots(&endpoints, &each);
    let mut levels = Levels::default();
    assert_eq!(levels.step(&endpoints, &slots, &loads(&endpoints, &[30, 10, 5])), each);
}

#[test]
fn what_was_found_out_outlives_a_restart_and_a_new_endpoint() {
    let three = endpoints(&[1, 1, 1]);
    let found = slots(&three, &[2, 11, 11]);
    assert_eq!(carry(&found, &three), [2, 11, 11]);
    let each = Levels::default().step(&three, &found, &loads(&three, &[9, 9, 9]));
    assert_eq!(each, [2, 11, 11], "balanced as it is");
    let four = endpoints(&[1, 1, 1, 1]);
    assert_eq!(carry(&found, &four), [2, 11, 11, 8]);
    assert_eq!(carry(&found, &four[1..3]), [8, 8]);
}

proptest! {
    #[test]
    fn a_carry_is_kept(prior in prop::collection::vec(0..12u8, 0..60), weights in prop::collection::vec(0..5u16, 1..12)) {
        let endpoints = endpoints(&weights);
        let prior: Vec<SocketAddr> = prior.into_iter().map(|at| ([10, 244, 0, at], 80).into()).collect();
        let each = carry(&prior, &endpoints);
        for (slots, weight) in each.iter().zip(effective(&endpoints)) {
            prop_assert_eq!(*slots > 0, weight > 0);
        }
        prop_assert_eq!(&carry(&slots(&endpoints, &each), &endpoints), &each);
    }
}

/// Random numbers from 0 to 1, the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn after(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.roll()).ln()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Random,
    RoundRobin,
    Steered,
    /// What a proxy that sees every connection end does.
    True,
}

/// Three endpoints, the first holds connections `slow` times as long; the mean over time of most / mean connections.
fn simulate(policy: Policy, slow: f64, hold: f64, per_second: f64) -> f64 {
    let endpoints = endpoints(&[1, 1, 1]);
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut levels = Levels::default();
    let mut slots = slots(&endpoints, &carry(&[], &endpoints));
    let mut ends: [Vec<f64>; 3] = Default::default();
    let (mut next, mut taken, mut sum, mut samples) = (0.0, 0, 0.0, 0.0);
    for tick in 0..30_000 {
        let now = f64::from(tick) / 100.0;
        ends.iter_mut().for_each(|ends| ends.retain(|end| *end > now));
        while next <= now {
            next += dice.after(1.0 / per_second);
            taken += 1;
            let at = match policy {
                Policy::Random => (dice.roll() * 3.0) as usize,
                Policy::RoundRobin => taken % 3,
                Policy::True => (0..3).min_by_key(|at| ends[*at].len()).expect("one of three"),
                Policy::Steered => {
                    let slot = slots[(dice.roll() * slots.len() as f64) as usize];
                    endpoints.iter().position(|(at, _)| *at == slot).expect("an endpoint")
                }
            };
            let mean = if at == 0 { hold * slow } else { hold };
            ends[at].push(now + dice.after(mean));
        }
        let counts = [0, 1, 2].map(|at: usize| ends[at].len() as u32);
        if policy == Policy::Steered && tick % 100 == 0 {
            let each = levels.step(&endpoints, &slots, &loads(&endpoints, &counts));
            slots = super::tests::slots(&endpoints, &each);
        }
        let total: u32 = counts.iter().sum();
        if tick > 10_000 && total > 0 {
            sum += f64::from(*counts.iter().max().expect("three")) * 3.0 / f64::from(total);
            samples += 1.0;
        }
    }
    sum / samples
}

#[test]
fn a_slow_endpoint_holds_hardly_more_than_the_others() {
    for (slow, hold, per_second) in
        [(4.0, 2.0, 30.0), (4.0, 0.1, 200.0), (4.0, 20.0, 10.0), (1.0, 2.0, 30.0)]
    {
        let of = |policy| simulate(policy, slow, hold, per_second);
        let [random, turns, steered, best] =
            [Policy::Random, Policy::RoundRobin, Policy::Steered, Policy::True].map(of);
        println!(
            "one of three {slow} times as slow, {hold} s, {per_second}/s: most/mean {random:.2} random, {turns:.2} round robin, \
             {steered:.2} steered, {best:.2} least connections of a proxy"
        );
        if slow > 1.0 {
            assert!(random > 1.8 && steered < 1.4, "{random} {steered}");
        } else {
            assert!(steered < random + 0.05, "{random} {steered}");
        }
    }
}
