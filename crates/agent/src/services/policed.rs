//! What the loop does for policy beside commits: asks what was denied, deletes connections that are denied now, and lets the
//! answers of those pass again that may be.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{ServicesLoop, Sockets};
use crate::policies::{self, Policies};

/// Between two looks at what was denied so many times as long as a look takes goes by.
const LOOKS: u32 = 50;

impl ServicesLoop {
    /// Whether any pod here has rules.
    pub(super) fn enforces(&self) -> bool {
        self.policies.as_ref().is_some_and(Policies::enforces)
    }

    /// Asks the kernel now and then what policies denied.
    pub(super) async fn look(&mut self) -> anyhow::Result<()> {
        let now = tokio::time::Instant::now();
        if !self.enforces() || now < self.look {
            return Ok(());
        }
        let noted = self.kernel.call(Sockets::policy_noted).await?;
        let Some(policies) = &mut self.policies else { return Ok(()) };
        // Every rule is read, and commits wait meanwhile: that takes a small part of the time, however many there are.
        self.look = now + policies::EVERY.max(now.elapsed() * LOOKS);
        match noted {
            Ok((flows, rules)) => {
                policies.count(&rules, true, &self.metrics);
                policies.note(flows, &self.metrics);
            }
            Err(error) => {
                self.metrics.failed("policy-noted");
                tracing::debug!(%error, "what policies denied was not read");
            }
        }
        Ok(())
    }

    /// Deletes connections from and to these addresses that policies deny now.
    pub(super) async fn cut(&mut self, addresses: HashSet<IpAddr>) -> anyhow::Result<()> {
        if addresses.is_empty() || !self.enforces() {
            return Ok(());
        }
        let flows = self.kernel.call(move |sockets| sockets.flows_of(&addresses)).await?;
        let Some(policies) = &self.policies else { return Ok(()) };
        let denied = flows.map(|(flows, own)| policies.cut(flows, |it| own.contains(it)));
        let deleted = match denied {
            Ok(denied) if denied.is_empty() => return Ok(()),
            Ok(denied) => {
                // Before the flow is forgotten, or its next answer would be the first packet of a new one.
                let answers = self.policies.as_mut().map(|it| it.sever(&denied));
                self.tell_severed(policy::sever(&answers.unwrap_or_default())).await?;
                self.kernel.call(move |sockets| sockets.delete(&denied)).await?
            }
            Err(error) => Err(error),
        };
        match deleted {
            Ok(deleted) => {
                tracing::info!(deleted, "connections that are denied now were cut");
                self.metrics.policy_cut.inc_by(deleted as u64);
            }
            Err(error) => {
                self.metrics.failed("conntrack");
                tracing::warn!(%error, "connections that are denied now were not cut");
            }
        }
        Ok(())
    }

    /// Lets the answers of cut flows pass whose flows may be again.
    pub(super) async fn mend(&mut self) -> anyhow::Result<()> {
        if !self.policies.as_ref().is_some_and(Policies::has_severed) {
            return Ok(());
        }
        let remembered = self.kernel.call(Sockets::severed).await?;
        let Some(policies) = &mut self.policies else { return Ok(()) };
        match remembered {
            Ok(remembered) => {
                let mended = policies.mended(remembered);
                self.tell_severed(policy::mend(&mended)).await
            }
            Err(error) => {
                self.metrics.failed("policy-severed");
                tracing::debug!(%error, "which flows were cut was not read");
                Ok(())
            }
        }
    }

    async fn tell_severed(&mut self, transaction: nft::Transaction) -> anyhow::Result<()> {
        if transaction.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.kernel.call(move |sockets| sockets.commit(&transaction)).await? {
            // They expire by themselves; without them an answer brings its flow back.
            self.metrics.failed("policy-severed");
            tracing::warn!(%error, "answers of flows that were cut are not treated as they should be");
        }
        Ok(())
    }
}
