//! The slots a listed table gives a frontend: what a restarted agent goes on from.

use std::net::SocketAddr;

use nft::{Packed, Set, Table};

use crate::element::raise_endpoint;
use crate::program::SetId;
use crate::{Frontend, Side};

/// The endpoints of one side of `frontend` by slot, as far as they are there without a gap; empty if the table knows nothing of it.
pub(super) fn slots(table: &Table, frontend: &Frontend, side: Side) -> Vec<SocketAddr> {
    let (at, family, key) = (frontend.at(), frontend.family(), frontend.key());
    let endpoint = |set: &Set, key: &Packed| raise_endpoint(family, &set.elements.get(key)?.data);
    if let Some(set) = table.sets.get(&SetId::Slot(at, side, family).name()) {
        let random: Vec<_> = (0..).map_while(|slot| endpoint(set, &key.index(slot))).collect();
        if !random.is_empty() {
            return random;
        }
    }
    let affine = |slot| table.sets.get(&SetId::AffineSlot(at, side, family, slot).name());
    (0..).map_while(|slot| endpoint(affine(slot)?, &key)).collect()
}
