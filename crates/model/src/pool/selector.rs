//! Calico's selector language over labels: `all()`, `has(k)`, `k == 'v'`, `k != 'v'`, `k in {'a', 'b'}`,
//! `k not in {…}`, `k contains 'v'`, `k starts with 'v'`, `k ends with 'v'`, `!`, `&&`, `||`, parentheses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Labels;

/// How deep parentheses and `!` may nest.
const DEPTH: usize = 32;

/// A parsed selector; empty text selects everything, as `all()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeSelector {
    text: String,
    expression: Expression,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    All,
    Has(String),
    Is(String, Test, Vec<String>),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// Has one of the values.
    In,
    /// Has none of the values; also where there is no such label.
    NotIn,
    Contains,
    StartsWith,
    EndsWith,
}

/// Text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector `{text}` cannot be read at `{rest}`: {expected} is expected there")]
pub struct NodeSelectorError {
    /// The text.
    pub text: String,
    /// What could not be read.
    pub rest: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl NodeSelector {
    /// Selects everything.
    #[must_use]
    pub fn all() -> Self {
        Self { text: "all()".to_owned(), expression: Expression::All }
    }

    /// Whether something with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.expression.holds(labels)
    }
}

impl Expression {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Has(key) => labels.get(key).is_some(),
            Self::Is(key, test, values) => {
                let Some(have) = labels.get(key) else { return *test == Test::NotIn };
                let any = |holds: fn(&str, &str) -> bool| values.iter().any(|v| holds(have, v));
                match test {
                    Test::In => any(|have, value| have == value),
                    Test::NotIn => !any(|have, value| have == value),
                    Test::Contains => any(|have, value| have.contains(value)),
                    Test::StartsWith => any(|have, value| have.starts_with(value)),
                    Test::EndsWith => any(|have, value| have.ends_with(value)),
                }
            }
            Self::Not(inner) => !inner.holds(labels),
            Self::And(all) => all.iter().all(|inner| inner.holds(labels)),
            Self::Or(any) => any.iter().any(|inner| inner.holds(labels)),
        }
    }
}

impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<NodeSelector> for String {
    fn from(selector: NodeSelector) -> Self {
        selector.text
    }
}

impl TryFrom<String> for NodeSelector {
    type Error = NodeSelectorError;

    fn try_from(text: String) -> Result<Self, NodeSelectorError> {
        text.parse()
    }
}

impl FromStr for NodeSelector {
    type Err = NodeSelectorError;

