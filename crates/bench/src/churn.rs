//! Changes to draw: which Service changes how, and what the cluster looks like afterwards. Pure.

use std::net::Ipv4Addr;

use crate::objects::{PORT, endpoint};

/// The ports a Service moves between.
const PORTS: [u16; 2] = [PORT, PORT + 1];

/// A Service as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Whether there is a Service; its slice stays either way.
    pub(crate) exists: bool,
    /// Its port.
    pub(crate) port: u16,
    /// Its endpoints.
    pub(crate) endpoints: Vec<Ipv4Addr>,
}

/// One change, as a request to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// The slice gets these endpoints.
    Endpoints(Vec<Ipv4Addr>),
    /// The Service moves to this port.
    Port(u16),
    /// The Service comes, at this port.
    Create(u16),
    /// The Service goes.
    Delete,
}

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % u64::from(end)) as u32
    }
}

/// Draws a change of a Service and makes it in `wanted`. Of ten changes six are of endpoints, as in a cluster.
pub(crate) fn draw(dice: &mut Dice, wanted: &mut Wanted, spare: u32) -> Change {
    if !wanted.exists {
        wanted.exists = true;
        return Change::Create(wanted.port);
    }
    match dice.below(10) {
        0 | 1 => {
            wanted.port = if wanted.port == PORTS[0] { PORTS[1] } else { PORTS[0] };
            return Change::Port(wanted.port);
        }
        2 => {
            wanted.exists = false;
            return Change::Delete;
        }
        // Sometimes none is left.
        3 => wanted.endpoints.clear(),
        4..=6 if !wanted.endpoints.is_empty() => {
            let at = dice.below(wanted.endpoints.len() as u32) as usize;
            wanted.endpoints.remove(at);
        }
        _ => {
            let new = endpoint(spare + dice.below(0x1_0000));
            if !wanted.endpoints.contains(&new) && wanted.endpoints.len() < 12 {
                wanted.endpoints.push(new);
            } else {
                wanted.endpoints.clear();
                wanted.endpoints.push(new);
            }
        }
    }
    Change::Endpoints(wanted.endpoints.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_comes_and_the_same_seed_draws_the_same() {
        let story = |seed| {
            let mut dice = Dice::new(seed);
            let mut wanted =
                Wanted { exists: true, port: 80, endpoints: vec![endpoint(1), endpoint(2)] };
            (0..500).map(|_| draw(&mut dice, &mut wanted, 1000)).collect::<Vec<_>>()
        };
        let drawn = story(1);
        assert_eq!(drawn, story(1));
        assert_ne!(drawn, story(2));
        assert!(drawn.contains(&Change::Delete) && drawn.contains(&Change::Port(81)));
        assert!(drawn.contains(&Change::Endpoints(Vec::new())), "no endpoint left");
        let created = drawn.iter().filter(|change| matches!(change, Change::Create(_))).count();
        let deleted = drawn.iter().filter(|change| **change == Change::Delete).count();
        assert!(created.abs_diff(deleted) <= 1);
    }
}
