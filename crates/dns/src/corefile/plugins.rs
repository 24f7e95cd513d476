//! The plugins: each line of a server block to what it means for the [`Block`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use regex::Regex;

use super::lexer::{Line, Token};
use super::{Directive, Problem, Reader, Wrong, zones};
use crate::config::{
    Block, CacheSettings, Consolidate, Errors, Forward, HealthPage, HostsBlock, Log, LogClass,
    Policy, Prefetch, Transport, Upstream, resolvers,
};
use crate::hosts::Hosts;
use crate::name::Name;
use crate::query::code;
use crate::rewrite::{Rewrite, What};
use crate::template::{RecordTemplate, Template};
use crate::text::{code_of, kind_of};
use crate::zone::{Kubernetes, PodRecords};

/// The plugins there are.
pub(super) const NAMES: [&str; 16] = [
    "autopath",
    "bufsize",
    "cache",
    "errors",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "log",
    "loop",
    "prometheus",
    "ready",
    "reload",
    "rewrite",
    "template",
];

/// Does what one directive says.
pub(super) fn apply(
    block: &mut Block,
    it: &Directive,
    reader: &mut Reader<'_>,
) -> Result<(), Wrong> {
    let here = |problem| (it.line, problem);
    match it.name.as_str() {
        "kubernetes" => {
            once("kubernetes", block.kubernetes.is_some()).map_err(here)?;
            block.kubernetes = Some(kubernetes(it, &block.zones)?);
        }
        "forward" => block.forwards.push(forward(it, reader)?),
        "cache" => {
            once("cache", block.cache.is_some()).map_err(here)?;
            block.cache = Some(cache(it)?);
        }
        "hosts" => {
            once("hosts", block.hosts.is_some()).map_err(here)?;
            block.hosts = Some(hosts(it, reader)?);
        }
        "rewrite" => block.rewrites.push(rewrite(it)?),
        "template" => block.templates.push(template(it, &block.zones)?),
        "log" => block.log = Some(log(it, block.log.take())?),
        "errors" => block.errors = Some(errors(it)?),
        "loadbalance" => {
            let policy = it.arguments.first().map_or("round_robin", |it| it.text.as_str());
            if policy != "round_robin" {
                return Err(here(bad("loadbalance", policy, "policy Fairway has (round_robin)")));
            }
            block.loadbalance = true;
        }
        "loop" => block.detect_loop = true,
        "reload" => {
            let interval = match it.arguments.first() {
                Some(word) => duration("reload", word).map_err(here)?,
                None => Duration::from_secs(30),
            };
            block.reload = Some(interval.max(Duration::from_secs(2)));
        }
        "bufsize" => {
            let size = it.arguments.first().map_or(Ok(1232), |it| number("bufsize", it));
            block.buffer = Some(size.map_err(here)?.clamp(512, 4096));
        }
        "autopath" => {
            let wanted = it.arguments.last().map_or("", |it| it.text.as_str());
            if wanted != "@kubernetes" {
                return Err(here(bad(
                    "autopath",
                    wanted,
                    "source of search lists Fairway has (@kubernetes)",
                )));
            }
            block.autopath = true;
        }
        "health" => block.health = Some(health(it)?),
        "ready" => block.ready = Some(page("ready", it, ":8181").map_err(here)?),
        "prometheus" => {
            block.prometheus = Some(page("prometheus", it, "localhost:9153").map_err(here)?);
        }
        other => return Err(here(Problem::UnknownPlugin(other.into()))),
    }
    Ok(())
}

/// What follows from all of a block's lines together.
pub(super) fn finish(block: &mut Block) {
    if let Some(hosts) = &mut block.hosts
        && hosts.zones.is_empty()
    {
        hosts.zones = block.zones.clone();
    }
}

fn once(plugin: &'static str, known: bool) -> Result<(), Problem> {
    if known { Err(Problem::Twice(plugin)) } else { Ok(()) }
}

