//! What the network between nodes follows from: one value, the latest counts.

use model::{Block, NodeFacts, Pool, Snapshot};

use crate::ipam::Wishes;

/// Nodes, pools and blocks at one moment, each sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Between {
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) blocks: Vec<Block>,
    /// What pods of this node ask for.
    pub(crate) wishes: Wishes,
    /// The API said all of it; else some is from disk, and may be older than what the API knows.
    pub(crate) from_api: bool,
}

impl Between {
    pub(crate) fn of(snapshot: &Snapshot, wishes: Wishes, from_api: bool) -> Self {
        let mut pools: Vec<Pool> = snapshot.pools().cloned().collect();
        pools.sort_by(|one, other| one.key.cmp(&other.key));
        let mut blocks: Vec<Block> = snapshot.blocks().cloned().collect();
        blocks.sort_by_key(|block| block.cidr);
        Self { nodes: snapshot.nodes().cloned().collect(), pools, blocks, wishes, from_api }
    }
}
