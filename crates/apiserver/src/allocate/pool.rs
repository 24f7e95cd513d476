//! Two pools with a static and a dynamic band: addresses of one CIDR, and ports.
//!
//! Ranges may overlap (two ServiceCIDRs), so what is taken is kept once, beside them: a range only knows its bands and
//! where its next search starts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// Upstream looks at no more of an IPv6 range than this.
const MOST: u128 = 1 << 16;

/// One CIDR; places in it are offsets from its first address.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    cidr: IpNet,
    /// Last offset that may be given.
    last: u32,
    /// First offset of the dynamic band.
    dynamic: u32,
    /// Where the next search starts.
    cursor: u32,
}

impl Addresses {
    pub(super) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let size = 1u128.checked_shl(host_bits).unwrap_or(u128::MAX);
        // IPv4 keeps its broadcast address free; the first address is nobody's in both.
        let usable = if cidr.addr().is_ipv4() { size.saturating_sub(1) } else { size };
        let last = u32::try_from(usable.min(MOST.max(size.min(MOST))).saturating_sub(1))
            .unwrap_or(u32::MAX);
        // KEP-3070: min(max(16, size/16), 256) addresses are the static band.
        let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        let dynamic = u32::try_from(band).unwrap_or(256).max(1);
        Self { cidr, last, dynamic, cursor: dynamic }
    }

    pub(super) fn cidr(&self) -> IpNet {
        self.cidr
    }

    pub(super) fn is_v6(&self) -> bool {
        self.cidr.addr().is_ipv6()
    }

    fn offset(&self, ip: IpAddr) -> Option<u32> {
        if !self.cidr.contains(&ip) {
            return None;
        }
        let offset = match (ip, self.cidr.addr()) {
            (IpAddr::V4(ip), IpAddr::V4(base)) => u128::from(u32::from(ip) - u32::from(base)),
            (IpAddr::V6(ip), IpAddr::V6(base)) => u128::from(ip) - u128::from(base),
            _ => return None,
        };
        u32::try_from(offset).ok().filter(|offset| (1..=self.last).contains(offset))
    }

    fn address(&self, offset: u32) -> IpAddr {
        match self.cidr.addr() {
            IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + offset).into(),
            IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + u128::from(offset)).into(),
        }
    }

    /// Whether the address is one this pool may give.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.offset(ip).is_some()
    }

    /// Finds a free address: the dynamic band from the cursor on, then the static band.
    pub(super) fn next(&mut self, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let start = self.cursor.clamp(self.dynamic, self.last.max(self.dynamic));
        let candidates = (start..=self.last)
            .chain(self.dynamic..start)
            .chain(1..self.dynamic.min(self.last + 1));
        let offset =
            candidates.into_iter().find(|offset| !taken.contains(&self.address(*offset)))?;
        if offset >= self.dynamic {
            self.cursor = offset.saturating_add(1);
            if self.cursor > self.last {
                self.cursor = self.dynamic;
            }
        }
        Some(self.address(offset))
    }
}

/// The claimed ports of a range.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    range: RangeInclusive<u16>,
    used: BTreeSet<u16>,
    dynamic: u16,
    cursor: u16,
}

impl Ports {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        let size = range.end() - range.start() + 1;
        // KEP-3668: min(max(16, size/32), 128) ports are the static band.
        let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        let dynamic = range.start() + band;
        Self { range, used: BTreeSet::new(), dynamic, cursor: dynamic }
    }

    pub(super) fn has(&self, port: u16) -> bool {
        self.used.contains(&port)
    }

    pub(super) fn len(&self) -> usize {
        self.used.len()
    }

    pub(super) fn claim(&mut self, port: u16) -> Result<(), String> {
        if !self.range.contains(&port) {
            return Err(self.out_of_range());
        }
        if self.used.insert(port) {
            Ok(())
        } else {
            Err("provided port is already allocated".to_owned())
        }
    }

    pub(super) fn out_of_range(&self) -> String {
        format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            self.range.start(),
            self.range.end()
        )
    }

    pub(super) fn free(&mut self, port: u16) {
        self.used.remove(&port);
    }

    pub(super) fn next(&mut self) -> Option<u16> {
        let (first, last) = (*self.range.start(), *self.range.end());
        let port = (self.cursor..=last)
            .chain(self.dynamic..self.cursor)
            .chain(first..self.dynamic)
            .find(|port| !self.used.contains(port))?;
        if port >= self.dynamic {
            self.cursor = if port == last { self.dynamic } else { port + 1 };
        }
        self.used.insert(port);
        Some(port)
    }
}
