//! Which ranges a node's pods have: those its Node names, and the blocks it holds.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{SnapshotWriter, Update, tables};
use crate::{Block, NodeFacts, NodeName, ObjectKey};

/// Ranges by node, from both sources.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    expected: bool,
    only_blocks: bool,
    /// `spec.podCIDRs`, of nodes that are known.
    named: BTreeMap<NodeName, Vec<IpNet>>,
    /// Blocks and parts of blocks, of nodes whether known or not.
    held: BTreeMap<NodeName, BTreeSet<IpNet>>,
}

impl Ranges {
    pub(super) fn are_expected(&self) -> bool {
        self.expected
    }

    /// A node as its object tells it gets the ranges it has.
    pub(super) fn put_node(&mut self, node: &mut NodeFacts) {
        self.named.insert(node.name.clone(), std::mem::take(&mut node.pod_cidrs));
        node.pod_cidrs = self.of(&node.name);
    }

    pub(super) fn drop_node(&mut self, name: &NodeName) {
        self.named.remove(name);
    }

    fn of(&self, name: &NodeName) -> Vec<IpNet> {
        let named = self.named.get(name).filter(|_| !self.only_blocks);
        let mut all: Vec<IpNet> = named.into_iter().flatten().copied().collect();
        let held = self.held.get(name).into_iter().flatten();
        // What was read from disk names blocks among a node's own ranges.
        let held: Vec<IpNet> = held.filter(|range| !all.contains(range)).copied().collect();
        all.extend(held);
        all
    }

    /// The ranges of one block, taken away or added; names the nodes concerned.
    fn move_block(&mut self, block: &Block, add: bool) -> impl Iterator<Item = NodeName> {
        let whole = std::iter::once((&block.node, block.cidr));
        let parts = block.lent.iter().map(|part| (&part.node, part.cidr));
        let mut names = BTreeSet::new();
        for (node, cidr) in whole.chain(parts) {
            let held = self.held.entry(node.clone()).or_default();
            if add {
                held.insert(cidr);
            } else {
                held.remove(&cidr);
            }
            names.insert(node.clone());
        }
        self.held.retain(|_, ranges| !ranges.is_empty());
        names.into_iter()
    }
}

impl SnapshotWriter {
    /// Pools and blocks will be told of: [`Self::is_complete`] waits for their lists. With `only_blocks` a node's pods have
    /// the addresses of its blocks; what its object says in `spec.podCIDRs` is not used by anybody.
    #[must_use]
    pub fn expecting_pools(mut self, only_blocks: bool) -> Self {
        self.ranges.expected = true;
        self.ranges.only_blocks = only_blocks;
        self
    }

    pub(super) fn apply_block(&mut self, update: Update<Block>) -> bool {
        let blocks = &mut self.snapshot.blocks;
        let keys: Vec<ObjectKey> = match &update {
            Update::Listed(block) | Update::Applied(block) => vec![block.key.clone()],
            Update::Deleted(key) => vec![key.clone()],
            Update::End => blocks.keys().cloned().collect(),
            Update::Begin | Update::Unreadable(_) => Vec::new(),
        };
        let before: Vec<Block> = keys.iter().filter_map(|key| blocks.get(key)).cloned().collect();
        if !tables::apply(blocks, &mut self.blocks, &mut self.change.blocks, update) {
            return false;
        }
        let mut concerned: BTreeSet<NodeName> = BTreeSet::new();
        for old in &before {
            concerned.extend(self.ranges.move_block(old, false));
        }
        for new in keys.iter().filter_map(|key| self.snapshot.blocks.get(key)) {
            concerned.extend(self.ranges.move_block(new, true));
        }
        for name in concerned {
            let Some(node) = self.snapshot.nodes.get_mut(&name) else { continue };
            let ranges = self.ranges.of(&name);
            if node.pod_cidrs != ranges {
                node.pod_cidrs = ranges;
                self.change.nodes.insert(name);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Lent};

    fn block(cidr: &str, node: &str, lent: &[(&str, &str)]) -> Block {
        let cidr: IpNet = cidr.parse().unwrap();
        let part = |(cidr, node): &(&str, &str)| Lent {
            cidr: cidr.parse().unwrap(),
            node: NodeName::new(node),
        };
        Block {
            key: ObjectKey::new("", &Block::name_of(cidr)),
            cidr,
            node: NodeName::new(node),
            lent: lent.iter().map(part).collect(),
            asking: Vec::new(),
            version: None,
        }
    }

    fn node(name: &str, cidr: &str) -> NodeFacts {
        NodeFacts {
            name: NodeName::new(name),
            uid: None,
            internal_ips: Vec::new(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            labels: crate::Labels::default(),
            zone: None,
            leaving: false,
        }
    }

    fn ranges(writer: &SnapshotWriter, node: &str) -> Vec<String> {
        let facts = writer.snapshot().node(node).unwrap();
        facts.pod_cidrs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn blocks_are_their_nodes_ranges_in_whatever_order_they_come() {
        for only_blocks in [false, true] {
            let mut writer = SnapshotWriter::default().expecting_pools(only_blocks);
            assert!(writer.pending().contains(&"addressblocks"));
            writer.apply(Event::Block(Update::Applied(block("10.1.0.64/26", "b", &[]))));
            writer.apply(Event::Node(Update::Applied(node("a", "10.244.1.0/24"))));
            writer.apply(Event::Node(Update::Applied(node("b", "10.244.2.0/24"))));
            drop(writer.take_change());
            let lent = [("10.1.0.8/29", "b")];
            writer.apply(Event::Block(Update::Applied(block("10.1.0.0/26", "a", &lent))));
            let change = writer.take_change();
            assert_eq!((change.nodes.len(), change.blocks.len()), (2, 1));
            let named = |cidr: &str| (!only_blocks).then(|| cidr.to_owned()).into_iter();
            let expected: Vec<String> = named("10.244.2.0/24")
                .chain(["10.1.0.8/29".into(), "10.1.0.64/26".into()])
                .collect();
            assert_eq!(ranges(&writer, "b"), expected);
            // A node that is told again keeps its blocks; nothing has changed.
            writer.apply(Event::Node(Update::Applied(node("b", "10.244.2.0/24"))));
            assert!(!writer.has_change());
            writer.apply(Event::Block(Update::Deleted(ObjectKey::new("", "10-1-0-0-26"))));
            assert!(!ranges(&writer, "b").contains(&"10.1.0.8/29".to_owned()));
        }
    }
}
