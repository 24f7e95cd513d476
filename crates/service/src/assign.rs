//! Which slot each endpoint has.

use std::collections::HashSet;
use std::hash::Hash;

#[cfg(test)]
mod tests;

/// The slots of `wanted` endpoints, given the slots there were.
///
/// An endpoint that stays keeps its slot; new ones fill holes in order, then follow at the end; when there are fewer, the
/// last moves into the hole. So one endpoint more or less changes O(1) slots, and only the clients of those move.
///
/// `wanted` holds each endpoint once. `prior` may be anything, such as slots read back from a kernel someone has edited:
/// a second occurrence counts as a hole.
#[must_use]
pub fn assign<E: Copy + Eq + Hash>(prior: &[E], wanted: &[E]) -> Vec<E> {
    let mut unplaced: HashSet<E> = wanted.iter().copied().collect();
    let mut slots: Vec<Option<E>> = prior.iter().map(|endpoint| unplaced.take(endpoint)).collect();
    let mut new = wanted.iter().copied().filter(|endpoint| unplaced.contains(endpoint));
    for slot in slots.iter_mut().filter(|slot| slot.is_none()) {
        *slot = new.next();
    }
    slots.extend(new.map(Some));
    // What is left open lies within a list that is too long: the last endpoint moves into the first hole.
    let mut hole = 0;
    while hole < slots.len() {
        if slots[hole].is_some() {
            hole += 1;
        } else if let Some(last) = slots.pop()
            && hole < slots.len()
        {
            slots[hole] = last;
        }
    }
    slots.into_iter().flatten().collect()
}
