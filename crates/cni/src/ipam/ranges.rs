//! Which addresses a network has, by the rules of the reference host-local plugin.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

/// A range as configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeConfig {
    /// The subnet.
    pub subnet: IpNet,
    /// First address to give; the first of the subnet when absent.
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    /// Last address to give; the last of the subnet when absent.
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    /// Never given; the first of the subnet when absent.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// A checked range: `first..=last` but for the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNet,
    first: IpAddr,
    last: IpAddr,
    gateway: IpAddr,
}

/// Ranges of one address family from which an attachment gets one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range>,
}

/// Why ranges cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// No range at all.
    #[error("no range is given; give at least [[{{\"subnet\":\"10.244.1.0/24\"}}]]")]
    Missing,
    /// Not room for a network, a gateway and a pod.
    #[error("subnet {subnet} is too small; it needs at least two host bits")]
    TooSmall {
        /// The subnet.
        subnet: IpNet,
    },
    /// Host bits are set.
    #[error("subnet {subnet} has host bits set; the network is {network}")]
    HostBits {
        /// As given.
        subnet: IpNet,
        /// What was meant, presumably.
        network: IpNet,
    },
    /// Start, end or gateway are elsewhere.
    #[error("{what} {address} is not in subnet {subnet}")]
    Outside {
        /// Which one.
        what: &'static str,
        /// Its value.
        address: IpAddr,
        /// The subnet.
        subnet: IpNet,
    },
    /// Start after end.
    #[error("range {first}-{last} is empty")]
    Empty {
        /// Start.
        first: IpAddr,
        /// End.
        last: IpAddr,
    },
    /// Both families in one set.
    #[error("{one} and {other} are of different address families; give each its own set")]
    Mixed {
        /// A subnet.
        one: IpNet,
        /// Another.
        other: IpNet,
    },
    /// Two ranges share addresses.
    #[error("ranges {one} and {other} overlap")]
    Overlap {
        /// A range.
        one: String,
        /// Another.
        other: String,
    },
}

pub(crate) fn to_number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn like(number: u128, family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Range {
    fn check(config: &RangeConfig) -> Result<Self, RangeError> {
        let subnet = config.subnet;
        if subnet.trunc() != subnet {
            return Err(RangeError::HostBits { subnet, network: subnet.trunc() });
        }
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(RangeError::TooSmall { subnet });
        }
        let network = subnet.network();
        let inside = |what, address: IpAddr| {
            let number = to_number(address);
            if subnet.contains(&address) && number != to_number(network) {
                Ok(address)
            } else {
                Err(RangeError::Outside { what, address, subnet })
            }
        };
        // The broadcast address is an IPv4 notion: the last IPv6 address may be given.
        let top = to_number(subnet.broadcast()) - u128::from(network.is_ipv4());
        let bottom = like(to_number(network) + 1, network);
        let first = inside("rangeStart", config.range_start.unwrap_or(bottom))?;
        let last = inside("rangeEnd", config.range_end.unwrap_or(like(top, network)))?;
        let gateway = inside("gateway", config.gateway.unwrap_or(bottom))?;
        let last = if to_number(last) > top { like(top, network) } else { last };
        if to_number(first) > to_number(last) {
            return Err(RangeError::Empty { first, last });
        }
        Ok(Self { subnet, first, last, gateway })
    }

    /// What is left of a block. The first address stands for the block between nodes and counts as its gateway.
    fn parts(block: IpNet, except: &[IpNet]) -> Vec<Self> {
        let network = block.network();
        let (bottom, top) = (to_number(network), to_number(block.broadcast()));
        let of_family = except.iter().filter(|net| net.addr().is_ipv4() == network.is_ipv4());
        let mut holes: Vec<(u128, u128)> =
            of_family.map(|net| (to_number(net.network()), to_number(net.broadcast()))).collect();
        holes.push((bottom, bottom));
        holes.sort_unstable();
        let mut parts = Vec::new();
        let mut next = bottom;
        let part = |first: u128, last: u128| Self {
            subnet: block,
            first: like(first, network),
            last: like(last, network),
            gateway: network,
        };
        for (first, last) in
            holes.into_iter().filter(|(first, last)| *last >= bottom && *first <= top)
        {
            if first > next {
                parts.push(part(next, first - 1));
            }
            // The last address there is has none after it.
            let Some(after) = last.checked_add(1) else { return parts };
            next = next.max(after);
        }
        if next <= top {
            parts.push(part(next, top));
        }
        parts
    }

    fn holds(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4()
            && (to_number(self.first)..=to_number(self.last)).contains(&to_number(ip))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} of {}", self.first, self.last, self.subnet)
    }
}

