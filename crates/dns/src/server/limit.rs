//! How many answers a client address gets over UDP: an address that is not the sender's own is not to be flooded.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

/// Buckets; addresses that fall into one share it.
const BUCKETS: usize = 4096;

/// Counts answers per second and bucket. Its memory does not depend on how many addresses there are.
#[derive(Debug)]
pub(crate) struct Limiter {
    per_second: Option<u32>,
    key: RandomState,
    started: Instant,
    /// The second, and how many in it.
    buckets: Vec<Mutex<(u64, u32)>>,
}

impl Limiter {
    pub(crate) fn new(per_second: Option<u32>) -> Self {
        let buckets = if per_second.is_some() { BUCKETS } else { 0 };
        Self {
            per_second,
            key: RandomState::new(),
            started: Instant::now(),
            buckets: (0..buckets).map(|_| Mutex::new((0, 0))).collect(),
        }
    }

    /// Counts an answer, and says whether it may be given.
    pub(crate) fn admits(&self, client: IpAddr, now: Instant) -> bool {
        let Some(most) = self.per_second else { return true };
        let second = now.saturating_duration_since(self.started).as_secs();
        let bucket = self.key.hash_one(client) as usize % self.buckets.len();
        let mut bucket = self.buckets[bucket].lock().unwrap_or_else(|it| it.into_inner());
        if bucket.0 != second {
            *bucket = (second, 0);
        }
        bucket.1 = bucket.1.saturating_add(1);
        bucket.1 <= most
    }
}
