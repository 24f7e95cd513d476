//! Keys of maps as frontends.

use std::net::IpAddr;

use model::{Family, Protocol};
use nft::{Match, Name, Packed, Selector, Statement};

use crate::Frontend;

/// How a key says what is dialled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Address, protocol, port.
    Address(Family),
    /// Protocol, port.
    Port(Family),
}

impl Shape {
    /// The shape of a rule's key; `None` when it is not a frontend. Of a port alone the family is said by what else the
    /// rule compares, or by the map's name.
    pub(super) fn of(key: &[Selector], rule: &[Statement], map: &Name) -> Option<Self> {
        match key {
            [Selector::IpDaddr, Selector::MetaL4proto, port] if is_port(port) => {
                Some(Self::Address(Family::V4))
            }
            [Selector::Ip6Daddr, Selector::MetaL4proto, port] if is_port(port) => {
                Some(Self::Address(Family::V6))
            }
            [Selector::MetaL4proto, port] if is_port(port) => {
                let said = rule.iter().find_map(|statement| match statement {
                    Statement::Match(Match { left, .. }) => left.iter().find_map(family_of),
                    _ => None,
                });
                let named = || match map.as_str().trim_end_matches(|c: char| c != '4' && c != '6') {
                    name if name.ends_with('6') => Family::V6,
                    _ => Family::V4,
                };
                Some(Self::Port(said.unwrap_or_else(named)))
            }
            _ => None,
        }
    }

    /// The frontend an element of that shape stands for.
    pub(super) fn frontend(self, key: &Packed) -> Option<Frontend> {
        let bytes = key.as_bytes();
        let (address, rest) = match self {
            Self::Address(Family::V4) => {
                (Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?)), bytes.get(4..)?)
            }
            Self::Address(Family::V6) => {
                (Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?)), bytes.get(16..)?)
            }
            Self::Port(_) => (None, bytes),
        };
        let protocol = Protocol::from_number(*rest.first()?)?;
        let port = u16::from_be_bytes([*rest.get(4)?, *rest.get(5)?]);
        Some(match (address, self) {
            (Some(address), _) => Frontend::Address { address, protocol, port },
            (None, Self::Address(family) | Self::Port(family)) => {
                Frontend::NodePort { family, protocol, port }
            }
        })
    }
}

fn is_port(selector: &Selector) -> bool {
    matches!(
        selector,
        Selector::ThDport | Selector::TcpDport | Selector::UdpDport | Selector::SctpDport
    )
}

/// The family a selector can only be read in.
pub(super) fn family_of(selector: &Selector) -> Option<Family> {
    match selector {
        Selector::IpSaddr | Selector::IpDaddr => Some(Family::V4),
        Selector::Ip6Saddr | Selector::Ip6Daddr => Some(Family::V6),
        _ => None,
    }
}

/// What a selector reads from a packet to `frontend`; `None` when the frontend does not say.
pub(super) fn known(selector: &Selector, frontend: &Frontend) -> Option<Packed> {
    let packed = match (selector, frontend) {
        (Selector::IpDaddr | Selector::Ip6Daddr, Frontend::Address { address, .. }) => {
            crate::frontend::packed_address(*address)
        }
        // NFPROTO_IPV4, NFPROTO_IPV6.
        (Selector::MetaNfproto, _) => {
            Packed::new().proto(if frontend.family() == Family::V4 { 2 } else { 10 })
        }
        (Selector::MetaL4proto, _) => Packed::new().proto(frontend.protocol().number()),
        (port, _) if is_port(port) => Packed::new().port(frontend.port()),
        _ => return None,
    };
    Some(packed)
}
