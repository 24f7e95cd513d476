//! `fairway preflight`, `cleanup` and `adopt`: each to its calls in the crate `adopt`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adopt::cleanup::{self, Allowed, Places, Traces};
use adopt::kube_proxy::{self, daemon_set};
use adopt::preflight::{self, Api, Verdict};
use anyhow::{Context as _, bail};
use observe::facts;

use crate::arguments::{AdoptCommand, AdoptOptions, CleanupOptions, PreflightOptions};
use crate::lab::format;
use crate::service::{host_name, say, verdict};
use crate::small_runtime;

pub(crate) fn preflight(options: &PreflightOptions) -> anyhow::Result<ExitCode> {
    let outcome = (|| {
        lab::preflight::root().context("the checks need root; run it with sudo")?;
        let node = options.node_name.clone().unwrap_or_else(host_name);
        let checks = preflight::run(&preflight::Options {
            cni_conf_dir: options.cni_conf_dir.clone(),
            health_addr: options.health_addr,
            api: ask(options.kubeconfig.as_deref(), node)?,
        });
        say(&preflight::text(&checks, format(&options.output))?)?;
        Ok(preflight::worst(&checks) != Verdict::Fail)
    })();
    verdict(outcome)
}

/// A kubeconfig that was given, one way or the other.
fn given(kubeconfig: Option<&Path>) -> Option<PathBuf> {
    let environment = || std::env::var_os("KUBECONFIG").filter(|it| !it.is_empty());
    kubeconfig.map(Path::to_owned).or_else(|| environment().map(PathBuf::from))
}

fn ask(kubeconfig: Option<&Path>, name: String) -> anyhow::Result<Api> {
    let Some(kubeconfig) = given(kubeconfig) else { return Ok(Api::NotAsked) };
    let facts = small_runtime()?.block_on(async {
        let client = facts::connect(Some(&kubeconfig)).await?;
        facts::from_api(&client).await
    });
    Ok(match facts {
        Err(error) => Api::Unreachable(format!("{error:#}")),
        Ok(facts) => match facts.snapshot().node(&name) {
            None => Api::NoNode(name),
            Some(node) => Api::Node {
                addresses: node.internal_ips.clone(),
                pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
                name,
            },
        },
    })
}

pub(crate) fn cleanup(options: &CleanupOptions) -> anyhow::Result<ExitCode> {
    lab::preflight::root().context("removing rules and links needs root; run it with sudo")?;
    let places = Places {
        run_dir: options.run_dir.clone(),
        state_dir: options.state_dir.clone(),
        cni_conf_dir: options.cni_conf_dir.clone(),
    };
    let traces = cleanup::find(&places)?;
    let allowed = Allowed { pods: options.pods, agent: options.force };
    if traces.is_empty() {
        say("Nothing of Fairway is on this node.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in traces.lines() {
        say(&format!("{line}\n"))?;
    }
    if options.dry_run {
        say("Nothing was removed (--dry-run).\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(why) = cleanup::refusal(&traces, allowed) {
        bail!("{why}");
    }
    if !options.yes && !confirmed()? {
        bail!("nothing was removed");
    }
    cleanup::remove(&traces, &places)?;
    let left = cleanup::find(&places)?;
    if !left.is_empty() {
        bail!("something made new traces meanwhile: {}", left.lines().join(", "));
    }
    say("All of it is removed.\n")?;
    for line in Traces::stays() {
        say(&format!("Note: {line}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal.
fn confirmed() -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("there is nobody to ask here; give --yes");
    }
    say("Remove all of this? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(crate) fn adopt(command: AdoptCommand) -> anyhow::Result<ExitCode> {
    let AdoptCommand::KubeProxy(options) = command;
    lab::preflight::root().context("changing rules needs root; run it with sudo")?;
    let how = kube_proxy::Options {
        force: options.force,
        patience: Duration::from_secs(options.timeout),
    };
    let mut step = |text: &str| drop(say(&format!("{text}\n")));
    if options.check {
        let rules = kube_proxy::check(how)?;
        if let Some(lacking) = kube_proxy::lacking(&rules)? {
            bail!(
                "kube-proxy serves what Fairway does not: {lacking}; see `fairway diff` and the agent's log"
            );
        }
        step(&format!("found {}; nothing is in the way", rules.words()));
    } else if options.undo {
        kube_proxy::give_back(how, || daemon_set(&options, false), &mut step)?;
    } else {
        kube_proxy::take_over(how, || daemon_set(&options, true), &mut step)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes kube-proxy's DaemonSet leave this node or come back; false when it is none, or there is no API to ask.
fn daemon_set(options: &AdoptOptions, leave: bool) -> anyhow::Result<bool> {
    let Some(kubeconfig) = given(options.kubeconfig.as_deref()) else { return Ok(false) };
    let (namespace, name) = options
        .daemonset
        .split_once('/')
        .with_context(|| format!("{:?} is not NAMESPACE/NAME", options.daemonset))?;
    let node = options.node_name.clone().unwrap_or_else(host_name);
    small_runtime()?.block_on(async {
        let client = facts::connect(Some(&kubeconfig)).await?;
        if !leave {
            return daemon_set::come_back(&client, namespace, name, &node).await;
        }
        if !daemon_set::leave(&client, namespace, name, &node).await? {
            return Ok(false);
        }
        let until = tokio::time::Instant::now() + Duration::from_secs(options.timeout);
        loop {
            let pods = daemon_set::pods(&client, namespace, name, &node).await?;
            if pods.is_empty() {
                return Ok(true);
            }
            if tokio::time::Instant::now() >= until {
                bail!("kube-proxy does not leave this node ({}); see `kubectl describe ds -n {namespace} {name}`", pods.join(", "));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
}
