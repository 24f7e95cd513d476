//! `fairway service …` and `fairway diff`: each to its calls in the crate `observe`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab::layout::Layout;
use link::Namespace;
use observe::diff::How;
use observe::facts::{self, Facts};
use observe::kernel::{self, Actual, Detail};
use observe::service::{self, ServiceView};
use observe::{diff, progress};

use crate::arguments::{DiffOptions, ServiceCommand, WhichNode};
use crate::lab::format;
use crate::network::STATE_DIR;
use crate::small_runtime;

/// It could not be told: beside 0, yes, and 1, no.
const CANNOT_TELL: u8 = 2;

pub(crate) fn run(command: ServiceCommand) -> anyhow::Result<ExitCode> {
    match command {
        ServiceCommand::List { all_namespaces, asked } => {
            let mut services = look(&asked.place, Detail::Plain)?.services;
            let is_named = services.iter().any(|service| service.name.is_some());
            // Without names there are no namespaces to choose from.
            if is_named && !all_namespaces {
                services.retain(|it| it.namespace.as_deref() == Some(&*asked.namespace));
            }
            say(&service::list(&services, format(&asked.output), all_namespaces)?)?;
        }
        ServiceCommand::Show { service, asked } => {
            let seen = look(&asked.place, Detail::Live)?;
            let found = find(seen.services, &service, &asked.namespace, seen.has_names)?;
            let programmed = programmed(&asked.place, &found);
            say(&service::show(&found, programmed.as_deref(), format(&asked.output))?)?;
        }
        ServiceCommand::Status { service, wait, timeout, asked } => {
            let outcome = (|| {
                let (namespace, name) = split(&service, &asked.namespace);
                let longest = Duration::from_secs(if wait { timeout } else { 0 });
                let standing = small_runtime()?.block_on(async {
                    let client = facts::connect(kubeconfig(&asked.place)?.as_deref()).await?;
                    progress::wait(&client, namespace, name, longest).await
                })?;
                say(&progress::print(&standing, format(&asked.output))?)?;
                Ok(standing.is_everywhere())
            })();
            return verdict(outcome);
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn diff(options: &DiffOptions) -> anyhow::Result<ExitCode> {
    let outcome = (|| {
        let facts = if options.from.is_empty() {
            ask_all(&options.place)?
        } else {
            facts::from_files(&options.from)?
        };
        let difference = at(&options.place, || {
            let listed = kernel::table()?;
            diff::compare(&how(&options.place), &facts, listed.as_ref())
        })?;
        for report in &difference.reports {
            note(&report.to_string());
        }
        say(&diff::print(&difference.transaction))?;
        Ok(difference.transaction.is_empty())
    })();
    verdict(outcome)
}

/// Exit codes of a question: 0 yes, 1 no, 2 could not tell.
pub(crate) fn verdict(outcome: anyhow::Result<bool>) -> anyhow::Result<ExitCode> {
    Ok(match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            crate::complain(&error);
            ExitCode::from(CANNOT_TELL)
        }
    })
}

pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

fn note(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "note: {text}"));
}

/// What was seen of a node.
struct Seen {
    services: Vec<ServiceView>,
    has_names: bool,
}

/// Reads the kernel of a node and, where it can be reached, the API.
fn look(place: &WhichNode, detail: Detail) -> anyhow::Result<Seen> {
    let facts = match ask(place) {
        Ok(facts) => Some(facts),
        Err(error) => {
            note(&format!("shown by address, without names: {error:#}"));
            None
        }
    };
    let (actual, desired): (Actual, _) = at(place, || {
        let actual = kernel::read(detail)?;
        let how = how(place);
        let desired =
            facts.as_ref().map(|facts| how.desired(facts, actual.table.as_ref())).transpose()?;
        Ok((actual, desired.map(|desired| desired.table)))
    })?;
    actual.notes.iter().for_each(|text| note(text));
    if actual.table.is_none() {
        note("this node has no table `inet fairway`: no agent ever ran here, or it was removed");
    }
    let services = service::views(&actual, facts.as_ref(), desired.as_ref());
    Ok(Seen { services, has_names: facts.is_some() })
}

pub(crate) fn ask(place: &WhichNode) -> anyhow::Result<Facts> {
    let kubeconfig = kubeconfig(place)?;
    small_runtime()?.block_on(async {
        let client = facts::connect(kubeconfig.as_deref()).await?;
        facts::from_api(&client).await
    })
}