impl RangeSet {
    /// Checks the configured sets: each of one family, no two ranges overlapping.
    ///
    /// # Errors
    /// [`RangeError`], the first one found.
    pub fn check(sets: Vec<Vec<RangeConfig>>) -> Result<Vec<Self>, RangeError> {
        let mut checked: Vec<Self> = Vec::new();
        for set in sets {
            let ranges = set.iter().map(Range::check).collect::<Result<Vec<_>, _>>()?;
            let Some(head) = ranges.first() else { return Err(RangeError::Missing) };
            let mixed = ranges.iter().find(|r| r.first.is_ipv4() != head.first.is_ipv4());
            if let Some(other) = mixed {
                return Err(RangeError::Mixed { one: head.subnet, other: other.subnet });
            }
            checked.push(Self { ranges });
        }
        let all: Vec<&Range> = checked.iter().flat_map(|set| &set.ranges).collect();
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                if one.holds(other.first) || other.holds(one.first) {
                    let (one, other) = (one.to_string(), other.to_string());
                    return Err(RangeError::Overlap { one, other });
                }
            }
        }
        if checked.is_empty() { Err(RangeError::Missing) } else { Ok(checked) }
    }

    /// Whole blocks of one family, but for the first address of each and for the exceptions; `None` when nothing is left.
    pub fn of_blocks<'a>(blocks: impl Iterator<Item = (IpNet, &'a [IpNet])>) -> Option<Self> {
        let ranges: Vec<Range> =
            blocks.flat_map(|(block, except)| Range::parts(block, except)).collect();
        (!ranges.is_empty()).then_some(Self { ranges })
    }

    /// Whether this set gives out that address.
    pub fn gives(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.holds(ip) && range.gateway != ip)
    }

    /// The address with its subnet's prefix length, and its range's gateway; `None` for one this set
    /// does not hold.
    pub fn describe(&self, ip: IpAddr) -> Option<(IpNet, IpAddr)> {
        let range = self.ranges.iter().find(|range| range.holds(ip))?;
        Some((IpNet::new(ip, range.subnet.prefix_len()).ok()?, range.gateway))
    }

    /// Whether the set's addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.ranges.iter().any(|range| range.first.is_ipv4())
    }

    /// How many addresses there are to give, at most `u64::MAX`.
    pub fn capacity(&self) -> u64 {
        let count = |range: &Range| {
            let all = to_number(range.last) - to_number(range.first);
            all.saturating_add(1) - u128::from(range.holds(range.gateway))
        };
        let total = self.ranges.iter().map(count).fold(0, u128::saturating_add);
        u64::try_from(total).unwrap_or(u64::MAX)
    }

    /// Every address once, beginning after `after` and wrapping round; from the start when `after`
    /// is not in the set.
    pub fn candidates(&self, after: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let at = after
            .and_then(|ip| self.ranges.iter().position(|range| range.holds(ip)).map(|at| (at, ip)));
        let (start, ip) = at.unwrap_or((0, self.ranges[0].first));
        let here = &self.ranges[start];
        let (bottom, top, number) = (to_number(here.first), to_number(here.last), to_number(ip));
        // With `after`, the rest of its range comes first and the part up to it last.
        let from = if at.is_some() { number.checked_add(1) } else { Some(bottom) };
        let rest = from.into_iter().flat_map(move |from| from..=top).map(move |n| (start, n));
        let others = (1..self.ranges.len()).map(move |step| (start + step) % self.ranges.len());
        let others = others.flat_map(move |at| {
            let range = &self.ranges[at];
            (to_number(range.first)..=to_number(range.last)).map(move |n| (at, n))
        });
        let wrapped = (at.is_some()).then(|| (bottom..=number).map(move |n| (start, n)));
        rest.chain(others).chain(wrapped.into_iter().flatten()).filter_map(|(at, number)| {
            let range = &self.ranges[at];
            let ip = like(number, range.first);
            (ip != range.gateway).then_some(ip)
        })
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.ranges.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}
