//! `fairway lab node kill|restart`: a node's processes, as a crash and a repair would treat them.

use anyhow::{Context, bail};

use crate::layout::Layout;
use crate::protocol::{self, Request, Response};
use crate::state::Role;
use crate::status::no_such_lab;

/// Which of a node's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Agent and pod runner.
    Both,
    /// The agent alone.
    AgentOnly,
}

impl Which {
    fn roles(self) -> Vec<Role> {
        match self {
            Self::Both => vec![Role::Agent, Role::Runner],
            Self::AgentOnly => vec![Role::Agent],
        }
    }
}

/// `kill -9` of a node's processes; they stay down until [`restart`]. Its pods and its data path stay.
///
/// # Errors
/// When there is no such lab or node, or its control process does not answer.
pub fn kill(layout: &Layout, node: &str, which: Which) -> anyhow::Result<()> {
    order(layout, &Request::Kill { node: node.to_owned(), roles: which.roles() })
}

/// Starts a node's processes anew, whether they run or not.
///
/// # Errors
/// As [`kill`].
pub fn restart(layout: &Layout, node: &str, which: Which) -> anyhow::Result<()> {
    order(layout, &Request::Restart { node: node.to_owned(), roles: which.roles() })
}

fn order(layout: &Layout, request: &Request) -> anyhow::Result<()> {
    if !layout.run_dir().exists() {
        bail!("{}", no_such_lab(layout.name()));
    }
    let answer = protocol::ask(&layout.control_socket(), request).with_context(|| {
        format!(
            "the control process of lab {0} does not answer; `fairway lab up --name {0}` brings the lab back",
            layout.name()
        )
    })?;
    match answer {
        Response::Done => Ok(()),
        Response::Refused { message } => bail!("{message}"),
        Response::Status { .. } => bail!("the control process answered another question"),
    }
}