fn bad(plugin: &str, text: &str, wanted: &'static str) -> Problem {
    Problem::BadValue { plugin: plugin.into(), text: text.into(), wanted }
}

fn missing(plugin: &str, wanted: &'static str) -> Problem {
    Problem::Missing { plugin: plugin.into(), wanted }
}

fn number<T: std::str::FromStr>(plugin: &str, word: &Token) -> Result<T, Problem> {
    word.text.parse().map_err(|_| bad(plugin, &word.text, "number"))
}

/// `5s`, `500ms`, `1h30m`; a bare number is seconds.
fn duration(plugin: &str, word: &Token) -> Result<Duration, Problem> {
    let wrong = || bad(plugin, &word.text, "duration, as 30s or 5m");
    if let Ok(seconds) = word.text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = word.text.as_str();
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|it: char| !it.is_ascii_digit() && it != '.').ok_or_else(wrong)?;
        let value: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let length = rest.find(|it: char| it.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..length] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        rest = &rest[length..];
        total += Duration::try_from_secs_f64(value * unit).map_err(|_| wrong())?;
    }
    Ok(total)
}

/// Where a page is served: `ADDRESS:PORT`, `:PORT` for all addresses.
fn page(
    plugin: &'static str,
    it: &Directive,
    otherwise: &'static str,
) -> Result<SocketAddr, Problem> {
    let text = it.arguments.first().map_or(otherwise, |it| it.text.as_str());
    let wrong = || bad(plugin, text, "address with a port, as :9153 or 127.0.0.1:9153");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let address = match host.trim_start_matches('[').trim_end_matches(']') {
        "" => std::net::Ipv6Addr::UNSPECIFIED.into(),
        "localhost" => std::net::Ipv4Addr::LOCALHOST.into(),
        host => host.parse::<IpAddr>().map_err(|_| wrong())?,
    };
    Ok(SocketAddr::new(address, port))
}

fn health(it: &Directive) -> Result<HealthPage, Wrong> {
    let address = page("health", it, ":8080").map_err(|problem| (it.line, problem))?;
    let mut lameduck = Duration::ZERO;
    for line in &it.body {
        let here = |problem| (line.number, problem);
        match property(line) {
            ("lameduck", [word, ..]) => {
                lameduck = duration("health lameduck", word).map_err(here)?;
            }
            ("lameduck", []) => return Err(here(missing("health lameduck", "a duration"))),
            _ => return Err(unknown("health", line, "lameduck")),
        }
    }
    Ok(HealthPage { address, lameduck })
}

fn errors(it: &Directive) -> Result<Errors, Wrong> {
    let mut errors = Errors::default();
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let ("consolidate", words) = property(line) else {
            return Err(unknown("errors", line, "consolidate"));
        };
        let [period, pattern, level @ ..] = words else {
            return Err(here(missing("errors consolidate", "DURATION and REGEXP")));
        };
        let level = match level.first().map(|it| it.text.as_str()) {
            None | Some("error") => tracing::Level::ERROR,
            Some("warning") => tracing::Level::WARN,
            Some("info") => tracing::Level::INFO,
            Some("debug") => tracing::Level::DEBUG,
            Some(other) => {
                let wanted = "level (warning, error, info or debug)";
                return Err(here(bad("errors consolidate", other, wanted)));
            }
        };
        errors.consolidate.push(Consolidate {
            period: duration("errors consolidate", period).map_err(here)?,
            pattern: Regex::new(&pattern.text).map_err(|_| {
                here(bad("errors consolidate", &pattern.text, "regular expression"))
            })?,
            level,
        });
    }
    Ok(errors)
}

