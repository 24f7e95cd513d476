//! `loop`: whether questions that are forwarded come back here. A name nobody else can know is asked for; who is asked for it
//! here is in a loop, and forwards nothing more until its configuration changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::exchange::{Wanted, random};
use super::{Running, Shared};
use crate::config::Block;
use crate::name::Name;
use crate::query::{QName, Query, kind};

/// How often upstreams that do not answer are asked, a second apart each.
const TRIES: usize = 30;

/// The name of one server block.
#[derive(Debug)]
pub(crate) struct Probe {
    name: QName,
    came_back: AtomicBool,
}

impl Probe {
    /// None where the block does not look for loops, or forwards nothing.
    pub(crate) fn of(block: &Block) -> Option<Self> {
        if !block.detect_loop || block.forwards.is_empty() {
            return None;
        }
        let zone = block.zones.first()?;
        let below = if zone.wire().len() > 1 { zone.to_string() } else { String::new() };
        let name = Name::parse(&format!("{}.{}.{below}", random(), random())).ok()?;
        Some(Self { name: QName::of_wire(name.wire())?, came_back: AtomicBool::new(false) })
    }

    /// Whether what this block forwards comes back.
    pub(crate) fn is_loop(&self) -> bool {
        self.came_back.load(Ordering::Relaxed)
    }
}

/// Whether this is a question of our own that came back.
pub(super) fn came_back(running: &Running, query: &Query) -> bool {
    if query.kind != kind::HINFO {
        return false;
    }
    let mut found = running.probes.iter().enumerate();
    let found = found.find_map(|(at, probe)| {
        let probe = probe.as_ref()?;
        (probe.name.lower() == query.name.lower()).then_some((at, probe))
    });
    let Some((at, probe)) = found else { return false };
    if !probe.came_back.swap(true, Ordering::Relaxed) {
        let upstreams = running.upstreams[at].iter().map(|it| it.addresses());
        tracing::error!(
            target: "dns",
            upstreams = upstreams.collect::<Vec<_>>().join(", "),
            zone = running.labels[at],
            "what is forwarded comes back here: a loop. Nothing is forwarded until the configuration names other upstreams; \
             if they are from a resolv.conf, it names this server or a cache that asks it"
        );
    }
    true
}

/// Asks for each block's name, until each upstream list gave one answer.
pub(super) fn look(shared: &Arc<Shared>, running: &Arc<Running>) {
    for (at, probe) in running.probes.iter().enumerate() {
        let Some(probe) = probe else { continue };
        for upstreams in running.upstreams[at].clone() {
            let (shared, running, name) = (shared.clone(), Arc::downgrade(running), probe.name);
            tokio::task::spawn(async move {
                for _ in 0..TRIES {
                    let wanted = Wanted::plain(&name, kind::HINFO);
                    // Another configuration has its own questions.
                    if running.strong_count() == 0 || upstreams.ask(&shared, wanted).await.is_ok() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
    }
}