    fn from_str(text: &str) -> Result<Self, NodeSelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::all());
        }
        let mut reader = Reader { text, rest: text };
        let expression = reader.any_of(0)?;
        reader.end()?;
        Ok(Self { text: text.trim().to_owned(), expression })
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn wrong<T>(&self, expected: &'static str) -> Result<T, NodeSelectorError> {
        let rest = self.rest.trim_start().chars().take(40).collect();
        Err(NodeSelectorError { text: self.text.to_owned(), rest, expected })
    }

    /// Takes `sign` if it comes next.
    fn takes(&mut self, sign: &str) -> bool {
        match self.rest.trim_start().strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes a word that does not go on.
    fn takes_word(&mut self, word: &str) -> bool {
        let before = self.rest;
        let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        if self.takes(word) && !goes_on(self.rest) {
            return true;
        }
        self.rest = before;
        false
    }

    fn needs(&mut self, sign: &str, expected: &'static str) -> Result<(), NodeSelectorError> {
        if self.takes(sign) { Ok(()) } else { self.wrong(expected) }
    }

    fn end(&self) -> Result<(), NodeSelectorError> {
        if self.rest.trim().is_empty() { Ok(()) } else { self.wrong("`&&`, `||` or the end") }
    }

    fn any_of(&mut self, depth: usize) -> Result<Expression, NodeSelectorError> {
        let mut all = vec![self.all_of(depth)?];
        while self.takes("||") {
            all.push(self.all_of(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::Or(all) })
    }

    fn all_of(&mut self, depth: usize) -> Result<Expression, NodeSelectorError> {
        let mut all = vec![self.one(depth)?];
        while self.takes("&&") {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Expression, NodeSelectorError> {
        if depth > DEPTH {
            return self.wrong("less nesting");
        }
        if self.takes("!") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes("(") {
            let inner = self.any_of(depth + 1)?;
            self.needs(")", "`)`")?;
            return Ok(inner);
        }
        let key = self.key()?;
        if self.takes("(") {
            return match key {
                "all" | "global" => {
                    self.needs(")", "`)`")?;
                    Ok(Expression::All)
                }
                "has" => {
                    let key = self.key()?.to_owned();
                    self.needs(")", "`)`")?;
                    Ok(Expression::Has(key))
                }
                _ => self.wrong("`all()`, `has(label)` or a comparison"),
            };
        }
        let key = key.to_owned();
        if self.takes("==") {
            return Ok(Expression::Is(key, Test::In, vec![self.value()?]));
        }
        if self.takes("!=") {
            return Ok(Expression::Is(key, Test::NotIn, vec![self.value()?]));
        }
        if self.takes_word("in") {
            return Ok(Expression::Is(key, Test::In, self.values()?));
        }
        if self.takes_word("not") {
            if !self.takes_word("in") {
                return self.wrong("`in`");
            }
            return Ok(Expression::Is(key, Test::NotIn, self.values()?));
        }
        if self.takes_word("contains") {
            return Ok(Expression::Is(key, Test::Contains, vec![self.value()?]));
        }
        for (word, test) in [("starts", Test::StartsWith), ("ends", Test::EndsWith)] {
            if self.takes_word(word) {
                if !self.takes_word("with") {
                    return self.wrong("`with`");
                }
                return Ok(Expression::Is(key, test, vec![self.value()?]));
            }
        }
        self.wrong("a comparison: ==, !=, in, not in, contains, starts with, ends with")
    }

    fn key(&mut self) -> Result<&'a str, NodeSelectorError> {
        let rest = self.rest.trim_start();
        let is_key = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let length = rest.find(|c| !is_key(c)).unwrap_or(rest.len());
        if length == 0 {
            return self.wrong("a label's name");
        }
        let (key, rest) = rest.split_at(length);
        self.rest = rest;
        Ok(key)
    }

    fn value(&mut self) -> Result<String, NodeSelectorError> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|c| *c == '\'' || *c == '"');
        let Some(quote) = quote else { return self.wrong("a value in quotes") };
        let Some(end) = rest[1..].find(quote) else { return self.wrong("a closing quote") };
        self.rest = &rest[end + 2..];
        Ok(rest[1..=end].to_owned())
    }

    fn values(&mut self) -> Result<Vec<String>, NodeSelectorError> {
        self.needs("{", "`{`")?;
        let mut values = Vec::new();
        while !self.takes("}") {
            if !values.is_empty() {
                self.needs(",", "`,` or `}`")?;
            }
            values.push(self.value()?);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn selectors_select() {
        let labels: Labels = [("zone", "a"), ("kubernetes.io/os", "linux")].into_iter().collect();
        for (text, expected) in [
            ("", true),
            ("all()", true),
            ("!all()", false),
            ("has(zone)", true),
            ("!has(rack)", true),
            ("zone == 'a' && kubernetes.io/os == \"linux\"", true),
            ("zone=='b'||zone in{'c','a'}", true),
            ("zone not in {'a'}", false),
            ("rack != 'x'", true),
            ("rack == 'x'", false),
            ("!(zone == 'a' || has(rack))", false),
            ("kubernetes.io/os starts with 'lin' && kubernetes.io/os ends with 'ux'", true),
            ("zone contains 'b'", false),
            ("in == 'x' || not == 'y' || zone == 'a'", true),
        ] {
            let selector: NodeSelector = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(selector.selects(&labels), expected, "{text}");
        }
        for wrong in ["zone", "zone ==", "zone == a", "(zone == 'a'", "zone == 'a' zone", "foo()"] {
            assert!(wrong.parse::<NodeSelector>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-z!()&|='{} ,]{0,60}|.{0,40}") {
            if let Ok(selector) = text.parse::<NodeSelector>() {
                let labels = Labels::default();
                prop_assert_eq!(selector.selects(&labels), selector.selects(&labels));
                prop_assert_eq!(selector.to_string().parse::<NodeSelector>(), Ok(selector));
            }
        }
    }
}
