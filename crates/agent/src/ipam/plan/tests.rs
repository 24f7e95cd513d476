//! Nodes that take, give back and borrow, without an API and without a disk; and that no two ever hold one address.

use model::{Encapsulation, Labels, Lent, NodeFacts, NodeSelector, ObjectKey};
use proptest::prelude::*;

use super::*;

fn pool(name: &str, cidr: &str, block_len: u8) -> Pool {
    Pool {
        key: ObjectKey::new("", name),
        cidr: cidr.parse().unwrap(),
        block_len,
        encapsulation: Encapsulation::Never,
        nat_outgoing: true,
        nodes: NodeSelector::all(),
        disabled: false,
        on_request: false,
        reserved: Vec::new(),
    }
}

fn node(name: &str) -> NodeFacts {
    NodeFacts {
        name: NodeName::new(name),
        uid: None,
        internal_ips: Vec::new(),
        pod_cidrs: Vec::new(),
        labels: [("name", name)].into_iter().collect::<Labels>(),
        zone: None,
        leaving: false,
    }
}

fn block(cidr: &str, node: &str) -> Block {
    let cidr: IpNet = cidr.parse().unwrap();
    Block {
        key: ObjectKey::new("", &Block::name_of(cidr)),
        cidr,
        node: NodeName::new(node),
        lent: Vec::new(),
        asking: Vec::new(),
        version: None,
    }
}

fn next(facts: &Between, name: &str, taken: &Taken, hungry: bool) -> Vec<Step> {
    steps(facts, &NodeName::new(name), taken, &BTreeMap::new(), hungry, &BTreeSet::new())
}

fn addresses(cidr: &str, count: usize) -> Taken {
    let cidr: IpNet = cidr.parse().unwrap();
    (1..=count as u128).map(|n| address(number(cidr.network()) + n, cidr.network())).collect()
}

#[test]
fn a_node_begins_with_one_block_per_family_and_takes_the_next_in_time() {
    let mut facts = Between {
        nodes: vec![node("a")],
        pools: vec![pool("four", "10.1.0.0/16", 26), pool("six", "fd00::/48", 122)],
        blocks: vec![],
        ..Between::default()
    };
    let first = next(&facts, "a", &Taken::new(), false);
    assert!(
        matches!(first[..], [Step::Claim(IpNet::V4(_)), Step::Claim(IpNet::V6(_))]),
        "{first:?}"
    );
    for step in &first {
        let Step::Claim(cidr) = step else { unreachable!() };
        facts.blocks.push(block(&cidr.to_string(), "a"));
    }
    assert_eq!(next(&facts, "a", &Taken::new(), false), []);
    let four = facts.blocks[0].cidr.to_string();
    assert_eq!(next(&facts, "a", &addresses(&four, 47), false), []);
    let more = next(&facts, "a", &addresses(&four, 48), false);
    assert!(matches!(more[..], [Step::Claim(cidr)] if cidr != facts.blocks[0].cidr), "{more:?}");
    // Two blocks, one empty, and room enough without it.
    let Step::Claim(second) = more[0] else { unreachable!() };
    facts.blocks.push(block(&second.to_string(), "a"));
    assert_eq!(next(&facts, "a", &addresses(&four, 48), false), []);
    assert_eq!(next(&facts, "a", &addresses(&four, 3), false), [Step::GiveBack(second)]);
}

#[test]
fn selectors_reservations_and_pools_within_pools_are_kept_to() {
    let mut racks = pool("racks", "10.1.0.0/24", 26);
    racks.nodes = "name == 'b'".parse().unwrap();
    racks.reserved = vec!["10.1.0.0/25".parse().unwrap()];
    let mut facts = Between {
        nodes: vec![node("a"), node("b")],
        pools: vec![racks],
        blocks: vec![],
        ..Between::default()
    };
    assert_eq!(next(&facts, "a", &Taken::new(), true), []);
    let Step::Claim(cidr) = next(&facts, "b", &Taken::new(), false)[0] else { panic!("a claim") };
    assert!(cidr.network() >= "10.1.0.128".parse::<IpAddr>().unwrap(), "{cidr}");
    // A wide pool does not take what a narrower one has.
    facts.pools.push(pool("wide", "10.1.0.0/23", 26));
    for _ in 0..4 {
        let Step::Claim(cidr) = next(&facts, "a", &Taken::new(), false)[0] else {
            panic!("a claim")
        };
        assert!(cidr.network() >= "10.1.1.0".parse::<IpAddr>().unwrap(), "{cidr}");
        facts.blocks.push(block(&cidr.to_string(), "c"));
    }
    // A disabled pool: no new address, and what is empty goes.
    facts.blocks = vec![block("10.1.0.128/26", "b"), block("10.1.1.0/26", "b")];
    facts.pools[0].disabled = true;
    let listed = list(&facts, &NodeName::new("b"), &BTreeSet::new(), BTreeMap::new());
    assert_eq!(listed.blocks.iter().map(|block| block.closed).collect::<Vec<_>>(), [true, false]);
    let in_use = addresses("10.1.0.128/26", 1);
    assert_eq!(next(&facts, "b", &in_use, false), []);
    let gone: IpNet = "10.1.0.128/26".parse().unwrap();
    assert_eq!(next(&facts, "b", &Taken::new(), false), [Step::GiveBack(gone)]);
}

