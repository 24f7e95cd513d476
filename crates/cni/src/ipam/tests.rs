//! The rules of ranges, and the store in a scratch directory.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::Identity;

fn range(subnet: &str) -> RangeConfig {
    RangeConfig {
        subnet: subnet.parse().unwrap(),
        range_start: None,
        range_end: None,
        gateway: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn owner(n: usize) -> Identity {
    Identity { container_id: format!("c{n}"), ifname: "eth0".to_owned() }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("fwtest-ipam-{}-{number}", std::process::id())))
    }

    fn store(&self) -> Store {
        Store::open(&self.0, "net").unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn network_gateway_and_broadcast_are_not_given() {
    let sets =
        RangeSet::check(vec![vec![range("10.0.0.0/29")], vec![range("fd00::/125")]]).unwrap();
    let v4: Vec<IpAddr> = sets[0].candidates(None).collect();
    assert_eq!(v4, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"].map(ip));
    let v6: Vec<IpAddr> = sets[1].candidates(None).collect();
    assert_eq!(v6.first(), Some(&ip("fd00::2")));
    assert_eq!(v6.last(), Some(&ip("fd00::7")));
    assert_eq!((sets[0].capacity(), sets[1].capacity()), (5, 6));
}

#[test]
fn the_search_goes_on_after_the_last_and_wraps() {
    let sets = RangeSet::check(vec![vec![range("10.0.0.0/29"), range("10.1.0.0/30")]]).unwrap();
    let order: Vec<IpAddr> = sets[0].candidates(Some(ip("10.0.0.4"))).collect();
    let wanted = ["10.0.0.5", "10.0.0.6", "10.1.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    assert_eq!(order, wanted.map(ip));
    let whole: Vec<IpAddr> =
        RangeSet::check(vec![vec![range("::/0")]]).unwrap()[0].candidates(None).take(2).collect();
    assert_eq!(whole, ["::2", "::3"].map(ip));
}

#[test]
fn bad_ranges_are_named() {
    let with = |start: &str, end: &str| RangeConfig {
        range_start: Some(ip(start)),
        range_end: Some(ip(end)),
        ..range("10.0.0.0/24")
    };
    let fails = |sets| RangeSet::check(sets).unwrap_err();
    assert_eq!(fails(vec![]), RangeError::Missing);
    assert_eq!(fails(vec![vec![]]), RangeError::Missing);
    assert!(matches!(fails(vec![vec![range("10.0.0.0/31")]]), RangeError::TooSmall { .. }));
    assert!(matches!(fails(vec![vec![range("10.0.0.1/24")]]), RangeError::HostBits { .. }));
    assert!(matches!(
        fails(vec![vec![with("10.0.1.1", "10.0.0.9")]]),
        RangeError::Outside { what: "rangeStart", .. }
    ));
    assert!(matches!(fails(vec![vec![with("10.0.0.9", "10.0.0.8")]]), RangeError::Empty { .. }));
    assert!(matches!(
        fails(vec![vec![range("10.0.0.0/24"), range("fd00::/64")]]),
        RangeError::Mixed { .. }
    ));
    assert!(matches!(
        fails(vec![vec![range("10.0.0.0/24")], vec![range("10.0.0.0/16")]]),
        RangeError::Overlap { .. }
    ));
}

#[test]
fn files_are_those_of_host_local() {
    let scratch = Scratch::new();
    let sets = RangeSet::check(vec![vec![range("10.0.0.0/24")], vec![range("fd00::/64")]]).unwrap();
    let given = scratch.store().reserve(&sets, &owner(1), &[], false).unwrap();
    assert_eq!(given, ["10.0.0.2", "fd00::2"].map(ip));
    let read = |name: &str| std::fs::read_to_string(scratch.0.join("net").join(name)).unwrap();
    assert_eq!(read("10.0.0.2"), "c1\r\neth0");
    assert_eq!(read("fd00::2"), "c1\r\neth0");
    assert_eq!(read("last_reserved_ip.0"), "10.0.0.2");
    assert_eq!(read("last_reserved_ip.1"), "fd00::2");

    // Asking again gives the same; a released address is not given again at once.
    assert_eq!(scratch.store().reserve(&sets, &owner(1), &[], false).unwrap(), given);
    assert_eq!(scratch.store().release(&owner(1)).unwrap().len(), 2);
    assert_eq!(scratch.store().release(&owner(1)).unwrap().len(), 0);
    let next = scratch.store().reserve(&sets, &owner(2), &[], false).unwrap();
    assert_eq!(next, ["10.0.0.3", "fd00::3"].map(ip));

    // The reference plugin's files are read, its crash leavings reused, ours after a crash ignored.
    let write = |name: &str, text: &str| {
        std::fs::write(scratch.0.join("net").join(name), text).unwrap();
    };
    write("10.0.0.4", "foreign\neth0");
    write("10.0.0.5", "");
    write(".unfinished", "c9\r\neth0");
    let next = scratch.store().reserve(&sets, &owner(3), &[], false).unwrap();
    assert_eq!(next[0], ip("10.0.0.5"));
    assert_eq!(read("10.0.0.5"), "c3\r\neth0");
    // Names alone: what looks taken is passed over until nothing else is left.
    write("10.0.0.6", "");
    let next = scratch.store().reserve(&sets, &owner(4), &[], true).unwrap();
    assert_eq!(next[0], ip("10.0.0.7"));
    for n in 5..254 {
        scratch.store().reserve(&sets[..1], &owner(n), &[], true).unwrap();
    }
    assert_eq!(read("10.0.0.6"), "c253\r\neth0");
    let full = scratch.store().reserve(&sets[..1], &owner(254), &[], true);
    assert!(matches!(full, Err(IpamError::Exhausted { taken: 253, .. })));
}

#[test]
fn asked_addresses_are_given_or_refused() {
    let scratch = Scratch::new();
    let sets = RangeSet::check(vec![vec![range("10.0.0.0/24")], vec![range("fd00::/64")]]).unwrap();
    let mut store = scratch.store();
    let given = store.reserve(&sets, &owner(1), &[ip("fd00::99")], false).unwrap();
    assert_eq!(given, ["10.0.0.2", "fd00::99"].map(ip));
    for taken in ["fd00::99", "10.0.0.1", "192.0.2.1"] {
        let refused = store.reserve(&sets, &owner(2), &[ip(taken)], false);
        assert!(matches!(refused, Err(IpamError::Unavailable { .. })), "{taken}");
    }
    // All or nothing: the refusals above reserved nothing.
    assert_eq!(store.reservations().unwrap().len(), 2);
}

#[test]
fn the_last_address_is_given_and_then_no_more() {
    let scratch = Scratch::new();
    let sets = RangeSet::check(vec![vec![range("10.0.0.0/29")], vec![range("fd00::/64")]]).unwrap();
    for n in 0..5 {
        scratch.store().reserve(&sets, &owner(n), &[], false).unwrap();
    }
    let refused = scratch.store().reserve(&sets, &owner(9), &[], false).unwrap_err();
    assert!(matches!(refused, IpamError::Exhausted { taken: 5, .. }), "{refused}");
    assert_eq!(scratch.store().reservations().unwrap().len(), 10);
    scratch.store().release(&owner(3)).unwrap();
    assert_eq!(scratch.store().reserve(&sets, &owner(9), &[], false).unwrap()[0], ip("10.0.0.5"));
}

#[test]
fn a_hundred_at_once_get_a_hundred_addresses() {
    let scratch = Scratch::new();
    let sets = RangeSet::check(vec![vec![range("10.0.0.0/24")], vec![range("fd00::/64")]]).unwrap();
    let given: Vec<Vec<IpAddr>> = std::thread::scope(|scope| {
        let ask = |n| {
            let (scratch, sets) = (&scratch, &sets);
            scope.spawn(move || scratch.store().reserve(sets, &owner(n), &[], n % 2 == 0).unwrap())
        };
        let threads: Vec<_> = (0..100).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: HashSet<IpAddr> = given.into_iter().flatten().collect();
    assert_eq!(distinct.len(), 200);
}

proptest! {
    #[test]
    fn every_address_is_tried_exactly_once(
        sizes in proptest::collection::vec(24u8..=30, 1..4),
        after in any::<u16>(),
    ) {
        let configs = sizes.iter().enumerate().map(|(n, len)| range(&format!("10.{n}.0.0/{len}")));
        let sets = RangeSet::check(vec![configs.collect()]).unwrap();
        let [_, low] = after.to_be_bytes();
        let start = IpAddr::from([10, u8::try_from(after % 4).unwrap(), 0, low]);
        let tried: Vec<IpAddr> = sets[0].candidates(Some(start)).collect();
        let distinct: HashSet<IpAddr> = tried.iter().copied().collect();
        prop_assert_eq!(tried.len(), distinct.len());
        prop_assert_eq!(tried.len() as u64, sets[0].capacity());
        prop_assert!(tried.iter().all(|ip| sets[0].gives(*ip)));
    }

    #[test]
    fn any_sequence_of_adds_and_dels_gives_nothing_twice(
        steps in proptest::collection::vec((any::<bool>(), 0usize..8), 1..40),
    ) {
        let scratch = Scratch::new();
        let sets = RangeSet::check(vec![vec![range("10.0.0.0/28")]]).unwrap();
        let mut store = scratch.store();
        let mut held: std::collections::HashMap<usize, IpAddr> = std::collections::HashMap::new();
        for (add, n) in steps {
            if add {
                let address = store.reserve(&sets, &owner(n), &[], false).unwrap()[0];
                prop_assert!(held.iter().all(|(m, other)| *m == n || *other != address));
                if let Some(before) = held.insert(n, address) {
                    prop_assert_eq!(before, address);
                }
            } else {
                let released = store.release(&owner(n)).unwrap();
                prop_assert_eq!(released.first().copied(), held.remove(&n));
            }
        }
        prop_assert_eq!(store.reservations().unwrap().len(), held.len());
    }
}

/// Found by tests/broken_input.rs.
#[test]
fn a_range_without_an_address_is_none() {
    let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap();
    assert_eq!(RangeSet::of_blocks([(last, [].as_slice())].into_iter()), None);
    let broadcast = Some("10.1.0.255".parse().unwrap());
    let only = RangeConfig {
        subnet: "10.1.0.0/24".parse().unwrap(),
        range_start: broadcast,
        range_end: broadcast,
        gateway: None,
    };
    let refused = RangeSet::check(vec![vec![only]]).unwrap_err();
    assert!(matches!(refused, RangeError::Empty { .. }), "{refused}");
}
