//! Which blocks this node should hold. Pure: from pools, blocks, and how many addresses are taken, to steps.
//!
//! A block is wanted when little is free, and given back when it is empty and the others have room. When no pool has a free
//! block left, a part of another node's is asked for; its owner sets one apart and writes that down. Of what a node holds
//! nothing is given back while an address of it is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni::ipam::blocks::{Blocks, HeldBlock, Wish};
use ipnet::IpNet;
use model::{Block, NodeName, Pool};

use crate::between::Between;

/// Fewer free addresses than a quarter of a block: the next one is taken.
const SPARE_SHARE: u32 = 4;
/// A lent part has this many host bits: 8 addresses.
const LENT_BITS: u8 = 3;
/// How many blocks of a pool are looked at for a free one.
const LOOKED_AT: u128 = 1 << 16;

/// One thing to do with the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Take this block; another node may be faster.
    Claim(IpNet),
    /// Give back a block: close it on this node, see that it is empty, delete its object.
    GiveBack(IpNet),
    /// Ask the owner of this block for a part.
    Ask(IpNet),
    /// Set a part of this own block apart for that node, or say no.
    Lend(IpNet, NodeName),
    /// Give back a part of that block.
    Return { block: IpNet, part: IpNet },
    /// A node that is gone holds this block, or asks for or uses parts of it.
    Reclaim(IpNet),
}

/// How much of a range is taken.
pub(crate) type Taken = BTreeSet<IpAddr>;

/// What this node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held<'a> {
    cidr: IpNet,
    pool: Option<&'a Pool>,
    /// The block it is a part of.
    of: Option<IpNet>,
    except: Vec<IpNet>,
}

impl Held<'_> {
    fn taken(&self, taken: &Taken) -> usize {
        taken.range(self.cidr.network()..=self.cidr.broadcast()).count()
    }

    /// Addresses pods can have, taken or not. The first stands for the block.
    fn room(&self) -> u128 {
        let except = self.except.iter().filter(|net| self.cidr.contains(*net)).map(size);
        size(&self.cidr).saturating_sub(1).saturating_sub(except.sum())
    }

    fn is_open(&self, node: &BTreeSet<&str>) -> bool {
        self.pool.is_some_and(|pool| !pool.disabled && node.contains(pool.key.name()))
    }
}

fn size(net: &IpNet) -> u128 {
    1u128.checked_shl(u32::from(net.max_prefix_len() - net.prefix_len())).unwrap_or(u128::MAX)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

fn pool_of(pools: &[Pool], cidr: IpNet) -> Option<&Pool> {
    let around = pools.iter().filter(|pool| pool.cidr.contains(&cidr));
    around.max_by_key(|pool| pool.cidr.prefix_len())
}

fn held<'a>(facts: &'a Between, node: &NodeName) -> Vec<Held<'a>> {
    let mut all = Vec::new();
    for block in &facts.blocks {
        let pool = pool_of(&facts.pools, block.cidr);
        let reserved = || pool.into_iter().flat_map(|pool| pool.reserved.iter().copied());
        if block.node == *node {
            let except = reserved().chain(block.lent.iter().map(|part| part.cidr)).collect();
            all.push(Held { cidr: block.cidr, pool, of: None, except });
        }
        for part in block.lent.iter().filter(|part| part.node == *node && block.node != *node) {
            let except = reserved().collect();
            all.push(Held { cidr: part.cidr, pool, of: Some(block.cidr), except });
        }
    }
    all
}

/// Names of the pools this node may take blocks of.
fn open_pools<'a>(facts: &'a Between, node: &NodeName) -> BTreeSet<&'a str> {
    let Some(own) = facts.nodes.iter().find(|facts| facts.name == *node) else {
        return BTreeSet::new();
    };
    let open = facts.pools.iter().filter(|pool| !pool.disabled && pool.nodes.selects(&own.labels));
    open.map(|pool| pool.key.name()).collect()
}

/// The list for the plugin.
pub(crate) fn list(
    facts: &Between,
    node: &NodeName,
    closing: &BTreeSet<IpNet>,
    wishes: BTreeMap<String, Wish>,
) -> Blocks {
    let open = open_pools(facts, node);
    let blocks = held(facts, node).into_iter().map(|held| HeldBlock {
        cidr: held.cidr,
        pool: held.pool.map(|pool| pool.key.name().to_owned()).unwrap_or_default(),
        except: held.except.iter().filter(|net| overlap(held.cidr, **net)).copied().collect(),
        on_request: held.pool.is_some_and(|pool| pool.on_request),
        closed: closing.contains(&held.cidr) || !held.is_open(&open),
    });
    Blocks { blocks: blocks.collect(), wishes }
}

