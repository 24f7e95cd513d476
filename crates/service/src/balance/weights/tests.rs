//! The laws of weights.

use proptest::prelude::*;

use super::*;

#[test]
fn weights_are_taken_in_lowest_terms() {
    assert_eq!(slots_each(&[1, 1, 1], MAX_SLOTS), [1, 1, 1]);
    assert_eq!(slots_each(&[300, 100], MAX_SLOTS), [3, 1]);
    assert_eq!(slots_each(&[6, 4, 0], MAX_SLOTS), [3, 2, 0]);
}

#[test]
fn nobody_is_left_out_unless_asked_for() {
    assert_eq!(slots_each(&[0, 0], MAX_SLOTS), [1, 1], "when all have 0 they are all there is");
    assert_eq!(slots_each(&[0, 5], MAX_SLOTS), [0, 1]);
    assert_eq!(slots_each(&[1000, 1, 999], 10), [5, 1, 4]);
}

#[test]
fn turns_are_spread_out() {
    assert_eq!(turns(&[3, 1]), [0, 0, 1, 0]);
    assert_eq!(turns(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(turns(&[1, 1]), [0, 1]);
    assert_eq!(turns(&[0, 2]), [1, 1]);
}

proptest! {
    #[test]
    fn shares_are_within_a_slot_of_what_was_asked(weights in prop::collection::vec(0..=1000u16, 1..60), limit in 60..1024u32) {
        let each = slots_each(&weights, limit);
        let sum: u32 = each.iter().sum();
        prop_assert!(sum >= 1 && sum <= limit, "{sum}");
        let asked: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        if asked == 0.0 {
            prop_assert!(each.iter().all(|slots| *slots == 1));
            return Ok(());
        }
        let lifted = each.iter().zip(&weights).filter(|(_, weight)| f64::from(**weight) / asked * f64::from(limit) < 1.0).count();
        for (slots, weight) in each.iter().zip(&weights) {
            prop_assert_eq!(*slots == 0, *weight == 0);
            let share = f64::from(*slots) / f64::from(sum);
            let error = (share - f64::from(*weight) / asked).abs();
            // One slot, and what those below one slot were lifted by.
            prop_assert!(error <= (1.0 + lifted as f64) / f64::from(limit) + 1e-9, "{weight} of {asked} got {slots} of {sum}");
        }
    }

    #[test]
    fn everything_is_dealt_and_a_fair_deal_is_kept(weights in prop::collection::vec(1..1_000_000u64, 1..40), total in 40..2000u32) {
        let slots = apportion(&weights, total);
        prop_assert_eq!(slots.iter().sum::<u32>(), total);
        let again: Vec<u64> = slots.iter().map(|slots| u64::from(*slots)).collect();
        prop_assert_eq!(apportion(&again, total), slots);
    }

    #[test]
    fn everybody_has_as_many_turns_as_slots(each in prop::collection::vec(0..9u32, 1..9)) {
        let turns = turns(&each);
        for (at, slots) in each.iter().enumerate() {
            prop_assert_eq!(turns.iter().filter(|turn| **turn == at).count() as u32, *slots);
        }
    }
}
