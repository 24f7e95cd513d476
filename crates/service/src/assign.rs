//! Which slot each endpoint has.

use std::collections::HashMap;
use std::hash::Hash;

#[cfg(test)]
mod tests;

/// The slots of `wanted` endpoints, given the slots there were.
///
/// `wanted` holds each endpoint as often as it is to have a slot. An endpoint that stays keeps its slots; new ones fill
/// holes in order, then follow at the end; when there are fewer, the last moves into the hole. So one slot more or less
/// changes O(1) slots, and only the clients of those move.
///
/// `prior` may be anything, such as slots read back from a kernel someone has edited: what is there too often counts as
/// a hole.
#[must_use]
pub fn assign<E: Copy + Eq + Hash>(prior: &[E], wanted: &[E]) -> Vec<E> {
    if prior.is_empty() || prior == wanted {
        return wanted.to_vec();
    }
    let mut unplaced: HashMap<E, usize> = HashMap::with_capacity(wanted.len());
    for endpoint in wanted {
        *unplaced.entry(*endpoint).or_default() += 1;
    }
    let mut take = |endpoint: &E| match unplaced.get_mut(endpoint) {
        Some(left) if *left > 0 => {
            *left -= 1;
            Some(*endpoint)
        }
        _ => None,
    };
    let mut slots: Vec<Option<E>> = prior.iter().map(&mut take).collect();
    let mut new = wanted.iter().filter_map(take);
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
