//! Elements as the planner thinks of them: which set, which key, what it says. They become nft elements at the very end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::Family;
use nft::{Element, Packed, SetSpec, Verdict};

use crate::frontend::{At, packed_address};
use crate::program::{self, CountChain, SetId};

/// What an element says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// Nothing: member of a plain set.
    Member,
    /// The last address of a range; the key's other components are one value each.
    RangeTo(IpAddr),
    /// An endpoint.
    Endpoint(SocketAddr),
    /// The chain that serves a frontend, or one side of it.
    Chain(CountChain),
    /// The chain that tells the sides of a frontend apart.
    TwoSides(At),
}

/// Where an element is.
pub(crate) type Place = (SetId, Packed);

/// Elements of any sets, in the order they were said.
#[derive(Debug, Default)]
pub(crate) struct Elements(Vec<(Place, Value)>);

impl Elements {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Says one more.
    pub(crate) fn insert(&mut self, at: Place, value: Value) {
        self.0.push((at, value));
    }

    /// Takes all out, in the order they were said; the room stays.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Place, Value)> + '_ {
        self.0.drain(..)
    }

    /// All, by set and key, each once: what was said last counts.
    pub(crate) fn into_sorted(mut self) -> Vec<(Place, Value)> {
        self.0.sort_by_key(|(at, _)| *at);
        self.0.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = next.1;
            }
            same
        });
        self.0
    }
}

impl Extend<(Place, Value)> for Elements {
    fn extend<T: IntoIterator<Item = (Place, Value)>>(&mut self, elements: T) {
        self.0.extend(elements);
    }
}

/// The nft form of one.
pub(crate) fn lower(key: Packed, value: &Value) -> Element {
    match value {
        Value::Member => Element::key(key),
        Value::RangeTo(end) => {
            let end = packed_address(*end);
            let before = &key.as_bytes()[..key.len().saturating_sub(end.len())];
            Element::key(key).to(Packed::new().raw(before).then(&end))
        }
        Value::Endpoint(endpoint) => {
            Element::new(key, nft::Data::Value(packed_address(endpoint.ip()).port(endpoint.port())))
        }
        Value::Chain(chain) => Element::verdict(key, Verdict::Goto(chain.name())),
        Value::TwoSides(at) => Element::verdict(key, Verdict::Goto(program::two_sides(*at))),
    }
}

/// An endpoint read back from a slot map.
pub(crate) fn raise_endpoint(family: Family, data: &nft::Data) -> Option<SocketAddr> {
    let nft::Data::Value(packed) = data else { return None };
    let bytes = packed.as_bytes();
    let (address, port): (IpAddr, &[u8]) = match family {
        Family::V4 => (<[u8; 4]>::try_from(bytes.get(..4)?).ok()?.into(), bytes.get(4..6)?),
        Family::V6 => (<[u8; 16]>::try_from(bytes.get(..16)?).ok()?.into(), bytes.get(16..18)?),
    };
    Some(SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]])))
}

/// Turns elements into their nft form; the names of chains are made once, thousands of frontends share one.
#[derive(Debug, Default)]
pub(crate) struct Lowering(HashMap<Value, nft::Data>);

impl Lowering {
    /// The nft form of one.
    pub(crate) fn lower(&mut self, key: Packed, value: &Value) -> Element {
        match value {
            Value::Member | Value::RangeTo(_) | Value::Endpoint(_) => lower(key, value),
            shared => match self.0.get(shared) {
                Some(data) => Element::new(key, data.clone()),
                None => {
                    let element = lower(key, shared);
                    self.0.insert(*shared, element.data.clone());
                    element
                }
            },
        }
    }
}

/// Set declarations, made once and shared by every operation that names them.
#[derive(Debug, Default)]
pub(crate) struct Specs(HashMap<SetId, Arc<SetSpec>>);

impl Specs {
    pub(crate) fn get(&mut self, set: SetId) -> Arc<SetSpec> {
        match self.0.entry(set) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(Arc::new(set.spec())).clone(),
        }
    }

    pub(crate) fn forget(&mut self, set: SetId) {
        self.0.remove(&set);
    }
}
