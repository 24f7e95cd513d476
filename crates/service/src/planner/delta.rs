//! Two states of elements to one transaction: what is needed comes first, what is left over goes last.

use std::collections::{BTreeMap, BTreeSet};

use nft::{Element, Op, Transaction};

use super::Planner;
use crate::element::{Elements, Value, lower};
use crate::program::{self, CountChain, SetId};

impl Planner {
    /// The transaction from `before` to `after`, the elements of everything concerned.
    pub(super) fn transaction(&mut self, before: &Elements, after: &Elements) -> Transaction {
        let mut remove: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let mut add: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let live_before: BTreeSet<CountChain> = self.chains.keys().copied().collect();
        for (at, value) in after {
            if before.get(at) != Some(value) {
                add.entry(at.0).or_default().push(lower(at.1, value));
                self.retain_chain(value);
            }
        }
        for (at, value) in before {
            if after.get(at) != Some(value) {
                remove.entry(at.0).or_default().push(lower(at.1, value));
                self.release_chain(value);
            }
        }
        let live_after: BTreeSet<CountChain> = self.chains.keys().copied().collect();
        let mut transaction = Transaction::new(nft::Family::Inet, program::name(program::TABLE));
        self.add_missing(&live_before, &live_after, &mut transaction);
        for (set, mut elements) in remove {
            elements.sort_unstable_by_key(|element| element.key);
            transaction.push(Op::DeleteElements { set: self.specs.get(set), elements });
        }
        for (set, mut elements) in add {
            elements.sort_unstable_by_key(|element| element.key);
            transaction.push(Op::AddElements { set: self.specs.get(set), elements });
        }
        self.remove_unused(&live_before, &live_after, &mut transaction);
        transaction
    }

    fn retain_chain(&mut self, value: &Value) {
        if let Value::Chain(chain) = value {
            *self.chains.entry(*chain).or_default() += 1;
        }
    }

    fn release_chain(&mut self, value: &Value) {
        let Value::Chain(chain) = value else { return };
        match self.chains.get_mut(chain) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.chains.remove(chain)),
        }
    }

    fn add_missing(
        &mut self,
        before: &BTreeSet<CountChain>,
        after: &BTreeSet<CountChain>,
        into: &mut Transaction,
    ) {
        if after.is_subset(before) {
            return;
        }
        for set in program::sets(after).difference(&program::sets(before)) {
            into.push(Op::AddSet(self.specs.get(*set)));
        }
        let known = program::chains_on_demand(before, &self.config);
        let wanted = program::chains_on_demand(after, &self.config);
        let missing = || wanted.values().filter(|chain| !known.contains_key(&chain.name));
        for chain in missing() {
            into.push(Op::AddChain { name: chain.name.clone(), hook: None, comment: None });
        }
        for chain in missing() {
            for rule in &chain.rules {
                into.push(Op::AddRule { chain: chain.name.clone(), rule: rule.clone() });
            }
        }
    }

    fn remove_unused(
        &mut self,
        before: &BTreeSet<CountChain>,
        after: &BTreeSet<CountChain>,
        into: &mut Transaction,
    ) {
        if before.is_subset(after) {
            return;
        }
        let known = program::chains_on_demand(before, &self.config);
        let wanted = program::chains_on_demand(after, &self.config);
        let unused = || known.keys().filter(|name| !wanted.contains_key(*name));
        for name in unused() {
            into.push(Op::FlushChain { chain: name.clone() });
        }
        for name in unused() {
            into.push(Op::DeleteChain { name: name.clone() });
        }
        for set in program::sets(before).difference(&program::sets(after)) {
            into.push(Op::DeleteSet { name: set.name() });
            self.specs.forget(*set);
        }
    }
}
