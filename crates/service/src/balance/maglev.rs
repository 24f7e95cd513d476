//! The table of consistent hashing: which endpoint each slot has, the same on every node, with few slots that move when
//! an endpoint comes or goes.
//!
//! It does what a Maglev table does (Eisenbud et al., NSDI 2016): one lookup by hash, equal wherever it is computed, no
//! memory of earlier ones. It is filled otherwise. At the few slots per endpoint a kernel map affords, Maglev's own fill
//! moves several times more clients than must move; here every slot goes to the endpoint that ranks highest for it
//! (rendezvous hashing), and no endpoint takes more than a tenth above its share (`docs/decisions/0810`).

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use super::Weighted;

/// Sizes of tables. A frontend takes the first that gives ten slots to each unit of weight; so a Service keeps its size,
/// and its clients, while its endpoints stay within one step (25, 102, 409, 1,638).
const SIZES: [u32; 4] = [251, 1021, 4093, 16_381];
/// Slots per unit of weight.
const SLOTS_PER_UNIT: u32 = 10;
/// Weights alone do not make a table larger than the second size.
const UNITS_BY_WEIGHT: u32 = 102;

/// A size, and the units of weight each endpoint has.
fn shape(endpoints: &Weighted) -> (u32, Vec<u32>) {
    let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let units = units(endpoints, UNITS_BY_WEIGHT.max(count.saturating_mul(4)));
    let total: u32 = units.iter().sum();
    // Many endpoints of many weights would ask for a table four times their number: the size goes by their number then.
    let needed = total.min(UNITS_BY_WEIGHT.max(count));
    let fits = |size: &u32| needed.saturating_mul(SLOTS_PER_UNIT) <= *size;
    (SIZES.into_iter().find(fits).unwrap_or(SIZES[SIZES.len() - 1]), units)
}

/// The weights themselves, halved (and rounded) until they are at most `limit` together: unlike in lowest terms, one
/// weight that changes leaves the units of the others, and with them their clients, alone.
fn units(endpoints: &Weighted, limit: u32) -> Vec<u32> {
    if endpoints.iter().all(|(_, weight)| *weight == 0) {
        return vec![1; endpoints.len()];
    }
    let halved = |weight: u32, times: u32| match (weight, times) {
        (_, 0) | (0, _) => weight,
        _ => ((weight + (1 << (times - 1))) >> times).max(1),
    };
    // No weight has more than 10 bits.
    (0..=10)
        .map(|times| -> Vec<u32> {
            endpoints.iter().map(|(_, weight)| halved((*weight).into(), times)).collect()
        })
        .find(|units| units.iter().sum::<u32>() <= limit)
        .unwrap_or_else(|| endpoints.iter().map(|(_, weight)| (*weight).min(1).into()).collect())
}

/// The slots. They depend on the addresses and weights alone, not on their order.
///
/// Every slot ranks all endpoints by a hash of both; an endpoint with more units of weight draws as often. An endpoint
/// that is full keeps the slots that rank it highest, and the others go on to their next choice: a stable assignment, of
/// which there is exactly one.
pub(crate) fn table(endpoints: &Weighted) -> Vec<SocketAddr> {
    let (size, units) = shape(endpoints);
    let total: u32 = units.iter().sum();
    let mut alive = endpoints.iter().zip(&units).filter(|(_, units)| **units > 0);
    match (alive.next(), alive.next()) {
        (None, _) => return Vec::new(),
        // One endpoint needs no table.
        (Some((only, _)), None) => return vec![only.0],
        _ => {}
    }
    let mut draws = Vec::with_capacity(total as usize);
    for (at, ((endpoint, _), units)) in endpoints.iter().zip(&units).enumerate() {
        let identity = identity(*endpoint);
        draws.extend((0..u64::from(*units)).map(|unit| (mix(identity ^ mix(unit)), at)));
    }
    let most = |units: u32| {
        let share = u64::from(size) * u64::from(units) * 11;
        share.div_ceil(u64::from(total) * 10) as usize
    };
    let most: Vec<usize> = units.iter().map(|units| most(*units)).collect();
    // What each endpoint holds, the lowest rank on top.
    let mut held: Vec<BinaryHeap<Reverse<(u64, u32)>>> = vec![BinaryHeap::new(); endpoints.len()];
    // The rank a slot must exceed to get in: 0 while there is room.
    let mut threshold = vec![0_u64; endpoints.len()];
    let mut open: Vec<u32> = (0..size).rev().collect();
    while let Some(slot) = open.pop() {
        let place = mix(u64::from(slot) | 1 << 32);
        let ranks = draws.iter().map(|(draw, at)| (mix(draw ^ place), *at));
        let Some((rank, at)) = ranks.filter(|(rank, at)| *rank > threshold[*at]).max() else {
            // Only a rank of exactly 0 or a tie comes here; room is left for a tenth more than all slots.
            continue;
        };
        held[at].push(Reverse((rank, slot)));
        if held[at].len() > most[at]
            && let Some(Reverse((_, evicted))) = held[at].pop()
        {
            open.push(evicted);
        }
        if held[at].len() == most[at]
            && let Some(Reverse((lowest, _))) = held[at].peek()
        {
            threshold[at] = *lowest;
        }
    }
    let mut slots = vec![endpoints[0].0; size as usize];
    for (at, held) in held.into_iter().enumerate() {
        for Reverse((_, slot)) in held {
            slots[slot as usize] = endpoints[at].0;
        }
    }
    slots
}

/// A number for an endpoint, the same in every build and on every machine.
fn identity(endpoint: SocketAddr) -> u64 {
    let address = match endpoint.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = address.to_bits();
    mix(mix(mix((bits >> 64) as u64) ^ bits as u64) ^ u64::from(endpoint.port()))
}

/// The finaliser of splitmix64: every bit of the input changes half of the output's.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
