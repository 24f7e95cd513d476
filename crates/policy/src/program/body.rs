//! One identity as a chain: each step says what becomes of whom on which ports, the end what becomes of the rest. What may pass
//! goes back to where the chain was called.

use model::{Family, Protocol};
use nft::{Chain, Match, MatchOp, Name, Packed, Right, Rule, Selector, Statement};

use super::sets::SetId;
use super::{daddr, name, other};
use crate::rule::{Action, Body, Collection, Direction, End, Id, Step};

/// The longest comment `nft` shows.
const COMMENT: usize = 127;

/// The chain of an identity.
pub(crate) fn chain_name(direction: Direction, id: Id) -> Name {
    name(&format!("{direction}-{id:016x}"))
}

/// Where an identity goes on after the administrator's rules, if one of those can go there early.
fn second_name(direction: Direction, id: Id) -> Name {
    name(&format!("{direction}-{id:016x}-then"))
}

fn has_two(body: &Body) -> bool {
    body.admin.iter().any(|step| step.action == Action::Pass)
}

/// The names of an identity's chains.
pub(crate) fn chain_names(id: Id, body: &Body) -> Vec<Name> {
    let second = has_two(body).then(|| second_name(body.direction, id));
    [chain_name(body.direction, id)].into_iter().chain(second).collect()
}

/// An identity as chains, the one it is entered by first.
pub(crate) fn chains(id: Id, body: &Body) -> Vec<Chain> {
    let direction = body.direction;
    let mut first = Chain::new(chain_name(direction, id));
    let denied = || Statement::goto(name(&format!("denied-{direction}")));
    let mut second = has_two(body).then(|| Chain::new(second_name(direction, id)));
    for step in &body.admin {
        let verdict = match step.action {
            Action::Allow => Statement::return_(),
            Action::Deny => denied(),
            Action::Pass => Statement::goto(second_name(direction, id)),
        };
        put(&mut first, step, direction, &verdict);
    }
    if second.is_some() {
        first = first.rule([Statement::goto(second_name(direction, id))]);
    }
    let last = second.as_mut().unwrap_or(&mut first);
    for step in &body.steps {
        // After this tier there is nothing that would deny.
        let verdict = match step.action {
            Action::Allow | Action::Pass => Statement::return_(),
            Action::Deny => denied(),
        };
        put(last, step, direction, &verdict);
    }
    let end = match body.end {
        End::Allow => None,
        End::Deny => Some(denied()),
        End::Audit => Some(Statement::goto(name(&format!("audited-{direction}")))),
    };
    if let Some(end) = end {
        let policies: Vec<String> = body.policies.iter().map(ToString::to_string).collect();
        let rule = Rule::new([Statement::Counter, end]);
        last.rules.push(rule.with_comment(shortened(&policies.join(" "))));
    }
    [first].into_iter().chain(second).collect()
}

fn put(chain: &mut Chain, step: &Step, direction: Direction, verdict: &Statement) {
    let comment = shortened(&step.origin.to_string());
    for statements in matched(step, direction) {
        let end = [Statement::Counter, verdict.clone()];
        let rule = Rule::new(statements.into_iter().chain(end));
        chain.rules.push(rule.with_comment(comment.clone()));
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The matches of a step; any of them will do. Everything of a family is matched in that family only.
fn matched(step: &Step, direction: Direction) -> Vec<Vec<Statement>> {
    let mut all = Vec::new();
    let ports = match &step.ports {
        None => vec![Vec::new()],
        Some(ports) => numbers(&ports.ranges),
    };
    for peers in peers(step, direction) {
        for ports in &ports {
            all.push(peers.iter().chain(ports).cloned().collect());
        }
    }
    for (collection, _) in step.named() {
        for family in Family::BOTH {
            let key = [daddr(family), Selector::MetaL4proto, Selector::ThDport];
            all.push(vec![Statement::in_set(key, SetId::Members(collection, family).name())]);
        }
    }
    all
}

/// Ways to be one of the peers.
fn peers(step: &Step, direction: Direction) -> Vec<Vec<Statement>> {
    let Some(peers) = &step.peers else { return vec![Vec::new()] };
    let mut ways = Vec::new();
    let mut way = |set: SetId, family| {
        ways.push(vec![Statement::in_set([other(direction, family)], set.name())]);
    };
    for family in Family::BOTH {
        if let Some((id, _)) = &peers.group {
            way(SetId::Members(Collection::Group(*id), family), family);
        }
        if let Some((id, blocks)) = &peers.blocks
            && blocks.iter().any(|(first, _)| Family::of(*first) == family)
        {
            way(SetId::Members(Collection::Blocks(*id), family), family);
        }
    }
    ways
}

/// Ways to be on one of these ports: single ones are looked up together.
fn numbers(ranges: &[(Protocol, u16, u16)]) -> Vec<Vec<Statement>> {
    let transport = |protocol: Protocol| {
        Statement::equals(Selector::MetaL4proto, Packed::new().proto(protocol.number()))
    };
    let mut ways = Vec::new();
    let single = ranges.iter().filter(|(_, first, last)| first == last);
    let single: Vec<Packed> = single
        .map(|(protocol, port, _)| Packed::new().proto(protocol.number()).port(*port))
        .collect();
    if !single.is_empty() {
        let left = vec![Selector::MetaL4proto, Selector::ThDport];
        let right = Right::OneOf(single);
        ways.push(vec![Statement::Match(Match { left, op: MatchOp::Eq, right })]);
    }
    for (protocol, first, last) in ranges.iter().filter(|(_, first, last)| first != last) {
        let mut way = vec![transport(*protocol)];
        if (*first, *last) != (0, u16::MAX) {
            let right = Right::Range(Packed::new().port(*first), Packed::new().port(*last));
            let left = vec![Selector::ThDport];
            way.push(Statement::Match(Match { left, op: MatchOp::Eq, right }));
        }
        ways.push(way);
    }
    ways
}
