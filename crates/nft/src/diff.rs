//! The operations that turn one table into another: pure, over the union of both, ordered so that nothing is deleted
//! while something refers to it and nothing is used before it exists.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::lower::lower;
use crate::{
    Chain, Data, Element, Family, Hook, Match, Name, NatTarget, Op, Right, Rule, Set, SetSpec,
    Statement, Table, Transaction, Verdict, VerdictMap,
};

/// What makes `actual` (or no table) equal to `desired`.
///
/// Rules are compared as the kernel has them, so a rule written in two ways is equal and one edited by somebody else is
/// not. Elements are compared one by one; those of dynamic sets belong to the kernel and are left alone. A set whose
/// declaration changed is made anew, with the rules that use it; so is a chain whose hook changed.
#[must_use]
pub fn diff(desired: &Table, actual: Option<&Table>) -> Transaction {
    let mut transaction = Transaction::new(desired.family, desired.name.clone());
    let add_table = Op::AddTable { comment: desired.comment.clone(), dormant: desired.dormant };
    let empty = Table::new(desired.family, desired.name.clone());
    let actual = match actual {
        // The kernel never changes a table's comment, and takes no base chains in the transaction that wakes a table.
        Some(actual) if actual.comment == desired.comment && actual.dormant == desired.dormant => {
            actual
        }
        Some(_) => {
            transaction.ops.extend([Op::DeleteTable, add_table]);
            &empty
        }
        None => {
            transaction.push(add_table);
            &empty
        }
    };
    Difference::new(desired, actual).write(&mut transaction);
    transaction
}

struct Difference<'a> {
    desired: &'a Table,
    actual: &'a Table,
    /// Sets of the kernel that go, for good or to be made anew.
    sets_gone: BTreeSet<&'a Name>,
    /// Chains likewise.
    chains_gone: BTreeSet<&'a Name>,
    /// Chains whose rules are taken out.
    flushed: BTreeSet<&'a Name>,
}

impl<'a> Difference<'a> {
    fn new(desired: &'a Table, actual: &'a Table) -> Self {
        let sets_gone: BTreeSet<_> = actual
            .sets
            .iter()
            .filter(|(name, set)| {
                desired.sets.get(*name).is_none_or(|wanted| is_made_anew(wanted, set))
            })
            .map(|(name, _)| name)
            .collect();
        let chains_gone: BTreeSet<_> = actual
            .chains
            .iter()
            .filter(|(name, chain)| {
                desired.chains.get(*name).is_none_or(|wanted| {
                    place(wanted.hook.as_ref()) != place(chain.hook.as_ref())
                        || wanted.comment != chain.comment
                })
            })
            .map(|(name, _)| name)
            .collect();
        let touched = |rule: &Rule| {
            set_references(rule).iter().any(|set| sets_gone.contains(set))
                || chain_references(rule).iter().any(|chain| chains_gone.contains(chain))
        };
        let flushed = actual
            .chains
            .iter()
            .filter(|(name, chain)| {
                let same = |wanted: &Chain| same_rules(desired.family, &wanted.rules, &chain.rules);
                !chain.rules.is_empty()
                    && (chains_gone.contains(name)
                        || !desired.chains.get(*name).is_some_and(same)
                        || chain.rules.iter().any(touched))
            })
            .map(|(name, _)| name)
            .collect();
        Self { desired, actual, sets_gone, chains_gone, flushed }
    }

    fn write(&self, transaction: &mut Transaction) {
        for name in &self.flushed {
            transaction.push(Op::FlushChain { chain: (*name).clone() });
        }
        let mut added = Vec::new();
        for (name, wanted) in &self.desired.sets {
            let kept = self.actual.sets.get(name).filter(|_| !self.sets_gone.contains(name));
            let (remove, add) = self.elements(wanted, kept);
            if !remove.is_empty() {
                transaction
                    .push(Op::DeleteElements { set: Arc::clone(&wanted.spec), elements: remove });
            }
            if !add.is_empty() {
                added.push(Op::AddElements { set: Arc::clone(&wanted.spec), elements: add });
            }
        }
        for name in &self.sets_gone {
            transaction.push(Op::DeleteSet { name: (*name).clone() });
        }
        for name in &self.chains_gone {
            transaction.push(Op::DeleteChain { name: (*name).clone() });
        }
        for (name, set) in &self.desired.sets {
            if !self.actual.sets.contains_key(name) || self.sets_gone.contains(name) {
                transaction.push(Op::AddSet(Arc::clone(&set.spec)));
            }
        }
        for (name, chain) in &self.desired.chains {
            let kept = self.actual.chains.get(name).filter(|_| !self.chains_gone.contains(name));
            if kept.is_none_or(|kept| kept.hook != chain.hook) {
                let (hook, comment) = (chain.hook, chain.comment.clone());
                transaction.push(Op::AddChain { name: name.clone(), hook, comment });
            }
        }
        transaction.ops.extend(added);
        for (name, chain) in &self.desired.chains {
            let listed = self.actual.chains.get(name).filter(|_| !self.flushed.contains(name));
            if listed.is_some_and(|listed| !listed.rules.is_empty()) {
                continue;
            }
            for rule in &chain.rules {
                transaction.push(Op::AddRule { chain: name.clone(), rule: rule.clone() });
            }
        }
    }

