//! The laws of slots.

use proptest::prelude::*;

use super::assign;

#[test]
fn survivors_keep_their_slot() {
    assert_eq!(assign(&[3, 1, 2], &[1, 2, 3]), [3, 1, 2]);
}

#[test]
fn a_replacement_takes_the_hole() {
    assert_eq!(assign(&[1, 2, 3], &[1, 3, 9]), [1, 9, 3]);
}

#[test]
fn the_last_moves_into_the_hole_on_shrink() {
    assert_eq!(assign(&[1, 2, 3, 4], &[2, 3, 4]), [4, 2, 3]);
    assert_eq!(assign(&[1, 2, 3, 4], &[1, 2, 3]), [1, 2, 3]);
    assert_eq!(assign(&[1, 2, 3, 4, 5], &[3, 5]), [5, 3]);
    assert_eq!(assign(&[1, 2], &[]), [0; 0]);
}

#[test]
fn a_prior_order_with_duplicates_is_mended() {
    assert_eq!(assign(&[1, 1, 2, 2], &[1, 2]), [1, 2]);
}

#[test]
fn an_endpoint_has_as_many_slots_as_it_is_wanted() {
    assert_eq!(assign(&[], &[1, 1, 2, 1]), [1, 1, 2, 1]);
    assert_eq!(assign(&[1, 2, 1], &[2, 2, 1]), [1, 2, 2], "one slot changes hands");
    assert_eq!(assign(&[1, 2, 1, 3], &[1, 2]), [1, 2]);
}

proptest! {
    #[test]
    fn no_more_slots_change_than_must(prior in prop::collection::vec(0..6u8, 0..24), wanted in prop::collection::vec(0..6u8, 0..24)) {
        let slots = assign(&prior, &wanted);
        let count = |list: &[u8], endpoint| list.iter().filter(|one| **one == endpoint).count();
        for endpoint in 0..6 {
            prop_assert_eq!(count(&slots, endpoint), count(&wanted, endpoint));
        }
        if prior.len() == wanted.len() {
            let kept = slots.iter().zip(&prior).filter(|(now, before)| now == before).count();
            let common: usize = (0..6).map(|one| count(&prior, one).min(count(&wanted, one))).sum();
            prop_assert_eq!(kept, common);
        }
        prop_assert_eq!(&assign(&slots, &wanted), &slots, "a second assignment changes nothing");
    }

    #[test]
    fn every_wanted_endpoint_has_one_slot(prior in prop::collection::vec(0..20u8, 0..20), wanted in prop::collection::btree_set(0..20u8, 0..20)) {
        let wanted: Vec<u8> = wanted.into_iter().collect();
        let mut slots = assign(&prior, &wanted);
        prop_assert_eq!(&assign(&slots, &wanted), &slots, "a second assignment changes nothing");
        slots.sort_unstable();
        prop_assert_eq!(slots, wanted);
    }

    #[test]
    fn one_more_or_less_changes_at_most_one_kept_slot(prior in prop::collection::btree_set(0..40u8, 1..30), pick in any::<prop::sample::Index>(), other in 40..50u8) {
        let prior: Vec<u8> = prior.into_iter().collect();
        let gone = *pick.get(&prior);
        let fewer: Vec<u8> = prior.iter().copied().filter(|endpoint| *endpoint != gone).collect();
        let slots = assign(&prior, &fewer);
        let moved = slots.iter().zip(&prior).filter(|(now, before)| now != before).count();
        prop_assert!(moved <= 1, "{} moved", moved);
        let mut more = prior.clone();
        more.push(other);
        let slots = assign(&prior, &more);
        prop_assert_eq!(&slots[..prior.len()], &prior[..]);
    }
}