#[test]
fn wishes_bring_their_blocks() {
    let mut special = pool("special", "10.9.0.0/24", 26);
    special.on_request = true;
    let facts = Between {
        nodes: vec![node("a")],
        pools: vec![pool("four", "10.1.0.0/24", 26), special],
        blocks: vec![block("10.1.0.0/26", "a")],
        ..Between::default()
    };
    let none = next(&facts, "a", &Taken::new(), false);
    assert_eq!(none, []);
    let fixed = Wish { addresses: vec!["10.1.0.200".parse().unwrap()], pools: Vec::new() };
    let pools = Wish { addresses: Vec::new(), pools: vec!["special".into()] };
    let wishes = [("d/x".to_owned(), fixed), ("d/y".to_owned(), pools)].into();
    let got = steps(&facts, &NodeName::new("a"), &Taken::new(), &wishes, false, &BTreeSet::new());
    let claims: Vec<String> = got.iter().map(|step| format!("{step:?}")).collect();
    assert_eq!(got.len(), 2, "{claims:?}");
    assert!(claims[0].contains("10.1.0.192/26") && claims[1].contains("10.9.0."), "{claims:?}");
}

/// All nodes of a small pool, each with its own disk; the API is the list of blocks.
#[derive(Debug)]
struct World {
    facts: Between,
    taken: BTreeMap<NodeName, Taken>,
}

impl World {
    fn carry_out(&mut self, name: &NodeName, step: Step) {
        let blocks = &mut self.facts.blocks;
        let at = |blocks: &[Block], cidr| blocks.iter().position(|block| block.cidr == cidr);
        match step {
            Step::Claim(cidr) => {
                // The name is the lock; and blocks of one pool have one length.
                if at(blocks, cidr).is_none() {
                    blocks.push(block(&cidr.to_string(), name.as_str()));
                    blocks.sort_by_key(|block| block.cidr);
                }
            }
            Step::GiveBack(cidr) => {
                let at = at(blocks, cidr).unwrap();
                assert_eq!(blocks[at].node, *name);
                assert!(blocks[at].lent.is_empty());
                blocks.remove(at);
            }
            Step::Ask(cidr) => {
                let at = at(blocks, cidr).unwrap();
                blocks[at].asking.push(name.clone());
            }
            Step::Lend(cidr, who) => {
                let at = at(blocks, cidr).unwrap();
                assert_eq!(blocks[at].node, *name);
                blocks[at].asking.retain(|asking| *asking != who);
                let part = part_to_lend(&blocks[at], &[], &self.taken[name]);
                blocks[at].lent.extend(part.map(|cidr| Lent { cidr, node: who }));
            }
            Step::Return { block, part } => {
                let at = at(blocks, block).unwrap();
                blocks[at].lent.retain(|lent| lent.cidr != part);
            }
            Step::Reclaim(cidr) => panic!("{cidr}"),
        }
    }

    fn take(&mut self, name: &NodeName) -> bool {
        let listed = list(&self.facts, name, &BTreeSet::new(), BTreeMap::new());
        let taken = self.taken.get_mut(name).unwrap();
        let free = listed
            .ranges(None)
            .iter()
            .find_map(|set| set.candidates(None).find(|ip| !taken.contains(ip)));
        taken.extend(free);
        free.is_some()
    }
}

proptest! {
    #[test]
    fn nobody_ever_has_anothers_address(
        moves in proptest::collection::vec((0usize..3, 0u8..8), 1..400),
    ) {
        let names = ["a", "b", "c"].map(NodeName::new);
        let mut world = World {
            facts: Between {
                nodes: ["a", "b", "c"].map(node).into(),
                pools: vec![pool("small", "10.1.0.0/25", 27)],
                blocks: vec![],
                ..Between::default()
            },
            taken: names.iter().map(|name| (name.clone(), Taken::new())).collect(),
        };
        for (who, what) in moves {
            let name = &names[who];
            if what == 0 {
                let taken = world.taken.get_mut(name).unwrap();
                taken.pop_first();
            } else if what == 1 {
                world.taken.get_mut(name).unwrap().clear();
            } else if what < 6 {
                world.take(name);
            }
            let hungry = what == 7;
            let taken = world.taken[name].clone();
            for step in next(&world.facts, name.as_str(), &taken, hungry) {
                world.carry_out(name, step);
            }
            let mut all = BTreeSet::new();
            for (node, taken) in &world.taken {
                for ip in taken {
                    prop_assert!(all.insert(*ip), "{ip} twice");
                    // And every node routes it to the one that has it: the longest range around it is that node's.
                    let ranges = world.facts.blocks.iter().flat_map(|block| {
                        block.lent.iter().map(|part| (part.cidr, &part.node)).chain([(block.cidr, &block.node)])
                    });
                    let around = ranges.filter(|(cidr, _)| cidr.contains(ip));
                    let owner = around.max_by_key(|(cidr, _)| cidr.prefix_len()).map(|(_, node)| node);
                    prop_assert_eq!(owner, Some(node), "{}", ip);
                }
            }
        }
    }

    #[test]
    fn a_full_pool_is_shared_out(order in proptest::collection::vec(0usize..3, 0..40)) {
        let names = ["a", "b", "c"].map(NodeName::new);
        let mut world = World {
            facts: Between {
                nodes: ["a", "b", "c"].map(node).into(),
                pools: vec![pool("two", "10.1.0.0/26", 27)],
                blocks: vec![block("10.1.0.0/27", "a"), block("10.1.0.32/27", "b")],
                ..Between::default()
            },
            taken: names.iter().map(|name| (name.clone(), Taken::new())).collect(),
        };
        drop(order);
        // c has no block to take: it is lent a part, and its pods get addresses.
        let mut given = 0;
        for _ in 0..20 {
            for name in &names {
                let taken = world.taken[name].clone();
                for step in next(&world.facts, name.as_str(), &taken, name.as_str() == "c") {
                    world.carry_out(name, step);
                }
            }
            given += usize::from(world.take(&names[2]));
        }
        prop_assert!(given >= 14, "{given}");
    }
}
