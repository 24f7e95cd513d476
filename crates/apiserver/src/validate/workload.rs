//! Deployments and ReplicaSets: the selector and its template, and the rollout's numbers.

use serde_json::{Value, json};

use super::metadata::{labels, matches, selector};
use super::path::{number, text};
use super::{Check, Path, names, pod};

pub(super) fn deployment(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    replicas_and_template(spec, old, "deployment", &path, check);
    strategy(&spec["strategy"], &path.child("strategy"), check);
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        check.not_negative(&path.child(field), &spec[field]);
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= number(spec, "minReadySeconds")
    {
        check.invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        );
    }
}

pub(super) fn replica_set(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    replicas_and_template(&new["spec"], old, "replica set", &path, check);
}

fn replicas_and_template(
    spec: &Value,
    old: Option<&Value>,
    what: &str,
    path: &Path<'_>,
    check: &mut Check,
) {
    for field in ["replicas", "minReadySeconds"] {
        check.not_negative(&path.child(field), &spec[field]);
    }
    let at = path.child("selector");
    let wanted = &spec["selector"];
    let template = &spec["template"];
    let template_labels = &template["metadata"]["labels"];
    let empty = |field: &str| match &wanted[field] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    if wanted.is_null() {
        check.required(&at, "");
    } else {
        selector(wanted, &at, check);
        if empty("matchLabels") && empty("matchExpressions") {
            check.invalid(&at, wanted.clone(), &format!("empty selector is invalid for {what}"));
        } else if !matches(wanted, template_labels) {
            let shown = if template_labels.is_null() { json!({}) } else { template_labels.clone() };
            let template_path = path.child("template");
            let metadata = template_path.child("metadata");
            check.invalid(
                &metadata.child("labels"),
                shown,
                "`selector` does not match template `labels`",
            );
        }
    }
    if let Some(old) = old.map(|old| &old["spec"]["selector"])
        && !old.is_null()
        && old != wanted
    {
        check.invalid(&at, wanted.clone(), "field is immutable");
    }
    let at = path.child("template");
    labels(&template["metadata"], "labels", &at.child("metadata"), check);
    let inner = &template["spec"];
    let at = at.child("spec");
    pod::spec(inner, &at, check);
    let policy = text(inner, "restartPolicy");
    if !policy.is_empty() && policy != "Always" {
        check.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if !inner["activeDeadlineSeconds"].is_null() {
        check.forbidden(
            &at.child("activeDeadlineSeconds"),
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn strategy(strategy: &Value, path: &Path<'_>, check: &mut Check) {
    let rolling = strategy.get("rollingUpdate").filter(|rolling| !rolling.is_null());
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => {
            check.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("RollingUpdate", None) => check.required(&at, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            let mut zeros = 0;
            for field in ["maxUnavailable", "maxSurge"] {
                let value = &rolling[field];
                let here = at.child(field);
                match value {
                    Value::String(text) if !names::is_percent(text) => check.invalid(
                        &here,
                        text.as_str(),
                        "must be an integer or percentage (e.g '5%')",
                    ),
                    Value::String(text) => {
                        let percent: u64 = text.trim_end_matches('%').parse().unwrap_or(u64::MAX);
                        if field == "maxUnavailable" && percent > 100 {
                            check.invalid(&here, text.as_str(), "must not be greater than 100%");
                        }
                        zeros += usize::from(percent == 0);
                    }
                    value => {
                        check.not_negative(&here, value);
                        zeros += usize::from(value.as_i64() == Some(0));
                    }
                }
            }
            if zeros == 2 {
                check.invalid(
                    &at.child("maxUnavailable"),
                    rolling["maxUnavailable"].clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        _ => {}
    }
}
