//! Label selectors, in one form each, so that equal ones are found equal.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Labels;

/// Which labels are meant: all requirements hold. One without requirements means everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(Arc<[Requirement]>);

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Requirement {
    /// The label is there and has one of these values, sorted; at least one.
    In(Arc<str>, Box<[Arc<str>]>),
    /// The label has none of these values, sorted, or is not there.
    NotIn(Arc<str>, Box<[Arc<str>]>),
    /// The label is there.
    Exists(Arc<str>),
    /// The label is not there.
    Absent(Arc<str>),
}

impl Requirement {
    /// Whether these labels fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| is_one_of(values, value)),
            Self::NotIn(key, values) => {
                labels.get(key).is_none_or(|value| !is_one_of(values, value))
            }
            Self::Exists(key) => labels.get(key).is_some(),
            Self::Absent(key) => labels.get(key).is_none(),
        }
    }

    /// The label it is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::Absent(key) => key,
        }
    }
}

fn is_one_of(values: &[Arc<str>], value: &str) -> bool {
    values.binary_search_by(|one| (**one).cmp(value)).is_ok()
}

impl Selector {
    /// A selector of these requirements, in any order.
    #[must_use]
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut all: Vec<Requirement> = requirements.into_iter().collect();
        for requirement in &mut all {
            if let Requirement::In(_, values) | Requirement::NotIn(_, values) = requirement {
                let mut sorted = std::mem::take(values).into_vec();
                sorted.sort();
                sorted.dedup();
                *values = sorted.into();
            }
        }
        all.sort();
        all.dedup();
        Self(all.into())
    }

    /// The one that means everything.
    #[must_use]
    pub fn everything() -> Self {
        Self::new([])
    }

    /// Whether these labels are meant.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Its requirements, sorted.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Self::Exists(key) => f.write_str(key),
            Self::Absent(key) => write!(f, "!{key}"),
        }
    }
}

impl fmt::Display for Selector {
    /// As `kubectl -l` reads it; `*` for everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("*");
        }
        for (at, requirement) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_means_what_the_api_says() {
        let labels: Labels = [("app", "web"), ("tier", "db")].into_iter().collect();
        let values = |values: &[&str]| values.iter().map(|value| Arc::from(*value)).collect();
        let holds = |requirement: Requirement| Selector::new([requirement]).matches(&labels);
        assert!(holds(Requirement::In("app".into(), values(&["x", "web", "a"]))));
        assert!(!holds(Requirement::In("app".into(), values(&["x"]))));
        assert!(!holds(Requirement::In("none".into(), values(&["x"]))));
        assert!(!holds(Requirement::NotIn("app".into(), values(&["web"]))));
        assert!(holds(Requirement::NotIn("none".into(), values(&["x"]))), "absent is not in");
        assert!(holds(Requirement::Exists("tier".into())));
        assert!(!holds(Requirement::Absent("tier".into())));
        assert!(Selector::everything().matches(&Labels::default()));
    }

    #[test]
    fn the_same_requirements_in_another_order_are_the_same_selector() {
        let values = |values: &[&str]| values.iter().map(|value| Arc::from(*value)).collect();
        let one = Requirement::In("a".into(), values(&["y", "x"]));
        let same = Requirement::In("a".into(), values(&["x", "y", "x"]));
        let other = Requirement::Exists("b".into());
        assert_eq!(
            Selector::new([one, other.clone()]),
            Selector::new([other.clone(), same, other])
        );
    }
}
