//! `Status`: how the API says no, in upstream's shapes and words.
//!
//! Every failure that leaves this crate towards a client is a [`Status`]; the constructors hold
//! the wording of `k8s.io/apimachinery/pkg/api/errors`, so that clients that look at reasons,
//! codes or (sadly) messages find what they expect.

use serde_json::{Value, json};

/// One cause of an invalid request (`metav1.StatusCause`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, `FieldValueDuplicate`, …
    pub reason: String,
    /// Human text without the field: `Invalid value: 70000: must be between 1 and 65535, inclusive`.
    pub message: String,
    /// `spec.ports[0].port`.
    pub field: String,
}

impl Cause {
    /// A cause with all its parts.
    pub fn new(
        reason: impl Into<String>,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { reason: reason.into(), message: message.into(), field: field.into() }
    }
}

/// What the failure is about (`metav1.StatusDetails`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Object name.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource name (`services`), or the kind for invalid objects, as upstream does.
    pub kind: String,
    /// Object uid.
    pub uid: String,
    /// Field causes.
    pub causes: Vec<Cause>,
    /// Seconds after which a retry makes sense; 0 is unset.
    pub retry_after_seconds: u32,
}

/// A failure as the API reports it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP code.
    pub code: u16,
    /// Machine-readable reason, `NotFound`.
    pub reason: &'static str,
    /// Human text.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// `services` or `deployments.apps`, as messages name a resource.
pub(crate) fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn about(group: &str, kind: &str, name: &str) -> Option<Box<Details>> {
    Some(Box::new(Details {
        name: name.into(),
        group: group.into(),
        kind: kind.into(),
        ..Details::default()
    }))
}

impl Status {
    /// A failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: format!("{} \"{name}\" not found", qualified(group, resource)),
            details: about(group, resource, name),
        }
    }

    /// 404 for a path nobody serves.
    pub fn no_such_resource() -> Self {
        Self {
            code: 404,
            reason: "NotFound",
            message: "the server could not find the requested resource".into(),
            details: Some(Box::default()),
        }
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} \"{name}\" already exists", qualified(group, resource)),
            details: about(group, resource, name),
        }
    }

    /// 409: somebody else was faster, or a precondition failed.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self {
            code: 409,
            reason: "Conflict",
            message: format!(
                "Operation cannot be fulfilled on {} \"{name}\": {why}",
                qualified(group, resource)
            ),
            details: about(group, resource, name),
        }
    }

    /// 409 with the sentence every optimistic writer knows.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422: the object breaks rules; one line per cause.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for cause in &causes {
            let line = if cause.field.is_empty() {
                cause.message.clone()
            } else {
                format!("{}: {}", cause.field, cause.message)
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let why = match lines.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let full = qualified_kind(group, kind);
        Self {
            code: 422,
            reason: "Invalid",
            message: if why.is_empty() {
                format!("{full} \"{name}\" is invalid")
            } else {
                format!("{full} \"{name}\" is invalid: {why}")
            },
            details: Some(Box::new(Details {
                name: name.into(),
                group: group.into(),
                kind: kind.into(),
                causes,
                ..Details::default()
            })),
        }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403 about an object.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let full = qualified(group, resource);
        Self {
            code: 403,
            reason: "Forbidden",
            message: if name.is_empty() {
                format!("{full} is forbidden: {why}")
            } else {
                format!("{full} \"{name}\" is forbidden: {why}")
            },
            details: about(group, resource, name),
        }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405 for a verb a resource does not have.
    pub fn method_not_allowed() -> Self {
        Self {
            code: 405,
            reason: "MethodNotAllowed",
            message: "the server does not allow this method on the requested resource".into(),
            details: Some(Box::default()),
        }
    }

    /// 406 with what can be had.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 415 with what may be sent.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 410: the revision a list continuation or a watch starts from is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 504: a revision from the future.
    pub fn too_large_revision(asked: u64, current: u64) -> Self {
        let mut status = Self::new(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        );
        status.details = Some(Box::new(Details {
            causes: vec![Cause::new("ResourceVersionTooLarge", "", "Too large resource version")],
            retry_after_seconds: 1,
            ..Details::default()
        }));
        status
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The JSON form.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            let mut out = serde_json::Map::new();
            for (key, text) in [
                ("name", &details.name),
                ("group", &details.group),
                ("kind", &details.kind),
                ("uid", &details.uid),
            ] {
                if !text.is_empty() {
                    out.insert(key.into(), text.as_str().into());
                }
            }
            if !details.causes.is_empty() {
                let causes = details.causes.iter().map(|cause| {
                    let mut one = serde_json::Map::new();
                    one.insert("reason".into(), cause.reason.as_str().into());
                    one.insert("message".into(), cause.message.as_str().into());
                    if !cause.field.is_empty() {
                        one.insert("field".into(), cause.field.as_str().into());
                    }
                    Value::Object(one)
                });
                out.insert("causes".into(), causes.collect());
            }
            if details.retry_after_seconds > 0 {
                out.insert("retryAfterSeconds".into(), details.retry_after_seconds.into());
            }
            status["details"] = Value::Object(out);
        }
        status["code"] = self.code.into();
        status
    }
}

/// `Service` or `Deployment.apps`.
fn qualified_kind(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") }
}

/// The Status of something that went well (`kubectl delete` and `eviction` get it).
pub fn success(group: &str, kind: &str, name: &str, uid: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (key, text) in [("name", name), ("group", group), ("kind", kind), ("uid", uid)] {
        if !text.is_empty() {
            details.insert(key.into(), text.into());
        }
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_reads_like_upstream() {
        let status = Status::invalid(
            "",
            "Service",
            "web",
            vec![Cause::new(
                "FieldValueInvalid",
                "spec.ports[0].nodePort",
                "Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
            )],
        );
        assert_eq!(
            status.message,
            "Service \"web\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        );
        let json = status.to_json();
        assert_eq!(json["code"], 422);
        assert_eq!(json["details"]["causes"][0]["field"], "spec.ports[0].nodePort");
    }

    #[test]
    fn names_carry_the_group() {
        assert_eq!(
            Status::not_found("apps", "deployments", "web").message,
            "deployments.apps \"web\" not found"
        );
    }
}
