//! Talking to the person at the terminal: marks, colour only where it is shown, plain lines everywhere else. An edge.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// Where lines go: progress to standard error, results to standard output.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    colour_out: bool,
    colour_err: bool,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
    /// A remark.
    Note,
}

impl Voice {
    /// The voice for this process: colour on terminals unless `NO_COLOR` is set (no-color.org).
    #[must_use]
    pub fn new() -> Self {
        let allowed = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            colour_out: allowed && io::stdout().is_terminal(),
            colour_err: allowed && io::stderr().is_terminal(),
        }
    }

    /// A step of progress, on standard error.
    pub fn step(&self, mark: Mark, text: &str, took: Option<Duration>) {
        let line = marked(mark, text, took, self.colour_err);
        // Nobody listening any more is no reason to stop.
        drop(writeln!(io::stderr().lock(), "{line}"));
    }

    /// A step that is itself the result, on standard output.
    pub fn result(&self, mark: Mark, text: &str, took: Option<Duration>) {
        self.line(&marked(mark, text, took, self.colour_out));
    }

    /// A line of result, on standard output.
    pub fn line(&self, text: &str) {
        drop(writeln!(io::stdout().lock(), "{text}"));
    }

    /// A headline, on standard output.
    pub fn headline(&self, text: &str) {
        self.line("");
        self.line(&paint(text, "1", self.colour_out));
    }

    /// A command as one would type it, on standard output.
    pub fn command(&self, text: &str) {
        self.line(&format!(
            "  {} {}",
            paint("$", "2", self.colour_out),
            paint(text, "36", self.colour_out)
        ));
    }

    /// What a command printed, indented, on standard output.
    pub fn output(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format!("    {line}").trim_end());
        }
    }

    /// Text printed exactly as it is, on standard output.
    ///
    /// # Errors
    /// When standard output cannot be written (a closed pipe, a full disk).
    pub fn verbatim(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Default for Voice {
    fn default() -> Self {
        Self::new()
    }
}

fn marked(mark: Mark, text: &str, took: Option<Duration>, colour: bool) -> String {
    let sign = match mark {
        Mark::Good => paint("✓", "32", colour),
        Mark::Bad => paint("✗", "31", colour),
        Mark::Note => paint("·", "2", colour),
    };
    match took {
        Some(took) => {
            let pad = 56_usize.saturating_sub(text.chars().count());
            let time = paint(&duration(took), "2", colour);
            format!("  {sign} {text}{:pad$}  {time}", "")
        }
        None => format!("  {sign} {text}"),
    }
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A duration at a glance: `850 µs`, `12.3 ms`, `1.24 s`.
#[must_use]
pub fn duration(took: Duration) -> String {
    let micros = took.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        100_000..1_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_at_a_glance() {
        let shown: Vec<String> = [850, 12_345, 345_678, 1_245_000]
            .into_iter()
            .map(|micros| duration(Duration::from_micros(micros)))
            .collect();
        assert_eq!(shown, ["850 µs", "12.3 ms", "345 ms", "1.24 s"]);
    }

    #[test]
    fn without_a_terminal_lines_are_plain() {
        let line = marked(Mark::Good, "node-1 Ready", Some(Duration::from_millis(5)), false);
        assert!(line.starts_with("  ✓ node-1 Ready  ") && line.ends_with("5.0 ms"), "{line:?}");
        assert!(!line.contains('\x1b'));
    }
}