    /// Elements to remove from and to add to a set that is kept (`Some`) or made.
    fn elements(&self, wanted: &Set, kept: Option<&Set>) -> (Vec<Element>, Vec<Element>) {
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        if wanted.spec.flags.dynamic {
            return (remove, add);
        }
        let Some(kept) = kept else {
            return (remove, wanted.elements.sorted());
        };
        for listed in kept.elements.records() {
            let wanted = wanted.elements.lookup(listed.key);
            let chain_is_gone = matches!(listed.datum, crate::elements::Datum::Verdict(verdict)
                if verdict.chain().is_some_and(|chain| self.chains_gone.contains(chain)));
            if wanted != Some(listed) || chain_is_gone {
                let mut element = Element { data: Data::None, ..listed.to_element() };
                element.extra =
                    element.end().copied().and_then(|end| Element::key(element.key).to(end).extra);
                remove.push(element);
                add.extend(wanted.map(crate::elements::Record::to_element));
            }
        }
        for record in wanted.elements.records() {
            if kept.elements.lookup(record.key).is_none() {
                add.push(record.to_element());
            }
        }
        remove.sort_unstable_by_key(|element| element.key);
        add.sort_unstable_by_key(|element| element.key);
        (remove, add)
    }
}

/// A hook without its policy, which the kernel can change in place.
fn place(hook: Option<&Hook>) -> Option<Hook> {
    hook.map(|hook| Hook { policy: crate::Policy::Accept, ..*hook })
}

fn is_made_anew(wanted: &Set, listed: &Set) -> bool {
    // A constant set takes no elements once a rule uses it.
    !same_declaration(&wanted.spec, &listed.spec)
        || (wanted.spec.flags.constant && wanted.elements != listed.elements)
}

/// Whether two declarations mean the same to the kernel and to who reads the listing.
pub(crate) fn same_declaration(a: &SetSpec, b: &SetSpec) -> bool {
    normal(a) == normal(b)
}

fn normal(spec: &SetSpec) -> SetSpec {
    let mut spec = spec.clone();
    spec.flags.timeout |= spec.timeout.is_some();
    if !spec.is_typeof() {
        let by_type = |fields: &mut Vec<crate::SetField>| {
            fields.iter_mut().for_each(|field| *field = crate::SetField::Type(field.field()));
        };
        by_type(&mut spec.key);
        if let crate::SetData::Value(fields) = &mut spec.data {
            by_type(fields);
        }
    }
    spec
}

fn same_rules(family: Family, wanted: &[Rule], listed: &[Rule]) -> bool {
    wanted.len() == listed.len() && wanted.iter().zip(listed).all(|(a, b)| same_rule(family, a, b))
}

/// Whether two rules are the same to the kernel; one with opaque parts is the same as none.
pub(crate) fn same_rule(family: Family, a: &Rule, b: &Rule) -> bool {
    a.comment == b.comment && lower(family, a).is_ok_and(|a| lower(family, b).is_ok_and(|b| a == b))
}

/// Sets a rule looks at or writes to.
pub(crate) fn set_references(rule: &Rule) -> Vec<&Name> {
    let named = |statement| match statement {
        &Statement::Match(Match { right: Right::Set(ref name), .. })
        | &Statement::Vmap { map: VerdictMap::Named(ref name), .. }
        | &Statement::Nat { to: NatTarget::Map { map: ref name, .. }, .. }
        | &Statement::Update { set: ref name, .. } => Some(name),
        _ => None,
    };
    rule.statements.iter().filter_map(named).collect()
}

/// Chains a rule goes to by itself (not through a named map).
pub(crate) fn chain_references(rule: &Rule) -> Vec<&Name> {
    let mut chains = Vec::new();
    for statement in &rule.statements {
        match statement {
            Statement::Verdict(verdict) => chains.extend(verdict.chain()),
            Statement::Vmap { map: VerdictMap::Inline(elements), .. } => {
                chains.extend(
                    elements.iter().filter_map(|(_, verdict): &(_, Verdict)| verdict.chain()),
                );
            }
            _ => {}
        }
    }
    chains
}
