//! Two states of elements to one transaction: what is needed comes first, what is left over goes last.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use nft::{Element, Op, Transaction};

use super::Planner;
use crate::element::{Elements, Lowering, Value};
use crate::program::{self, CountChain, SetId};

/// Count chains this update may bring or take, and whether they were there before.
#[derive(Default)]
struct Touched(BTreeMap<CountChain, bool>);

impl Touched {
    fn note(&mut self, live: &BTreeMap<CountChain, u32>, value: &Value) {
        if let Value::Chain(chain) = value {
            self.0.entry(*chain).or_insert_with(|| live.contains_key(chain));
        }
    }

    /// The count chains before and after, if they are not the same: nearly always they are. Those that came or went, and
    /// those they may share a chain or a set with: round robin has a chain per frontend, so all would be too many.
    fn change(
        self,
        live: &BTreeMap<CountChain, u32>,
    ) -> Option<(BTreeSet<CountChain>, BTreeSet<CountChain>)> {
        let changed: Vec<_> =
            self.0.into_iter().filter(|(chain, was)| live.contains_key(chain) != *was).collect();
        if changed.is_empty() {
            return None;
        }
        let came = changed.iter().filter(|(_, was)| !was).map(|(chain, _)| *chain);
        let mut after: BTreeSet<_> = came.collect();
        if changed.iter().any(|(chain, _)| chain.shares()) {
            let sharing = CountChain::sharing().into_iter().flat_map(|range| live.range(range));
            after.extend(sharing.map(|(chain, _)| *chain));
        }
        let mut before = after.clone();
        for (chain, was) in changed {
            if was {
                before.insert(chain)
            } else {
                before.remove(&chain)
            };
        }
        Some((before, after))
    }
}

impl Planner {
    /// The transaction from `before` to `after`, the elements of everything concerned.
    pub(super) fn transaction(&mut self, before: Elements, after: Elements) -> Transaction {
        let (before, after) = (before.into_sorted(), after.into_sorted());
        let mut remove: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let mut add: BTreeMap<SetId, Vec<Element>> = BTreeMap::new();
        let mut lowering = Lowering::default();
        let mut touched = Touched::default();
        // Two sorted lists: what only one has, or has otherwise, changes.
        let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((was, _)), Some((is, _))) => was.cmp(is),
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            if was.map(|(_, value)| value) == is.map(|(_, value)| value) {
                continue;
            }
            if let Some(((set, key), value)) = was {
                remove.entry(*set).or_default().push(lowering.lower(*key, value));
                touched.note(&self.chains, value);
            }
            if let Some(((set, key), value)) = is {
                add.entry(*set).or_default().push(lowering.lower(*key, value));
                touched.note(&self.chains, value);
                self.retain_chain(value);
            }
            if let Some((_, value)) = was {
                self.release_chain(value);
            }
        }
        let mut transaction = Transaction::new(nft::Family::Inet, program::name(program::TABLE));
        let live = touched.change(&self.chains);
        if let Some((before, after)) = &live {
            self.add_missing(before, after, &mut transaction);
        }
        for (set, elements) in remove {
            transaction.push(Op::DeleteElements { set: self.specs.get(set), elements });
        }
        for (set, elements) in add {
            transaction.push(Op::AddElements { set: self.specs.get(set), elements });
        }
        if let Some((before, after)) = &live {
            self.remove_unused(before, after, &mut transaction);
        }
        transaction
    }

    /// Counts a frontend of a count chain.
    pub(super) fn retain_chain(&mut self, value: &Value) {
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
