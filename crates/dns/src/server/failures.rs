//! `errors`: failures in the log, one by one or counted. It runs in `dns-io`, whose timers it uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{Consolidate, Errors};

/// The failures of one server block.
#[derive(Debug)]
pub(crate) struct Failures {
    counted: Vec<Arc<Counted>>,
}

#[derive(Debug)]
struct Counted {
    like: Consolidate,
    /// In the period that runs; 0 when none does.
    count: AtomicU64,
}

impl Failures {
    pub(crate) fn new(errors: &Errors) -> Self {
        let counted = errors.consolidate.iter().cloned();
        let counted = counted.map(|like| Arc::new(Counted { like, count: AtomicU64::new(0) }));
        Self { counted: counted.collect() }
    }

    /// Logs it, or counts it with others like it.
    pub(crate) fn note(&self, text: &str) {
        let Some(counted) = self.counted.iter().find(|it| it.like.pattern.is_match(text)) else {
            tracing::error!(target: "dns", "{text}");
            return;
        };
        if counted.count.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        // The first is shown: a count alone helps nobody.
        let (counted, first) = (counted.clone(), text.to_owned());
        tokio::task::spawn(async move {
            tokio::time::sleep(counted.like.period).await;
            let count = counted.count.swap(0, Ordering::Relaxed);
            let Consolidate { period, pattern, level } = &counted.like;
            let line = match pattern.as_str() {
                "" => format!("{count} failures in {period:?}, the first of them {first}"),
                like => format!(
                    "{count} errors like '{like}' occurred in last {period:?}, the first of them {first}"
                ),
            };
            match *level {
                tracing::Level::ERROR => tracing::error!(target: "dns", "{line}"),
                tracing::Level::WARN => tracing::warn!(target: "dns", "{line}"),
                tracing::Level::INFO => tracing::info!(target: "dns", "{line}"),
                _ => tracing::debug!(target: "dns", "{line}"),
            }
        });
    }
}
