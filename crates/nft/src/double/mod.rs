//! A kernel in memory: takes the same transactions, refuses the same ones with the same errno, lists the same tables.
//!
//! What it models was read off the real one; `tests/scenarios.rs` runs one suite over both.

pub(crate) mod evaluate;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diff::{chain_references, same_declaration, set_references};
use crate::elements::Elements;
use crate::lower::lower;
use crate::raise::raise;
use crate::{
    Chain, CommitError, Committed, Data, Element, Errno, Family, Hook, HookKind, HookPoint, Kernel,
    ListError, Match, Name, NatTarget, Op, Refused, Right, Rule, Set, SetData, SetSpec, Statement,
    Table, Transaction, Verdict, VerdictMap,
};

/// nf_tables in memory.
#[derive(Debug, Clone, Default)]
pub struct Double {
    tables: BTreeMap<(Family, Name), Table>,
}

/// Why an operation is refused: errno, and the element it was about.
type Refusal = (i32, Option<Box<Element>>);

impl Double {
    /// No tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table, for tests that play the part of somebody else changing it.
    pub fn table_mut(&mut self, family: Family, name: &Name) -> Option<&mut Table> {
        self.tables.get_mut(&(family, name.clone()))
    }

    /// What `nft flush ruleset` does.
    pub fn flush_ruleset(&mut self) {
        self.tables.clear();
    }

    /// Sends a packet through one hook of a table and keeps what rules wrote into dynamic sets.
    ///
    /// # Errors
    /// [`evaluate::EvaluateError`] when the table says something the evaluator does not know.
    pub fn deliver(
        &mut self,
        family: Family,
        name: &Name,
        hook: HookPoint,
        packet: &evaluate::Packet,
        numbers: &mut evaluate::Numbers<'_>,
    ) -> Result<evaluate::Outcome, evaluate::EvaluateError> {
        let Some(table) = self.tables.get_mut(&(family, name.clone())) else {
            return Ok(evaluate::Outcome::accepted(packet));
        };
        let outcome = evaluate::evaluate(table, hook, packet, numbers)?;
        for update in &outcome.updates {
            if let Some(set) = table.sets.get_mut(&update.set) {
                let mut element = Element::key(update.key);
                if let Some(timeout) = update.timeout {
                    element = element.with_timeout(timeout);
                }
                let full = set.spec.size.is_some_and(|size| set.elements.len() >= size as usize);
                if !full || set.elements.contains(&element.key) {
                    set.elements.insert(&element).ok();
                }
            }
        }
        Ok(outcome)
    }

    fn attempt(
        &self,
        transaction: &Transaction,
        check_each: bool,
    ) -> Result<Option<Table>, (Option<usize>, Refusal)> {
        let key = (transaction.family, transaction.table.clone());
        let mut state = State {
            table: self.tables.get(&key).cloned(),
            family: key.0,
            name: key.1,
            switched: false,
        };
        for (index, op) in transaction.ops.iter().enumerate() {
            state.apply(op).map_err(|refusal| (Some(index), refusal))?;
            let can_break =
                matches!(op, Op::AddRule { .. } | Op::AddElements { .. } | Op::AddChain { .. });
            if check_each
                && can_break
                && let Some(table) = &state.table
            {
                validate::table(table).map_err(|errno| (Some(index), (errno, None)))?;
            }
        }
        if let Some(table) = &state.table {
            validate::table(table).map_err(|errno| (None, (errno, None)))?;
        }
        Ok(state.table)
    }
}

impl Kernel for Double {
    fn list(&mut self, family: Family, name: &Name) -> Result<Option<Table>, ListError> {
        Ok(self.tables.get(&(family, name.clone())).cloned())
    }

