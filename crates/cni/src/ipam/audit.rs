//! Reservations beside what the node's kernel has: which are leaked, which addresses are in use without one. Pure.
//!
//! An attachment is alive while its link is there; a reservation is made a moment before the link, so a young one proves
//! nothing. After a reboot there is no link, and everything older than that is leaked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Reservation;
use crate::Identity;
use crate::attachment::node_link;

/// A reservation younger than this may belong to an ADD that is still at work.
pub const YOUNG: Duration = Duration::from_secs(60);
/// Stands for a container nobody knows, in a reservation made for an address that was found in use: the link follows.
const FOUND: &str = "link:";

/// What differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Reserved, and the attachment is gone.
    pub leaked: Vec<Reservation>,
    /// In use by the link of that name, and not reserved.
    pub unreserved: Vec<(IpAddr, String)>,
    /// Routed to more than one link.
    pub twice: Vec<(IpAddr, Vec<String>)>,
}

impl Audit {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares. `reserved` with the age of each; `links` are the names of all links of the node, `routed` the addresses routed
/// to links of pods.
#[must_use]
pub fn audit(
    reserved: &[(Reservation, Duration)],
    links: &BTreeSet<String>,
    routed: &[(IpAddr, String)],
) -> Audit {
    let mut by_address: BTreeMap<IpAddr, BTreeSet<&String>> = BTreeMap::new();
    for (address, link) in routed {
        by_address.entry(*address).or_default().insert(link);
    }
    let leaked = reserved
        .iter()
        .filter(|(entry, age)| *age >= YOUNG && !links.contains(&link_of(&entry.owner)));
    let is_reserved =
        |address: &IpAddr| reserved.iter().any(|(entry, _)| entry.address == *address);
    let unreserved = by_address.iter().filter(|(address, _)| !is_reserved(address));
    let twice = by_address.iter().filter(|(_, links)| links.len() > 1);
    Audit {
        leaked: leaked.map(|(entry, _)| entry.clone()).collect(),
        unreserved: unreserved
            .filter_map(|(address, links)| Some((*address, (*links.first()?).clone())))
            .collect(),
        twice: twice
            .map(|(address, links)| (*address, links.iter().map(|link| (*link).clone()).collect()))
            .collect(),
    }
}

/// The owner written for an address found in use.
#[must_use]
pub fn found_on(link: &str) -> Identity {
    Identity { container_id: format!("{FOUND}{link}"), ifname: String::new() }
}

/// Name of the node's end of an attachment.
#[must_use]
pub fn link_of(owner: &Identity) -> String {
    match owner.container_id.strip_prefix(FOUND) {
        Some(link) => link.to_owned(),
        None => node_link(owner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_tell_who_is_alive() {
        let owner = |id: &str| Identity { container_id: id.into(), ifname: "eth0".into() };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let entry = |address: &str, id: &str, age| {
            (Reservation { address: ip(address), owner: owner(id) }, Duration::from_secs(age))
        };
        let alive = node_link(&owner("alive"));
        let reserved = [
            entry("10.1.0.1", "alive", 1000),
            entry("10.1.0.2", "gone", 1000),
            entry("10.1.0.3", "coming", 1),
            (Reservation { address: ip("10.1.0.4"), owner: found_on("fwx") }, YOUNG),
        ];
        let links = [alive.clone(), "fwx".to_owned(), "eth0".to_owned()].into();
        let routed = [
            (ip("10.1.0.1"), alive),
            (ip("10.1.0.4"), "fwx".to_owned()),
            (ip("10.1.0.9"), "fwy".to_owned()),
            (ip("10.1.0.9"), "fwz".to_owned()),
        ];
        let found = audit(&reserved, &links, &routed);
        assert_eq!(found.leaked, [reserved[1].0.clone()]);
        assert_eq!(found.unreserved, [(ip("10.1.0.9"), "fwy".to_owned())]);
        assert_eq!(found.twice, [(ip("10.1.0.9"), vec!["fwy".to_owned(), "fwz".to_owned()])]);
        assert!(audit(&reserved[..1], &links, &routed[..1]).is_clean());
        // A reboot: no link, all but the young are leaked.
        assert_eq!(audit(&reserved, &BTreeSet::new(), &[]).leaked.len(), 3);
    }
}
