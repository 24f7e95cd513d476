//! Answers as `kubectl` prints them: a table, a wider table, JSON, YAML. Pure: everything becomes a `String`.
//!
//! A command builds a value that says everything, prints it with [`data`] when a program asked (`-o json|yaml`), and
//! with [`columns::table`] when a person did. Nothing here knows what is printed.

pub mod columns;
mod format;

pub use columns::{key_values, table};
pub use format::{Format, PrintError, data};

/// What stands in a cell that has no value.
pub const NONE: &str = "<none>";
