//! What the kernel checks of a table as a whole: no endless jumps, and statements only where their hook allows them.

use std::collections::BTreeSet;

use crate::elements::Datum;
use crate::{
    Chain, HookKind, HookPoint, Name, NatKind, Rule, SetData, Statement, Table, Verdict, VerdictMap,
};

/// How deep jumps may nest (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// Checks every base chain with all it reaches.
pub(super) fn table(table: &Table) -> Result<(), i32> {
    for chain in table.chains.values() {
        if let Some(hook) = &chain.hook {
            let mut walk =
                Walk { table, kind: hook.kind, point: hook.point, done: BTreeSet::new() };
            walk.chain(chain, 0)?;
        }
    }
    Ok(())
}

struct Walk<'a> {
    table: &'a Table,
    kind: HookKind,
    point: HookPoint,
    /// Chains validated at this depth: again would say the same.
    done: BTreeSet<(&'a Name, usize)>,
}

impl<'a> Walk<'a> {
    fn chain(&mut self, chain: &'a Chain, depth: usize) -> Result<(), i32> {
        if depth == DEPTH {
            return Err(libc::EMLINK);
        }
        if !self.done.insert((&chain.name, depth)) {
            return Ok(());
        }
        chain.rules.iter().try_for_each(|rule| self.rule(rule, depth))
    }

    fn rule(&mut self, rule: &'a Rule, depth: usize) -> Result<(), i32> {
        rule.statements.iter().try_for_each(|statement| self.statement(statement, depth))
    }

    fn statement(&mut self, statement: &'a Statement, depth: usize) -> Result<(), i32> {
        let nat_at =
            |points: &[HookPoint]| self.kind == HookKind::Nat && points.contains(&self.point);
        let fits = match statement {
            Statement::Nat { kind: NatKind::Dnat, .. } => {
                nat_at(&[HookPoint::Prerouting, HookPoint::Output])
            }
            Statement::Nat { kind: NatKind::Snat, .. } => {
                nat_at(&[HookPoint::Postrouting, HookPoint::Input])
            }
            Statement::Masquerade(_) => nat_at(&[HookPoint::Postrouting]),
            Statement::Reject(_) => self.point != HookPoint::Postrouting,
            Statement::Verdict(verdict) => return self.verdict(verdict, depth),
            Statement::Vmap { map: VerdictMap::Inline(elements), .. } => {
                return elements.iter().try_for_each(|(_, verdict)| self.verdict(verdict, depth));
            }
            Statement::Vmap { map: VerdictMap::Named(name), .. } => {
                let Some(set) =
                    self.table.sets.get(name).filter(|set| set.spec.data == SetData::Verdict)
                else {
                    return Ok(());
                };
                let verdicts: BTreeSet<&'a Verdict> = set
                    .elements
                    .records()
                    .filter_map(|record| {
                        if let Datum::Verdict(verdict) = record.datum {
                            Some(verdict)
                        } else {
                            None
                        }
                    })
                    .collect();
                return verdicts.into_iter().try_for_each(|verdict| self.verdict(verdict, depth));
            }
            _ => true,
        };
        if fits { Ok(()) } else { Err(libc::EOPNOTSUPP) }
    }

    fn verdict(&mut self, verdict: &'a Verdict, depth: usize) -> Result<(), i32> {
        match verdict.chain().and_then(|name| self.table.chains.get(name)) {
            Some(chain) => self.chain(chain, depth + 1),
            None => Ok(()),
        }
    }
}
