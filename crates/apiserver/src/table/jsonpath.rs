//! The subset of JSONPath that printer columns and scale paths use.
//!
//! `.a.b`, `.a\.b`, `['a.b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`. Anything else finds nothing.

use serde_json::Value;

enum Step {
    Key(String),
    Index(usize),
    All,
    /// `[?(@.path == "value")]`: path and value.
    Where(String, Value),
}

/// Every value a path leads to, in order.
pub fn find<'a>(path: &str, root: &'a Value) -> Vec<&'a Value> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let Some(steps) = parse(path) else { return Vec::new() };
    let mut found = vec![root];
    for step in &steps {
        found = found.into_iter().flat_map(|value| follow(step, value)).collect();
    }
    found
}

fn follow<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    match step {
        Step::Key(key) => value.get(key).into_iter().collect(),
        Step::Index(index) => value.get(*index).into_iter().collect(),
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, wanted) => match value {
            Value::Array(items) => {
                items.iter().filter(|item| find(path, item).contains(&wanted)).collect()
            }
            _ => Vec::new(),
        },
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = closing(after)?;
            steps.push(bracket(&after[..end])?);
            rest = &after[end + 1..];
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let mut key = String::new();
        let mut taken = 0;
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => {
                    let (next, escaped) = chars.next()?;
                    key.push(escaped);
                    taken = next + escaped.len_utf8();
                    continue;
                }
                '.' | '[' => break,
                _ => key.push(c),
            }
            taken = at + c.len_utf8();
        }
        if key.is_empty() {
            // A lone dot at the end, or two in a row.
            if rest.is_empty() {
                break;
            } else if taken == 0 && !rest.starts_with('[') {
                return None;
            }
            continue;
        }
        steps.push(if key == "*" { Step::All } else { Step::Key(key) });
        rest = &rest[taken..];
    }
    Some(steps)
}

/// Where the bracket that is open closes, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    let text = text.trim();
    ['\'', '"'].iter().find_map(|&q| text.strip_prefix(q)?.strip_suffix(q))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Key(name.replace("\\.", ".")));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        let (path, wanted) = filter.split_once("==")?;
        let path = path.trim().strip_prefix('@')?;
        let wanted = match unquote(wanted) {
            Some(text) => Value::from(text),
            None => serde_json::from_str(wanted.trim()).ok()?,
        };
        return Some(Step::Where(path.to_owned(), wanted));
    }
    text.parse().ok().map(Step::Index)
}