    fn commit(&mut self, transaction: &Transaction) -> Result<Committed, CommitError> {
        for (op, operation) in transaction.ops.iter().enumerate() {
            if let Op::AddRule { chain, rule } = operation {
                lower(transaction.family, rule).map_err(|source| CommitError::Rule {
                    op,
                    chain: chain.to_string(),
                    source,
                })?;
            }
        }
        // The kernel validates at the end, and again after every operation to find the one to blame.
        let result = match self.attempt(transaction, false) {
            Err((None, _)) => self.attempt(transaction, true),
            other => other,
        };
        let key = (transaction.family, transaction.table.clone());
        match result {
            Ok(Some(table)) => {
                self.tables.insert(key, table);
            }
            Ok(None) => {
                self.tables.remove(&key);
            }
            Err((Some(op), (errno, element))) => {
                let first = Refused::new(transaction, op, element.map(|it| *it), errno, None);
                return Err(CommitError::Refused {
                    table: transaction.table.to_string(),
                    first,
                    more: 0,
                });
            }
            Err((None, (errno, _))) => {
                let table = transaction.table.to_string();
                return Err(CommitError::Whole { table, errno: Errno(errno) });
            }
        }
        Ok(Committed { operations: transaction.len(), bytes: 0 })
    }
}

/// A table while a transaction is applied to it.
struct State {
    table: Option<Table>,
    family: Family,
    name: Name,
    /// Whether the transaction switched the table on or off.
    switched: bool,
}

fn refuse<T>(errno: i32) -> Result<T, Refusal> {
    Err((errno, None))
}

impl State {
    fn table(&mut self) -> Result<&mut Table, Refusal> {
        self.table.as_mut().ok_or((libc::ENOENT, None))
    }