fn names(words: &[Token]) -> Result<Vec<Name>, Problem> {
    let all = words.iter().map(|word| zones(&word.text));
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// A property's name and its words.
fn property(line: &Line) -> (&str, &[Token]) {
    match line.tokens.split_first() {
        Some((first, rest)) => (&first.text, rest),
        None => ("", &[]),
    }
}

fn unknown(plugin: &'static str, line: &Line, known: &'static str) -> Wrong {
    let property = property(line).0.to_owned();
    (line.number, Problem::UnknownProperty { plugin, property, known })
}

fn kubernetes(it: &Directive, of_block: &[Name]) -> Result<Kubernetes, Wrong> {
    const KNOWN: &str = "ttl, pods, fallthrough";
    let zones = names(&it.arguments).map_err(|problem| (it.line, problem))?;
    let zones = if zones.is_empty() { of_block.to_vec() } else { zones };
    let mut config = Kubernetes { zones, ..Kubernetes::default() };
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let (name, words) = property(line);
        let first = || words.first().ok_or_else(|| here(missing("kubernetes", "a value")));
        match name {
            "ttl" => config.ttl = number("kubernetes ttl", first()?).map_err(here)?,
            "pods" => {
                config.pods = match first()?.text.as_str() {
                    "disabled" => PodRecords::Disabled,
                    "insecure" => PodRecords::Insecure,
                    "verified" => PodRecords::Verified,
                    other => {
                        return Err(here(bad(
                            "kubernetes pods",
                            other,
                            "mode (disabled, insecure or verified)",
                        )));
                    }
                }
            }
            "fallthrough" => config.fallthrough = Some(names(words).map_err(here)?),
            _ => return Err(unknown("kubernetes", line, KNOWN)),
        }
    }
    Ok(config)
}

fn upstreams(words: &[Token], reader: &Reader<'_>) -> Result<Vec<Upstream>, Problem> {
    let mut all = Vec::new();
    for word in words {
        if word.text.starts_with('/') {
            all.extend(resolvers(&reader.read(&word.text)?));
            continue;
        }
        let (text, transport, port) = match word.text.split_once("://") {
            Some(("dns", rest)) => (rest, Transport::Plain, 53),
            Some(("tls", rest)) => (rest, Transport::Tls, 853),
            Some(_) => {
                return Err(bad(
                    "forward",
                    &word.text,
                    "upstream Fairway can ask (dns:// or tls://)",
                ));
            }
            None => (word.text.as_str(), Transport::Plain, 53),
        };
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = text
            .parse::<SocketAddr>()
            .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)))
            .map_err(|_| bad("forward", &word.text, "address, or file with `nameserver` lines"))?;
        all.push(Upstream { address, transport });
    }
    Ok(all)
}

fn forward(it: &Directive, reader: &Reader<'_>) -> Result<Forward, Wrong> {
    const KNOWN: &str = "except, force_tcp, prefer_udp, expire, max_fails, tls, tls_servername, policy, health_check, max_concurrent";
    let here = |problem| (it.line, problem);
    let Some((from, to)) = it.arguments.split_first() else {
        return Err(here(missing("forward", "FROM and at least one upstream")));
    };
    if to.is_empty() {
        return Err(here(missing("forward", "an upstream")));
    }
    let from = zones(&from.text).map_err(here)?.into_iter().next();
    let mut config = Forward {
        from: from.unwrap_or_else(Name::root),
        upstreams: upstreams(to, reader).map_err(here)?,
        ..Forward::default()
    };
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let (name, words) = property(line);
        let first = || words.first().ok_or_else(|| here(missing("forward", "a value")));
        match name {
            "except" => config.except.extend(names(words).map_err(here)?),
            "force_tcp" => config.force_tcp = true,
            "prefer_udp" => config.prefer_udp = true,
            "expire" => config.expire = duration("forward expire", first()?).map_err(here)?,
            "max_fails" => {
                config.max_fails = number("forward max_fails", first()?).map_err(here)?
            }
            "max_concurrent" => {
                config.max_concurrent = number("forward max_concurrent", first()?).map_err(here)?;
            }
            "tls_servername" => config.tls_name = Some(first()?.text.clone()),
            "tls" => match words {
                [] => {}
                [authority] => config.tls_ca = Some(reader.path(&authority.text)),
                [certificate, ..] => {
                    return Err(here(bad(
                        "forward tls",
                        &certificate.text,
                        "form Fairway has (tls, or tls CA): it has no certificate of its own to show",
                    )));
                }
            },
            "policy" => {
                config.policy = match first()?.text.as_str() {
                    "random" => Policy::Random,
                    "round_robin" => Policy::RoundRobin,
                    "sequential" => Policy::Sequential,
                    other => {
                        return Err(here(bad(
                            "forward policy",
                            other,
                            "policy (random, round_robin or sequential)",
                        )));
                    }
                }
            }
            "health_check" => {
                config.health_check = duration("forward health_check", first()?).map_err(here)?;
                if let Some(more) = words.get(1) {
                    return Err(here(bad(
                        "forward health_check",
                        &more.text,
                        "option Fairway has (a duration alone)",
                    )));
                }
            }
            _ => return Err(unknown("forward", line, KNOWN)),
        }
    }
    Ok(config)
}