/// What to do next. `hungry` says that a pod waits for an address; `refused` are blocks somebody else turned out to have.
pub(crate) fn steps(
    facts: &Between,
    node: &NodeName,
    taken: &Taken,
    wishes: &BTreeMap<String, Wish>,
    hungry: bool,
    refused: &BTreeSet<IpNet>,
) -> Vec<Step> {
    let open = open_pools(facts, node);
    let held = held(facts, node);
    let mut steps = Vec::new();
    for v4 in [true, false] {
        let of_family = |cidr: &IpNet| cidr.addr().is_ipv4() == v4;
        let pools: Vec<&Pool> = facts
            .pools
            .iter()
            .filter(|pool| of_family(&pool.cidr) && open.contains(pool.key.name()))
            .collect();
        let general: Vec<&Pool> = pools.iter().filter(|pool| !pool.on_request).copied().collect();
        let mine: Vec<&Held<'_>> = held.iter().filter(|held| of_family(&held.cidr)).collect();
        let usable = |held: &&&Held<'_>| {
            held.is_open(&open) && held.pool.is_some_and(|pool| !pool.on_request)
        };
        let free = |held: &Held<'_>| held.room().saturating_sub(held.taken(taken) as u128);
        let room: u128 = mine.iter().filter(usable).map(|held| free(held)).sum();
        let spare = general.first().map_or(0, |pool| spare(pool));
        if !general.is_empty() && (room < spare || hungry && room == 0) {
            match general.iter().find_map(|pool| free_block(pool, facts, node, refused, None)) {
                Some(cidr) => steps.push(Step::Claim(cidr)),
                // Somebody else's, but only when a pod would get none.
                None if room == 0 => steps.extend(ask(facts, &general, node)),
                None => {}
            }
        }
        // Pools and addresses pods ask for.
        for wish in wishes.values() {
            for pool in
                pools.iter().filter(|pool| wish.pools.iter().any(|name| name == pool.key.name()))
            {
                let has = mine.iter().any(|held| held.pool == Some(*pool) && free(held) > 0);
                if !has {
                    let block = free_block(pool, facts, node, refused, None);
                    steps.extend(block.map(Step::Claim));
                }
            }
            for ip in wish.addresses.iter().filter(|ip| ip.is_ipv4() == v4) {
                let around = pools.iter().find(|pool| pool.cidr.contains(ip));
                let block =
                    around.and_then(|pool| free_block(pool, facts, node, refused, Some(*ip)));
                steps.extend(block.map(Step::Claim));
            }
        }
        let wished = |held: &Held<'_>| {
            wishes.values().any(|wish| {
                wish.addresses.iter().any(|ip| held.cidr.contains(ip))
                    || held
                        .pool
                        .is_some_and(|pool| wish.pools.iter().any(|name| name == pool.key.name()))
            })
        };
        // One at a time, and never so that the next step would take one again.
        let empty = mine.iter().rev().find(|held| {
            let others = room.saturating_sub(if usable(held) { free(held) } else { 0 });
            let needed = usable(held) && others < 2 * spare.max(1);
            held.taken(taken) == 0 && !needed && !wished(held) && held.except_lent_is_empty(facts)
        });
        if let Some(held) = empty.filter(|_| !hungry) {
            steps.push(match held.of {
                Some(block) => Step::Return { block, part: held.cidr },
                None => Step::GiveBack(held.cidr),
            });
        }
    }
    for block in facts.blocks.iter().filter(|block| block.node == *node) {
        steps.extend(block.asking.first().map(|who| Step::Lend(block.cidr, who.clone())));
    }
    steps.sort();
    steps.dedup();
    steps
}

impl Held<'_> {
    /// A block with parts at other nodes stays.
    fn except_lent_is_empty(&self, facts: &Between) -> bool {
        let own = facts.blocks.iter().find(|block| block.cidr == self.cidr && self.of.is_none());
        own.is_none_or(|block| block.lent.is_empty() && block.asking.is_empty())
    }
}

