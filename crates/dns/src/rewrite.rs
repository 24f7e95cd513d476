//! `rewrite`: another question is answered than was asked. The client sees its own question, and answers to it.

use regex::Regex;

use crate::name::Name;
use crate::query::QName;

/// One rule.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// What it matches and makes of it.
    pub what: What,
    /// Whether the rules after it are tried, too, when it matched.
    pub goes_on: bool,
}

/// What a rule rewrites. Names are compared in lower case, as text that ends with a dot.
#[derive(Clone, Debug)]
pub enum What {
    /// This name becomes that.
    Exact(Box<str>, Box<str>),
    /// Names that begin so begin otherwise.
    Prefix(Box<str>, Box<str>),
    /// Names that end so end otherwise.
    Suffix(Box<str>, Box<str>),
    /// What is somewhere in the name is replaced everywhere.
    Substring(Box<str>, Box<str>),
    /// A match is replaced; `{1}` is its first group.
    Pattern(Box<Regex>, Box<str>),
    /// Questions for this type become questions for that.
    Kind(u16, u16),
}

/// The question after all rules; `None` when it stays as it is.
#[must_use]
pub fn rewrite(rules: &[Rewrite], name: &QName, kind: u16) -> Option<(QName, u16)> {
    if rules.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(64);
    crate::name::write_text(name.lower(), &mut text).ok()?;
    if text != "." {
        text.push('.');
    }
    let (before, kind_before) = (text.clone(), kind);
    let mut kind = kind;
    for rule in rules {
        let next = match &rule.what {
            What::Exact(from, to) => (text == **from).then(|| to.to_string()),
            What::Prefix(from, to) => text.strip_prefix(&**from).map(|rest| format!("{to}{rest}")),
            What::Suffix(from, to) => text.strip_suffix(&**from).map(|rest| format!("{rest}{to}")),
            What::Substring(from, to) => text.contains(&**from).then(|| text.replace(&**from, to)),
            What::Pattern(pattern, to) => replaced(pattern, &text, to),
            What::Kind(from, to) => {
                if kind != *from {
                    continue;
                }
                kind = *to;
                Some(text.clone())
            }
        };
        if let Some(next) = next {
            text = next;
            if !rule.goes_on {
                break;
            }
        }
    }
    if text == before && kind == kind_before {
        return None;
    }
    let name = Name::parse(&text).ok()?;
    Some((QName::of_wire(name.wire())?, kind))
}

/// `to` with `{0}`, `{1}`, … replaced by the groups of the match.
fn replaced(pattern: &Regex, text: &str, to: &str) -> Option<String> {
    let groups = pattern.captures(text)?;
    let mut out = String::with_capacity(to.len() + text.len());
    let mut rest = to;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.split_once('}') {
            Some((number, after)) if number.parse::<usize>().is_ok() => {
                let group = number.parse().ok().and_then(|number| groups.get(number));
                out.push_str(group.map_or("", |group| group.as_str()));
                rest = after;
            }
            _ => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Some(out)
}
