//! Traffic shaping: how fast a link may send, and where what it receives goes first.

use std::fmt;

use crate::LinkIndex;

/// Longest a packet waits in a shaper's queue before later ones are dropped.
const LATENCY_MICROS: u64 = 25_000;

/// A token bucket at the root of a link: what leaves by it is held to a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    /// The link.
    pub device: LinkIndex,
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may go at once after a pause.
    pub burst: u32,
}

impl TokenBucket {
    /// Bytes the queue holds: what 25 ms send, and a burst.
    pub(crate) fn limit(&self) -> u32 {
        let in_time = u128::from(self.rate) * u128::from(LATENCY_MICROS) / 1_000_000;
        u32::try_from(in_time + u128::from(self.burst)).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, rate, burst } = self;
        write!(f, "dev if{device} root tbf rate {rate}bps burst {burst}b limit {}b", self.limit())
    }
}

/// What a link receives is sent by another link before anything else happens with it: a link can be
/// held to a rate in that direction only so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// The link that receives.
    pub from: LinkIndex,
    /// The link that sends (an `ifb`, which gives everything back to where it was).
    pub to: LinkIndex,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "dev if{from} ingress u32 match u32 0 0 mirred egress redirect dev if{to}")
    }
}
