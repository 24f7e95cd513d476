//! Whether this node can run Fairway. Every check tries the thing itself where it can: kernel features in a network
//! namespace made for it and removed, never on the node's own tables.

mod kernel;
mod neighbours;
mod node;

use print::{Format, table};
use serde::Serialize;

pub use node::Api;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// It works, but somebody should look.
    Warn,
    /// Fairway would not work.
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub result: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, result: Verdict::Pass, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name, result: Verdict::Warn, found: found.into(), advice }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { name, result: Verdict::Fail, found: found.into(), advice }
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the container runtime looks for CNI configurations.
    pub cni_conf_dir: std::path::PathBuf,
    /// Where the agent will serve its health.
    pub health_addr: std::net::SocketAddr,
    /// What the API said; asked by the caller, who has a runtime for it.
    pub api: Api,
}

/// Runs every check, in the calling thread's network namespace.
#[must_use]
pub fn run(options: &Options) -> Vec<Check> {
    let mut checks = node::capabilities();
    checks.extend(kernel::checks());
    checks.extend(node::settings());
    checks.extend(neighbours::checks(&options.cni_conf_dir));
    checks.push(node::port(options.health_addr));
    checks.extend(node::api(&options.api));
    checks
}

/// The worst of all.
#[must_use]
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.result).max().unwrap_or(Verdict::Pass)
}

/// For people or programs.
///
/// # Errors
/// When it has no JSON or YAML form.
pub fn text(checks: &[Check], format: Format) -> anyhow::Result<String> {
    if let Some(text) = print::data(&checks, format)? {
        return Ok(text);
    }
    let rows: Vec<Vec<String>> = checks
        .iter()
        .map(|check| {
            vec![check.result.word().to_owned(), check.name.to_owned(), check.found.clone()]
        })
        .collect();
    let mut text = table(&["RESULT", "CHECK", "FOUND"], &rows);
    let advice = checks.iter().filter_map(|check| Some((check, check.advice.as_ref()?)));
    let advice: Vec<String> = advice
        .map(|(check, advice)| format!("{} {}: {advice}\n", check.result.word(), check.name))
        .collect();
    if !advice.is_empty() {
        text.push_str("\nWhat to do:\n");
        text.extend(advice);
    }
    let count = |verdict| checks.iter().filter(|check| check.result == verdict).count();
    let (fail, warn) = (count(Verdict::Fail), count(Verdict::Warn));
    let sentence = match (fail, warn) {
        (0, 0) => "\nThis node can run Fairway.\n".to_owned(),
        (0, _) => format!("\nThis node can run Fairway; {warn} warnings.\n"),
        _ => format!("\nThis node cannot run Fairway yet: {fail} checks failed.\n"),
    };
    text.push_str(&sentence);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_to_do_and_programs_what_was_found() {
        let checks = [
            Check::pass("a", "there"),
            Check::fail("b", "not there", "load it"),
            Check::warn("c", "odd", "look"),
        ];
        let expected = "\
RESULT   CHECK   FOUND
PASS     a       there
FAIL     b       not there
WARN     c       odd

What to do:
FAIL b: load it
WARN c: look

This node cannot run Fairway yet: 1 checks failed.
";
        assert_eq!(text(&checks, Format::Table).unwrap(), expected);
        assert_eq!(worst(&checks), Verdict::Fail);
        assert!(text(&checks, Format::Json).unwrap().contains("\"result\": \"PASS\""));
    }
}