    fn apply(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::AddTable { comment, dormant } => match &mut self.table {
                Some(table) => {
                    self.switched |= table.dormant != *dormant;
                    table.dormant = *dormant;
                }
                None => {
                    let mut table = Table::new(self.family, self.name.clone());
                    table.comment.clone_from(comment);
                    table.dormant = *dormant;
                    self.table = Some(table);
                }
            },
            Op::DeleteTable => {
                self.table()?;
                self.table = None;
            }
            Op::AddChain { name, hook, comment } => {
                self.add_chain(name, hook.as_ref(), comment.clone())?
            }
            Op::DeleteChain { name } => self.delete_chain(name)?,
            Op::FlushChain { chain } => self.chain(chain)?.rules.clear(),
            Op::AddRule { chain, rule } => self.add_rule(chain, rule)?,
            Op::AddSet(spec) => self.add_set(spec)?,
            Op::DeleteSet { name } => {
                let table = self.table()?;
                if !table.sets.contains_key(name) {
                    return refuse(libc::ENOENT);
                }
                if is_bound(table, name) {
                    return refuse(libc::EBUSY);
                }
                table.sets.remove(name);
            }
            Op::FlushSet { set } => self.set(set)?.elements.clear(),
            Op::AddElements { set, elements } => {
                self.set(&set.name)?;
                for element in elements {
                    self.add_element(&set.name, element)
                        .map_err(|errno| (errno, Some(Box::new(element.clone()))))?;
                }
            }
            Op::DeleteElements { set, elements } => {
                let set = self.set(&set.name)?;
                for element in elements {
                    delete_element(set, element)
                        .map_err(|errno| (errno, Some(Box::new(element.clone()))))?;
                }
            }
        }
        Ok(())
    }

    fn chain(&mut self, name: &Name) -> Result<&mut Chain, Refusal> {
        self.table()?.chains.get_mut(name).ok_or((libc::ENOENT, None))
    }

    fn set(&mut self, name: &Name) -> Result<&mut Set, Refusal> {
        self.table()?.sets.get_mut(name).ok_or((libc::ENOENT, None))
    }

    fn add_chain(
        &mut self,
        name: &Name,
        hook: Option<&Hook>,
        comment: Option<String>,
    ) -> Result<(), Refusal> {
        let switched = self.switched;
        let table = self.table()?;
        if let Some(chain) = table.chains.get_mut(name) {
            let Some(hook) = hook else { return Ok(()) };
            let same = |old: &Hook| Hook { policy: hook.policy, ..*old } == *hook;
            return match &mut chain.hook {
                Some(old) if same(old) => {
                    old.policy = hook.policy;
                    Ok(())
                }
                Some(old) if old.kind != hook.kind => refuse(libc::EEXIST),
                _ => refuse(libc::EOPNOTSUPP),
            };
        }
        if let Some(hook) = hook {
            if switched {
                return refuse(libc::EINVAL);
            }
            let fits = match hook.kind {
                HookKind::Filter => true,
                HookKind::Nat => hook.point != HookPoint::Forward,
                HookKind::Route => hook.point == HookPoint::Output,
            };
            // A nat chain must run after conntrack, which is at −200.
            if !fits || (hook.kind == HookKind::Nat && hook.priority <= -200) {
                return refuse(libc::EOPNOTSUPP);
            }
        }
        table.insert_chain(Chain {
            name: name.clone(),
            hook: hook.copied(),
            rules: Vec::new(),
            comment,
        });
        Ok(())
    }

    fn delete_chain(&mut self, name: &Name) -> Result<(), Refusal> {
        let table = self.table()?;
        if !table.chains.contains_key(name) {
            return refuse(libc::ENOENT);
        }
        // The chain's own rules go with it; only others' hold it.
        let others = table.chains.values().filter(|chain| chain.name != *name);
        let from_rules = others
            .flat_map(|chain| &chain.rules)
            .any(|rule| chain_references(rule).contains(&name));
        let from_elements = table.sets.values().any(|set| {
            let to = |element: crate::elements::Record<'_>| {
                matches!(element.datum, crate::elements::Datum::Verdict(verdict) if verdict.chain() == Some(name))
            };
            set.spec.data == SetData::Verdict && set.elements.records().any(to)
        });
        if from_rules || from_elements {
            return refuse(libc::EBUSY);
        }
        table.chains.remove(name);
        Ok(())
    }

    fn add_rule(&mut self, chain: &Name, rule: &Rule) -> Result<(), Refusal> {
        self.chain(chain)?;
        let family = self.family;
        let table = self.table()?;
        for statement in &rule.statements {
            check_statement(table, statement).map_err(|errno| (errno, None))?;
        }
        let Ok(exprs) = lower(family, rule) else { return refuse(libc::EINVAL) };
        let key_len = |name: &Name| table.sets.get(name).map(|set| set.spec.key_len());
        let listed = raise(family, &exprs, rule.comment.clone(), &[], key_len);
        self.chain(chain)?.rules.push(listed);
        Ok(())
    }

    fn add_set(&mut self, spec: &Arc<SetSpec>) -> Result<(), Refusal> {
        let table = self.table()?;
        if spec.key_len() == 0 || spec.key_len() > 64 || (spec.flags.dynamic && spec.flags.constant)
        {
            return refuse(if spec.key_len() == 0 || spec.key_len() > 64 {
                libc::EINVAL
            } else {
                libc::EOPNOTSUPP
            });
        }
        if let Some(old) = table.sets.get(&spec.name) {
            let alike = |spec: &SetSpec| SetSpec {
                comment: None,
                size: None,
                timeout: None,
                ..spec.clone()
            };
            let same = same_declaration(&by_type(&alike(&old.spec)), &by_type(&alike(spec)));
            return if same { Ok(()) } else { refuse(libc::EEXIST) };
        }
        let mut kept = (**spec).clone();
        kept.flags.timeout |= kept.timeout.is_some();
        table.insert_set(Set { elements: Elements::new(&kept), spec: kept.into() });
        Ok(())
    }

    fn add_element(&mut self, name: &Name, element: &Element) -> Result<(), i32> {
        let table = self.table.as_mut().ok_or(libc::ENOENT)?;
        let bound = is_bound(table, name);
        if let Data::Verdict(verdict) = &element.data {
            check_verdict(table, verdict)?;
        }
        let set = table.sets.get_mut(name).ok_or(libc::ENOENT)?;
        if set.spec.flags.constant && bound {
            return Err(libc::EBUSY);
        }
        if set.elements.check(element).is_err()
            || (element.timeout().is_some() && !set.spec.flags.timeout)
        {
            return Err(libc::EINVAL);
        }
        if let Some(old) = set.elements.get(&element.key) {
            let same = old.data == element.data && old.end() == element.end();
            return if same { Ok(()) } else { Err(libc::EEXIST) };
        }
        if set.spec.flags.interval
            && set.elements.iter().any(|old| overlaps(&set.spec, &old, element))
        {
            return Err(libc::EEXIST);
        }
        if set.spec.size.is_some_and(|size| set.elements.len() >= size as usize) {
            return Err(libc::ENFILE);
        }
        set.elements.insert(element).map_err(|_| libc::EINVAL)?;
        Ok(())
    }
}

