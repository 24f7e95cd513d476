//! Who asks most, for what, and what of it is not there: bounded lists of the most frequent (the space-saving algorithm of
//! Metwally, Agrawal and El Abbadi), fed with one query of several.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::query::{Query, code};

/// Kept per list. A name asked for more often than one in so many queries is certainly in it.
const KEPT: usize = 256;
/// One query of so many is looked at.
const SAMPLE: u32 = 16;

/// The most frequent of something.
#[derive(Debug)]
struct Frequent<T>(HashMap<T, u64>);

impl<T: Clone + Eq + Hash> Frequent<T> {
    fn count(&mut self, what: T) {
        if let Some(count) = self.0.get_mut(&what) {
            *count += 1;
            return;
        }
        let mut count = 0;
        if self.0.len() >= KEPT
            && let Some((least, at)) = self
                .0
                .iter()
                .min_by_key(|(_, count)| **count)
                .map(|(key, count)| (key.clone(), *count))
        {
            self.0.remove(&least);
            count = at;
        }
        self.0.insert(what, count + 1);
    }

    fn sorted(&self) -> Vec<(T, u64)> {
        let mut all: Vec<(T, u64)> =
            self.0.iter().map(|(what, count)| (what.clone(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }
}

#[derive(Debug)]
struct Lists {
    clients: Frequent<IpAddr>,
    names: Frequent<(Box<[u8]>, u16)>,
    missing: Frequent<(Box<[u8]>, u16)>,
}

/// The lists of a server.
#[derive(Debug)]
pub(crate) struct Tops {
    seen: AtomicU32,
    lists: Mutex<Lists>,
}

/// A line: what, and in about how many queries since the server began.
pub type Count = (String, u64);

/// Who asks most, for what, and what is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// Pods by namespace and name, others by address.
    pub clients: Vec<Count>,
    /// Names and types.
    pub names: Vec<Count>,
    /// Names and types that are not there.
    pub missing: Vec<Count>,
}

impl Tops {
    pub(crate) fn new() -> Self {
        Self {
            seen: AtomicU32::new(0),
            lists: Mutex::new(Lists {
                clients: Frequent(HashMap::new()),
                names: Frequent(HashMap::new()),
                missing: Frequent(HashMap::new()),
            }),
        }
    }

    /// A query was answered. A query nobody has time to count is not counted.
    pub(crate) fn count(&self, query: &Query, client: IpAddr, answered: u16) {
        // The first ones are all counted, so that a quiet server has something to show.
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        if seen > 1 << 12 && !seen.is_multiple_of(SAMPLE) {
            return;
        }
        let times = if seen > 1 << 12 { SAMPLE } else { 1 };
        let Ok(mut lists) = self.lists.try_lock() else { return };
        for _ in 0..times {
            lists.clients.count(client);
            let name: Box<[u8]> = query.name.lower().into();
            if answered == code::NXDOMAIN {
                lists.missing.count((name.clone(), query.kind));
            }
            lists.names.count((name, query.kind));
        }
    }

    pub(crate) fn read(&self, pod: impl Fn(IpAddr) -> Option<String>) -> Top {
        let lists = self.lists.lock().unwrap_or_else(|it| it.into_inner());
        let named = |list: &Frequent<(Box<[u8]>, u16)>| {
            let lines = list.sorted().into_iter().map(|((name, kind), count)| {
                let name = crate::Name::of_wire(&name).unwrap_or_else(crate::Name::root);
                (format!("{name} {}", crate::text::kind_name(kind)), count)
            });
            lines.collect()
        };
        let clients = lists.clients.sorted().into_iter();
        Top {
            clients: clients
                .map(|(client, count)| (pod(client).unwrap_or_else(|| client.to_string()), count))
                .collect(),
            names: named(&lists.names),
            missing: named(&lists.missing),
        }
    }
}
