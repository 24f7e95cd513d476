//! A work queue of keys: each at most once, some at a later time, failures backed off.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};

/// First wait after a failure; doubled with each further one.
const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(5);
/// Longest wait after a failure.
const LAST_RETRY: SignedDuration = SignedDuration::from_secs(30);

/// The queue. Time is passed in; nothing here sleeps.
#[derive(Debug)]
pub(crate) struct Queue<K> {
    ready: VecDeque<K>,
    queued: HashSet<K>,
    later: BTreeSet<(Timestamp, K)>,
    due: HashMap<K, Timestamp>,
    failures: HashMap<K, u32>,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            later: BTreeSet::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    /// Work to do now. A key that is waiting already stays where it is.
    pub(crate) fn push(&mut self, key: K) {
        if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Work to do at a time; of two times for one key the earlier holds.
    pub(crate) fn push_at(&mut self, key: K, at: Timestamp) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.later.remove(&(*later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.later.insert((at, key));
    }

    /// Takes the next key that is due.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<K> {
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                break;
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.due.remove(&key);
                self.push(key);
            }
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        Some(key)
    }

    /// When the earliest later work is due; `None` when there is none.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.later.first().map(|(at, _)| *at)
    }

    /// The key went well: its failures are forgotten.
    pub(crate) fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// The key failed: again after a wait that doubles each time. Returns the wait.
    pub(crate) fn failed(&mut self, key: K, now: Timestamp) -> SignedDuration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let wait = FIRST_RETRY
            .checked_mul(1_i32.checked_shl(*failures).unwrap_or(i32::MAX).max(1))
            .map_or(LAST_RETRY, |wait| wait.min(LAST_RETRY));
        *failures = (*failures + 1).min(20);
        self.push_at(key, now.saturating_add(wait).unwrap_or(now));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    #[test]
    fn a_key_waits_once_however_often_it_is_pushed() {
        let mut queue = Queue::default();
        queue.push("a");
        queue.push("b");
        queue.push("a");
        assert_eq!(queue.pop(second(0)), Some("a"));
        assert_eq!(queue.pop(second(0)), Some("b"));
        assert_eq!(queue.pop(second(0)), None);
        queue.push("a");
        assert_eq!(queue.pop(second(0)), Some("a"), "may come again once taken");
    }

    #[test]
    fn of_two_times_the_earlier_holds() {
        let mut queue = Queue::default();
        queue.push_at("a", second(10));
        queue.push_at("a", second(5));
        queue.push_at("a", second(20));
        assert_eq!(queue.next_due(), Some(second(5)));
        assert_eq!(queue.pop(second(4)), None);
        assert_eq!(queue.pop(second(5)), Some("a"));
        assert_eq!(queue.pop(second(100)), None, "the later times are forgotten");
    }

    #[test]
    fn failures_wait_twice_as_long_each_time_up_to_a_limit_until_success() {
        let mut queue = Queue::default();
        let waits: Vec<i128> = (0..20).map(|_| queue.failed("a", second(0)).as_millis()).collect();
        assert_eq!(&waits[..4], &[5, 10, 20, 40]);
        assert_eq!(waits[19], 30_000);
        queue.succeeded(&"a");
        assert_eq!(queue.failed("a", second(0)).as_millis(), 5);
    }
}
