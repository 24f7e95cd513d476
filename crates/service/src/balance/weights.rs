//! Weights to numbers of slots.

#[cfg(test)]
mod tests;

/// The most slots weights make of a frontend; a share asked for is met within one slot of these.
pub(crate) const MAX_SLOTS: u32 = 1024;

/// How many slots each endpoint gets: the weights in lowest terms, or, where those would be more than `limit` slots, the
/// nearest to them that is not. An endpoint with a weight has a slot, one of weight 0 has none, unless all have 0: then
/// they are all that is left, and share alike.
pub(crate) fn slots_each(weights: &[u16], limit: u32) -> Vec<u32> {
    if weights.iter().all(|weight| *weight == 0) {
        return vec![1; weights.len()];
    }
    let whole: Vec<u64> = weights.iter().map(|weight| u64::from(*weight)).collect();
    let lowest = in_lowest_terms(whole.iter().map(|weight| *weight as u32).collect());
    if lowest.iter().map(|slots| u64::from(*slots)).sum::<u64>() <= u64::from(limit) {
        return lowest;
    }
    in_lowest_terms(apportion(&whole, limit))
}

/// Deals `total` slots out by weight: each gets its quota, rounded down or up (largest remainders first, then the order
/// given), but nobody with a weight gets none. `total` is raised to the number of weights that are not 0.
pub(crate) fn apportion(weights: &[u64], total: u32) -> Vec<u32> {
    let mut slots = vec![0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).filter(|at| weights[*at] > 0).collect();
    let mut left = u128::from(total).max(open.len() as u128);
    let mut sum: u128;
    loop {
        sum = open.iter().map(|at| u128::from(weights[*at])).sum();
        let (low, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|at| u128::from(weights[**at]) * left < sum);
        if low.is_empty() {
            break;
        }
        left -= low.len() as u128;
        for at in low {
            slots[at] = 1;
        }
        open = rest;
    }
    let mut remainders = Vec::with_capacity(open.len());
    let mut dealt = 0;
    for at in open {
        let quota = u128::from(weights[at]) * left;
        slots[at] = (quota / sum) as u32;
        dealt += quota / sum;
        remainders.push((quota % sum, at));
    }
    remainders.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, at) in remainders.into_iter().take((left - dealt) as usize) {
        slots[at] += 1;
    }
    slots
}

/// The order in which endpoints with so many slots each take turns: spread out, not in blocks. At every turn each gains
/// its number, and the one that has gained most pays the sum (as nginx does for weighted round robin).
pub(crate) fn turns(each: &[u32]) -> Vec<usize> {
    if each.iter().all(|slots| *slots == 1) {
        return (0..each.len()).collect();
    }
    let sum: i64 = each.iter().map(|slots| i64::from(*slots)).sum();
    let mut gained = vec![0_i64; each.len()];
    (0..sum)
        .map(|_| {
            let mut best = 0;
            for (at, slots) in each.iter().enumerate() {
                gained[at] += i64::from(*slots);
                if gained[at] > gained[best] {
                    best = at;
                }
            }
            gained[best] -= sum;
            best
        })
        .collect()
}

fn in_lowest_terms(mut slots: Vec<u32>) -> Vec<u32> {
    let divisor = slots.iter().copied().fold(0, greatest_common_divisor);
    if divisor > 1 {
        slots.iter_mut().for_each(|slots| *slots /= divisor);
    }
    slots
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
