//! The four forms an answer can have.

use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// A table.
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A value that has no JSON or YAML form: a defect of its type.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// No JSON form.
    #[error("the answer has no JSON form: {0}")]
    Json(#[from] serde_json::Error),
    /// No YAML form.
    #[error("the answer has no YAML form: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// The text for a program; `None` when a person asked, who gets a table of the caller's making.
///
/// # Errors
/// [`PrintError`].
pub fn data<T: Serialize>(value: &T, format: Format) -> Result<Option<String>, PrintError> {
    Ok(match format {
        Format::Json => Some(serde_json::to_string_pretty(value)? + "\n"),
        Format::Yaml => Some(serde_saphyr::to_string(value)?),
        Format::Table | Format::Wide => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_data_and_people_a_table() {
        let value = std::collections::BTreeMap::from([("a", 1)]);
        assert_eq!(data(&value, Format::Json).unwrap().as_deref(), Some("{\n  \"a\": 1\n}\n"));
        assert_eq!(data(&value, Format::Yaml).unwrap().as_deref(), Some("a: 1\n"));
        assert_eq!(data(&value, Format::Wide).unwrap(), None);
    }
}