fn cache(it: &Directive) -> Result<CacheSettings, Wrong> {
    const KNOWN: &str = "success, denial, prefetch, serve_stale, servfail, disable";
    let here = |problem| (it.line, problem);
    let mut config = CacheSettings::default();
    let mut zones = it.arguments.as_slice();
    if let Some((first, rest)) = zones.split_first()
        && let Ok(most) = first.text.parse::<u32>()
    {
        config.success.most = most;
        config.denial.most = most;
        zones = rest;
    }
    config.zones = names(zones).map_err(here)?;
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let (name, words) = property(line);
        let first = || words.first().ok_or_else(|| here(missing("cache", "a value")));
        match name {
            "success" | "denial" => {
                let half = if name == "success" { &mut config.success } else { &mut config.denial };
                half.capacity = number("cache", first()?).map_err(here)?;
                if let Some(word) = words.get(1) {
                    half.most = number("cache", word).map_err(here)?;
                }
                if let Some(word) = words.get(2) {
                    half.least = number("cache", word).map_err(here)?;
                }
            }
            "prefetch" => {
                let amount = number("cache prefetch", first()?).map_err(here)?;
                let pause = match words.get(1) {
                    Some(word) => duration("cache prefetch", word).map_err(here)?,
                    None => Duration::from_secs(60),
                };
                let percentage = match words.get(2) {
                    Some(word) => {
                        let text = word.text.trim_end_matches('%').to_owned();
                        number("cache prefetch", &Token { text, quoted: false }).map_err(here)?
                    }
                    None => 10,
                };
                config.prefetch = Some(Prefetch { amount, pause, percentage });
            }
            "serve_stale" => {
                config.stale = Some(match words.first() {
                    Some(word) => duration("cache serve_stale", word).map_err(here)?,
                    None => Duration::from_secs(3600),
                });
                config.stale_verify = match words.get(1).map(|it| it.text.as_str()) {
                    None | Some("immediate") => false,
                    Some("verify") => true,
                    Some(other) => {
                        return Err(here(bad(
                            "cache serve_stale",
                            other,
                            "mode (immediate or verify)",
                        )));
                    }
                };
            }
            "disable" => {
                let zones = names(&words[1.min(words.len())..]).map_err(here)?;
                let zones = if zones.is_empty() { vec![Name::root()] } else { zones };
                match first()?.text.as_str() {
                    "success" => config.not_success.extend(zones),
                    "denial" => config.not_denial.extend(zones),
                    other => {
                        return Err(here(bad(
                            "cache disable",
                            other,
                            "half of a cache (success or denial)",
                        )));
                    }
                }
            }
            "servfail" => {
                let time = duration("cache servfail", first()?).map_err(here)?;
                config.servfail = u32::try_from(time.as_secs()).unwrap_or(300).min(300);
            }
            _ => return Err(unknown("cache", line, KNOWN)),
        }
    }
    Ok(config)
}

