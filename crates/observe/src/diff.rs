//! `fairway diff`: what the agent would change in the kernel right now.

use std::fmt::Write as _;

use agent::{Desired, ServiceSettings, Without};
use model::Report;
use nft::{Op, Table, Transaction};

use crate::facts::Facts;

/// How a node's agent serves.
#[derive(Clone, Debug)]
pub struct How {
    /// The node's name.
    pub node: String,
    /// How Services are served.
    pub settings: ServiceSettings,
    /// What is left to others.
    pub without: Without,
    /// How packets cross to other nodes.
    pub fabric: agent::FabricSettings,
}

impl How {
    /// What the agent would make of `facts`.
    ///
    /// # Errors
    /// When this network namespace's addresses cannot be read.
    pub fn desired(&self, facts: &Facts, listed: Option<&Table>) -> anyhow::Result<Desired> {
        let settings = (&self.settings, &self.fabric);
        agent::desired(&self.node, settings, self.without, facts.snapshot(), listed)
    }
}

/// What differs.
#[derive(Debug)]
pub struct Difference {
    /// The operations that would make the kernel what it should be.
    pub transaction: Transaction,
    /// What is wrong with which object.
    pub reports: Vec<Report>,
}

/// Compares the table as listed with what the agent would make of `facts`. Reads this network namespace's
/// addresses for the part of the fabric.
///
/// # Errors
/// When the addresses cannot be read.
pub fn compare(how: &How, facts: &Facts, listed: Option<&Table>) -> anyhow::Result<Difference> {
    let desired = how.desired(facts, listed)?;
    let transaction = nft::diff(&desired.table, listed);
    let mut reports = facts.reports.clone();
    reports.extend(desired.reports);
    Ok(Difference { transaction, reports })
}

/// The operations as `nft -f` would take them, one per line, elements one by one: `+` would come, `-` would go.
#[must_use]
pub fn print(transaction: &Transaction) -> String {
    let mut text = String::new();
    for op in &transaction.ops {
        let sign = match op {
            Op::DeleteTable
            | Op::DeleteChain { .. }
            | Op::FlushChain { .. }
            | Op::DeleteSet { .. }
            | Op::FlushSet { .. }
            | Op::DeleteElements { .. } => '-',
            Op::AddTable { .. }
            | Op::AddChain { .. }
            | Op::AddRule { .. }
            | Op::AddSet(_)
            | Op::AddElements { .. } => '+',
        };
        for one in each(op) {
            let single = Transaction {
                family: transaction.family,
                table: transaction.table.clone(),
                ops: vec![one],
            };
            let line = single.to_string();
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(text, "{sign} {line}").expect("invariant: writing to a String cannot fail");
        }
    }
    text
}

/// An operation on many elements as many operations.
fn each(op: &Op) -> Vec<Op> {
    match op {
        Op::AddElements { set, elements } => elements
            .iter()
            .map(|one| Op::AddElements { set: set.clone(), elements: vec![one.clone()] })
            .collect(),
        Op::DeleteElements { set, elements } => elements
            .iter()
            .map(|one| Op::DeleteElements { set: set.clone(), elements: vec![one.clone()] })
            .collect(),
        other => vec![other.clone()],
    }
}

#[cfg(test)]
mod tests {
    use nft::{Element, Family, Name, Packed, Selector, SetSpec};

    use super::*;

    #[test]
    fn every_element_is_a_line() {
        let name = |text| Name::new(text).unwrap();
        let set = std::sync::Arc::new(SetSpec::new(name("s"), [Selector::IpDaddr.field()]));
        let element = |last| Element::key(Packed::new().ipv4([10, 0, 0, last].into()));
        let mut transaction = Transaction::new(Family::Inet, name("fairway"));
        transaction.push(Op::DeleteElements { set: set.clone(), elements: vec![element(1)] });
        transaction.push(Op::AddElements { set, elements: vec![element(2), element(3)] });
        let text = print(&transaction);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("- delete element inet fairway s"), "{text}");
        assert!(
            lines[2].starts_with("+ add element inet fairway s") && lines[2].contains("10.0.0.3"),
            "{text}"
        );
    }
}
