//! What a request asks for: path, verb, parameters and accepted form, parsed once.

pub mod accept;
pub mod protobuf;
pub mod selector;

use crate::status::Status;

/// A parsed request path and query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// API group, empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace, if the path has one.
    pub namespace: Option<String>,
    /// Object name, if the path has one.
    pub name: Option<String>,
    /// Subresource and what follows it.
    pub subresource: Option<String>,
    /// The deprecated `/watch/` prefix was used.
    pub watch: bool,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    Resources(String, String),
    /// An object or a collection.
    Object(Target),
    /// Anything else, by its steps: `/healthz`, `/openapi/v3/…`, `/version`.
    Other(Vec<String>),
}

impl Route {
    /// Reads a path.
    ///
    /// # Errors
    /// 400 for bad escapes, 404 for a path under `/api` that cannot be one.
    pub fn parse(path: &str) -> Result<Self, Status> {
        let steps: Vec<String> = path
            .split('/')
            .filter(|step| !step.is_empty())
            .map(unescape)
            .collect::<Option<_>>()
            .ok_or_else(|| Status::bad_request(format!("malformed escape in path {path:?}")))?;
        let words: Vec<&str> = steps.iter().map(String::as_str).collect();
        let (group, rest) = match words.as_slice() {
            ["api"] => return Ok(Self::CoreVersions),
            ["apis"] => return Ok(Self::Groups),
            ["apis", group] => return Ok(Self::Group((*group).to_owned())),
            ["api", rest @ ..] => ("", rest),
            ["apis", group, rest @ ..] => (*group, rest),
            _ => return Ok(Self::Other(steps)),
        };
        let (version, rest) = match rest {
            [version] => return Ok(Self::Resources(group.to_owned(), (*version).to_owned())),
            [version, rest @ ..] => (*version, rest),
            [] => return Err(Status::no_such_resource()),
        };
        let (watch, rest) = match rest {
            ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
            rest => (false, rest),
        };
        let own = |text: &str| Some(text.to_owned());
        let mut target = Target {
            group: group.to_owned(),
            version: version.to_owned(),
            watch,
            ..Target::default()
        };
        let rest = match rest {
            // The namespace itself, its status and finalize; anything longer is inside it.
            ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => rest,
            ["namespaces", namespace, rest @ ..] => {
                target.namespace = own(namespace);
                rest
            }
            rest => rest,
        };
        match rest {
            [resource] => target.resource = (*resource).to_owned(),
            [resource, name] => {
                target.resource = (*resource).to_owned();
                target.name = own(name);
            }
            [resource, name, sub @ ..] => {
                target.resource = (*resource).to_owned();
                target.name = own(name);
                target.subresource = Some(sub.join("/"));
            }
            [] => return Err(Status::no_such_resource()),
        }
        Ok(Self::Object(target))
    }
}

/// Query parameters in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string; malformed escapes stay as they are.
    pub fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    let read = |text: &str| {
                        let text = text.replace('+', " ");
                        unescape(&text).unwrap_or(text)
                    };
                    (read(key), read(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter, empty if absent.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Whether a parameter is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// A boolean as Go's query decoder reads it: present and not `0` or `false`.
    pub fn flag(&self, key: &str) -> bool {
        self.has(key) && !matches!(self.get(key), "0" | "false" | "False" | "FALSE" | "f" | "F")
    }

    /// An unsigned number; `None` if absent.
    ///
    /// # Errors
    /// 400.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Status> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax (parameter {key})"
                ))
            }),
        }
    }

    /// `dryRun=All`.
    ///
    /// # Errors
    /// 422 for another value.
    pub fn dry_run(&self) -> Result<bool, Status> {
        for value in self.all("dryRun") {
            if value != "All" {
                return Err(Status::invalid(
                    "meta.k8s.io",
                    "CreateOptions",
                    "",
                    vec![crate::status::Cause::new(
                        "FieldValueNotSupported",
                        "dryRun",
                        format!("Unsupported value: {value:?}: supported values: \"All\""),
                    )],
                ));
            }
        }
        Ok(self.has("dryRun"))
    }
}

/// Percent-decoding; `None` if an escape is malformed or the result is not UTF-8.
fn unescape(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> Target {
        match Route::parse(path) {
            Ok(Route::Object(target)) => target,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths_lead_where_they_should() {
        let pod = object("/api/v1/namespaces/default/pods/web/log");
        assert_eq!(
            (
                pod.namespace.as_deref(),
                &*pod.resource,
                pod.name.as_deref(),
                pod.subresource.as_deref()
            ),
            (Some("default"), "pods", Some("web"), Some("log"))
        );
        let namespace = object("/api/v1/namespaces/default/finalize");
        assert_eq!(
            (&*namespace.resource, namespace.name.as_deref()),
            ("namespaces", Some("default"))
        );
        let all = object("/apis/apps/v1/deployments");
        assert_eq!((&*all.group, &*all.resource, all.namespace), ("apps", "deployments", None));
        assert!(object("/api/v1/watch/namespaces/x/pods").watch);
        assert_eq!(Route::parse("/api"), Ok(Route::CoreVersions));
        assert_eq!(Route::parse("/apis/apps"), Ok(Route::Group("apps".into())));
        assert!(Route::parse("/api/v1/%zz").is_err());
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Cx+in+%28a%29&watch&limit=5&dryRun=All");
        assert_eq!(query.get("labelSelector"), "app=web,x in (a)");
        assert!(query.flag("watch"));
        assert_eq!(query.number("limit"), Ok(Some(5)));
        assert_eq!(query.dry_run(), Ok(true));
        assert!(Query::parse("dryRun=some").dry_run().is_err());
    }
}
