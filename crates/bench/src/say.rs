//! What is going on, on standard error; results go to standard output.

use std::io::Write as _;

/// Prints one line of progress.
macro_rules! say {
    ($($text:tt)*) => { crate::say::line(&format!($($text)*)) };
}
pub(crate) use say;

/// Prints `text` on standard error.
pub(crate) fn line(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "fairway-bench: {text}"));
}
