//! Least connections, as far as a random choice can be told: how many slots each endpoint gets follows from how many
//! connections it holds.
//!
//! A connection taken in now weighs on its endpoint for as long as it lasts, and how long that is differs and is not
//! known. So the shares are steered, a step per count: an endpoint that holds more than its share loses slots in
//! proportion (that answers to bursts), and its base share sinks slowly as long as it stays above (that finds the share
//! at which a slow endpoint holds no more than the others). `docs/decisions/0811` has what this reaches and what not.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Weighted;
use super::weights::apportion;

/// Slots per endpoint when all share alike; enough to give one an eighth of its share.
const SLOTS_PER_ENDPOINT: u32 = 8;
/// More slots than this are given only when there are more endpoints.
const MOST_SLOTS: u32 = 1024;
/// How much of a new count enters the smoothed one.
const SMOOTHING: f64 = 0.5;
/// How fast a base share follows: a step moves it by `room` to this power, 15 % at most.
const BASE_GAIN: f64 = 0.1;
/// What the connections of the moment change a share by, at most.
const ROOM_RANGE: f64 = 4.0;
/// Base shares stay within this factor of even.
const BASE_RANGE: f64 = 16.0;
/// Shares as whole numbers to apportion.
const PRECISION: f64 = 1e9;

/// How many slots a frontend with so many endpoints has: it does not follow the loads, so that a step of steering
/// changes map elements and never a rule.
pub(crate) fn slot_count(endpoints: usize) -> u32 {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    if endpoints == 1 {
        return 1;
    }
    endpoints.saturating_mul(SLOTS_PER_ENDPOINT).min(MOST_SLOTS).max(endpoints)
}

/// The slots of each endpoint when nothing is known but the slots there were: their proportions stay, and an endpoint
/// that is new gets what the others have per weight. All slots that were there and are still right stay as many.
pub(crate) fn carry(prior: &[SocketAddr], endpoints: &Weighted) -> Vec<u32> {
    let weights = effective(endpoints);
    let mut held: HashMap<SocketAddr, u64> = HashMap::new();
    for endpoint in prior {
        *held.entry(*endpoint).or_default() += 1;
    }
    let known = || endpoints.iter().zip(&weights).filter(|((at, _), _)| held.contains_key(at));
    let slots: u64 = known().map(|((at, _), _)| held[at]).sum();
    let weight: u64 = known().map(|(_, weight)| *weight).sum();
    // In units that keep a slot whole: `weight` units are one slot.
    let share = |((at, _), own): (&(SocketAddr, u16), &u64)| match held.get(at) {
        _ if *own == 0 => 0,
        Some(slots) if weight > 0 => slots * weight,
        _ if weight > 0 => (own * slots).max(1),
        _ => *own,
    };
    let shares: Vec<u64> = endpoints.iter().zip(&weights).map(share).collect();
    apportion(&shares, slot_count(shares.iter().filter(|share| **share > 0).count()))
}

/// The weights, all 1 when all are 0.
fn effective(endpoints: &Weighted) -> Vec<u64> {
    let all_zero = endpoints.iter().all(|(_, weight)| *weight == 0);
    endpoints.iter().map(|(_, weight)| if all_zero { 1 } else { (*weight).into() }).collect()
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// Connections, smoothed.
    load: f64,
    /// Its share without regard to its connections of the moment; 1 is even.
    base: f64,
}

/// The state of steering for one frontend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels(HashMap<SocketAddr, Level>);

impl Levels {
    /// One step: `counted` connections now, `slots` as they are. Gives each endpoint's number of slots, the sum of which is
    /// that of [`slot_count`].
    pub(crate) fn step(
        &mut self,
        endpoints: &Weighted,
        slots: &[SocketAddr],
        counted: &HashMap<SocketAddr, u32>,
    ) -> Vec<u32> {
        let weights = effective(endpoints);
        let count = |at: &SocketAddr| f64::from(counted.get(at).copied().unwrap_or(0));
        let total: u64 = weights.iter().sum();
        let mut known = HashMap::with_capacity(endpoints.len());
        for ((at, _), weight) in endpoints.iter().zip(&weights).filter(|(_, weight)| **weight > 0) {
            let level = match self.0.get(at) {
                Some(level) => Level {
                    load: level.load + SMOOTHING * (count(at) - level.load),
                    base: level.base,
                },
                None => {
                    // After a restart the slots in the kernel say what was found out before.
                    let held = slots.iter().filter(|slot| *slot == at).count() as f64;
                    let even = slots.len() as f64 * *weight as f64 / total as f64;
                    let base = if held > 0.0 { held / even } else { 1.0 };
                    Level { load: count(at), base: base.clamp(1.0 / BASE_RANGE, BASE_RANGE) }
                }
            };
            known.insert(*at, level);
        }
        let mean = known.values().map(|level| level.load).sum::<f64>() / total as f64;
        let mut shares = Vec::with_capacity(endpoints.len());
        for ((at, _), weight) in endpoints.iter().zip(&weights) {
            let Some(level) = known.get_mut(at) else {
                shares.push(0);
                continue;
            };
            let weight = *weight as f64;
            // Above 1: it holds less than its share. One connection more on both sides, so that few mean little.
            let room =
                ((mean * weight + 1.0) / (level.load + 1.0)).clamp(1.0 / ROOM_RANGE, ROOM_RANGE);
            level.base = (level.base * room.powf(BASE_GAIN)).clamp(1.0 / BASE_RANGE, BASE_RANGE);
            shares.push(((level.base * room * weight * PRECISION) as u64).max(1));
        }
        self.0 = known;
        apportion(&shares, slot_count(shares.iter().filter(|share| **share > 0).count()))
    }
}
