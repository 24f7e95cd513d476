//! Questions: who am I, may I, whose token is this, give me a token.

use http::Response;
use http::header::CONTENT_TYPE;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::write::parse;
use super::{App, Asked, Body, Resource, accept_form, read_body, respond};
use crate::auth::token;
use crate::registry::{identity, text};
use crate::status::Status;

/// POST to a kind that is only ever created.
pub(super) async fn ask(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let (_, syntax) = accept_form(&asked.headers)?;
    let media = media(&asked);
    let user = asked.user.clone();
    let bytes = read_body(asked.request).await?;
    let mut body = if bytes.is_empty() {
        json!({})
    } else {
        parse(&media, &bytes, &resource.kind.kind)?.value
    };
    // This server has no authorizer: whoever is authenticated may do everything.
    let allowed =
        json!({"allowed": true, "reason": "every authenticated user may do everything here"});
    let status = match resource.kind.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": user.to_json()}),
        "SelfSubjectAccessReview" | "SubjectAccessReview" => allowed,
        "SelfSubjectRulesReview" => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
        "TokenReview" => {
            let given = body.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
            match app.authenticator.token(&app.registry, given) {
                Some(user) => json!({"authenticated": true, "user": user.to_json()}),
                None => json!({"authenticated": false, "error": "invalid bearer token"}),
            }
        }
        _ => return Err(Status::method_not_allowed()),
    };
    body["apiVersion"] = resource.served.api_version().into();
    body["kind"] = resource.kind.kind.as_str().into();
    body["metadata"] = json!({"creationTimestamp": identity::time(app.registry.now())});
    body["status"] = status;
    Ok(respond(201, &body, syntax))
}

fn media(asked: &Asked) -> String {
    asked
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

/// POST of a TokenRequest to a ServiceAccount.
pub(super) async fn token(
    app: &App,
    asked: Asked,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let (_, syntax) = accept_form(&asked.headers)?;
    let account = app.registry.get(&resource.place())?;
    let media = media(&asked);
    let bytes = read_body(asked.request).await?;
    let mut body =
        if bytes.is_empty() { json!({}) } else { parse(&media, &bytes, "TokenRequest")?.value };
    let seconds = body.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    if !(600..=1 << 32).contains(&seconds) {
        return Err(Status::invalid(
            "authentication.k8s.io",
            "TokenRequest",
            text(&account, "name"),
            vec![crate::status::Cause::new(
                "FieldValueInvalid",
                "spec.expirationSeconds",
                format!(
                    "Invalid value: {seconds}: may not specify a duration less than 10 minutes"
                ),
            )],
        ));
    }
    let mut audiences: Vec<String> = body
        .pointer("/spec/audiences")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(token::ISSUER.into());
    }
    let now = app.registry.now();
    let expires = now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(now);
    let claims = token::Claims {
        namespace: text(&account, "namespace").into(),
        name: text(&account, "name").into(),
        uid: text(&account, "uid").into(),
    };
    let token = token::issue(app.authenticator.authority(), &claims, &audiences, now, expires)
        .ok_or_else(|| Status::internal("the token could not be signed"))?;
    body["apiVersion"] = "authentication.k8s.io/v1".into();
    body["kind"] = "TokenRequest".into();
    body["metadata"] = json!({
        "name": claims.name, "namespace": claims.namespace,
        "creationTimestamp": identity::time(now),
    });
    if !body["spec"].is_object() {
        body["spec"] = json!({});
    }
    body["spec"]["audiences"] = json!(audiences);
    body["spec"]["expirationSeconds"] = seconds.into();
    body["status"] = json!({"token": token, "expirationTimestamp": identity::time(expires)});
    Ok(respond(201, &body, syntax))
}
