//! The slots a listed table gives a frontend: what a restarted agent goes on from.

use std::net::SocketAddr;

use nft::{Packed, Table};

use crate::element::raise_endpoint;
use crate::program::SetId;
use crate::{Frontend, Side};

/// The endpoints of one side of `frontend` by slot, as far as they are there without a gap; empty if the table knows nothing of it.
pub(super) fn slots(table: &Table, frontend: &Frontend, side: Side) -> Vec<SocketAddr> {
    let (at, family, key) = (frontend.at(), frontend.family(), frontend.key());
    let endpoint = |set: SetId, key: Packed| {
        let element = table.sets.get(&set.name())?.elements.get(&key)?;
        raise_endpoint(family, &element.data)
    };
    let random: Vec<_> =
        (0..).map_while(|slot| endpoint(SetId::Slot(at, side, family), key.index(slot))).collect();
    if !random.is_empty() {
        return random;
    }
    (0..).map_while(|slot| endpoint(SetId::AffineSlot(at, side, family, slot), key)).collect()
}
