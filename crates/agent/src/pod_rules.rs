//! Keeps the table of the CNI plugins as their records say: host ports, masquerading and source checks come back after
//! somebody flushed the ruleset. The plugins write both; this only repairs, so it does nothing where nothing is wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cluster::Applied;
use nft::Name;
use nft::kernel::{Change, Watch};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::readable::{self, readable};
use crate::worker::Worker;

/// A flush is many events, and plugins come in bursts: one look for all of them.
const SETTLE: Duration = Duration::from_millis(50);
/// It is looked this often even when nothing seems to have happened.
const EVERY: Duration = Duration::from_secs(300);
/// And this soon after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// The loop's state.
pub(crate) struct PodRules {
    run_dir: PathBuf,
    kernel: Worker<()>,
    table: Name,
    /// Whose commits never touch the table.
    services: u32,
    /// The Services' table was committed once. Before, nobody listens: events of each of its elements would be made.
    programmed: watch::Receiver<Option<Applied>>,
    events: Option<AsyncFd<Watch>>,
    metrics: Arc<Metrics>,
}

impl PodRules {
    pub(crate) fn new(
        run_dir: PathBuf,
        services: u32,
        programmed: watch::Receiver<Option<Applied>>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let table = Name::new(cni::rules::TABLE)?;
        let kernel = Worker::start("pod-rules", ())?;
        Ok(Self { run_dir, kernel, table, services, programmed, events: None, metrics })
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            if self.events.is_none() && self.programmed.borrow().is_some() {
                match self.listen() {
                    Ok(events) => self.events = Some(events),
                    Err(error) => drop(self.failed(&error)),
                }
            }
            let run_dir = self.run_dir.clone();
            let restored = self.kernel.call(move |()| cni::rules::restore(Some(&run_dir))).await;
            let wait = match restored {
                Ok(Ok(false)) => EVERY,
                Ok(Ok(true)) => {
                    tracing::info!("host ports and masquerading of pods restored");
                    EVERY
                }
                Ok(Err(error)) => self.failed(&error.into()),
                Err(error) => self.failed(&error),
            };
            tokio::select! {
                _ = self.programmed.changed(), if self.events.is_none() => {}
                changed = changed(&mut self.events) => if let Err(error) = changed {
                    tracing::warn!(%error, "events of the pods' rules");
                    tokio::time::sleep(RETRY).await;
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn listen(&self) -> anyhow::Result<AsyncFd<Watch>> {
        let mut watch = Watch::open(cni::rules::FAMILY, self.table.clone())?;
        watch.ignore(self.services)?;
        Ok(readable(watch)?)
    }

    fn failed(&self, error: &anyhow::Error) -> Duration {
        self.metrics.failed("pod-rules");
        tracing::warn!(
            error = format!("{error:#}"),
            "host ports of pods are not repaired, trying again"
        );
        RETRY
    }
}

/// Waits until somebody changed the table.
async fn changed(events: &mut Option<AsyncFd<Watch>>) -> anyhow::Result<()> {
    while readable::events(events).await? == Change::None {}
    tokio::time::sleep(SETTLE).await;
    Ok(())
}
