//! Up to which `resourceVersion` the kernel follows the API. Pure but for the channel it is told on.
//!
//! A list comes in any order, so its versions count when it is complete; a watch comes in order, so each counts at once.
//! What was seen becomes applied when a commit succeeds, or when there was nothing to commit.

use cluster::Applied;
use model::{Event, Update};
use tokio::sync::watch;

/// One watched kind.
#[derive(Debug, Default)]
struct Seen {
    /// Everything up to here was seen.
    all: u64,
    /// The highest of a list that is not complete.
    listed: Option<u64>,
}

impl Seen {
    fn note<T>(&mut self, update: &Update<T>, revision: Option<u64>) {
        match update {
            Update::Begin => self.listed = Some(0),
            Update::End => self.all = self.all.max(self.listed.take().unwrap_or(0)),
            _ => {
                let counts = self.listed.as_mut().unwrap_or(&mut self.all);
                *counts = (*counts).max(revision.unwrap_or(0));
            }
        }
    }
}

/// What was seen, and what of it is in the kernel.
#[derive(Debug)]
pub(crate) struct Progress {
    services: Seen,
    slices: Seen,
    policies: Seen,
    applied: watch::Sender<Option<Applied>>,
}

impl Progress {
    pub(crate) fn new(applied: watch::Sender<Option<Applied>>) -> Self {
        Self {
            services: Seen::default(),
            slices: Seen::default(),
            policies: Seen::default(),
            applied,
        }
    }

    /// The cluster changed.
    pub(crate) fn saw(&mut self, event: &Event, revision: Option<u64>) {
        match event {
            Event::Service(update) => self.services.note(update, revision),
            Event::Slice(update) => self.slices.note(update, revision),
            Event::NetworkPolicy(update) => self.policies.note(update, revision),
            _ => {}
        }
    }

    /// The kernel is what everything seen so far says it should be; `policies` says whether policies are in it.
    pub(crate) fn reached(&self, policies: bool) {
        let now = Some(Applied {
            services: self.services.all,
            endpoint_slices: self.slices.all,
            network_policies: if policies { self.policies.all } else { 0 },
        });
        self.applied.send_if_modified(|applied| {
            let changed = *applied != now;
            *applied = now;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use model::ObjectKey;

    use super::*;

    fn service(update: Update<model::Service>) -> Event {
        Event::Service(update)
    }

    fn gone() -> Event {
        service(Update::Deleted(ObjectKey::new("d", "s")))
    }

    #[test]
    fn a_list_counts_when_it_is_complete_and_a_watch_at_once() {
        let (sender, applied) = watch::channel(None);
        let mut progress = Progress::new(sender);
        progress.saw(&service(Update::Begin), None);
        let listed = service(Update::Unreadable(ObjectKey::new("d", "s")));
        progress.saw(&listed, Some(90));
        progress.reached(true);
        assert_eq!(*applied.borrow(), Some(Applied::default()), "half a list proves nothing");
        progress.saw(&listed, Some(40));
        progress.saw(&service(Update::End), None);
        progress.saw(&gone(), Some(95));
        assert_eq!(applied.borrow().map(|a| a.services), Some(0), "seen is not applied");
        progress.reached(true);
        assert_eq!(*applied.borrow(), Some(Applied { services: 95, ..Applied::default() }));
    }

    #[test]
    fn a_relist_does_not_lower_what_was_reached() {
        let (sender, applied) = watch::channel(None);
        let mut progress = Progress::new(sender);
        progress.saw(&gone(), Some(95));
        progress.saw(&service(Update::Begin), None);
        progress.saw(&service(Update::End), None);
        progress.reached(true);
        assert_eq!(applied.borrow().map(|a| a.services), Some(95));
    }

    #[test]
    fn nothing_new_wakes_nobody() {
        let (sender, mut applied) = watch::channel(None);
        let progress = Progress::new(sender);
        progress.reached(true);
        applied.mark_unchanged();
        progress.reached(true);
        assert!(!applied.has_changed().unwrap());
    }
}
