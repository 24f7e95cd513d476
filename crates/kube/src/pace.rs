//! How often: when a watch is tried again, and whether a report may be written (not the same one twice within a while, and
//! not more than so many at all).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use model::Report;

/// The same report is not written again before this has passed.
const REPEAT: Duration = Duration::from_secs(600);
/// So many may be written at once …
const BURST: f64 = 25.0;
/// … and so many per second in the long run.
const PER_SECOND: f64 = 0.2;
/// Remembered reports; beyond that the oldest are forgotten.
const REMEMBERED: usize = 1024;

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Waits begin anew after this long without one. Not at the first success, which proves nothing.
const CALM: Duration = Duration::from_secs(20);

/// Waits that double from 0.1 s to 10 s, each drawn from its upper half, so that the nodes of a cluster do not come back
/// to a restarted API server at the same moment.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    attempt: u32,
    last: Option<Instant>,
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.last.replace(Instant::now()).is_some_and(|last| last.elapsed() > CALM) {
            self.attempt = 0;
        }
        let whole = FIRST_RETRY.saturating_mul(1 << self.attempt.min(16)).min(LONGEST_RETRY);
        self.attempt = self.attempt.saturating_add(1);
        // A fresh RandomState hashes anything to a random number.
        let share = RandomState::new().hash_one(self.attempt) % 1024;
        Some(whole / 2 + whole * share as u32 / 2048)
    }
}

/// Decides; knows no clock.
#[derive(Debug)]
pub(crate) struct Pace {
    written: HashMap<Report, Instant>,
    tokens: f64,
    refilled: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { written: HashMap::new(), tokens: BURST, refilled: now }
    }

    /// Whether `report` may be written now; a yes counts.
    pub(crate) fn admit(&mut self, report: &Report, now: Instant) -> bool {
        if self.written.get(report).is_some_and(|at| now.saturating_duration_since(*at) < REPEAT) {
            return false;
        }
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        if self.written.len() >= REMEMBERED {
            self.written.retain(|_, at| now.saturating_duration_since(*at) < REPEAT);
        }
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(report.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use model::{Kind, ObjectKey, ObjectRef, Severity};

    use super::*;

    fn report(message: &str) -> Report {
        Report {
            object: ObjectRef { kind: Kind::Service, key: ObjectKey::new("d", "web"), uid: None },
            severity: Severity::Warning,
            reason: "Test",
            message: message.into(),
            hint: "".into(),
        }
    }

    #[test]
    fn the_same_report_waits_ten_minutes() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.admit(&report("a"), start));
        assert!(!pace.admit(&report("a"), start + Duration::from_secs(599)));
        assert!(pace.admit(&report("b"), start + Duration::from_secs(599)));
        assert!(pace.admit(&report("a"), start + Duration::from_secs(601)));
    }

    #[test]
    fn retries_double_and_stay_in_their_upper_half() {
        let waits: Vec<_> = Retry::default().take(40).collect();
        for (attempt, wait) in (0u32..).zip(&waits) {
            let whole = FIRST_RETRY.saturating_mul(1 << attempt.min(10)).min(LONGEST_RETRY);
            assert!(*wait >= whole / 2 && *wait <= whole, "attempt {attempt}: {wait:?}");
        }
    }

    #[test]
    fn a_flood_is_cut_and_recovers() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let flood = |pace: &mut Pace, from: u32, now| {
            (from..from + 100).filter(|n| pace.admit(&report(&n.to_string()), now)).count()
        };
        assert_eq!(flood(&mut pace, 0, start), 25);
        assert_eq!(flood(&mut pace, 100, start + Duration::from_secs(10)), 2);
    }
}
