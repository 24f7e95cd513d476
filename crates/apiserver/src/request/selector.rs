//! Label and field selectors: parsing as `k8s.io/apimachinery` does, and matching.

use serde_json::Value;

/// A parsed selector: every requirement must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The label selector is malformed.
    #[error("unable to parse requirement: {what}")]
    Label {
        /// What was found and what was expected.
        what: String,
    },
    /// The field selector is malformed.
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Field {
        /// The whole text.
        selector: String,
        /// The part that is wrong.
        part: String,
    },
}

impl Labels {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    ///
    /// # Errors
    /// [`SelectorError::Label`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut scan = Scan { rest: text };
        let mut all = Vec::new();
        scan.space();
        if scan.rest.is_empty() {
            return Ok(Self(all));
        }
        loop {
            all.push(scan.requirement()?);
            scan.space();
            if scan.rest.is_empty() {
                return Ok(Self(all));
            }
            if !scan.take(",") {
                return Err(scan.wrong("',' or 'end of string'"));
            }
            scan.space();
            if scan.rest.is_empty() {
                return Err(scan.wrong("identifier after ','"));
            }
        }
    }

    /// From a `metav1.LabelSelector` (`matchLabels`, `matchExpressions`). Unknown operators
    /// match nothing.
    pub fn from_json(selector: &Value) -> Self {
        let mut all = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                all.push(Requirement { key: key.clone(), test: Test::In(vec![value]) });
            }
        }
        if let Some(expressions) = selector.get("matchExpressions").and_then(Value::as_array) {
            for expression in expressions {
                let text = |field: &str| {
                    expression.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
                };
                let values = expression
                    .get("values")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(|value| value.as_str().map(str::to_owned))
                    .collect();
                let test = match text("operator").as_str() {
                    "In" => Test::In(values),
                    "NotIn" => Test::NotIn(values),
                    "Exists" => Test::Exists,
                    "DoesNotExist" => Test::Absent,
                    _ => Test::In(Vec::new()),
                };
                all.push(Requirement { key: text("key"), test });
            }
        }
        Self(all)
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's labels fulfil every requirement.
    pub fn matches(&self, object: &Value) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let labels = object.get("metadata").and_then(|meta| meta.get("labels"));
        self.matches_labels(labels)
    }

    /// Whether a map of labels fulfils every requirement.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.0.iter().all(|requirement| {
            let value =
                labels.and_then(|labels| labels.get(&requirement.key)).and_then(Value::as_str);
            match &requirement.test {
                Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
                Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::Greater(than) => value.and_then(number).is_some_and(|n| n > *than),
                Test::Less(than) => value.and_then(number).is_some_and(|n| n < *than),
            }
        })
    }
}

impl std::fmt::Display for Labels {
    /// The canonical text, keys in order: what `scale.status.selector` carries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted: Vec<_> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (at, Requirement { key, test }) in sorted.into_iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            let joined = |values: &[String]| {
                let mut values = values.to_vec();
                values.sort();
                values.join(",")
            };
            match test {
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Test::In(values) => write!(f, "{key} in ({})", joined(values))?,
                Test::NotIn(values) => write!(f, "{key} notin ({})", joined(values))?,
                Test::Exists => f.write_str(key)?,
                Test::Absent => write!(f, "!{key}")?,
                Test::Greater(than) => write!(f, "{key}>{than}")?,
                Test::Less(than) => write!(f, "{key}<{than}")?,
            }
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn wrong(&self, expected: &str) -> SelectorError {
        SelectorError::Label { what: format!("found '{}', expected: {expected}", self.rest) }
    }

    fn key(&mut self) -> Result<String, SelectorError> {
        let before = self.rest;
        let key = self.word();
        let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
        let fine = !name.is_empty()
            && key.matches('/').count() <= 1
            && name.len() <= 63
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if fine {
            Ok(key.to_owned())
        } else {
            Err(SelectorError::Label {
                what: format!("found '{before}', expected: !, identifier, or 'end of string'"),
            })
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take("!") {
            self.space();
            return Ok(Requirement { key: self.key()?, test: Test::Absent });
        }
        let key = self.key()?;
        self.space();
        let test = if self.take("!=") {
            Test::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            Test::In(vec![self.value()?])
        } else if self.take(">") {
            Test::Greater(self.integer()?)
        } else if self.take("<") {
            Test::Less(self.integer()?)
        } else if self.rest.is_empty() || self.rest.starts_with(',') {
            Test::Exists
        } else {
            let before = self.rest;
            match self.word() {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                _ => {
                    self.rest = before;
                    return Err(self.wrong("in, notin, =, ==, !=, gt, lt"));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        self.space();
        let before = self.rest;
        let value = self.word();
        let fine = value.is_empty()
            || (value.len() <= 63
                && value.starts_with(|c: char| c.is_ascii_alphanumeric())
                && value.ends_with(|c: char| c.is_ascii_alphanumeric())
                && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
        if fine {
            Ok(value.to_owned())
        } else {
            Err(SelectorError::Label {
                what: format!("found '{before}', expected: a valid label value"),
            })
        }
    }

    fn integer(&mut self) -> Result<i64, SelectorError> {
        self.space();
        let before = self.rest;
        number(self.word()).ok_or_else(|| SelectorError::Label {
            what: format!("found '{before}', expected: an integer for 'Gt', 'Lt' operators"),
        })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        self.space();
        if !self.take("(") {
            return Err(self.wrong("'('"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            self.space();
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.wrong("',' or ')'"));
            }
        }
    }
}

/// A parsed field selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<FieldTest>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTest {
    field: String,
    value: String,
    equal: bool,
}

impl Fields {
    /// Parses `a=b,c!=d`; `\` escapes `,`, `=` and itself.
    ///
    /// # Errors
    /// [`SelectorError::Field`].
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut all = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let wrong =
                || SelectorError::Field { selector: text.to_owned(), part: part.to_owned() };
            let at = part.find('=').ok_or_else(wrong)?;
            let (left, right) = part.split_at(at);
            let (field, equal) = match left.strip_suffix('!') {
                Some(field) => (field, false),
                None => (left, true),
            };
            let value = right.strip_prefix("==").or(right.strip_prefix('=')).unwrap_or(right);
            all.push(FieldTest {
                field: field.trim().to_owned(),
                value: unescape(value).ok_or_else(wrong)?,
                equal,
            });
        }
        Ok(Self(all))
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the fields that are asked for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|test| test.field.as_str())
    }

    /// The one name a `metadata.name=x` selector leaves, if it does.
    pub fn exact_name(&self) -> Option<&str> {
        self.0.iter().find(|t| t.field == "metadata.name" && t.equal).map(|t| t.value.as_str())
    }

    /// Whether an object (in the form the selector was written for) fulfils every test.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|test| (field_text(object, &test.field) == test.value) == test.equal)
    }
}