/// How many free addresses a node keeps.
fn spare(pool: &Pool) -> u128 {
    let bits = u32::from(pool.cidr.max_prefix_len() - pool.block_len);
    1u128.checked_shl(bits).unwrap_or(u128::MAX) / u128::from(SPARE_SHARE)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(number.to_be_bytes()),
    }
}

/// A block of a pool nobody holds, beginning at a place of this node's own, so that nodes that start together do not all
/// reach for the same; the one with `ip` in it, when that is given.
fn free_block(
    pool: &Pool,
    facts: &Between,
    node: &NodeName,
    refused: &BTreeSet<IpNet>,
    ip: Option<IpAddr>,
) -> Option<IpNet> {
    let bits = u32::from(pool.cidr.max_prefix_len() - pool.block_len);
    let count =
        1u128.checked_shl(u32::from(pool.block_len - pool.cidr.prefix_len())).unwrap_or(u128::MAX);
    let first = number(pool.cidr.network());
    let block = |at: u128| {
        IpNet::new(address(first + (at << bits), pool.cidr.network()), pool.block_len).ok()
    };
    let held: BTreeMap<IpAddr, IpAddr> =
        facts.blocks.iter().map(|block| (block.cidr.network(), block.cidr.broadcast())).collect();
    let is_free = |cidr: &IpNet| {
        let before = held.range(..=cidr.broadcast()).next_back();
        let met = before.is_some_and(|(_, last)| *last >= cidr.network());
        let reserved = pool.reserved.iter().any(|net| net.contains(cidr));
        // Another pool inside this one has its own blocks.
        let other = pool_of(&facts.pools, *cidr).is_some_and(|narrowest| narrowest.key != pool.key);
        !met && !reserved && !other && !refused.contains(cidr)
    };
    if let Some(ip) = ip {
        return block((number(ip) - first) >> bits).filter(is_free);
    }
    let start = hash(node.as_str()) % count;
    let looked_at = count.min(LOOKED_AT);
    (0..looked_at).filter_map(|step| block((start + step) % count)).find(is_free)
}

/// FNV-1a over 128 bits of state.
fn hash(text: &str) -> u128 {
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in text.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    hash
}

/// Whom to ask for a part; nobody while an earlier question is open.
fn ask(facts: &Between, pools: &[&Pool], node: &NodeName) -> Option<Step> {
    let theirs = |block: &&Block| {
        block.node != *node && pools.iter().any(|pool| pool.cidr.contains(&block.cidr))
    };
    if facts.blocks.iter().any(|block| block.asking.contains(node)) {
        return None;
    }
    // Who lent least; among equals each node begins elsewhere.
    let candidates = facts.blocks.iter().filter(theirs);
    let best = candidates.min_by_key(|block| {
        (block.lent.len() + block.asking.len(), hash(&format!("{node} {}", block.cidr)))
    });
    best.filter(|block| size(&block.cidr) > 1 << LENT_BITS).map(|block| Step::Ask(block.cidr))
}

/// A part of an own block none of whose addresses is taken, reserved or lent; not the first, whose first address stands for
/// the block.
pub(crate) fn part_to_lend(block: &Block, reserved: &[IpNet], taken: &Taken) -> Option<IpNet> {
    let cidr = block.cidr;
    let len = cidr.max_prefix_len() - LENT_BITS;
    let (first, last) = (number(cidr.network()), number(cidr.broadcast()));
    let count = (last - first + 1) >> LENT_BITS;
    let parts = (1..count.min(LOOKED_AT)).rev();
    let part = |at| IpNet::new(address(first + (at << LENT_BITS), cidr.network()), len).ok();
    parts.filter_map(part).find(|part| {
        taken.range(part.network()..=part.broadcast()).next().is_none()
            && !block.lent.iter().any(|lent| overlap(lent.cidr, *part))
            && !reserved.iter().any(|net| overlap(*net, *part))
    })
}

/// Blocks of nodes that are gone, or with parts at or questions from such nodes.
pub(crate) fn orphans(facts: &Between) -> Vec<Step> {
    let known = |name: &NodeName| facts.nodes.iter().any(|node| node.name == *name);
    let orphan = |block: &&Block| {
        !known(&block.node)
            || block.lent.iter().any(|part| !known(&part.node))
            || block.asking.iter().any(|name| !known(name))
    };
    facts.blocks.iter().filter(orphan).map(|block| Step::Reclaim(block.cidr)).collect()
}

#[cfg(test)]
mod tests;
