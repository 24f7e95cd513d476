//! Ranges of addresses and ports: joined, and with holes cut out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use model::Protocol;

/// Closed ranges of numbers.
type Ranges = Vec<(u128, u128)>;

/// The addresses of these ranges less their exceptions, as ranges that do not touch; IPv4 first.
pub(crate) fn blocks<'a>(
    from: impl IntoIterator<Item = (&'a IpNet, &'a [IpNet])>,
) -> Vec<(IpAddr, IpAddr)> {
    let (mut v4, mut v6) = (Ranges::new(), Ranges::new());
    for (cidr, except) in from {
        let holes = except.iter().filter(|hole| hole.addr().is_ipv4() == cidr.addr().is_ipv4());
        let rest = without(numbers(cidr), joined(holes.map(numbers).collect()));
        if cidr.addr().is_ipv4() { v4.extend(rest) } else { v6.extend(rest) }
    }
    let as_v4 = |number: u128| IpAddr::V4(Ipv4Addr::from(number as u32));
    let as_v6 = |number: u128| IpAddr::V6(Ipv6Addr::from(number));
    let v4 = joined(v4).into_iter().map(|(first, last)| (as_v4(first), as_v4(last)));
    let v6 = joined(v6).into_iter().map(|(first, last)| (as_v6(first), as_v6(last)));
    v4.chain(v6).collect()
}

/// Whether one of these ranges has this address.
pub(crate) fn contains(ranges: &[(IpAddr, IpAddr)], address: IpAddr) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && ranges[after - 1].1 >= address
}

/// Ports joined per protocol.
pub(crate) fn ports(ranges: &[(Protocol, u16, u16)]) -> Vec<(Protocol, u16, u16)> {
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let own = ranges.iter().filter(|range| range.0 == protocol);
        let own = own.map(|(_, first, last)| (u128::from(*first), u128::from(*last))).collect();
        let joined = joined(own).into_iter();
        all.extend(joined.map(|(first, last)| (protocol, first as u16, last as u16)));
    }
    all
}

fn numbers(net: &IpNet) -> (u128, u128) {
    let number = |address| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(net.network()), number(net.broadcast()))
}

/// The same numbers as ranges that do not touch, in order.
fn joined(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut all = Ranges::new();
    for (first, last) in ranges {
        match all.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => all.push((first, last)),
        }
    }
    all
}

/// One range less these, which are in order and do not touch.
fn without((mut first, last): (u128, u128), holes: Ranges) -> Ranges {
    let mut rest = Ranges::new();
    for (from, to) in holes {
        if to < first || from > last {
            continue;
        }
        if from > first {
            rest.push((first, from - 1));
        }
        match to.checked_add(1).filter(|next| *next <= last) {
            Some(next) => first = next,
            None => return rest,
        }
    }
    rest.push((first, last));
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a CIDR")
    }

    #[test]
    fn holes_are_cut_and_what_another_range_gives_back_counts() {
        let except = [net("10.0.1.0/24"), net("10.0.255.0/24")];
        let one = (net("10.0.0.0/16"), except.as_slice());
        let cut = blocks([(&one.0, one.1)]);
        let text: Vec<String> = cut.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        assert_eq!(text, ["10.0.0.0-10.0.0.255", "10.0.2.0-10.0.254.255"]);
        let back = net("10.0.1.7/32");
        assert!(!contains(&cut, back.addr()));
        let both = blocks([(&one.0, one.1), (&back, &[])]);
        assert!(contains(&both, back.addr()));
        assert_eq!(both.len(), 3);
        let whole = [net("::/0")];
        assert_eq!(blocks([(&whole[0], whole.as_slice())]), []);
    }

    proptest! {
        #[test]
        fn an_address_is_in_the_ranges_if_some_block_has_it_and_does_not_except_it(
            blocks in prop::collection::vec(
                ((any::<u8>(), 24..=32u8), prop::collection::vec((any::<u8>(), 24..=32u8), 0..4)), 0..5),
            address: u8,
        ) {
            let net = |(last, length): (u8, u8)| {
                IpNet::new(IpAddr::V4([10, 0, 0, last].into()), length).expect("a CIDR").trunc()
            };
            let blocks: Vec<(IpNet, Vec<IpNet>)> = blocks
                .into_iter()
                .map(|(cidr, except)| (net(cidr), except.into_iter().map(net).collect()))
                .collect();
            let address: IpAddr = IpAddr::V4([10, 0, 0, address].into());
            let expected = blocks.iter().any(|(cidr, except)| {
                cidr.contains(&address) && !except.iter().any(|hole| hole.contains(&address))
            });
            let ranges = super::blocks(blocks.iter().map(|(cidr, except)| (cidr, except.as_slice())));
            prop_assert_eq!(contains(&ranges, address), expected);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
