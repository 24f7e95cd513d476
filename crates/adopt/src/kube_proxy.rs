//! Taking over from a running kube-proxy without breaking a connection, and giving back.
//!
//! Why it is safe. A translated connection lives in connection tracking: its packets follow the entry, not the rules,
//! as long as *some* nat chain is registered on the hook. Rules only decide about new connections, and of several nat
//! chains on one hook the first that translates wins, the others see the connection as done. The kernel puts a new chain
//! before older ones of the same priority (−100 for both of us), so from the commit on that made our table complete, new
//! connections are ours; kube-proxy's rules are a safety net below. So the order is:
//!
//! 1. our table serves everything kube-proxy's rules serve (compared frontend by frontend, from the kernel);
//! 2. kube-proxy is stopped, else it would bring its rules back;
//! 3. its rules are removed: nf_tables tables in one transaction each, iptables chains with one restore per family.
//!
//! At every moment at least one complete set of rules is there, and at least one nat chain on every hook. Giving back
//! goes the same way in the other direction. Both sides mark packets with the same bit and masquerade them alike.
//!
//! What is not carried over: kube-proxy's memory of clients with session affinity; their open connections stay, their
//! next one may choose another endpoint.

pub mod daemon_set;
mod restore;
mod rules;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nft::{Family, HookKind, HookPoint, Kernel as _, Name, Policy, Table};
use service::Frontend;

pub use rules::{Rules, TABLE};

use crate::processes;

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Frontends named in a message.
const NAMED: usize = 5;

/// What the operator allows, and how long to wait.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Go on although something is missing or in the way.
    pub force: bool,
    /// Longest wait for each step.
    pub patience: Duration,
}

/// What a step says to the operator.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// What kube-proxy serves on this node and we do not (`Rules` minus ours).
fn missing(theirs: &BTreeSet<Frontend>, ours: &BTreeSet<Frontend>) -> Vec<Frontend> {
    theirs.difference(ours).copied().collect()
}

fn named(frontends: &[Frontend]) -> String {
    let mut words: Vec<String> = frontends.iter().take(NAMED).map(ToString::to_string).collect();
    if frontends.len() > NAMED {
        words.push(format!("and {} more", frontends.len() - NAMED));
    }
    words.join(", ")
}

/// Our table as it is in the kernel.
fn our_table() -> anyhow::Result<Option<Table>> {
    let mut kernel = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
    Ok(kernel.list(Family::Inet, &Name::new(service::TABLE)?)?)
}

/// What our table decides about: served, refused and dropped frontends alike.
fn our_frontends() -> anyhow::Result<BTreeSet<Frontend>> {
    let table = our_table()?;
    Ok(table.iter().flat_map(|table| service::listed::read(table).into_keys()).collect())
}

/// Virtual servers of IPVS in this network namespace.
#[must_use]
pub fn ipvs_servers() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
    // Three lines of heading, then one per virtual server and one per real server.
    table.lines().skip(3).filter(|line| !line.trim_start().starts_with("->")).count()
}

/// Before anything is changed: whether taking over can work at all.
///
/// # Errors
/// What is in the way.
pub fn check(options: Options) -> anyhow::Result<Rules> {
    let servers = ipvs_servers();
    if servers > 0 && !options.force {
        bail!(
            "IPVS has {servers} virtual servers here: connections through them are not nf_tables' and would break; switch kube-proxy to nftables or iptables mode first"
        );
    }
    let rules = Rules::find()?;
    if our_table()?.is_none() {
        bail!(
            "Fairway's table is not on this node: start the agent first (beside kube-proxy it needs another --health-addr), then run this again"
        );
    }
    if processes::agents().is_empty() && !options.force {
        bail!(
            "no Fairway agent runs in this network namespace: without one the Services would not follow the cluster any more; start it, or give --force"
        );
    }
    if let Some(chain) = forward_drop()?
        && rules.accepts_forwarding()
        && !options.force
    {
        bail!(
            "{chain} drops forwarded packets by policy and only kube-proxy's KUBE-FORWARD lets those to Services through: add rules that accept the pod CIDRs first, or give --force"
        );
    }
    Ok(rules)
}

/// What kube-proxy's rules serve and ours do not, for people; `None` when nothing.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn lacking(rules: &Rules) -> anyhow::Result<Option<String>> {
    let lacking = missing(&rules.frontends(), &our_frontends()?);
    Ok((!lacking.is_empty()).then(|| named(&lacking)))
}

/// A filter chain of somebody else that drops what it does not know on its way through.
fn forward_drop() -> anyhow::Result<Option<String>> {
    let mut kernel = nft::kernel::Netlink::open().context("no nf_tables netlink here")?;
    let chains = kernel.every_chain()?;
    let drops = chains.into_iter().find(|chain| {
        chain.hook.as_ref().is_some_and(|hook| {
            hook.kind == HookKind::Filter
                && hook.point == HookPoint::Forward
                && hook.policy == Policy::Drop
        })
    });
    Ok(drops.map(|chain| format!("chain {} of table {} {}", chain.name, chain.family, chain.table)))
}