/// What [`ask`] asks, and what network policy depends on.
pub(crate) fn ask_all(place: &WhichNode) -> anyhow::Result<Facts> {
    let kubeconfig = kubeconfig(place)?;
    small_runtime()?.block_on(async {
        let client = facts::connect(kubeconfig.as_deref()).await?;
        let mut facts = facts::from_api(&client).await?;
        facts::add_policies(&client, &mut facts).await?;
        Ok(facts)
    })
}

/// "programmed on …"; nothing where the API does not say.
fn programmed(place: &WhichNode, service: &ServiceView) -> Option<String> {
    let (namespace, name) = (service.namespace.as_deref()?, service.name.as_deref()?);
    let kubeconfig = kubeconfig(place).ok()?;
    let standing = small_runtime().ok()?.block_on(async {
        let client = facts::connect(kubeconfig.as_deref()).await?;
        progress::standing(&client, namespace, name).await
    });
    Some(match standing {
        Ok(standing) => standing.sentence(),
        Err(error) => format!("cannot tell: {error:#}"),
    })
}

fn find(
    services: Vec<ServiceView>,
    wanted: &str,
    namespace: &str,
    has_names: bool,
) -> anyhow::Result<ServiceView> {
    if let Ok(address) = wanted.parse() {
        let dials = |it: &ServiceView| it.frontends.iter().any(|it| it.address == Some(address));
        let found = services.into_iter().find(dials);
        return found.with_context(|| format!("nobody answers at {address} on this node"));
    }
    if !has_names {
        bail!("a name means nothing without the API; give an address, or --kubeconfig");
    }
    let (namespace, name) = split(wanted, namespace);
    let is_it = |it: &ServiceView| {
        it.namespace.as_deref() == Some(namespace) && it.name.as_deref() == Some(name)
    };
    services.into_iter().find(is_it).with_context(|| {
        format!("this node serves no Service {namespace}/{name}; `fairway service list -A` shows what there is")
    })
}

pub(crate) fn split<'a>(service: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    service.split_once('/').unwrap_or((namespace, service))
}

/// Runs `work` in the node's network namespace.
pub(crate) fn at<T: Send>(
    place: &WhichNode,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let Some(node) = &place.node else { return work() };
    let layout = Layout::new(place.lab.lab.clone());
    let namespace = Namespace::open(&layout.node_namespace(node)).with_context(|| {
        format!(
            "lab {} has no node {node}; `fairway lab status` shows what there is",
            layout.name()
        )
    })?;
    namespace.run(work)?
}

pub(crate) fn kubeconfig(place: &WhichNode) -> anyhow::Result<Option<PathBuf>> {
    if place.kubeconfig.is_some() || place.node.is_none() {
        return Ok(place.kubeconfig.clone());
    }
    let path = Layout::new(place.lab.lab.clone()).kubeconfig();
    if !path.exists() {
        bail!("{}", lab::status::no_such_lab(&place.lab.lab));
    }
    Ok(Some(path))
}

/// How the agent of this network namespace serves, as it was started; without one, as the last one was; if there was none, as an
/// agent without options would.
pub(crate) fn how(place: &WhichNode) -> How {
    let given = place.node.clone().or_else(|| place.node_name.clone());
    let running = adopt::processes::agents().first().and_then(|process| {
        let read = crate::agent::as_started(&process.arguments);
        if let Err(error) = &read {
            note(&format!(
                "how the agent ({}) was started cannot be told: {error:#}",
                process.words()
            ));
        }
        read.ok()
    });
    let running = running.or_else(|| {
        let state_dir = match &place.node {
            Some(node) => Layout::new(place.lab.lab.clone()).node_state_dir(node),
            None => STATE_DIR.into(),
        };
        crate::agent::as_last_started(&state_dir)
    });
    match running {
        Some(agent) => How {
            node: given.unwrap_or(agent.node_name),
            settings: agent.services,
            without: agent.without,
            fabric: agent.fabric,
        },
        None => How {
            node: given.unwrap_or_else(host_name),
            settings: agent::ServiceSettings::default(),
            without: agent::Without::default(),
            fabric: agent::FabricSettings::default(),
        },
    }
}

/// The name a kubelet registers unless it is told another one.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_lowercase()
}
