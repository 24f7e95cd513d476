//! One frontend's way through the rules: from the chain its element names to the translations at the end.

use nft::{
    Chain, Data, IpFamily, Match, MatchOp, Name, NatKind, NatTarget, Packed, Right, Selector,
    Statement, Table, Verdict, VerdictMap,
};

use super::key::{family_of, known};
use super::{Choice, Condition, List, Masquerade, Slot};
use crate::Frontend;
use crate::element::raise_endpoint;

/// Chains deeper than this are a loop the kernel would not have taken.
const DEPTH: usize = 8;

/// The lists a frontend leads to, in the order the rules try them.
pub(super) fn lists(table: &Table, frontend: &Frontend, chain: Option<&Name>) -> Vec<List> {
    let mut walk = Walk { table, frontend, lists: Vec::new() };
    if let Some(chain) = chain {
        walk.chain(chain, &[], &[], DEPTH);
    }
    walk.lists
}

struct Walk<'a> {
    table: &'a Table,
    frontend: &'a Frontend,
    lists: Vec<List>,
}

/// Whether a rule's comparison holds for packets to the frontend.
enum Holds {
    Yes,
    No,
    /// It depends on the client.
    When(Condition),
    /// The client was here before: it is a member of a set that rules fill.
    Remembered,
}

impl Walk<'_> {
    fn chain(
        &mut self,
        name: &Name,
        clients: &[Condition],
        marks: &[Vec<Condition>],
        depth: usize,
    ) {
        let Some(chain) = self.table.chains.get(name).filter(|_| depth > 0) else { return };
        let mut marks = marks.to_vec();
        // Conditions whose packets went another way already.
        let mut taken: Vec<Vec<Condition>> = Vec::new();
        for rule in &chain.rules {
            let Some(own) = self.conditions(&rule.statements) else { continue };
            let all: Vec<Condition> = clients.iter().chain(&own).cloned().collect();
            for statement in &rule.statements {
                let live: Vec<_> =
                    marks.iter().filter(|mark| !taken.contains(mark)).cloned().collect();
                let before = self.lists.len();
                match statement {
                    Statement::SetMark { .. } => marks.push(own.clone()),
                    Statement::Verdict(Verdict::Goto(next) | Verdict::Jump(next)) => {
                        self.chain(next, &all, &live, depth - 1);
                    }
                    Statement::Vmap { key, map } => self.vmap(chain, key, map, &all, &live, depth),
                    Statement::Nat { kind: NatKind::Dnat, family, to, .. }
                        if is_family(*family, self.frontend) =>
                    {
                        let (choice, slots) = self.translation(to);
                        self.push(chain, choice, None, slots, &all, &live);
                    }
                    _ => continue,
                }
                if self.lists.len() > before {
                    taken.push(own.clone());
                }
            }
        }
    }

    /// What must hold for a rule beyond what the frontend says; `None` when the rule is for others.
    fn conditions(&self, rule: &[Statement]) -> Option<Vec<Condition>> {
        let mut conditions = Vec::new();
        for statement in rule {
            if let Statement::Match(matching) = statement {
                match self.holds(matching) {
                    Holds::Yes => {}
                    Holds::When(condition) => conditions.push(condition),
                    Holds::No | Holds::Remembered => return None,
                }
            }
        }
        Some(conditions)
    }

    fn holds(&self, matching: &Match) -> Holds {
        let family = self.frontend.family();
        if matching.left.iter().filter_map(family_of).any(|other| other != family) {
            return Holds::No;
        }
        let value = matching.left.iter().try_fold(Packed::new(), |key, selector| {
            Some(key.then(&known(selector, self.frontend)?))
        });
        let Some(value) = value else {
            if let Right::Set(name) = &matching.right
                && self.table.sets.get(name).is_some_and(|set| set.spec.flags.dynamic)
            {
                return Holds::Remembered;
            }
            return Holds::When(words(matching));
        };
        let member = match &matching.right {
            Right::Value(right) => value == *right,
            Right::OneOf(values) => values.contains(&value),
            Right::Set(name) => match self.table.sets.get(name) {
                Some(set) if !set.spec.flags.interval => set.elements.contains(&value),
                _ => return Holds::When(words(matching)),
            },
            _ => return Holds::When(words(matching)),
        };
        match (matching.op, member) {
            (MatchOp::Eq, true) | (MatchOp::Ne, false) => Holds::Yes,
            (MatchOp::Eq, false) | (MatchOp::Ne, true) => Holds::No,
            _ => Holds::When(words(matching)),
        }
    }

    fn vmap(
        &mut self,
        chain: &Chain,
        key: &[Selector],
        map: &VerdictMap,
        clients: &[Condition],
        marks: &[Vec<Condition>],
        depth: usize,
    ) {
        if key.iter().filter_map(family_of).any(|other| other != self.frontend.family()) {
            return;
        }
        let Some(keys) = self.keys(key) else { return };
        let verdict = |key: &Packed| match map {
            VerdictMap::Inline(all) => {
                { all.iter().find(|(one, _)| one == key).and_then(|(_, verdict)| verdict.chain()) }
                    .cloned()
            }
            VerdictMap::Named(map) => match self.table.sets.get(map)?.elements.get(key)?.data {
                Data::Verdict(verdict) => verdict.chain().cloned(),
                _ => None,
            },
        };
        let Some(choice) = choice(key) else {
            // The frontend alone decides: one side of it.
            if let Some(next) = keys.first().and_then(verdict) {
                self.chain(&next, clients, marks, depth - 1);
            }
            return;
        };
        let nexts: Vec<Name> = keys.iter().filter_map(verdict).collect();
        let (mut seconds, mut slots) = (None, Vec::new());
        for next in nexts {
            let (own, found) = self.one_slot(&next);
            seconds = seconds.or(own);
            slots.extend(found);
        }
        self.push(chain, choice, seconds, slots, clients, marks);
    }

    /// A chain that remembers its client and translates.
    fn one_slot(&self, name: &Name) -> (Option<u64>, Option<Slot>) {
        let (mut seconds, mut clients, mut slot) = (None, None, None);
        let rules = self.table.chains.get(name).map_or(&[][..], |chain| &chain.rules);
        for statement in rules.iter().flat_map(|rule| &rule.statements) {
            match statement {
                Statement::Update { set, key, timeout, .. }
                    if !key.iter().filter_map(family_of).any(|it| it != self.frontend.family()) =>
                {
                    seconds = timeout.map(|timeout| timeout.as_secs());
                    clients = Some(set.clone());
                }
                Statement::Nat { kind: NatKind::Dnat, family, to, .. }
                    if is_family(*family, self.frontend) =>
                {
                    slot = self.translation(to).1.pop();
                }
                _ => {}
            }
        }
        (seconds, slot.map(|slot| Slot { clients, ..slot }))
    }

    /// Every key a selector list can have for the frontend: one, or one per number of a `numgen` or `jhash`.
    fn keys(&self, key: &[Selector]) -> Option<Vec<Packed>> {
        let mut keys = vec![Packed::new()];
        for selector in key {
            match selector {
                Selector::NumgenRandom { modulus, offset }
                | Selector::NumgenInc { modulus, offset }
                | Selector::Jhash { modulus, offset, .. } => {
                    let numbers = *offset..offset.saturating_add(*modulus);
                    let with =
                        |key: &Packed| numbers.clone().map(|n| key.index(n)).collect::<Vec<_>>();
                    keys = keys.iter().flat_map(with).collect();
                }
                other => {
                    let part = known(other, self.frontend)?;
                    keys = keys.iter().map(|key| key.then(&part)).collect();
                }
            }
        }
        Some(keys)
    }

    fn translation(&self, to: &NatTarget) -> (Choice, Vec<Slot>) {
        let NatTarget::Map { key, map, .. } = to else { return (Choice::Only, Vec::new()) };
        let (Some(keys), Some(set)) = (self.keys(key), self.table.sets.get(map)) else {
            return (Choice::Only, Vec::new());
        };
        let slot = |key: Packed| {
            let endpoint = raise_endpoint(self.frontend.family(), &set.elements.get(&key)?.data)?;
            Some(Slot { endpoint, element: (map.clone(), key), clients: None })
        };
        (choice(key).unwrap_or(Choice::Only), keys.into_iter().filter_map(slot).collect())
    }

    fn push(
        &mut self,
        chain: &Chain,
        choice: Choice,
        affinity_seconds: Option<u64>,
        slots: Vec<Slot>,
        clients: &[Condition],
        marks: &[Vec<Condition>],
    ) {
        if slots.is_empty() {
            return;
        }
        // A mark set for exactly these clients, or for everybody, is set for all of them.
        let always = |mark: &Vec<Condition>| mark.iter().all(|one| clients.contains(one));
        let masquerade = if marks.is_empty() {
            Masquerade::Never
        } else if marks.iter().any(always) {
            Masquerade::Always
        } else {
            Masquerade::When(marks.iter().map(|mark| mark.join(" and ")).collect())
        };
        let (chain, clients) = (chain.name.clone(), clients.to_vec());
        self.lists.push(List { clients, chain, choice, affinity_seconds, masquerade, slots });
    }
}

