//! kube-proxy's rules on this node, in both of its modes. An edge: nf_tables over netlink; the iptables programs, because
//! the old interface of iptables has no other.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nft::{Family, Kernel as _, Name, Op, Table, Transaction};
use service::Frontend;

use super::restore::{self, Saved};

/// The table of kube-proxy's nftables mode, in families `ip` and `ip6`.
pub const TABLE: &str = "kube-proxy";

/// The two implementations of iptables, and the two families.
const PROGRAMS: [(&str, &str, bool); 4] = [
    ("iptables-nft", "ip", true),
    ("ip6tables-nft", "ip6", true),
    ("iptables-legacy", "ip", false),
    ("ip6tables-legacy", "ip6", false),
];

/// iptables rules of one implementation and family.
#[derive(Debug)]
struct Iptables {
    program: &'static str,
    saved: Saved,
}

/// What is there.
#[derive(Debug, Default)]
pub struct Rules {
    tables: Vec<Table>,
    iptables: Vec<Iptables>,
}

impl Rules {
    /// Looks for them.
    ///
    /// # Errors
    /// When nf_tables cannot be asked, or there are iptables rules and no program to read them.
    pub fn find() -> anyhow::Result<Self> {
        let mut kernel = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
        let mut rules = Self::default();
        let name = Name::new(TABLE)?;
        for family in [Family::Ip, Family::Ip6] {
            rules.tables.extend(kernel.list(family, &name)?);
        }
        let chains = kernel.every_chain()?;
        for (program, family, is_nft) in PROGRAMS {
            let is_there = if is_nft {
                chains.iter().any(|chain| {
                    chain.family.name() == family && restore::is_kube_proxys(chain.name.as_str())
                })
            } else {
                has_legacy_nat(family)
            };
            if !is_there {
                continue;
            }
            let of = if family == "ip" { model::Family::V4 } else { model::Family::V6 };
            let saved = Saved::parse(&save(program, is_nft)?, of);
            if !saved.is_empty() {
                rules.iptables.push(Iptables { program, saved });
            }
        }
        Ok(rules)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.iptables.is_empty()
    }

    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        let tables =
            self.tables.iter().map(|table| format!("nf_tables table {} {TABLE}", table.family));
        let chains = self
            .iptables
            .iter()
            .map(|one| format!("{} chains of {}", one.saved.chain_count(), one.program));
        let all: Vec<String> = tables.chain(chains).collect();
        if all.is_empty() { "no rules of kube-proxy".to_owned() } else { all.join(", ") }
    }

    /// What these rules lead to endpoints.
    #[must_use]
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        let tables = self.tables.iter().flat_map(service::listed::read);
        let tables = tables.filter(|(_, reached)| reached.is_dispatched);
        let tables = tables.map(|(frontend, _)| frontend);
        tables.chain(self.iptables.iter().flat_map(|one| one.saved.served())).collect()
    }

    /// Whether they accept forwarded packets, which matters where somebody else drops by policy.
    #[must_use]
    pub fn accepts_forwarding(&self) -> bool {
        self.iptables.iter().any(|one| one.saved.has_chain("filter", "KUBE-FORWARD"))
    }

    /// Removes all of them: each table in one transaction, each family of iptables in one restore.
    ///
    /// # Errors
    /// When the kernel or a program refuses; what was removed stays removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        let mut kernel = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
        for table in &self.tables {
            let mut transaction = Transaction::new(table.family, table.name.clone());
            transaction.push(Op::DeleteTable);
            kernel
                .commit(&transaction)
                .with_context(|| format!("table {} {TABLE} cannot be removed", table.family))?;
        }
        for one in &self.iptables {
            restore(one.program, &one.saved.removal())?;
        }
        Ok(())
    }
}

/// The kernel names the tables of the old iptables that exist; asking the program would make them.
fn has_legacy_nat(family: &str) -> bool {
    let file = format!("/proc/thread-self/net/{family}_tables_names");
    fs::read_to_string(file).is_ok_and(|names| names.lines().any(|name| name == "nat"))
}

fn missing(program: &str) -> String {
    format!(
        "there are iptables rules of kube-proxy and no `{program}` to change them: install the package iptables of this distribution"
    )
}

/// The rules as `iptables-save` prints them.
fn save(program: &str, is_nft: bool) -> anyhow::Result<String> {
    let command = format!("{program}-save");
    let output = Command::new(&command).stdin(Stdio::null()).output();
    let output = match output {
        // A container that has the nft implementation only cannot see old rules of others: nothing of kube-proxy's.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_nft => {
            return Ok(String::new());
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{}", missing(&command))
        }
        other => other.with_context(|| format!("cannot run {command}"))?,
    };
    if !output.status.success() {
        bail!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn restore(program: &str, input: &str) -> anyhow::Result<()> {
    let command = format!("{program}-restore");
    let mut child = Command::new(&command)
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| missing(&command))?;
    let mut stdin = child.stdin.take().context("invariant: standard input is a pipe")?;
    stdin.write_all(input.as_bytes()).with_context(|| format!("{command} did not listen"))?;
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("waiting for {command}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        bail!("{command} refused to remove kube-proxy's chains: {said}");
    }
    Ok(())
}
