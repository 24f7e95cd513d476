//! Whether this agent is ready, alive and up to date. Readers: the HTTP server. Writers: the loops.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The loop beats at least this often, even with nothing to do.
pub(crate) const BEAT: Duration = Duration::from_secs(5);
/// Without a beat for this long the agent is stuck.
const STUCK: Duration = Duration::from_secs(60);
/// A kernel that is behind for this long is no longer healthy.
const BEHIND: Duration = Duration::from_secs(30);

/// What the agent waits for before it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Every watched kind was listed.
    Lists,
    /// The table was brought up to date once.
    Table,
    /// The routes were brought up to date once.
    Routes,
    /// The CNI configuration is in place.
    CniConfig,
}

impl Need {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lists => "lists of services, endpointslices and nodes",
            Self::Table => "first commit of the table",
            Self::Routes => "first commit of the routes",
            Self::CniConfig => "CNI configuration (the node's pod CIDRs)",
        }
    }
}

#[derive(Debug)]
struct State {
    pending: BTreeSet<Need>,
    beat: Instant,
    behind_since: Option<(Instant, String)>,
    leaving: bool,
}

/// Shared by the loops and the HTTP server.
#[derive(Debug)]
pub(crate) struct Health(Mutex<State>);

impl Health {
    pub(crate) fn new() -> Self {
        let pending = [Need::Lists, Need::Table, Need::Routes, Need::CniConfig].into();
        Self(Mutex::new(State {
            pending,
            beat: Instant::now(),
            behind_since: None,
            leaving: false,
        }))
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Something is there now.
    pub(crate) fn met(&self, need: Need) {
        self.with(|state| {
            state.pending.remove(&need);
        });
    }

    /// The loop is alive.
    pub(crate) fn beat(&self) {
        self.with(|state| state.beat = Instant::now());
    }

    /// The kernel is what it should be.
    pub(crate) fn up_to_date(&self) {
        self.with(|state| state.behind_since = None);
    }

    /// The kernel is not what it should be, and why.
    pub(crate) fn behind(&self, why: &str) {
        self.with(|state| {
            let since = state.behind_since.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            state.behind_since = Some((since, why.to_owned()));
        });
    }

    /// Whether the node is being deleted or drained by an autoscaler.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        self.with(|state| state.leaving = leaving);
    }

    /// Whether load balancers may choose this node (KEP-3836).
    pub(crate) fn is_eligible(&self) -> bool {
        !self.with(|state| state.leaving)
    }

    /// Healthy, and the node is not leaving; or why not.
    pub(crate) fn may_be_chosen(&self) -> Result<(), String> {
        self.healthy()?;
        if self.is_eligible() { Ok(()) } else { Err("the node is being taken away".into()) }
    }

    /// For how long the kernel has not been what it should be.
    pub(crate) fn behind_for(&self) -> Option<Duration> {
        self.with(|state| state.behind_since.as_ref().map(|(since, _)| since.elapsed()))
    }

    /// Ready, or what is missing.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.with(|state| {
            let pending: Vec<_> = state.pending.iter().map(|need| need.as_str()).collect();
            if pending.is_empty() {
                Ok(())
            } else {
                Err(format!("waiting for: {}", pending.join("; ")))
            }
        })
    }

    /// Alive, or for how long not.
    pub(crate) fn alive(&self) -> Result<(), String> {
        let quiet = self.with(|state| state.beat.elapsed());
        if quiet < STUCK {
            Ok(())
        } else {
            Err(format!("the loop has not moved for {} s", quiet.as_secs()))
        }
    }

    /// Alive and up to date, or why not.
    pub(crate) fn healthy(&self) -> Result<(), String> {
        self.alive()?;
        self.with(|state| match &state.behind_since {
            Some((since, why)) if since.elapsed() > BEHIND => {
                Err(format!("the kernel is behind since {} s: {why}", since.elapsed().as_secs()))
            }
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing() {
        let health = Health::new();
        health.met(Need::Lists);
        health.met(Need::Routes);
        let missing = health.ready().expect_err("not ready");
        assert!(
            missing.contains("table") && missing.contains("CNI") && !missing.contains("routes"),
            "{missing}"
        );
        health.met(Need::Table);
        health.met(Need::CniConfig);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_node_that_leaves_is_alive_and_not_to_be_chosen() {
        let health = Health::new();
        assert_eq!(health.may_be_chosen(), Ok(()));
        health.set_leaving(true);
        assert!(health.may_be_chosen().is_err());
        assert_eq!(health.healthy(), Ok(()));
        health.set_leaving(false);
        assert!(health.is_eligible());
    }

    #[test]
    fn a_short_failure_is_not_unhealthy() {
        let health = Health::new();
        health.behind("no");
        assert_eq!(health.healthy(), Ok(()));
        health.up_to_date();
        assert_eq!(health.alive(), Ok(()));
    }
}
