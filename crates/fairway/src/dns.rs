//! `fairway dns …`: a question out of some network, and what the agent counted.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use ::dns::client::{Answered, AskError, ask, candidates};
use ::dns::query::{code, kind};
use ::dns::reply::{Owner, Record};
use ::dns::{Name, text};
use anyhow::{Context as _, bail};
use lab::exec::{Target, place};
use lab::layout::{CLUSTER_DNS, Layout};
use link::Namespace;
use print::{Format, data};
use serde_json::{Value, json};

use crate::arguments::{DnsCommand, QueryOptions, TopOptions};
use crate::lab::format;
use crate::service::{say, verdict};

/// How long one question is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// As kubelet writes it.
const NDOTS: usize = 5;
const DOMAIN: &str = "cluster.local";

pub(crate) fn run(command: DnsCommand) -> anyhow::Result<ExitCode> {
    match command {
        DnsCommand::Query(options) => verdict(query(&options)),
        DnsCommand::Top(options) => {
            top(&options)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The search list of whoever asks.
fn searches(options: &QueryOptions) -> Vec<String> {
    match &options.from {
        Some(Target::Pod { namespace, .. }) => {
            vec![format!("{namespace}.svc.{DOMAIN}"), format!("svc.{DOMAIN}"), DOMAIN.into()]
        }
        _ => Vec::new(),
    }
}

fn server(options: &QueryOptions) -> anyhow::Result<SocketAddr> {
    let ip = match (options.server, &options.from) {
        (Some(server), _) => server,
        (None, Some(_)) => CLUSTER_DNS.into(),
        (None, None) => {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let first = ::dns::config::resolvers(&text).into_iter().next();
            first.context("/etc/resolv.conf names no server; give --server")?.address.ip()
        }
    };
    Ok(SocketAddr::new(ip, options.port))
}

/// The questions to ask in turn: a name, and the types wanted of it.
fn questions(options: &QueryOptions) -> anyhow::Result<Vec<(Name, Vec<u16>)>> {
    let wanted = match &options.kind {
        None => None,
        Some(kind) => {
            let known = text::kind_of(kind);
            Some(known.with_context(|| format!("{kind:?} is no type of record: A, AAAA, SRV, …"))?)
        }
    };
    if let Ok(address) = options.question.parse::<IpAddr>() {
        return Ok(vec![(Name::reverse(address), vec![wanted.unwrap_or(kind::PTR)])]);
    }
    let kinds = wanted.map_or_else(|| vec![kind::A, kind::AAAA], |kind| vec![kind]);
    let names = candidates(&options.question, &searches(options), NDOTS);
    let names = names.iter().map(|name| Ok((Name::parse(name)?, kinds.clone())));
    names.collect()
}

/// Whether there were records.
fn query(options: &QueryOptions) -> anyhow::Result<bool> {
    let (server, questions) = (server(options)?, questions(options)?);
    let asking = || {
        let mut last = Vec::new();
        for (name, kinds) in &questions {
            let answers = kinds.iter().map(|kind| ask(server, name, *kind, options.tcp, WAIT));
            let answers = answers.collect::<Result<Vec<Answered>, AskError>>()?;
            let found = answers.iter().any(|it| !it.reply.answers.is_empty());
            last = answers.into_iter().map(|it| (name.clone(), it)).collect();
            if found {
                break;
            }
        }
        Ok::<_, AskError>(last)
    };
    let answers = match &options.from {
        None => asking()?,
        Some(target) => {
            let place = place(&Layout::new(options.lab.lab.clone()), target)?;
            Namespace::open_path(&place.net)?.run(asking)??
        }
    };
    let found = answers.iter().any(|(_, it)| !it.reply.answers.is_empty());
    say(&shown(server, &answers, format(&options.output))?)?;
    Ok(found)
}

fn shown(
    server: SocketAddr,
    answers: &[(Name, Answered)],
    format: Format,
) -> anyhow::Result<String> {
    let row = |name: &Name, record: &Record| {
        let owner = match &record.owner {
            Owner::Question => name.to_string(),
            Owner::Name(owner) => owner.to_string(),
        };
        let kind = text::kind_name(record.data.kind());
        (owner, record.ttl, kind, record.data.to_string())
    };
    let mut seen: Vec<(String, u32, String, String)> = Vec::new();
    for (name, answered) in answers {
        for record in &answered.reply.answers {
            let row = row(name, record);
            if !seen.contains(&row) {
                seen.push(row);
            }
        }
    }
    let status = match answers.iter().map(|(_, it)| it.reply.code).max() {
        Some(code::NOERROR) if seen.is_empty() => "NODATA".to_owned(),
        Some(code) => text::code_name(code),
        None => "nothing was asked".to_owned(),
    };
    let took: Duration = answers.iter().map(|(_, it)| it.took).sum();
    let name = answers.last().map(|(name, _)| name.to_string()).unwrap_or_default();
    let records: Vec<Value> = seen
        .iter()
        .map(
            |(name, ttl, kind, data)| json!({"name": name, "ttl": ttl, "type": kind, "data": data}),
        )
        .collect();
    let value = json!({
        "server": server.to_string(),
        "name": name,
        "status": status,
        "microseconds": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "records": records,
    });
    if let Some(text) = data(&value, format)? {
        return Ok(text);
    }
    let mut out = String::new();
    if seen.is_empty() {
        out.push_str(&format!("{name}: {status} ({server})\n"));
    } else {
        let rows: Vec<Vec<String>> = seen
            .into_iter()
            .map(|(name, ttl, kind, data)| vec![name, ttl.to_string(), kind, data])
            .collect();
        out.push_str(&print::table(&["NAME", "TTL", "TYPE", "DATA"], &rows));
    }
    if matches!(format, Format::Wide) {
        out.push_str(&format!("\n{status} from {server} in {took:.1?}\n"));
    }
    Ok(out)
}

fn top(options: &TopOptions) -> anyhow::Result<()> {
    let asking = || get(options.health_addr, "/dns/top");
    let body = match &options.node {
        None => asking()?,
        Some(node) => {
            let layout = Layout::new(options.lab.lab.clone());
            let place = place(&layout, &Target::Node(node.clone()))?;
            Namespace::open_path(&place.net)?.run(asking)??
        }
    };
    let mut value: Value =
        serde_json::from_str(&body).context("the agent does not serve DNS; it does with --dns")?;
    for list in ["clients", "names", "missing"] {
        if let Some(lines) = value[list].as_array_mut() {
            lines.truncate(options.lines);
        }
    }
    if let Some(text) = data(&value, format(&options.output))? {
        return say(&text);
    }
    for (list, title) in [("clients", "CLIENT"), ("names", "NAME"), ("missing", "NOT THERE")] {
        let rows: Vec<Vec<String>> = value[list]
            .as_array()
            .into_iter()
            .flatten()
            .map(|line| {
                vec![line["what"].as_str().unwrap_or_default().into(), line["queries"].to_string()]
            })
            .collect();
        if list != "clients" {
            say("\n")?;
        }
        say(&print::table(&[title, "QUERIES"], &rows))?;
    }
    Ok(())
}

/// What the agent says at a path.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT).with_context(|| {
        format!("no agent answers at {address} (--health-addr); is it running here?")
    })?;
    stream.set_read_timeout(Some(WAIT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("{address} does not speak HTTP");
    };
    if !head.lines().next().unwrap_or_default().contains(" 200 ") {
        bail!("the agent at {address} does not serve DNS; it does with --dns");
    }
    Ok(body.to_owned())
}