fn hosts(it: &Directive, reader: &Reader<'_>) -> Result<HostsBlock, Wrong> {
    let here = |problem| (it.line, problem);
    let mut words = it.arguments.as_slice();
    let reload = Some(Duration::from_secs(5));
    let mut config = HostsBlock { ttl: 3600, reverse: true, reload, ..HostsBlock::default() };
    let is_file =
        |word: &Token| word.text.contains('/') && word.text.parse::<ipnet::IpNet>().is_err();
    if let Some((first, rest)) = words.split_first()
        && is_file(first)
    {
        config.file = Some(reader.path(&first.text));
        words = rest;
    } else if it.body.is_empty() {
        config.file = Some("/etc/hosts".into());
    }
    config.zones = names(words).map_err(here)?;
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let (name, words) = property(line);
        match name {
            "fallthrough" => config.fallthrough = Some(names(words).map_err(here)?),
            "ttl" => {
                let word = words.first().ok_or_else(|| here(missing("hosts ttl", "a number")))?;
                config.ttl = number("hosts ttl", word).map_err(here)?;
            }
            "no_reverse" => config.reverse = false,
            "reload" => {
                let word =
                    words.first().ok_or_else(|| here(missing("hosts reload", "a duration")))?;
                let every = duration("hosts reload", word).map_err(here)?;
                config.reload = (!every.is_zero()).then_some(every);
            }
            _ if name.parse::<IpAddr>().is_ok() => {
                let words: Vec<&str> = line.tokens.iter().map(|it| it.text.as_str()).collect();
                config.inline.push_str(&words.join(" "));
                config.inline.push('\n');
            }
            _ => {
                return Err(unknown(
                    "hosts",
                    line,
                    "ADDRESS NAME…, ttl, no_reverse, reload, fallthrough",
                ));
            }
        }
    }
    let mut text = config.inline.clone();
    if let Some(file) = &config.file {
        text.push_str(&reader.read(&file.to_string_lossy()).map_err(here)?);
    }
    config.hosts = Hosts::parse(&text);
    Ok(config)
}

fn rewrite(it: &Directive) -> Result<Rewrite, Wrong> {
    let here = |problem| (it.line, problem);
    if let Some(line) = it.body.first() {
        return Err(unknown("rewrite", line, "one rule on one line"));
    }
    let mut words: Vec<&str> = it.arguments.iter().map(|it| it.text.as_str()).collect();
    let goes_on = match words.first() {
        Some(&"continue") => {
            words.remove(0);
            true
        }
        Some(&"stop") => {
            words.remove(0);
            false
        }
        _ => false,
    };
    // With a dot at the end, as names are compared.
    let dotted =
        |text: &str| if text.ends_with('.') { text.to_owned() } else { format!("{text}.") };
    let lower = |text: &str| text.to_ascii_lowercase();
    let what = match words.as_slice() {
        ["type", from, to] => {
            let kind = |text: &str| {
                kind_of(text).ok_or_else(|| here(bad("rewrite type", text, "record type")))
            };
            What::Kind(kind(from)?, kind(to)?)
        }
        ["name", rest @ ..] => {
            let (how, rest) = match rest {
                [how @ ("exact" | "prefix" | "suffix" | "substring" | "regex"), rest @ ..] => {
                    (*how, rest)
                }
                _ => ("exact", rest),
            };
            let (from, to) = match rest {
                // Answers name what was asked for in any case.
                [from, to] | [from, to, "answer", "auto"] => (lower(from), lower(to)),
                [_, _, more, ..] => {
                    return Err(here(bad(
                        "rewrite",
                        more,
                        "thing Fairway has here (nothing, or answer auto: answers are about the name that was asked)",
                    )));
                }
                _ => return Err(here(missing("rewrite name", "FROM and TO"))),
            };
            match how {
                "exact" => What::Exact(dotted(&from).into(), dotted(&to).into()),
                "prefix" => What::Prefix(from.into(), to.into()),
                "suffix" => What::Suffix(dotted(&from).into(), dotted(&to).into()),
                "substring" => What::Substring(from.into(), to.into()),
                _ => {
                    let pattern = rest.first().copied().unwrap_or_default();
                    let pattern = Regex::new(pattern).map_err(|_| {
                        here(bad("rewrite name regex", pattern, "regular expression"))
                    })?;
                    What::Pattern(Box::new(pattern), to.into())
                }
            }
        }
        [other, ..] => {
            return Err(here(bad("rewrite", other, "field Fairway rewrites (name or type)")));
        }
        [] => return Err(here(missing("rewrite", "a rule"))),
    };
    Ok(Rewrite { what, goes_on })
}

