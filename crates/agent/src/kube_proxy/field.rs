//! Values of a configuration file's fields, as Kubernetes writes them. Errors are half sentences about the value.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;

/// Every value of an object that is no object itself, with its path.
pub(super) fn leaves(value: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    walk("", value, &mut found);
    found
}

fn walk<'a>(path: &str, value: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{name}"), value, found);
            }
        }
        value => found.push((path.to_owned(), value)),
    }
}

pub(super) fn text(value: &Value) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "it is no string".to_owned())
}

pub(super) fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "it is neither true nor false".to_owned())
}

pub(super) fn list(value: &Value) -> Result<Vec<String>, String> {
    let entries = value.as_array().ok_or_else(|| "it is no list".to_owned())?;
    entries.iter().map(text).collect()
}

pub(super) fn integer(value: &Value, least: i64, most: i64) -> Result<i64, String> {
    match value.as_i64() {
        Some(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("it is no whole number from {least} to {most}")),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address"))
}

pub(super) fn range(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .map(|range| range.trunc())
        .map_err(|_| format!("{text:?} is no CIDR, such as 10.244.0.0/16"))
}

/// The name of a link, or how one begins.
pub(super) fn link(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    if name.len() > 15 || name.chars().any(|c| c.is_whitespace() || c == '/') {
        return Err(format!("{name:?} cannot be the name of a link (at most 15 bytes)"));
    }
    Ok(name)
}

/// `ADDRESS:PORT`, or an address alone; `None` for the empty string.
pub(super) fn endpoint(value: &Value, port: u16) -> Result<Option<SocketAddr>, String> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(Some(SocketAddr::new(address, port)));
    }
    let whole = if text.starts_with(':') { format!("[::]{text}") } else { text.clone() };
    whole.parse().map(Some).map_err(|_| format!("{text:?} is no ADDRESS:PORT"))
}

/// Nothing, for a duration of zero.
pub(super) fn optional(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// A duration as Go writes it: `1h0m0s`, `500ms`, `1.5s`, `0`.
pub(super) fn duration(value: &Value) -> Result<Duration, String> {
    let whole = text(value)?;
    let bad = || format!("{whole:?} is no duration, such as 30s or 1h30m");
    if whole == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = whole.as_str();
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(bad()),
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    if whole.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}
