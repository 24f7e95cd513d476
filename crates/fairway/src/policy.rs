//! `fairway policy …`: each to its calls in the crate `observe`.

use std::process::ExitCode;

use anyhow::Context as _;
use model::Protocol;
use observe::{facts, kernel, policy, progress};

use crate::arguments::PolicyCommand;
use crate::lab::format;
use crate::service::{ask_all, at, kubeconfig, say, split, verdict};
use crate::small_runtime;

pub(crate) fn run(command: PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::List { all_namespaces, asked } => {
            let mut views = policy::views(&ask_all(&asked.place)?, None);
            views.retain(|view| all_namespaces || view.namespace == asked.namespace);
            say(&policy::list(&views, format(&asked.output), all_namespaces)?)?;
        }
        PolicyCommand::Show { policy: wanted, asked } => {
            let facts = ask_all(&asked.place)?;
            let counted = at(&asked.place, kernel::rules)?;
            let (namespace, name) = split(&wanted, &asked.namespace);
            let views = policy::views(&facts, Some(&counted));
            let named = |of: &str| views.iter().find(|it| it.namespace == of && it.name == name);
            // A name alone may be the administrator's, which are in no namespace.
            let of_cluster = || named("").filter(|_| !wanted.contains('/'));
            let found = named(namespace).or_else(of_cluster).with_context(|| {
                format!("there is no policy {namespace}/{name}; `fairway policy list -A` shows what there is")
            })?;
            say(&policy::show(found, format(&asked.output))?)?;
        }
        PolicyCommand::Explain { from, to, asked } => {
            return verdict((|| {
                let facts = ask_all(&asked.place)?;
                let (to, protocol, port) = port(&to)?;
                let sender = policy::end(&facts, &from, &asked.namespace)?;
                let receiver = policy::end(&facts, to, &asked.namespace)?;
                let ends = ((from.as_str(), &sender), (to, &receiver));
                let said = policy::explain(&facts, ends.0, ends.1, (protocol, port))?;
                say(&policy::print_explanation(&said, format(&asked.output))?)?;
                Ok(said.allowed)
            })());
        }
        PolicyCommand::Status { policy: wanted, asked } => {
            return verdict((|| {
                let (namespace, name) = split(&wanted, &asked.namespace);
                let standing = small_runtime()?.block_on(async {
                    let client = facts::connect(kubeconfig(&asked.place)?.as_deref()).await?;
                    progress::policy_standing(&client, namespace, name).await
                })?;
                say(&progress::print(&standing, format(&asked.output))?)?;
                Ok(standing.is_everywhere())
            })());
        }
        PolicyCommand::Try { files, place, output } => {
            return verdict((|| {
                let mut facts = ask_all(&place)?;
                let flows = at(&place, kernel::flows)?;
                let now = policy::fates(&facts, &flows);
                facts::add_files(&mut facts, &files)?;
                let then = policy::fates(&facts, &flows);
                let changed = policy::changes(&now, &then);
                say(&policy::print_changes(&changed, now.len(), format(&output))?)?;
                Ok(changed.is_empty())
            })());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `END:PORT`, `END:PORT/PROTOCOL` or `[ADDRESS]:PORT`.
fn port(typed: &str) -> anyhow::Result<(&str, Protocol, u16)> {
    let wrong = || format!("{typed:?} does not say a port; write END:PORT or END:PORT/udp");
    let (end, port) = typed.rsplit_once(':').with_context(wrong)?;
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let protocol = Protocol::parse(&protocol.to_uppercase())
        .with_context(|| format!("{protocol:?} is no protocol; write tcp, udp or sctp"))?;
    let number: u16 = number.parse().ok().filter(|number| *number != 0).with_context(wrong)?;
    let end = end.strip_prefix('[').and_then(|end| end.strip_suffix(']')).unwrap_or(end);
    Ok((end, protocol, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_with_its_port() {
        assert_eq!(port("db:5432").unwrap(), ("db", Protocol::Tcp, 5432));
        assert_eq!(port("shop/db:53/udp").unwrap(), ("shop/db", Protocol::Udp, 53));
        assert_eq!(port("[fd00::5]:80").unwrap(), ("fd00::5", Protocol::Tcp, 80));
        for bad in ["db", "db:", "db:0", "db:80/quic", "db:99999"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
