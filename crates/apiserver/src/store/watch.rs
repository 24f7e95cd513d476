//! A watch: a cursor over the ring of a resource's last events. It costs the store nothing while it waits.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch as signal;

use super::{Event, Expired, Resource, Store};

/// A cursor over the changes of a resource.
#[derive(Debug)]
pub struct Watch {
    pub(super) store: Store,
    pub(super) resource: Resource,
    pub(super) namespace: Option<Arc<str>>,
    /// Everything up to this revision was seen (or queued in `ready`).
    pub(super) at: u64,
    pub(super) woken: signal::Receiver<u64>,
    pub(super) ready: VecDeque<Arc<Event>>,
}

/// Events copied out of the ring at a time, so that the lock is held shortly.
const BATCH: usize = 256;

impl Watch {
    /// Takes the next change if there is one now.
    ///
    /// # Errors
    /// [`Expired`] if this watch fell out of the ring.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, Expired> {
        if self.ready.is_empty() {
            self.fill()?;
        }
        Ok(self.ready.pop_front())
    }

    /// Waits for the next change. Cancel-safe: nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Expired`] if this watch fell out of the ring: list again.
    pub async fn next(&mut self) -> Result<Arc<Event>, Expired> {
        loop {
            self.woken.mark_unchanged();
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            if self.woken.changed().await.is_err() {
                // The store holds the sender as long as this watch holds the store.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A stream of changes that ends after an error.
    pub fn into_stream(self) -> impl futures::Stream<Item = Result<Arc<Event>, Expired>> + Send {
        futures::stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(expired) => Some((Err(expired), None)),
            }
        })
    }

    /// The revision up to which this watch has handed out everything: what a bookmark says.
    pub fn seen(&self) -> u64 {
        self.ready.front().map_or(self.at, |event| event.revision - 1)
    }

    fn fill(&mut self) -> Result<(), Expired> {
        let state = self.store.read();
        let newest = state.revision;
        let Some(shelf) = state.shelves.get(&self.resource) else {
            self.at = newest;
            return Ok(());
        };
        if self.at < shelf.oldest {
            return Err(Expired { asked: self.at, oldest: shelf.oldest });
        }
        let first = shelf.ring.partition_point(|event| event.revision <= self.at);
        let mut more = false;
        for event in shelf.ring.range(first..) {
            if self.ready.len() >= BATCH {
                more = true;
                break;
            }
            self.at = event.revision;
            if self.namespace.as_ref().is_none_or(|ns| *ns == event.key.namespace) {
                self.ready.push_back(event.clone());
            }
        }
        if !more {
            self.at = newest;
        }
        Ok(())
    }
}
