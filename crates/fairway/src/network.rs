//! `fairway ipam …` and `fairway node …`: each to its calls in the crate `agent`, and to tables.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agent::{Addresses, Peer};
use link::echo::Echo;
use print::Format;
use serde::Serialize;

use crate::arguments::{Files, IpamCommand, NodeListCommand};
use crate::lab::format;
use crate::service::{ask, at, how, say, verdict};

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of data of an echo.
const ECHO: usize = 56;
pub(crate) const STATE_DIR: &str = "/var/lib/fairway";

pub(crate) fn ipam(command: IpamCommand) -> anyhow::Result<ExitCode> {
    match command {
        IpamCommand::List { blocks, files, output } => {
            let all = agent::addresses(&state_dir(&files))?;
            say(&list(&all, blocks, format(&output))?)?;
            Ok(ExitCode::SUCCESS)
        }
        IpamCommand::Check { repair, files } => verdict(check(&state_dir(&files), repair)),
        IpamCommand::Release { address, force, files } => {
            agent::release(&state_dir(&files), address, force)?;
            say(&format!("{address} is free.\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where the agent of this network namespace keeps its files.
fn state_dir(files: &Files) -> PathBuf {
    let running = || {
        let agents = adopt::processes::agents();
        let agent = crate::agent::as_started(&agents.first()?.arguments).ok()?;
        Some(agent.state_dir)
    };
    files.state_dir.clone().or_else(running).unwrap_or_else(|| STATE_DIR.into())
}

fn list(all: &Addresses, blocks: bool, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(all, format)? {
        return Ok(text);
    }
    let none = || "<none>".to_owned();
    if blocks {
        let row = |block: &agent::RangeUse| {
            let state = if block.open { "Open" } else { "Closed" };
            let left = block.capacity.saturating_sub(block.taken as u64);
            vec![
                block.cidr.to_string(),
                block.pool.clone(),
                block.taken.to_string(),
                left.to_string(),
                state.to_owned(),
            ]
        };
        let rows: Vec<_> = all.blocks.iter().map(row).collect();
        return Ok(print::table(&["BLOCK", "POOL", "TAKEN", "FREE", "STATE"], &rows));
    }
    let wide = format == Format::Wide;
    let mut header = vec!["ADDRESS", "POD", "INTERFACE", "LINK", "AGE"];
    if wide {
        header.push("CONTAINER");
    }
    let row = |entry: &agent::Reserved| {
        let mut row = vec![
            entry.address.to_string(),
            entry.pod.clone().unwrap_or_else(none),
            entry.interface.clone(),
            entry.link.clone().unwrap_or_else(none),
            print::columns::age(entry.age_seconds),
        ];
        if wide {
            row.push(entry.container.clone());
        }
        row
    };
    let rows: Vec<_> = all.reserved.iter().map(row).collect();
    Ok(print::table(&header, &rows))
}

fn check(state_dir: &Path, repair: bool) -> anyhow::Result<bool> {
    if repair {
        let (freed, reserved) = agent::repair(state_dir)?;
        say(&format!("{freed} leaked addresses freed, {reserved} in use reserved.\n"))?;
    }
    let all = agent::addresses(state_dir)?;
    for difference in &all.differences {
        say(&format!("{difference}\n"))?;
    }
    if all.differences.is_empty() {
        say(&format!("{} addresses, each with its pod's link.\n", all.reserved.len()))?;
    }
    Ok(all.differences.is_empty())
}

/// A way, and what was measured on it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    #[serde(flatten)]
    peer: Peer,
    round_trip_microseconds: Option<u128>,
    /// Whether a packet as long as the MTU came through; none where that was not asked.
    whole: Option<bool>,
}

pub(crate) fn node(command: NodeListCommand) -> anyhow::Result<ExitCode> {
    let NodeListCommand::List { sizes, place, output } = command;
    let outcome = (|| {
        let facts = ask(&place)?;
        let how = how(&place);
        let measured = at(&place, || {
            let peers = agent::peers(&how.node, &how.fabric, facts.snapshot())?;
            Ok(peers.into_iter().map(|peer| measure(peer, sizes)).collect::<Vec<_>>())
        })?;
        say(&table(&measured, sizes, format(&output))?)?;
        let fine = |one: &Measured| {
            let answered = one.round_trip_microseconds.is_some() || one.peer.probe.is_none();
            answered && one.peer.problem.is_none() && one.whole != Some(false)
        };
        Ok(measured.iter().all(fine))
    })();
    verdict(outcome)
}

fn measure(peer: Peer, sizes: bool) -> Measured {
    let ask = |to: IpAddr, data: usize, whole: bool| {
        let echo = Echo::to(to, PATIENCE).ok()?;
        let mut echo = if whole { echo.whole().ok()? } else { echo };
        echo.ask(data).ok()?
    };
    let took = peer.probe.and_then(|to| ask(to, ECHO, false)).map(|answer| answer.took.as_micros());
    let whole = peer.probe.zip(peer.mtu).filter(|_| sizes && took.is_some()).map(|(to, mtu)| {
        let header = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
        ask(to, (mtu as usize).saturating_sub(header), true).is_some()
    });
    Measured { peer, round_trip_microseconds: took, whole }
}

fn table(all: &[Measured], sizes: bool, format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(&all, format)? {
        return Ok(text);
    }
    let wide = format == Format::Wide;
    let mut header = vec!["NODE", "ADDRESS", "PODS", "MODE", "MTU", "ROUND TRIP"];
    if wide {
        header.extend(["DEVICE", "PROBLEM"]);
    }
    let none = || "<none>".to_owned();
    let row = |one: &Measured| {
        let peer = &one.peer;
        let mtu = match (peer.mtu, one.whole) {
            (Some(mtu), Some(false)) => format!("{mtu} (too big)"),
            (Some(mtu), Some(true)) if sizes => format!("{mtu} (whole)"),
            (Some(mtu), _) => mtu.to_string(),
            (None, _) => none(),
        };
        let took = match (one.round_trip_microseconds, peer.probe) {
            (Some(took), _) => format!("{}.{:03} ms", took / 1000, took % 1000),
            (None, Some(_)) => "no answer".to_owned(),
            (None, None) => none(),
        };
        let text = |value: Option<String>| value.unwrap_or_else(none);
        let mut row = vec![
            peer.node.clone(),
            text(peer.address.map(|address| address.to_string())),
            text(peer.range.map(|range| range.to_string())),
            peer.mode.to_owned(),
            mtu,
            took,
        ];
        if wide {
            row.extend([text(peer.device.clone()), text(peer.problem.clone())]);
        }
        row
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    Ok(print::table(&header, &rows))
}
