//! What a change asks of the kernel, collected in any order and said in one the kernel takes: what is needed first, what is
//! left over last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use nft::{Chain, Element, Name, Op, SetSpec, Transaction};

use crate::program::{SetId, table_name};

/// Operations to be.
#[derive(Debug, Default)]
pub(super) struct Batch {
    sets: Vec<SetId>,
    chains: Vec<Chain>,
    add: BTreeMap<SetId, Vec<Element>>,
    remove: BTreeMap<SetId, Vec<Element>>,
    no_chains: Vec<Name>,
    no_sets: Vec<SetId>,
    /// Addresses from or to which something may be denied that was allowed.
    pub(super) narrowed: HashSet<IpAddr>,
}

impl Batch {
    pub(super) fn set(&mut self, set: SetId) {
        self.sets.push(set);
    }

    pub(super) fn no_set(&mut self, set: SetId) {
        self.no_sets.push(set);
    }

    pub(super) fn chain(&mut self, chain: Chain) {
        self.chains.push(chain);
    }

    pub(super) fn no_chain(&mut self, name: Name) {
        self.no_chains.push(name);
    }

    pub(super) fn add(&mut self, set: SetId, element: Element) {
        self.add.entry(set).or_default().push(element);
    }

    pub(super) fn remove(&mut self, set: SetId, element: Element) {
        self.remove.entry(set).or_default().push(element);
    }

    pub(super) fn retires(&self) -> Vec<Name> {
        self.no_chains.clone()
    }

    pub(super) fn transaction(mut self, specs: &mut HashMap<SetId, Arc<SetSpec>>) -> Transaction {
        let mut transaction = Transaction::new(nft::Family::Inet, table_name());
        let mut spec = |set: SetId| specs.entry(set).or_insert_with(|| set.spec().into()).clone();
        for set in &self.sets {
            transaction.push(Op::AddSet(spec(*set)));
        }
        for chain in &self.chains {
            let name = chain.name.clone();
            transaction.push(Op::AddChain { name, hook: None, comment: None });
        }
        // Members of a set that goes go with it.
        self.remove.retain(|set, _| !self.no_sets.contains(set));
        for (set, elements) in self.remove {
            transaction.push(Op::DeleteElements { set: spec(set), elements });
        }
        for (set, elements) in self.add {
            transaction.push(Op::AddElements { set: spec(set), elements });
        }
        for chain in self.chains {
            for rule in chain.rules {
                transaction.push(Op::AddRule { chain: chain.name.clone(), rule });
            }
        }
        for name in &self.no_chains {
            transaction.push(Op::FlushChain { chain: name.clone() });
        }
        for name in self.no_chains {
            transaction.push(Op::DeleteChain { name });
        }
        for set in self.no_sets {
            transaction.push(Op::DeleteSet { name: set.name() });
            specs.remove(&set);
        }
        transaction
    }
}