fn is_family(family: IpFamily, frontend: &Frontend) -> bool {
    (family == IpFamily::V4) == (frontend.family() == model::Family::V4)
}

/// How a key chooses among several.
fn choice(key: &[Selector]) -> Option<Choice> {
    key.iter().find_map(|selector| match selector {
        Selector::NumgenRandom { .. } => Some(Choice::Random),
        Selector::NumgenInc { .. } => Some(Choice::RoundRobin),
        Selector::Jhash { over, .. } if over.iter().any(|it| matches!(it, Selector::ThSport)) => {
            Some(Choice::FlowHash)
        }
        Selector::Jhash { .. } => Some(Choice::SourceHash),
        _ => None,
    })
}

/// A comparison in `nft`'s words, as far as people need them.
fn words(matching: &Match) -> Condition {
    let left: Vec<String> = matching.left.iter().map(ToString::to_string).collect();
    let left = left.join(" . ");
    let op = match matching.op {
        MatchOp::Eq => "",
        MatchOp::Ne => "!= ",
        MatchOp::Lt => "< ",
        MatchOp::Le => "<= ",
        MatchOp::Gt => "> ",
        MatchOp::Ge => ">= ",
    };
    // RTN_LOCAL.
    let local = Right::Value(Packed::new().index(2));
    match &matching.right {
        Right::Set(name) => format!("{left} {op}@{name}"),
        right if left.starts_with("fib") && *right == local => format!("{left} {op}local"),
        _ => format!("{left} {op}…"),
    }
}
