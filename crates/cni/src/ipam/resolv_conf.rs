//! `resolvConf`: what a resolv.conf(5) says, as a CNI result tells it.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::CniError;

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<Value, CniError> {
    let text = std::fs::read_to_string(path).map_err(|source| CniError::File {
        operation: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(parse(&text))
}

/// The words after `nameserver`, `domain`, `search` and `options`; the rest is left out.
fn parse(text: &str) -> Value {
    let mut servers = Vec::new();
    let (mut domain, mut search, mut options) = (None, Vec::new(), Vec::new());
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        let Some(key) = words.next() else { continue };
        let rest = words.map(str::to_owned);
        match key {
            "nameserver" => servers.extend(rest.take(1)),
            "domain" => domain = rest.take(1).next().or(domain),
            "search" => search.extend(rest),
            "options" => options.extend(rest),
            _ => {}
        }
    }
    let mut map = Map::new();
    let mut list = |name: &str, values: Vec<String>| {
        if !values.is_empty() {
            map.insert(name.to_owned(), json!(values));
        }
    };
    list("nameservers", servers);
    list("search", search);
    list("options", options);
    if let Some(domain) = domain {
        map.insert("domain".to_owned(), json!(domain));
    }
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_resolv_conf_says() {
        let text = "# c\nnameserver 10.96.0.10\n nameserver fd00::a\nsearch a.b c\noptions ndots:5 edns0\ndomain a.b\nsortlist x\n";
        assert_eq!(
            parse(text),
            json!({"nameservers": ["10.96.0.10", "fd00::a"], "search": ["a.b", "c"],
                   "options": ["ndots:5", "edns0"], "domain": "a.b"})
        );
        assert_eq!(parse("nameserver"), json!({}));
    }
}
