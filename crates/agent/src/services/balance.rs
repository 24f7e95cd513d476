//! Least connections: when tracked connections are counted, and what follows.

use std::time::Duration;

use service::{Frontend, Loads, Planner};
use tokio::time::Instant;

use super::ServicesLoop;
use super::kernel::Sockets;

/// How often connections are counted while a Service asks for it.
const EVERY: Duration = Duration::from_secs(1);
/// Where the connections are so many that counting takes long, it waits so many times as long: two in a hundred of one
/// core's time.
const REST: u32 = 50;
/// But never longer: one count that was slow because the machine was busy says little about the next.
const LONGEST: Duration = Duration::from_secs(5);

/// When to count next.
#[derive(Debug, Default)]
pub(super) struct Counting(Option<Instant>);

impl Counting {
    /// When the next count is due; `None` if nobody asks for one.
    pub(super) fn due(&mut self, planner: &Planner) -> Option<Instant> {
        if planner.steered().next().is_none() {
            self.0 = None;
            return None;
        }
        Some(*self.0.get_or_insert_with(|| Instant::now() + EVERY))
    }
}

impl ServicesLoop {
    /// Counts connections if that is due, and steers new ones. What changed in the cluster goes first.
    pub(super) async fn steer(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let is_due = self.counting.due(&self.planner).is_some_and(|due| due <= started);
        if !is_due || self.full.is_some() || self.writer.has_change() || self.is_waiting() {
            return Ok(());
        }
        let frontends: Vec<Frontend> = self.planner.steered().collect();
        let counted = self.kernel.call(move |sockets| count(sockets, frontends)).await?;
        let rest = (started.elapsed() * REST).clamp(EVERY, LONGEST);
        self.counting.0 = Some(Instant::now() + rest);
        let loads = match counted {
            Ok(loads) => loads,
            Err(error) => {
                self.metrics.failed("conntrack");
                tracing::warn!(%error, "connections were not counted, shares stay as they are");
                return Ok(());
            }
        };
        let transaction = self.planner.set_loads(self.writer.snapshot(), &loads).transaction;
        let operations = transaction.len();
        if operations == 0 {
            return Ok(());
        }
        match self.kernel.call(move |sockets| sockets.commit(&transaction)).await? {
            Ok(_) => self.metrics.committed(operations),
            Err(error) => {
                self.metrics.failed("commit");
                self.settle(Err(error.to_string()));
            }
        }
        Ok(())
    }
}

fn count(
    sockets: &mut Sockets,
    frontends: Vec<Frontend>,
) -> Result<Loads, nft::conntrack::ConntrackError> {
    let mut loads = Loads::of(frontends);
    sockets.each_flow(|flow| loads.add(flow))?;
    Ok(loads)
}
