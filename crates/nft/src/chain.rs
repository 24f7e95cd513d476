//! Chains, the hooks base chains hang on, and rules.

use crate::{Name, Statement};

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookKind {
    /// `filter`.
    Filter,
    /// `nat`: sees the first packet of a connection only.
    Nat,
    /// `route`: re-routes on output when the packet's mark or addresses change.
    Route,
}

/// Where on a packet's way a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookPoint {
    /// Before the routing decision.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After the routing decision.
    Postrouting,
}

/// What happens to a packet that falls off the end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// It goes on.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// How a base chain hangs on its hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hook {
    /// The chain's type.
    pub kind: HookKind,
    /// The hook.
    pub point: HookPoint,
    /// Lower runs first; −100 is `dstnat`, 0 `filter`, 100 `srcnat`.
    pub priority: i32,
    /// The fate of packets no rule decided on.
    pub policy: Policy,
}

impl Hook {
    /// A hook with policy accept.
    #[must_use]
    pub const fn new(kind: HookKind, point: HookPoint, priority: i32) -> Self {
        Self { kind, point, priority, policy: Policy::Accept }
    }

    /// The same with policy drop.
    #[must_use]
    pub const fn dropping(mut self) -> Self {
        self.policy = Policy::Drop;
        self
    }
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name.
    pub name: Name,
    /// `Some` for a base chain.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
    /// A comment `nft list` shows.
    pub comment: Option<String>,
}

impl Chain {
    /// A regular chain, reached by jump or goto.
    #[must_use]
    pub fn new(name: Name) -> Self {
        Self { name, hook: None, rules: Vec::new(), comment: None }
    }

    /// A base chain.
    #[must_use]
    pub fn base(name: Name, hook: Hook) -> Self {
        Self { hook: Some(hook), ..Self::new(name) }
    }

    /// The same with one more rule.
    #[must_use]
    pub fn rule(mut self, statements: impl IntoIterator<Item = Statement>) -> Self {
        self.rules.push(Rule::new(statements));
        self
    }
}

/// A rule: statements from left to right, the first that does not match ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The statements.
    pub statements: Vec<Statement>,
    /// A comment `nft list` shows; at most 127 bytes.
    pub comment: Option<String>,
}

impl Rule {
    /// A rule of these statements.
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Self {
        Self { statements: statements.into_iter().collect(), comment: None }
    }

    /// The same with a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}
