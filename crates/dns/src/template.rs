//! `template` in its simple forms: records made of the question, where a pattern matches its name.

use std::sync::Arc;

use regex::{Captures, Regex};

use crate::name::Name;
use crate::query::{QName, code, kind};
use crate::reply::{Data, Owner, Record, Reply};
use crate::text;

/// One `template` block.
#[derive(Clone, Debug)]
pub struct Template {
    /// For questions of this type; none is any.
    pub kind: Option<u16>,
    /// In these zones.
    pub zones: Vec<Name>,
    /// Patterns for the name, in lower case with a dot at the end; none matches all.
    pub patterns: Vec<Regex>,
    /// The code of the answer.
    pub code: u16,
    /// The records of the answer.
    pub answers: Vec<RecordTemplate>,
    /// The records of the authority section.
    pub authority: Vec<RecordTemplate>,
    /// As [`crate::zone::Kubernetes::fallthrough`].
    pub fallthrough: Option<Vec<Name>>,
}

/// A record as text with `{{ .Name }}`, `{{ .Zone }}`, `{{ .Type }}`, `{{ .Group.NAME }}` and `{{ index .Match N }}` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Name,
    Zone,
    Kind,
    Group(Box<str>),
    Match(usize),
}

/// Why a record's text is no template here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{{` without `}}`.
    #[error("{0:?} has an opening {{{{ and no closing }}}}")]
    Open(String),
    /// An action that is not one of ours.
    #[error(
        "the action {{{{{0}}}}} is not known: use .Name, .Zone, .Type, .Group.NAME or index .Match N"
    )]
    Action(String),
    /// Not even with a plain name in it this is a record.
    #[error(
        "{0:?} is no record: write NAME TTL IN TYPE DATA, with type A, AAAA, CNAME, PTR, NS, TXT, SRV or SOA"
    )]
    Record(String),
}

impl RecordTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(said: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = said;
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::Text(before.into()));
            let (action, after) =
                after.split_once("}}").ok_or_else(|| TemplateError::Open(said.into()))?;
            parts.push(match action.trim() {
                ".Name" => Part::Name,
                ".Zone" => Part::Zone,
                ".Type" => Part::Kind,
                other => {
                    let group = other.strip_prefix(".Group.").map(|name| Part::Group(name.into()));
                    let number = other.strip_prefix("index .Match ").and_then(|n| n.parse().ok());
                    group
                        .or(number.map(Part::Match))
                        .ok_or_else(|| TemplateError::Action(action.into()))?
                }
            });
            rest = after;
        }
        parts.push(Part::Text(rest.into()));
        Ok(Self { parts })
    }

    fn fill(&self, name: &str, zone: &Name, asked: u16, groups: Option<&Captures<'_>>) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Name => out.push_str(name),
                Part::Zone => out.push_str(&format!("{zone}.")),
                Part::Kind => out.push_str(&text::kind_name(asked)),
                Part::Group(group) => {
                    out.push_str(groups.and_then(|it| it.name(group)).map_or("", |it| it.as_str()));
                }
                Part::Match(at) => {
                    out.push_str(groups.and_then(|it| it.get(*at)).map_or("", |it| it.as_str()));
                }
            }
        }
        out
    }
}

impl Template {
    /// The answer, where it applies.
    #[must_use]
    pub fn answer(&self, name: &QName, asked: u16) -> Option<Reply> {
        if self.kind.is_some_and(|kind| kind != asked && asked != kind::ANY) {
            return None;
        }
        let zone = self.zones.iter().find(|zone| name.above(zone.wire()).is_some())?;
        let mut text = String::new();
        crate::name::write_text(name.lower(), &mut text).ok()?;
        if text != "." {
            text.push('.');
        }
        let groups = if self.patterns.is_empty() {
            None
        } else {
            match self.patterns.iter().find_map(|pattern| pattern.captures(&text)) {
                Some(groups) => Some(groups),
                None => {
                    let falls = self.fallthrough.as_ref().is_none_or(|zones| {
                        zones.is_empty()
                            || zones.iter().any(|zone| name.above(zone.wire()).is_some())
                    });
                    return (!falls).then(|| Reply::of_code(code::NXDOMAIN));
                }
            }
        };
        let all = |templates: &[RecordTemplate]| {
            let lines = templates.iter().map(|it| it.fill(&text, zone, asked, groups.as_ref()));
            lines.map(|line| record(&line, name)).collect::<Option<Vec<Record>>>()
        };
        let (Some(answers), Some(authority)) = (all(&self.answers), all(&self.authority)) else {
            // The question made something of it that is no record.
            return Some(crate::reply::failure());
        };
        Some(Reply { code: self.code, authoritative: true, answers, authority, additional: vec![] })
    }
}

/// A record of its text.
fn record(line: &str, asked: &QName) -> Option<Record> {
    let mut words = line.split_whitespace();
    let owner = Name::parse(words.next()?).ok()?;
    let ttl = words.next()?.parse().ok()?;
    if !words.next()?.eq_ignore_ascii_case("IN") {
        return None;
    }
    let kind = text::kind_of(words.next()?)?;
    let rest: Vec<&str> = words.collect();
    let name = |at: usize| Name::parse(rest.get(at)?).ok();
    let number = |at: usize| rest.get(at)?.parse::<u16>().ok();
    let seconds = |at: usize| rest.get(at)?.parse::<u32>().ok();
    let data = match kind {
        kind::A => Data::A(rest.first()?.parse().ok()?),
        kind::AAAA => Data::Aaaa(rest.first()?.parse().ok()?),
        kind::CNAME => Data::Cname(name(0)?),
        kind::PTR => Data::Ptr(name(0)?),
        kind::NS => Data::Ns(name(0)?),
        kind::SRV => Data::Srv {
            priority: number(0)?,
            weight: number(1)?,
            port: number(2)?,
            target: name(3)?,
        },
        kind::TXT => {
            let text = rest.join(" ");
            Data::Txt(Arc::new([text.trim_matches('"').as_bytes().into()]))
        }
        kind::SOA => Data::Soa(Arc::new(crate::reply::Soa {
            server: name(0)?,
            mailbox: name(1)?,
            serial: seconds(2)?,
            refresh: seconds(3)?,
            retry: seconds(4)?,
            expire: seconds(5)?,
            minimum: seconds(6)?,
        })),
        _ => return None,
    };
    let is_asked = owner.wire().eq_ignore_ascii_case(asked.raw());
    let owner = if is_asked { Owner::Question } else { Owner::Name(owner) };
    Some(Record { owner, ttl, data })
}
