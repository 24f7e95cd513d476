//! ConfigMaps, Secrets, Leases and Events.

use serde_json::Value;

use super::path::{entries, number, text};
use super::{Check, Path, names};

/// Etcd's request limit shaped this one.
const MAX_BYTES: usize = 1024 * 1024;

pub(super) fn config_map(new: &Value, old: Option<&Value>, check: &mut Check) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::ROOT.child(field);
        for (key, value) in entries(new, field) {
            check.invalid_all(&path.key(key), key, &names::config_key(key));
            if field == "data" && new["binaryData"].get(key).is_some() {
                check.invalid(
                    &path.key(key),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                );
            }
            size += bytes(value, field == "binaryData");
        }
    }
    if size > MAX_BYTES {
        // Upstream names no field here: it is the whole object.
        check.too_long(&Path::ROOT, MAX_BYTES);
    }
    immutable(new, old, &["data", "binaryData"], check);
}

fn bytes(value: &Value, encoded: bool) -> usize {
    let length = value.as_str().map_or(0, str::len);
    if encoded { length / 4 * 3 } else { length }
}

fn immutable(new: &Value, old: Option<&Value>, fields: &[&str], check: &mut Check) {
    const MESSAGE: &str = "field is immutable when `immutable` is set";
    let Some(old) = old else { return };
    if old["immutable"].as_bool() != Some(true) {
        return;
    }
    if new["immutable"].as_bool() != Some(true) {
        check.forbidden(&Path::ROOT.child("immutable"), MESSAGE);
    }
    for field in fields {
        if new[*field] != old[*field] {
            check.forbidden(&Path::ROOT.child(field), MESSAGE);
        }
    }
}

pub(super) fn secret(new: &Value, old: Option<&Value>, check: &mut Check) {
    let path = Path::ROOT.child("data");
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        check.invalid_all(&path.key(key), key, &names::config_key(key));
        size += bytes(value, true);
    }
    if size > MAX_BYTES {
        check.too_long(&path, MAX_BYTES);
    }
    let kind = text(new, "type");
    if let Some(old) = old
        && text(old, "type") != kind
    {
        check.invalid(&Path::ROOT.child("type"), kind, "field is immutable");
    }
    immutable(new, old, &["data"], check);
    let has = |key: &str| new["data"].get(key).is_some();
    let wanted: &[&str] = match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in wanted {
        if !has(key) {
            check.required(&path.key(key), "");
        }
    }
    match kind {
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            check.required(&path.key("username"), "");
            check.required(&path.key("password"), "");
        }
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if text(&new["metadata"]["annotations"], annotation).is_empty() {
                let metadata = Path::ROOT.child("metadata");
                let annotations = metadata.child("annotations");
                check.required(&annotations.key(annotation), "");
            }
        }
        _ => {}
    }
}

pub(super) fn lease(new: &Value, check: &mut Check) {
    let path = Path::ROOT.child("spec");
    let spec = &new["spec"];
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64()
        && seconds <= 0
    {
        check.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    check.not_negative(&path.child("leaseTransitions"), &spec["leaseTransitions"]);
    if spec["holderIdentity"].as_str() == Some("") {
        check.invalid(&path.child("holderIdentity"), "", "must not be empty");
    }
}

/// An Event belongs to the namespace of what it is about.
pub(super) fn event(new: &Value, check: &mut Check) {
    let involved = text(&new["involvedObject"], "namespace");
    let namespace = text(&new["metadata"], "namespace");
    let path = Path::ROOT.child("involvedObject");
    let at = path.child("namespace");
    if involved.is_empty() {
        // About something of the cluster: kept in `default` (or kube-system, as upstream allows).
        if namespace != "default" && namespace != "kube-system" && !namespace.is_empty() {
            check.invalid(&at, involved, "does not match event.namespace");
        }
    } else if involved != namespace {
        check.invalid(&at, involved, "does not match event.namespace");
    }
    if number(new, "count") < 0 {
        check.not_negative(&Path::ROOT.child("count"), &new["count"]);
    }
}