/// Takes over. `stop` makes kube-proxy leave where it is a pod and tells whether it was one; elsewhere the operator
/// is told.
///
/// # Errors
/// Which step did not happen, and what to do; before the last step nothing of kube-proxy's was touched.
pub fn take_over(
    options: Options,
    stop: impl FnOnce() -> anyhow::Result<bool>,
    say: Say<'_>,
) -> anyhow::Result<()> {
    let rules = check(options)?;
    if rules.is_empty() && processes::kube_proxies().is_empty() {
        say("kube-proxy is not on this node: nothing to take over");
        return Ok(());
    }
    say(&format!("found {}", rules.words()));

    let lacking = until(options.patience, || {
        let lacking = missing(&Rules::find()?.frontends(), &our_frontends()?);
        Ok(lacking.is_empty().then_some(()).ok_or(lacking))
    })?;
    if let Err(lacking) = lacking {
        let text = format!("kube-proxy serves what Fairway does not: {}", named(&lacking));
        if !options.force {
            bail!("{text}; see `fairway diff` and the agent's log, or give --force");
        }
        say(&text);
    }
    say(&format!("Fairway serves all of it ({} frontends)", our_frontends()?.len()));

    let running = processes::kube_proxies();
    // Asked even when no process is seen: from inside a pod those of others are not.
    if stop()? {
        say("kube-proxy has left this node");
    } else if !running.is_empty() {
        let who: Vec<String> = running.iter().map(processes::Process::words).collect();
        say(&format!(
            "stop kube-proxy now: {} (systemctl stop kube-proxy, or end it)",
            who.join(", ")
        ));
    }
    let gone = until(options.patience, || {
        let left = processes::kube_proxies();
        Ok(left.is_empty().then_some(()).ok_or(left))
    })?;
    if let Err(left) = gone {
        let left: Vec<String> = left.iter().map(processes::Process::words).collect();
        bail!(
            "kube-proxy still runs ({}); its rules were not touched, run this again when it is stopped",
            left.join(", ")
        );
    }
    say("kube-proxy is stopped");

    // Read again: it may have written a last time.
    let rules = Rules::find()?;
    let lacking = missing(&rules.frontends(), &our_frontends()?);
    if !lacking.is_empty() && !options.force {
        bail!("meanwhile kube-proxy got {} and Fairway did not; run this again", named(&lacking));
    }
    rules.remove()?;
    let left = Rules::find()?;
    if !left.is_empty() {
        bail!(
            "kube-proxy's rules are back ({}): something runs it; find it and run this again",
            left.words()
        );
    }
    say("kube-proxy's rules are removed");
    Ok(())
}

/// Gives back: kube-proxy serves again, then our part goes. `start` makes kube-proxy come back where it is a pod.
///
/// # Errors
/// Which step did not happen, and what to do; before the last step nothing of ours was touched.
pub fn give_back(
    options: Options,
    start: impl FnOnce() -> anyhow::Result<bool>,
    say: Say<'_>,
) -> anyhow::Result<()> {
    let Some(_) = our_table()? else {
        say("Fairway's table is not on this node: nothing to give back");
        return Ok(());
    };
    if start()? {
        say("kube-proxy may come back to this node");
    } else if processes::kube_proxies().is_empty() {
        say("start kube-proxy now (systemctl start kube-proxy)");
    }
    let table = our_table()?;
    let served = table.iter().flat_map(service::listed::read);
    let served = served.filter(|(_, reached)| reached.is_dispatched);
    let ours: BTreeSet<Frontend> = served.map(|(frontend, _)| frontend).collect();
    let lacking = until(options.patience, || {
        let lacking = missing(&ours, &Rules::find()?.frontends());
        Ok(lacking.is_empty().then_some(()).ok_or(lacking))
    })?;
    if let Err(lacking) = lacking {
        let text = format!("kube-proxy does not serve: {}", named(&lacking));
        if !options.force {
            bail!("{text}; Fairway's rules stay until it does, or give --force");
        }
        say(&text);
    }
    say("kube-proxy serves everything Fairway does");
    let stopped = until(options.patience, || {
        let agents = processes::agents();
        if let Some(agent) = agents.first() {
            return Ok(Err(agent.words()));
        }
        Ok(Ok(()))
    })?;
    if let Err(agent) = stopped {
        if !options.force {
            bail!(
                "the agent runs ({agent}) and would bring its rules back: stop it and run this again"
            );
        }
        say(&format!("the agent still runs ({agent})"));
    }
    remove_ours()?;
    say("Fairway's Service rules are removed");
    Ok(())
}

/// Removes our part: all of it, or all but the NAT of pods where this node's pods are ours.
fn remove_ours() -> anyhow::Result<()> {
    let links = link::kernel::Netlink::open()?.links()?;
    let alias = cni::attachment::ALIAS_PREFIX;
    let has_pods =
        links.iter().any(|link| link.alias.as_deref().is_some_and(|it| it.starts_with(alias)));
    if !has_pods {
        return crate::cleanup::remove_table();
    }
    let Some(listed) = our_table()? else { return Ok(()) };
    let mut kept = listed.clone();
    kept.chains.retain(|name, _| name.as_str() == fabric::NAT_CHAIN);
    let needed: BTreeSet<Name> = kept
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.statements)
        .filter_map(|statement| match statement {
            nft::Statement::Match(nft::Match { right: nft::Right::Set(name), .. }) => {
                Some(name.clone())
            }
            _ => None,
        })
        .collect();
    kept.sets.retain(|name, _| needed.contains(name));
    let mut kernel = nft::kernel::Netlink::open()?;
    kernel
        .commit(&nft::diff(&kept, Some(&listed)))
        .context("our Service rules cannot be removed")?;
    Ok(())
}

/// Looks until it holds or the time is over; the last reason why not is given back.
fn until<E>(
    patience: Duration,
    mut look: impl FnMut() -> anyhow::Result<Result<(), E>>,
) -> anyhow::Result<Result<(), E>> {
    let end = Instant::now() + patience;
    loop {
        match look()? {
            Err(_) if Instant::now() < end => std::thread::sleep(LOOK_AGAIN),
            last => return Ok(last),
        }
    }
}
