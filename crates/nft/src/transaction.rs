//! A transaction: operations on one table that the kernel takes all or none of.

use std::sync::Arc;

use crate::{Element, Family, Hook, Name, Rule, SetSpec};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes the table, unless it is there.
    AddTable {
        /// Its comment.
        comment: Option<String>,
        /// Whether it is switched off.
        dormant: bool,
    },
    /// Removes the table with all in it.
    DeleteTable,
    /// Makes a chain, unless one of the same name and hook is there; changes the policy of one that is.
    AddChain {
        /// The name.
        name: Name,
        /// For base chains.
        hook: Option<Hook>,
        /// A comment.
        comment: Option<String>,
    },
    /// Removes a chain with its rules; nothing may refer to it.
    DeleteChain {
        /// The name.
        name: Name,
    },
    /// Removes the rules of a chain.
    FlushChain {
        /// The chain.
        chain: Name,
    },
    /// Appends a rule.
    AddRule {
        /// The chain.
        chain: Name,
        /// The rule.
        rule: Rule,
    },
    /// Makes a set, map or verdict map, unless an equal one is there.
    AddSet(Arc<SetSpec>),
    /// Removes a set; no rule may refer to it.
    DeleteSet {
        /// The name.
        name: Name,
    },
    /// Removes all elements of a set.
    FlushSet {
        /// The set.
        set: Name,
    },
    /// Adds elements; one that is there with the same datum is left as it is.
    AddElements {
        /// The set's declaration (its name, and how elements are written).
        set: Arc<SetSpec>,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Removes elements, by key and range.
    DeleteElements {
        /// The set's declaration.
        set: Arc<SetSpec>,
        /// The elements; their data do not matter.
        elements: Vec<Element>,
    },
}

/// Operations on one table, in order, all or nothing.
///
/// `Display` gives the input of `nft -f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The table's family.
    pub family: Family,
    /// The table's name.
    pub table: Name,
    /// The operations in order.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// No operations yet.
    #[must_use]
    pub fn new(family: Family, table: Name) -> Self {
        Self { family, table, ops: Vec::new() }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many operations there are; every element counts as one.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = |op: &Op| match op {
            Op::AddElements { elements, .. } | Op::DeleteElements { elements, .. } => {
                elements.len()
            }
            _ => 1,
        };
        self.ops.iter().map(count).sum()
    }

    /// Appends an operation.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }
}
