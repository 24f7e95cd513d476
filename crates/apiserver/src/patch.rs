//! The patch formats: which one a request uses, and what it makes of an object.

use json_patch::Patch as JsonPatch;
use serde_json::Value;

use crate::kinds::{Kind, Served};
use crate::merge::{self, Manager};
use crate::schema::Schema;
use crate::schema::body::{self, Body};
use crate::status::{Cause, Status};

/// A patch as it came.
#[derive(Debug, Clone)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(JsonPatch),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
    /// An applied configuration.
    Apply(Body),
}

const ACCEPTED: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Patch {
    /// Reads a patch by its media type. Custom resources have no strategic merge patch.
    ///
    /// # Errors
    /// 400 for a body that cannot be read, 415 for a media type that is not accepted.
    pub(crate) fn read(media: &str, custom: bool, bytes: &[u8]) -> Result<Self, Status> {
        let value = || -> Result<Value, Status> {
            let body = body::json(bytes)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
            if body.value.is_object() {
                Ok(body.value)
            } else {
                Err(Status::bad_request("error decoding patch: the patch must be an object"))
            }
        };
        match media.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => serde_json::from_slice(bytes)
                .map(Self::Json)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}"))),
            "application/merge-patch+json" => Ok(Self::Merge(value()?)),
            "application/strategic-merge-patch+json" if !custom => Ok(Self::Strategic(value()?)),
            "application/apply-patch+yaml" | "application/apply-patch+json" => body::yaml(bytes)
                .map(Self::Apply)
                .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}"))),
            _ => Err(Status::unsupported_media_type(match custom {
                true => &[
                    "application/json-patch+json",
                    "application/merge-patch+json",
                    "application/apply-patch+yaml",
                ],
                false => ACCEPTED,
            })),
        }
    }

    /// Whether this is an apply, which may create.
    pub(crate) fn is_apply(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// What the patch makes of an object in the served version. Apply also keeps the managed
    /// fields; the caller does it for the others.
    ///
    /// # Errors
    /// 400, 422.
    pub(crate) fn result(
        &self,
        kind: &Kind,
        served: &Served,
        schema: Option<&Schema>,
        current: &Value,
        manager: &Manager,
    ) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => {
                let mut next = current.clone();
                json_patch::patch(&mut next, patch).map_err(|error| {
                    let mut status = Status::new(
                        422,
                        "Invalid",
                        format!("the server rejected our request due to an error in our request: {error}"),
                    );
                    status.details = Some(Box::default());
                    status
                })?;
                Ok(next)
            }
            Self::Merge(patch) => Ok(merge::json(current, patch)),
            Self::Strategic(patch) => match schema {
                Some(schema) => merge::strategic(schema, current, patch)
                    .map_err(|error| Status::bad_request(error.to_string())),
                None => Ok(merge::json(current, patch)),
            },
            Self::Apply(body) => {
                check_applied(kind, served, &body.value)?;
                match schema {
                    Some(schema) => merge::apply(schema, Some(current), &body.value, manager)
                        .map_err(|error| Status::bad_request(error.to_string())),
                    None => Ok(merge::json(current, &body.value)),
                }
            }
        }
    }
}

/// An applied configuration says what it is.
pub(crate) fn check_applied(kind: &Kind, served: &Served, value: &Value) -> Result<(), Status> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let invalid = |field: &str| {
        Status::invalid(
            "",
            "",
            "",
            vec![Cause::new(
                "FieldValueRequired",
                field,
                "Required value: must be set in an applied configuration",
            )],
        )
    };
    if text("apiVersion").is_empty() {
        return Err(invalid("apiVersion"));
    }
    if text("kind").is_empty() {
        return Err(invalid("kind"));
    }
    if text("apiVersion") != served.api_version() || text("kind") != kind.kind {
        return Err(Status::bad_request(format!(
            "the applied configuration is a {} of {}, the request is for a {} of {}",
            text("kind"),
            text("apiVersion"),
            kind.kind,
            served.api_version()
        )));
    }
    if value
        .pointer("/metadata/managedFields")
        .is_some_and(|f| f.as_array().is_some_and(|f| !f.is_empty()))
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}
