//! What upstreams said, for as long as they said. Pure: time comes in, and nothing goes out.
//!
//! Bounded: beyond its capacity an entry gives way to a new one, one that expired before one that did not. So many random
//! names cost what the capacity says and push nothing out of the other half: absences are kept apart from answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::config::{CacheLimits, CacheSettings};
use crate::query::{Query, code};
use crate::reply::Reply;

/// What an answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The name in lower case, wire form.
    pub name: Box<[u8]>,
    /// The type.
    pub kind: u16,
    /// DNSSEC records are wanted.
    pub dnssec_ok: bool,
    /// Checking is disabled.
    pub checking_disabled: bool,
}

impl Key {
    /// The key of a question for `name` in lower case.
    #[must_use]
    pub fn of(query: &Query, name: &[u8], kind: u16) -> Self {
        Self {
            name: name.into(),
            kind,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        }
    }
}

#[derive(Debug)]
struct Entry {
    reply: Arc<Reply>,
    stored: Instant,
    /// It is fresh until then.
    until: Instant,
    hits: u32,
    last: Instant,
    /// A newer answer is being asked for.
    renewing: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The answer as it was stored.
    pub reply: Arc<Reply>,
    /// Seconds since.
    pub age: u32,
    /// It is too old, and still allowed to be used.
    pub stale: bool,
    /// Somebody should ask for it anew, and nobody does yet.
    pub renew: bool,
}

/// Half of a cache.
#[derive(Debug)]
struct Half {
    limits: CacheLimits,
    entries: HashMap<Key, Entry>,
    /// Keys in some order, to find one that gives way.
    order: Vec<Key>,
    hand: usize,
}

impl Half {
    fn new(limits: CacheLimits) -> Self {
        Self { limits, entries: HashMap::new(), order: Vec::new(), hand: 0 }
    }

    fn put(&mut self, key: Key, entry: Entry, now: Instant) -> bool {
        if self.limits.capacity == 0 {
            return false;
        }
        if let Some(known) = self.entries.get_mut(&key) {
            *known = entry;
            return false;
        }
        let full = self.entries.len() >= self.limits.capacity;
        if full {
            // The hand goes round: what expired or was not asked for since it last came by gives way, in a few steps.
            for _ in 0..8 {
                self.hand = (self.hand + 1) % self.order.len();
                let found = self.entries.get_mut(&self.order[self.hand]);
                match found {
                    Some(found) if found.until > now && found.hits > 0 => found.hits /= 2,
                    _ => break,
                }
            }
            let gone = std::mem::replace(&mut self.order[self.hand], key.clone());
            self.entries.remove(&gone);
        } else {
            self.order.push(key.clone());
        }
        self.entries.insert(key, entry);
        full
    }

    fn remove(&mut self, key: &Key) {
        // Its place in the order stays until the hand comes by.
        if let Some(entry) = self.entries.get_mut(key) {
            entry.until = entry.stored;
            entry.hits = 0;
        }
    }
}

/// A cache.
#[derive(Debug)]
pub struct Cache {
    settings: CacheSettings,
    success: Half,
    denial: Half,
    evictions: u64,
}

impl Cache {
    /// An empty one.
    #[must_use]
    pub fn new(settings: CacheSettings) -> Self {
        Self {
            success: Half::new(settings.success),
            denial: Half::new(settings.denial),
            settings,
            evictions: 0,
        }
    }

    /// What is known.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Hit> {
        let Self { success, denial, settings, .. } = self;
        let halves = [success, denial];
        let stale = settings.stale.unwrap_or_default();
        let found = halves.into_iter().find_map(|half| {
            half.entries
                .get_mut(key)
                .filter(|entry| entry.until + stale > now && entry.until > entry.stored)
        });
        let entry = found?;
        let is_stale = entry.until <= now;
        let mut renew = is_stale;
        if let Some(prefetch) = settings.prefetch.filter(|_| !is_stale) {
            if now.duration_since(entry.last) > prefetch.pause {
                entry.hits = 0;
            }
            let whole = entry.until - entry.stored;
            let left = entry.until - now;
            renew = entry.hits + 1 >= prefetch.amount
                && left * 100 <= whole * u32::from(prefetch.percentage);
        }
        entry.hits = entry.hits.saturating_add(1);
        entry.last = now;
        let renew = renew && !entry.renewing;
        entry.renewing |= renew;
        let age = now.duration_since(entry.stored);
        let mut age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        if is_stale {
            // RFC 8767 §5.2 leaves the choice; CoreDNS says 0, which we do as well.
            age = u32::MAX;
        }
        Some(Hit { reply: entry.reply.clone(), age, stale: is_stale, renew })
    }

    /// Keeps an answer, as long as it says and the settings allow. Truncated and refused ones are not to be given here.
    pub fn put(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        let is_denial = reply.code == code::NXDOMAIN || reply.answers.is_empty();
        let half = if is_denial { &self.denial } else { &self.success };
        let not = if is_denial { &self.settings.not_denial } else { &self.settings.not_success };
        let within = |zones: &[crate::Name]| {
            zones.iter().any(|zone| crate::name::is_within(&key.name, zone.wire()))
        };
        if within(not) || !self.settings.zones.is_empty() && !within(&self.settings.zones) {
            return;
        }
        let limits = half.limits;
        let ttl = match reply.code {
            code::NOERROR | code::NXDOMAIN => {
                reply.least_ttl().unwrap_or(0).clamp(limits.least.min(limits.most), limits.most)
            }
            code::SERVFAIL => self.settings.servfail,
            _ => return,
        };
        if ttl == 0 {
            return;
        }
        if reply.code == code::SERVFAIL && self.get(&key, now).is_some() {
            // A failure does not take the place of something to be used.
            self.renewed(&key);
            return;
        }
        let until = now + Duration::from_secs(ttl.into());
        let entry = Entry { reply, stored: now, until, hits: 0, last: now, renewing: false };
        let (into, other) = if is_denial {
            (&mut self.denial, &mut self.success)
        } else {
            (&mut self.success, &mut self.denial)
        };
        other.remove(&key);
        self.evictions += u64::from(into.put(key, entry, now));
    }

    /// Nobody asks for a newer answer any more: it failed.
    pub fn renewed(&mut self, key: &Key) {
        for half in [&mut self.success, &mut self.denial] {
            if let Some(entry) = half.entries.get_mut(key) {
                entry.renewing = false;
            }
        }
    }

    /// How many answers and absences are kept.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.success.entries.len(), self.denial.entries.len())
    }

    /// How many had to give way so far.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// What it was told.
    #[must_use]
    pub fn settings(&self) -> &CacheSettings {
        &self.settings
    }
}