/// The text of a field for a selector; absent fields are empty. `source` of an Event is its
/// component (or reporting component), as upstream.
fn field_text(object: &Value, field: &str) -> String {
    if field == "source" {
        let component = object.pointer("/source/component").and_then(Value::as_str);
        let reporting = object.get("reportingComponent").and_then(Value::as_str);
        return component.or(reporting).unwrap_or_default().to_owned();
    }
    let mut at = object;
    for step in field.split('.') {
        match at.get(step) {
            Some(next) => at = next,
            None if field == "spec.unschedulable" || field == "spec.hostNetwork" => {
                return "false".into();
            }
            None => return String::new(),
        }
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({"metadata": {"name": "web", "labels": {"app": "web", "tier": "front", "n": "7"}},
               "spec": {"nodeName": "node-1"}})
    }

    #[test]
    fn labels_match_as_upstream() {
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db),tier", true),
            ("missing notin (x)", true),
            ("!missing", true),
            ("! app", false),
            ("missing", false),
            ("n>6,n<8", true),
            ("n>7", false),
            ("app=", false),
            ("app in (),tier", false),
            ("example.com/x!=1", true),
        ] {
            let labels = Labels::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(labels.matches(&object()), expected, "{text}");
        }
        for text in
            ["app in web", "app=web,", ",", "a b", "=x", "a in (b", "n>x", "-a", "a=b c", "x=y=z"]
        {
            assert!(Labels::parse(text).is_err(), "{text} must not parse");
        }
    }

    #[test]
    fn fields_match_as_upstream() {
        for (text, expected) in [
            ("metadata.name=web", true),
            ("metadata.name!=web", false),
            ("spec.nodeName==node-1,metadata.name=web", true),
            ("spec.unschedulable=false", true),
            ("status.phase=", true),
            ("metadata.name=we\\,b", false),
        ] {
            let fields = Fields::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(fields.matches(&object()), expected, "{text}");
        }
        assert!(Fields::parse("metadata.name").is_err());
        assert!(Fields::parse("a=b=c").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let labels = Labels::parse(&text).map(|l| l.matches(&object()));
            let fields = Fields::parse(&text).map(|f| f.matches(&object()));
            prop_assert!(labels.is_ok() || labels.is_err());
            prop_assert!(fields.is_ok() || fields.is_err());
        }

        /// Printing and parsing again selects the same objects.
        #[test]
        fn printed_selectors_parse_back(
            keys in proptest::collection::vec(("[a-c]", 0..4u8, proptest::collection::vec("[a-c]", 1..3)), 0..4),
            labels in proptest::collection::btree_map("[a-c]", "[a-c]", 0..3),
        ) {
            let selector = Labels(keys.into_iter().map(|(key, test, values)| Requirement { key, test: match test {
                0 => Test::In(values), 1 => Test::NotIn(values), 2 => Test::Exists, _ => Test::Absent,
            }}).collect());
            let object = json!({"metadata": {"labels": labels}});
            let again = Labels::parse(&selector.to_string()).unwrap();
            prop_assert_eq!(selector.matches(&object), again.matches(&object));
        }
    }
}
