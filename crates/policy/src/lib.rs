//! NetworkPolicies as one node has to enforce them: pure, from facts to a program and its elements.
//!
//! Pods of this node to which the same rules apply share an identity: a chain of rules, named by what it says. A verdict map
//! leads from a pod's address to the chain, and a rule matches its peers in a set named by what selects them, so a pod that
//! comes, goes or changes labels is a handful of elements, and a policy that selects no pod of this node costs nothing here.
//!
//! [`Planner::full`] gives the whole, [`Planner::update`] what a change needs; both come to the same table. [`Planner::judge`]
//! says of any packet what becomes of it and why, from the same rules, for people and for connections that are under way.
//!
//! Nothing here reads a clock, a socket or a file.

mod compile;
mod explain;
mod facts;
mod index;
mod judge;
mod planner;
mod program;
mod ranges;
mod rule;

pub use explain::{Nearest, Reason};
pub use judge::{By, Finding, Judgement, Traffic};
pub use planner::{Claim, Delta, Plan, Planner};
pub use program::{
    DeniedFlow, Severed, TABLE, denied_sets, flow_of_key, is_ours, mend, sever, severed_of_key,
    severed_sets,
};
pub use rule::{Direction, Origin};