fn template(it: &Directive, of_block: &[Name]) -> Result<Template, Wrong> {
    const KNOWN: &str = "match, answer, authority, rcode, fallthrough";
    let here = |problem| (it.line, problem);
    let [class, kind, rest @ ..] = it.arguments.as_slice() else {
        return Err(here(missing("template", "CLASS and TYPE")));
    };
    if !class.text.eq_ignore_ascii_case("IN") && !class.text.eq_ignore_ascii_case("ANY") {
        return Err(here(bad("template", &class.text, "class Fairway answers (IN)")));
    }
    let kind = match kind_of(&kind.text) {
        Some(crate::query::kind::ANY) => None,
        Some(kind) => Some(kind),
        None => return Err(here(bad("template", &kind.text, "record type"))),
    };
    let zones = names(rest).map_err(here)?;
    let mut config = Template {
        kind,
        zones: if zones.is_empty() { of_block.to_vec() } else { zones },
        patterns: Vec::new(),
        code: code::NOERROR,
        answers: Vec::new(),
        authority: Vec::new(),
        fallthrough: None,
    };
    for line in &it.body {
        let here = |problem| (line.number, problem);
        let (name, words) = property(line);
        match name {
            "match" => {
                for word in words {
                    let pattern = Regex::new(&word.text).map_err(|_| {
                        here(bad("template match", &word.text, "regular expression"))
                    })?;
                    config.patterns.push(pattern);
                }
            }
            "answer" | "authority" => {
                let into =
                    if name == "answer" { &mut config.answers } else { &mut config.authority };
                for word in words {
                    let template = RecordTemplate::parse(&word.text).map_err(|_| {
                        here(bad("template", &word.text, "record in a form Fairway has ({{ .Name }}, {{ .Zone }}, {{ .Type }}, {{ .Group.NAME }}, {{ index .Match N }})"))
                    })?;
                    into.push(template);
                }
            }
            "rcode" => {
                let word = words.first().map_or("", |it| it.text.as_str());
                config.code = code_of(word)
                    .ok_or_else(|| here(bad("template rcode", word, "response code")))?;
            }
            "fallthrough" => config.fallthrough = Some(names(words).map_err(here)?),
            _ => return Err(unknown("template", line, KNOWN)),
        }
    }
    Ok(config)
}

fn log(it: &Directive, known: Option<Log>) -> Result<Log, Wrong> {
    let mut config = known.unwrap_or_default();
    config.zones.extend(names(&it.arguments).map_err(|problem| (it.line, problem))?);
    config.zones.retain(|zone| zone.wire().len() > 1);
    for line in &it.body {
        let (name, words) = property(line);
        if name != "class" {
            return Err(unknown("log", line, "class"));
        }
        for word in words {
            config.classes.push(match word.text.as_str() {
                "all" => continue,
                "success" => LogClass::Success,
                "denial" => LogClass::Denial,
                "error" => LogClass::Error,
                other => {
                    return Err((
                        line.number,
                        bad("log class", other, "class (all, success, denial or error)"),
                    ));
                }
            });
        }
    }
    Ok(config)
}
