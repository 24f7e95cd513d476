//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{items_at, object_at, set, text};

/// A Pod: its spec, and what upstream gives to pods only.
pub(super) fn pod(object: &mut Value) {
    let Some(spec) = object_at(object, "spec") else { return };
    pod_spec(spec);
    set(spec, "enableServiceLinks", json!(true));
    for list in ["containers", "initContainers"] {
        for container in items_at(spec, list) {
            requests_from_limits(container);
        }
    }
}

/// What a client asks as a limit and not as a request is requested too.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    let Some(resources) = object_at(container, "resources") else { return };
    if let Some(requests) = object_at(resources, "requests") {
        for (name, amount) in limits {
            set(requests, &name, amount);
        }
    }
}

/// The spec of a Pod or of a template.
pub(super) fn pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    // The old name of the field; upstream keeps both equal.
    let (new, old) =
        (text(spec, "serviceAccountName").to_owned(), text(spec, "serviceAccount").to_owned());
    match (new.is_empty(), old.is_empty()) {
        (true, false) => set(spec, "serviceAccountName", json!(old)),
        (false, true) => set(spec, "serviceAccount", json!(new)),
        _ => {}
    }
    let host_network = spec["hostNetwork"].as_bool().unwrap_or(false);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in items_at(spec, list) {
            container(one, host_network && list != "ephemeralContainers");
        }
    }
    for one in items_at(spec, "volumes") {
        volume(one);
    }
}

fn container(container: &mut Value, host_network: bool) {
    let image = text(container, "image").to_owned();
    let policy = if image_tag_is_latest(&image) { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", json!(policy));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    set(container, "resources", json!({}));
    for port in items_at(container, "ports") {
        set(port, "protocol", json!("TCP"));
        if host_network && port["hostPort"].as_i64().unwrap_or(0) == 0 {
            let number = port["containerPort"].clone();
            if number.is_number() {
                port["hostPort"] = number;
            }
        }
    }
    for variable in items_at(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            set(field, "apiVersion", json!("v1"));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = container.get_mut(name).filter(|v| v.is_object()) {
            probe(one);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(get) = container.pointer_mut(hook) {
            http_get(get);
        }
    }
}

/// Whether an image reference has the tag `latest`, or neither tag nor digest.
fn image_tag_is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

fn probe(probe: &mut Value) {
    for (name, default) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[name].as_i64().unwrap_or(0) == 0 {
            probe[name] = json!(default);
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|v| v.is_object()) {
        set(grpc, "service", json!(""));
    }
}

fn http_get(get: &mut Value) {
    set(get, "path", json!("/"));
    set(get, "scheme", json!("HTTP"));
}

/// `0644`, the mode of projected files.
const FILE_MODE: i64 = 420;

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.keys().all(|key| key == "name") {
        map.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(one) = map.get_mut(source).filter(|v| v.is_object()) {
            set(one, "defaultMode", json!(FILE_MODE));
        }
    }
    if let Some(path) = map.get_mut("hostPath").filter(|v| v.is_object()) {
        set(path, "type", json!(""));
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        set(claim, "volumeMode", json!("Filesystem"));
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_at(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").filter(|v| v.is_object()) {
                set(token, "expirationSeconds", json!(3600));
            }
            for item in source
                .pointer_mut("/downwardAPI/items")
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                if let Some(field) = item.get_mut("fieldRef").filter(|v| v.is_object()) {
                    set(field, "apiVersion", json!("v1"));
                }
            }
        }
    }
    for item in
        volume.pointer_mut("/downwardAPI/items").and_then(Value::as_array_mut).into_iter().flatten()
    {
        if let Some(field) = item.get_mut("fieldRef").filter(|v| v.is_object()) {
            set(field, "apiVersion", json!("v1"));
        }
    }
}
