//! The last facts on disk, so that a node that starts while the API is down serves what it served before.
//!
//! One file, `facts.log`: a line that says what it is, then one line per Service (with its EndpointSlices) or node, each led by
//! its checksum, a later line replacing an earlier one about the same thing. The first part is written whole and ends with a
//! mark; changes are appended. So keeping it costs in proportion to what changed, and now and then, when the appended part
//! has outgrown the first, one more whole. This room is the format, and pure; `store` writes.

mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};

use model::{
    Block, EndpointSlice, Event, NodeFacts, NodeName, Pool, Service, ServiceCidr, ServiceKey,
    Snapshot, Update,
};
use serde::{Deserialize, Serialize};

pub(crate) use store::{FILE, Store};

/// The first line.
const HEADER: &str = "fairway-facts 1\n";

/// A line to write.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Line<'a> {
    Service {
        key: &'a ServiceKey,
        service: Option<&'a Service>,
        slices: &'a [EndpointSlice],
    },
    Node {
        name: &'a NodeName,
        node: Option<&'a NodeFacts>,
    },
    /// All of them.
    ServiceCidrs {
        cidrs: Vec<&'a ServiceCidr>,
    },
    /// All of them.
    Pools {
        pools: Vec<&'a Pool>,
        blocks: Vec<&'a Block>,
    },
    Whole,
}

/// A line read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Record {
    Service { key: ServiceKey, service: Option<Service>, slices: Vec<EndpointSlice> },
    Node { name: NodeName, node: Option<NodeFacts> },
    ServiceCidrs { cidrs: Vec<ServiceCidr> },
    Pools { pools: Vec<Pool>, blocks: Vec<Block> },
    Whole,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    services: HashMap<ServiceKey, (Option<Service>, Vec<EndpointSlice>)>,
    nodes: BTreeMap<NodeName, NodeFacts>,
    service_cidrs: Vec<ServiceCidr>,
    pools: Vec<Pool>,
    blocks: Vec<Block>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it begins with {0:?}: another program's, or of a version this one does not know")]
    Foreign(String),
    #[error("its first part is damaged or cut off in line {0}")]
    Damaged(usize),
}

/// Facts, and the line from which on the file is of no use, if there is one.
pub(crate) type Loaded = (Facts, Option<usize>);

/// Reads a file. What follows damage in the appended part is not used; damage before makes the whole useless.
pub(crate) fn read(mut from: impl BufRead) -> Result<Loaded, StateError> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line != HEADER.as_bytes() {
        line.truncate(40);
        return Err(StateError::Foreign(String::from_utf8_lossy(&line).into_owned()));
    }
    let mut facts = Facts::default();
    let mut whole = false;
    for number in 2.. {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return if whole { Ok((facts, None)) } else { Err(StateError::Damaged(number)) };
        }
        match decode(&line) {
            Some(Record::Service { key, service: None, slices }) if slices.is_empty() => {
                facts.services.remove(&key);
            }
            Some(Record::Service { key, service, slices }) => {
                facts.services.insert(key, (service, slices));
            }
            Some(Record::Node { name, node: Some(node) }) => {
                facts.nodes.insert(name, node);
            }
            Some(Record::Node { name, node: None }) => {
                facts.nodes.remove(&name);
            }
            Some(Record::ServiceCidrs { cidrs }) => facts.service_cidrs = cidrs,
            Some(Record::Pools { pools, blocks }) => (facts.pools, facts.blocks) = (pools, blocks),
            Some(Record::Whole) => whole = true,
            None if whole => return Ok((facts, Some(number))),
            None => return Err(StateError::Damaged(number)),
        }
    }
    unreachable!("invariant: line numbers do not end")
}

impl Facts {
    /// How many Services and nodes.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.nodes.len())
    }

    /// As if the watches had listed them.
    pub(crate) fn events(self) -> impl Iterator<Item = Event> {
        let begin = [
            Event::Service(Update::Begin),
            Event::Slice(Update::Begin),
            Event::Node(Update::Begin),
            Event::ServiceCidr(Update::Begin),
            Event::Pool(Update::Begin),
            Event::Block(Update::Begin),
        ];
        let end = [
            Event::Service(Update::End),
            Event::Slice(Update::End),
            Event::Node(Update::End),
            Event::ServiceCidr(Update::End),
            Event::Pool(Update::End),
            Event::Block(Update::End),
        ];
        let services = self.services.into_values().flat_map(|(service, slices)| {
            let slices = slices.into_iter().map(|slice| Event::Slice(Update::Listed(slice)));
            service.map(|service| Event::Service(Update::Listed(service))).into_iter().chain(slices)
        });
        let nodes = self.nodes.into_values().map(|node| Event::Node(Update::Listed(node)));
        let cidrs = self.service_cidrs.into_iter();
        let cidrs = cidrs.map(|cidr| Event::ServiceCidr(Update::Listed(cidr)));
        let pools = self.pools.into_iter().map(|pool| Event::Pool(Update::Listed(pool)));
        let blocks = self.blocks.into_iter().map(|block| Event::Block(Update::Listed(block)));
        begin
            .into_iter()
            .chain(services)
            .chain(nodes)
            .chain(cidrs)
            .chain(pools)
            .chain(blocks)
            .chain(end)
    }
}

/// Appends what is known of a Service.
fn put_service(out: &mut Vec<u8>, snapshot: &Snapshot, key: &ServiceKey) {
    let (service, slices) = (snapshot.service(key), snapshot.slices(key));
    encode(out, &Line::Service { key, service, slices });
}

/// Appends what is known of a node.
fn put_node(out: &mut Vec<u8>, snapshot: &Snapshot, name: &NodeName) {
    encode(out, &Line::Node { name, node: snapshot.node(name.as_str()) });
}

/// Appends the ServiceCIDRs.
fn put_service_cidrs(out: &mut Vec<u8>, snapshot: &Snapshot) {
    encode(out, &Line::ServiceCidrs { cidrs: snapshot.service_cidrs().collect() });
}

/// Appends the pools and blocks.
fn put_pools(out: &mut Vec<u8>, snapshot: &Snapshot) {
    let (pools, blocks) = (snapshot.pools().collect(), snapshot.blocks().collect());
    encode(out, &Line::Pools { pools, blocks });
}

fn encode(out: &mut Vec<u8>, line: &Line<'_>) {
    let start = out.len();
    // The checksum's place.
    out.extend_from_slice(b"00000000 ");
    if serde_json::to_writer(&mut *out, line).is_err() {
        // Facts are plain values; a line that cannot be written is left out, and its facts come from the API.
        out.truncate(start);
        return;
    }
    let sum = format!("{:08x}", crc32(&out[start + 9..]));
    out[start..start + 8].copy_from_slice(sum.as_bytes());
    out.push(b'\n');
}

fn decode(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, json) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// CRC-32 as in IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let step = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8;
    !bytes.iter().fold(!0, step)
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}
