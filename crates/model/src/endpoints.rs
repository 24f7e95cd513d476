//! EndpointSlices, and the endpoints of one Service port merged from many of them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Family, NodeName, Protocol, ServiceKey, SliceKey, Uid};

/// `addressType` of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressType {
    /// `IPv4`.
    V4,
    /// `IPv6`.
    V6,
    /// `FQDN`: nothing for a node to do.
    Fqdn,
}

impl AddressType {
    /// The IP family, none for names.
    #[must_use]
    pub fn family(self) -> Option<Family> {
        match self {
            Self::V4 => Some(Family::V4),
            Self::V6 => Some(Family::V6),
            Self::Fqdn => None,
        }
    }
}

/// `conditions` of an endpoint, with the API's meaning of absent fields applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Takes new connections (absent means true).
    pub ready: bool,
    /// Answers, though it may be going away (absent means `ready`).
    pub serving: bool,
    /// Is going away (absent means false).
    pub terminating: bool,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes`.
    pub nodes: Box<[NodeName]>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Its name, empty if none: joins with a Service port of that name.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port the endpoints listen on.
    pub port: u16,
}

/// One address of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The address.
    pub address: IpAddr,
    /// Whether it takes traffic.
    pub conditions: Conditions,
    /// The node it runs on.
    pub node: Option<NodeName>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// Whom it should serve.
    pub hints: Option<Box<Hints>>,
    /// `hostname`: the name DNS gives it below that of its Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
}

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: SliceKey,
    /// `metadata.uid`.
    pub uid: Option<Uid>,
    /// The Service of the label `kubernetes.io/service-name`.
    pub service: ServiceKey,
    /// `addressType`.
    pub address_type: AddressType,
    /// The ports every endpoint of the slice has.
    pub ports: Box<[SlicePort]>,
    /// The endpoints.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// An endpoint of one Service port, merged over slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it takes traffic.
    pub conditions: Conditions,
    /// The node it runs on.
    pub node: Option<&'a NodeName>,
    /// The zone it runs in.
    pub zone: Option<&'a str>,
    /// Whom it should serve.
    pub hints: Option<&'a Hints>,
}

/// Merges the endpoints of `slices` for one port. Sorted by address; an address in several slices counts once, and is
/// ready if any of them says so: during a move between slices the object that knows less must not take it away.
pub(crate) fn merge<'a>(
    slices: &'a [EndpointSlice],
    port_name: &str,
    protocol: Protocol,
    family: Family,
) -> Vec<Endpoint<'a>> {
    let mut merged: Vec<Endpoint<'a>> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type.family() == Some(family)) {
        for port in &slice.ports {
            if port.protocol != protocol || *port.name != *port_name {
                continue;
            }
            merged.extend(slice.endpoints.iter().map(|endpoint| Endpoint {
                address: SocketAddr::new(endpoint.address, port.port),
                conditions: endpoint.conditions,
                node: endpoint.node.as_ref(),
                zone: endpoint.zone.as_deref(),
                hints: endpoint.hints.as_deref(),
            }));
        }
    }
    // A slice's own order breaks ties, so the merge must be stable and the slices in a fixed order (the writer sorts them).
    merged.sort_by_key(|endpoint| endpoint.address);
    merged.dedup_by(|next, kept| {
        if next.address != kept.address {
            return false;
        }
        kept.conditions = Conditions {
            ready: kept.conditions.ready || next.conditions.ready,
            serving: kept.conditions.serving || next.conditions.serving,
            terminating: kept.conditions.terminating && next.conditions.terminating,
        };
        kept.node = kept.node.or(next.node);
        kept.zone = kept.zone.or(next.zone);
        kept.hints = kept.hints.or(next.hints);
        true
    });
    merged
}