fn by_type(spec: &SetSpec) -> SetSpec {
    let types =
        |fields: &[crate::SetField]| fields.iter().map(|field| field.field().into()).collect();
    let data = match &spec.data {
        SetData::Value(fields) => SetData::Value(types(fields)),
        other => other.clone(),
    };
    SetSpec { key: types(&spec.key), data, ..spec.clone() }
}

fn delete_element(set: &mut Set, element: &Element) -> Result<(), i32> {
    if element.key.len() != set.spec.key_len() {
        return Err(libc::EINVAL);
    }
    let old = set.elements.get(&element.key).ok_or(libc::ENOENT)?;
    if old.end() != element.end() {
        return Err(libc::ENOENT);
    }
    set.elements.remove(&element.key);
    Ok(())
}

/// Whether two ranges share a key: every component must overlap.
fn overlaps(spec: &SetSpec, a: &Element, b: &Element) -> bool {
    let ends = |element: &Element| (element.key, element.end().copied().unwrap_or(element.key));
    let ((a_from, a_to), (b_from, b_to)) = (ends(a), ends(b));
    let mut at = 0;
    spec.key_fields().all(|field| {
        let part = at..at + field.padded_len();
        at = part.end;
        a_from.as_bytes()[part.clone()] <= b_to.as_bytes()[part.clone()]
            && b_from.as_bytes()[part.clone()] <= a_to.as_bytes()[part]
    })
}

fn is_bound(table: &Table, set: &Name) -> bool {
    table
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .any(|rule| set_references(rule).contains(&set))
}

fn check_verdict(table: &Table, verdict: &Verdict) -> Result<(), i32> {
    match verdict.chain() {
        None => Ok(()),
        Some(name) => match table.chains.get(name) {
            None => Err(libc::ENOENT),
            Some(chain) if chain.hook.is_some() => Err(libc::EOPNOTSUPP),
            Some(_) => Ok(()),
        },
    }
}

/// What the kernel checks of a statement when the rule is added: that what it names exists and is of the right kind.
fn check_statement(table: &Table, statement: &Statement) -> Result<(), i32> {
    let named = |name: &Name| table.sets.get(name).map(|set| &set.spec).ok_or(libc::ENOENT);
    // A key shorter than the set's would read registers nothing was loaded into.
    let key_fits = |spec: &SetSpec, key: &[crate::Selector]| {
        if crate::selector::padded_len(key) < spec.key_len() { Err(libc::ENODATA) } else { Ok(()) }
    };
    match statement {
        Statement::Match(Match { left, right: Right::Set(name), .. }) => {
            let spec = named(name)?;
            // Membership may be asked of maps too.
            key_fits(spec, left)
        }
        Statement::Vmap { key, map: VerdictMap::Named(name) } => {
            let spec = named(name)?;
            key_fits(spec, key)?;
            if spec.data == SetData::Verdict { Ok(()) } else { Err(libc::EINVAL) }
        }
        Statement::Vmap { map: VerdictMap::Inline(elements), .. } => {
            elements.iter().try_for_each(|(_, verdict)| check_verdict(table, verdict))
        }
        Statement::Nat { to: NatTarget::Map { key, map, .. }, .. } => {
            let spec = named(map)?;
            key_fits(spec, key)?;
            if matches!(spec.data, SetData::Value(_)) { Ok(()) } else { Err(libc::EINVAL) }
        }
        Statement::Update { set, key, timeout, .. } => {
            let spec = named(set)?;
            if spec.flags.constant {
                return Err(libc::EBUSY);
            }
            if timeout.is_some() && !spec.flags.timeout {
                return Err(libc::EOPNOTSUPP);
            }
            if !spec.flags.dynamic {
                return Err(libc::EOPNOTSUPP);
            }
            key_fits(spec, key)
        }
        Statement::Verdict(verdict) => check_verdict(table, verdict),
        _ => Ok(()),
    }
}
