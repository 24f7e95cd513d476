//! Keeps a node's agent and runner running, as an init system would on a real node: what dies is started again, with a
//! growing pause; what `lab node kill` stopped stays down until `lab node restart`.
//!
//! One task per process. Each owns its child and its order channel; dropping the [`Supervisor`] ends the tasks and
//! leaves the children alone (taking a lab down is `teardown`'s).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::process::ProcessId;
use crate::state::{ProcessRecord, Role};

/// First pause before a process that died is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that ran this long starts over with the first pause.
const SETTLED: Duration = Duration::from_secs(10);

/// A process to keep running.
#[derive(Debug, Clone)]
pub struct Part {
    /// The node it belongs to.
    pub node: String,
    /// Its part.
    pub role: Role,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Where its output goes, appended.
    pub log: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Run,
    Kill,
}

type Key = (String, Role);
type Records = Arc<Mutex<BTreeMap<Key, ProcessRecord>>>;

/// All supervised processes of a lab.
#[derive(Debug)]
pub struct Supervisor {
    records: Records,
    orders: BTreeMap<Key, watch::Sender<Order>>,
    changed: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl Supervisor {
    /// Starts `parts`; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(parts: Vec<Part>) -> Self {
        let records: Records = Arc::default();
        let (announce, changed) = watch::channel(0);
        let mut orders = BTreeMap::new();
        let mut tasks = JoinSet::new();
        for part in parts {
            let key = (part.node.clone(), part.role);
            let record = ProcessRecord {
                node: part.node.clone(),
                role: part.role,
                process: None,
                restarts: 0,
                killed: false,
            };
            let (order, follow) = watch::channel(Order::Run);
            records.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), record);
            orders.insert(key.clone(), order);
            let notes = Notes { key, records: Arc::clone(&records), announce: announce.clone() };
            tasks.spawn(keep(part, follow, notes));
        }
        Self { records, orders, changed, _tasks: tasks }
    }

    /// What runs now, by node and part.
    #[must_use]
    pub fn records(&self) -> Vec<ProcessRecord> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A channel that changes whenever [`Self::records`] does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Kills (`kill -9`) the given parts of a node and keeps them down; returns when they are gone.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub async fn kill(&self, node: &str, roles: &[Role]) -> anyhow::Result<()> {
        self.order(node, roles, Order::Kill)?;
        self.settle(node, roles, |record| record.killed && record.process.is_none()).await
    }

    /// Starts the given parts of a node anew, whether they run or not; returns when the new ones run.
    ///
    /// # Errors
    /// When the lab has no such node.
    pub async fn restart(&self, node: &str, roles: &[Role]) -> anyhow::Result<()> {
        self.kill(node, roles).await?;
        self.order(node, roles, Order::Run)?;
        self.settle(node, roles, |record| !record.killed && record.process.is_some()).await
    }

    fn order(&self, node: &str, roles: &[Role], order: Order) -> anyhow::Result<()> {
        for role in roles {
            let Some(sender) = self.orders.get(&(node.to_owned(), *role)) else {
                bail!("this lab has no node {node:?}: it has {}", self.nodes().join(", "));
            };
            sender.send_replace(order);
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<String> {
        let mut nodes: Vec<String> = self.orders.keys().map(|(node, _)| node.clone()).collect();
        nodes.dedup();
        nodes
    }

    async fn settle(
        &self,
        node: &str,
        roles: &[Role],
        settled: impl Fn(&ProcessRecord) -> bool,
    ) -> anyhow::Result<()> {
        let mut changes = self.changed.clone();
        let all = |records: &[ProcessRecord]| {
            records.iter().filter(|r| r.node == node && roles.contains(&r.role)).all(&settled)
        };
        let wait = async {
            while !all(&self.records()) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .with_context(|| format!("{node} did not follow within 10 s"))
    }
}

/// Where a task notes what it did.
struct Notes {
    key: Key,
    records: Records,
    announce: watch::Sender<u64>,
}

impl Notes {
    fn note(&self, change: impl FnOnce(&mut ProcessRecord)) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(&self.key) {
            change(record);
        }
        drop(records);
        self.announce.send_modify(|count| *count += 1);
    }
}

async fn keep(part: Part, mut order: watch::Receiver<Order>, notes: Notes) {
    let (node, role) = (part.node.as_str(), part.role.as_str());
    let mut pause = FIRST_PAUSE;
    loop {
        if *order.borrow_and_update() == Order::Kill {
            notes.note(|record| record.killed = true);
            if !until(&mut order, Order::Run).await {
                return;
            }
            pause = FIRST_PAUSE;
        }
        let began = Instant::now();
        match start(&part) {
            Ok(mut child) => {
                let process = child.id().and_then(ProcessId::of);
                notes.note(|record| {
                    record.process = process;
                    record.killed = false;
                });
                tokio::select! {
                    status = child.wait() => match status {
                        Ok(status) => warn!(node, role, %status, log = %part.log.display(), "ended, starting it again"),
                        Err(error) => warn!(node, role, %error, "cannot be waited for"),
                    },
                    followed = until(&mut order, Order::Kill) => {
                        if !followed {
                            return;
                        }
                        info!(node, role, "killed on request");
                        if let Err(error) = child.kill().await {
                            warn!(node, role, %error, "cannot be killed");
                        }
                    }
                }
            }
            Err(error) => warn!(node, role, "{error:#}"),
        }
        notes.note(|record| record.process = None);
        if *order.borrow() == Order::Kill {
            continue;
        }
        if began.elapsed() > SETTLED {
            pause = FIRST_PAUSE;
        }
        notes.note(|record| record.restarts += 1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = order.changed() => if changed.is_err() { return },
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits for an order; `false` when nobody is left to give one.
async fn until(orders: &mut watch::Receiver<Order>, wanted: Order) -> bool {
    orders.wait_for(|order| *order == wanted).await.is_ok()
}

fn start(part: &Part) -> anyhow::Result<Child> {
    let (program, arguments) = part.command.split_first().context("no command")?;
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&part.log)
        .with_context(|| format!("cannot open {}", part.log.display()))?;
    let errors = log.try_clone().context("cannot copy a file descriptor")?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // A terminal's Ctrl-C is for `lab up`, not for the nodes.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Signal;

    fn part(command: &[&str], log: &std::path::Path) -> Part {
        Part {
            node: "node-1".into(),
            role: Role::Agent,
            command: command.iter().map(Into::into).collect(),
            log: log.to_owned(),
        }
    }

    async fn process(
        supervisor: &Supervisor,
        wanted: impl Fn(&ProcessRecord) -> bool,
    ) -> ProcessRecord {
        let mut changes = supervisor.changes();
        tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                changes.borrow_and_update();
                let record = supervisor.records().remove(0);
                if wanted(&record) {
                    return record;
                }
                changes.changed().await.unwrap();
            }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn what_dies_comes_back_and_what_was_killed_stays_down() {
        let log = std::env::temp_dir().join(format!("fairway-supervise-{}", std::process::id()));
        let supervisor = Supervisor::start(vec![part(&["sleep", "60"], &log)]);
        let first = process(&supervisor, |r| r.process.is_some()).await.process.unwrap();
        assert!(first.signal(Signal::KILL));
        let second = process(&supervisor, |r| r.process.is_some_and(|p| p != first)).await;
        assert_eq!(second.restarts, 1);

        supervisor.kill("node-1", &[Role::Agent]).await.unwrap();
        assert!(!second.process.unwrap().alive());
        tokio::time::sleep(FIRST_PAUSE * 3).await;
        let record = supervisor.records().remove(0);
        assert!(record.killed && record.process.is_none(), "{record:?}");

        supervisor.restart("node-1", &[Role::Agent]).await.unwrap();
        let third = supervisor.records().remove(0);
        assert!(!third.killed && third.process.unwrap().alive());

        let error = supervisor.kill("node-9", &[Role::Agent]).await.unwrap_err().to_string();
        assert_eq!(error, "this lab has no node \"node-9\": it has node-1");
        supervisor.kill("node-1", &[Role::Agent]).await.unwrap();
        std::fs::remove_file(log).unwrap();
    }
}
